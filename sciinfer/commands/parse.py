"""Texts of the command line to values: options, times, durations. Nothing is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, TimeError

if TYPE_CHECKING:
    import numpy as np

    from ..labelled.schema import TimeAxis

MOST_TIMES = 1_000_000
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}
_WHOLE = re.compile(r"[+-]?\d+")
_STAMP = r"\d{4}(?:-\d{2}(?:-\d{2}(?:[T ]\d{2}(?::\d{2}(?::\d{2}(?:\.\d+)?)?)?(?:Z|[+-]\d{2}:?\d{2})?)?)?)?"
_STAMPS = re.compile(rf"({_STAMP}):({_STAMP}):(\d+)")
_FIX = '"START:STOP:COUNT" or "T1,T2,T3"'


def value(text: str) -> Any:
    """An int, float, bool, None or the text itself; quotes keep a text a text.

    Example:
        >>> [value(text) for text in ("3", "1e-2", "true", "None", "linear", "'3'")]
        [3, 0.01, True, None, 'linear', '3']
    """
    plain = text.strip()
    if plain.lower() in _WORDS:
        return _WORDS[plain.lower()]
    if len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "'\"":
        return plain[1:-1]
    if _WHOLE.fullmatch(plain):
        return int(plain)
    try:
        return float(plain)
    except ValueError:
        return plain


def pairs(items: Iterable[str] | None, option: str) -> dict[str, Any]:
    """``KEY=VALUE`` texts to a mapping.

    Args:
        items: as given, one for each use of the option.
        option: its name, for messages.

    Raises:
        ConfigError: without a key or ``=``, or a key given twice.

    Example:
        >>> pairs(["steps=10", "kernel=seasonal(period=1)"], "--set")
        {'steps': 10, 'kernel': 'seasonal(period=1)'}
    """
    found: dict[str, Any] = {}
    for item in items or ():
        key, mark, text = item.partition("=")
        key = key.strip().replace("-", "_")
        if not mark or not key:
            raise ConfigError(f"{option} {item!r} is not KEY=VALUE", code="config/option", fix=f"{option} steps=100")
        if key in found:
            raise ConfigError(f"{option} gives {key!r} twice", code="config/option", fix="give it once")
        found[key] = value(text)
    return found


def names(text: str | None) -> list[str] | None:
    """Names between commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def times(text: str, axis: TimeAxis) -> np.ndarray:
    """``"START:STOP:COUNT"`` or ``"T1,T2,..."`` in the clock of the data: numbers, or ISO dates.

    Raises:
        TimeError: of the other kind than the data's times, or not readable.

    Example:
        >>> from sciinfer.labelled.schema import TimeAxis
        >>> times("-1:1:3", TimeAxis("t", "number", 0.0, 1.0))
        array([-1.,  0.,  1.])
    """
    match = _STAMPS.fullmatch(text.strip()) if axis.kind == "datetime" else None
    if match:
        return span(match[1], match[2], int(match[3]), axis)
    parts = text.split(":")
    if axis.kind == "number" and len(parts) == 3:
        return span(parts[0], parts[1], _count(parts[2]), axis)
    return _moments([part for part in text.split(",") if part.strip()], axis)


def moment(text: str, axis: TimeAxis) -> Any:
    """One time in the clock of the data."""
    return _moments([text], axis)[0]


def span(start: Any, stop: Any, count: int, axis: TimeAxis) -> np.ndarray:
    """``count`` times, evenly from ``start`` to ``stop`` (texts, or times of the axis), both included.

    Example:
        >>> from sciinfer.labelled.schema import TimeAxis
        >>> span("2000-01-01", "2000-01-03", 3, TimeAxis("t", "datetime", 0.0, 1.0)).astype("datetime64[D]").tolist()[1]
        datetime.date(2000, 1, 2)
    """
    import numpy as np

    if not 1 <= count <= MOST_TIMES:
        raise ConfigError(f"{count} times were asked for", fix=f"ask for 1 to {MOST_TIMES}")
    first, last = (moment(edge, axis) if isinstance(edge, str) else edge for edge in (start, stop))
    if axis.kind == "number":
        return np.linspace(float(first), float(last), count)
    begin, end = (int(np.datetime64(edge, "ns").astype(np.int64)) for edge in (first, last))
    steps = max(count - 1, 1)
    # whole numbers: float64 would round the nanoseconds of a century
    return np.array([begin + (end - begin) * k // steps for k in range(count)], dtype="datetime64[ns]")


def duration(text: str, axis: TimeAxis) -> Any:
    """A length of time in the data's units, or ``"365.25D"`` where the times are dates."""
    number = value(text)
    if isinstance(number, int | float) and not isinstance(number, bool):
        return number
    if axis.kind == "number":
        raise ConfigError(
            f"the data's times are numbers, {text!r} is not", variable=axis.name, fix="give a number in their units"
        )
    return text


def _count(text: str) -> int:
    if not _WHOLE.fullmatch(text.strip()):
        raise TimeError(f"{text!r} is not a number of times", code="time/expression", fix=_FIX)
    return int(text)


def _moments(texts: list[str], axis: TimeAxis) -> np.ndarray:
    import numpy as np

    if not texts:
        raise TimeError("no times were given", variable=axis.name, code="time/expression", fix=_FIX)
    if axis.kind == "datetime":
        dates = [_dated(text.strip(), axis) for text in texts]
        return np.concatenate([_parsed(date, axis) for date in dates])
    try:
        return axis.parse(np.array([float(text) for text in texts]))
    except ValueError as err:
        raise TimeError(
            f"{','.join(texts)!r} is not a time: the data's times are numbers",
            variable=axis.name,
            code="time/expression",
            fix=f"{_FIX} with numbers in the data's units",
        ) from err


def _dated(text: str, axis: TimeAxis) -> str:
    if re.fullmatch(_STAMP, text):
        return text
    raise _no_date(text, axis)


def _parsed(text: str, axis: TimeAxis) -> np.ndarray:
    try:
        return axis.parse([text])
    except TimeError as err:  # 2001-02-30
        raise _no_date(text, axis) from err


def _no_date(text: str, axis: TimeAxis) -> TimeError:
    return TimeError(
        f"{text!r} is not a date: the data's times are dates",
        variable=axis.name,
        code="time/expression",
        fix=f"{_FIX} with dates such as 2001-12-31 or 2001-12-31T06:00",
    )
