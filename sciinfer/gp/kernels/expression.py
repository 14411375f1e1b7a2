"""Kernels written as text: ``"integrated-wiener + matern32 * cosine(period=365.25D) + matern12"``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ...errors import ConfigError
from ...extend import registry
from .base import Kernel
from .product import Product
from .sum import Sum

_TERM = re.compile(r"^\s*([A-Za-z][\w\-/]*)\s*(?:\((.*)\))?\s*$", re.DOTALL)
#: what a duration is measured in when the text names no unit: the caller's own time coordinate
Duration = Callable[[Any], float]


def parse_kernel(text: str, duration: Duration = float) -> Kernel:
    """A kernel from text. Options that are times go through ``duration`` (``"365.25D"`` -> model time).

    Raises:
        ConfigError: the text cannot be read; NameNotFoundError: no such kernel.

    Example:
        >>> parse_kernel("matern32(lengthscale=2.0) + constant").state_dim
        3
    """
    parts = [_product(term, duration) for term in _split(text, "+")]
    if not parts:
        raise ConfigError("the kernel is empty", fix='write "matern32(lengthscale=2.0) + constant"')
    return parts[0] if len(parts) == 1 else Sum(*parts)


def _product(text: str, duration: Duration) -> Kernel:
    """One summand: a kernel, or several with ``*`` between them."""
    factors = [_term(factor, duration) for factor in _split(text, "*")]
    if not factors:
        raise ConfigError(f"cannot read the kernel term {text.strip()!r}", fix='write "matern32 * cosine(period=1.0)"')
    return factors[0] if len(factors) == 1 else Product(*factors)


def _term(text: str, duration: Duration) -> Kernel:
    match = _TERM.match(text)
    if not match:
        raise ConfigError(
            f"cannot read the kernel term {text.strip()!r}", fix='write "matern32(lengthscale=2.0) + constant"'
        )
    name, inside = match.groups()
    entry = registry().entry("kernels", name)
    options = dict(_option(item, name, entry.options, duration) for item in _split(inside or "", ","))
    try:
        return registry().get("kernels", name)(**options)
    except TypeError as err:
        raise ConfigError(
            f"kernel {name!r} cannot be built from {text.strip()!r}: {err}", fix=f"options: {', '.join(entry.options)}"
        ) from err


def _split(text: str, mark: str) -> list[str]:
    """Split at ``mark`` outside parentheses; empty text gives no parts."""
    parts, depth, current = [], 0, ""
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == mark and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += letter
    parts.append(current)
    return [part for part in parts if part.strip()]


def _option(item: str, kernel: str, known: Any, duration: Duration) -> tuple[str, Any]:
    key, equals, value = (part.strip() for part in item.partition("="))
    if not equals or (known and key not in known):
        raise ConfigError(
            f"kernel {kernel!r} has no option {item.strip()!r}", fix=f"options: {', '.join(known) or 'none'}"
        )
    if str(known.get(key, "")).startswith("time"):
        return key, _duration(key, kernel, value, duration)
    number = _number(value)
    if isinstance(number, str):
        raise ConfigError(f"option {key} of kernel {kernel!r} must be a number, got {value!r}", fix=f"{key}=1.0")
    return key, number


def _duration(key: str, kernel: str, value: str, duration: Duration) -> Any:
    try:
        return duration(_number(value))
    except ValueError as err:
        raise ConfigError(
            f"option {key} of kernel {kernel!r} is no duration of this time axis: {value!r}",
            fix='a number in the units of the time coordinate; with dates also "365.25D"',
        ) from err


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("\"'")
