"""Plain nested data as TOML and back, exactly: ``None``, empty lists, lists of mappings, every bit of a float.

TOML has no null: ``None`` is written ``{"$none" = true}``, and a key that begins with ``$`` gets a second one.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigError

_NONE = "$none"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_CONTROL = re.compile(r'[\\"\x00-\x1f\x7f]')
_MAX_DEPTH = 64


def dumps(data: Mapping[str, Any]) -> str:
    """TOML text of plain nested data. Tuples become lists; the order of keys is kept.

    Raises:
        ConfigError: a value is not plain, or a key is not a string (says where).

    Example:
        >>> print(dumps({"seed": 0, "model": {"dt": 0.1, "name": None}}), end="")
        seed = 0
        <BLANKLINE>
        [model]
        dt = 0.1
        name = {"$none" = true}
    """
    check_plain(data)
    return "\n".join(_table(data, ())) + "\n" if data else ""


def loads(text: str) -> dict[str, Any]:
    """The data that :func:`dumps` wrote.

    Raises:
        ConfigError: the text is not TOML.
    """
    try:
        return _decode(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        raise ConfigError(f"the text is not TOML: {err}", fix="repair the line") from err


def check_plain(value: Any, place: str = "config", depth: int = 0) -> None:
    """Refuse what TOML or JSON cannot hold exactly.

    Raises:
        ConfigError: names the place, as in ``config.model.layers[2]``.
    """
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{place} is nested too deeply", fix="does it hold itself?")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{place} has the key {key!r}, which is not a string", fix="use str(key)")
            _check_text(key, place)
            check_plain(item, f"{place}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{place}[{index}]", depth + 1)
    elif isinstance(value, str):
        _check_text(value, place)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise ConfigError(
            f"{place} is a {type(value).__name__}, which a config file cannot hold",
            fix="convert it to numbers, strings, lists or mappings",
        )


def _check_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ConfigError(f"{place} holds text that is not valid Unicode: {err}", fix="remove lone surrogates") from err


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """A run of mappings at the end becomes sections; a mapping before a plain value stays inline, to keep the order."""
    items = list(table.items())
    first = len(items)
    while first and _is_section(items[first - 1][1]):
        first -= 1
    for key, value in items[:first]:
        yield f"{_key(key)} = {_inline(value)}"
    for key, value in items[first:]:
        inner = (*path, _key(key))
        yield f"\n[{'.'.join(inner)}]"
        yield from _table(value, inner)


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _inline(value: Any) -> str:
    if value is None:
        return f'{{"{_NONE}" = true}}'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(_inline(item) for item in value) + "]"


def _float(value: float) -> str:
    if math.isnan(value):
        return "-nan" if math.copysign(1.0, value) < 0 else "nan"
    return float.__repr__(float(value))


def _key(key: str) -> str:
    escaped = f"${key}" if key.startswith("$") else key
    return escaped if _BARE.fullmatch(escaped) else _text(escaped)


def _text(text: str) -> str:
    return '"' + _CONTROL.sub(lambda match: _ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text) + '"'


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value == {_NONE: True}:
            return None
        return {key.removeprefix("$") if key.startswith("$$") else key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
