"""Dates of any make to ``datetime64[ns]``, without silent overflow, time-zone loss or calendar confusion."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SciInferWarning, TimeError

#: calendars whose dates equal the proleptic Gregorian ones after 1582
STANDARD_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
_OFFSET = re.compile(r"[T ].*(Z|[+-]\d{2}(:?\d{2})?)$")


def is_stamps(values: Any) -> bool:
    """Whether ``values`` hold dates: ``datetime64``, tz-aware, cftime or Python datetimes (strings do not count)."""
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.DatetimeTZDtype) or getattr(dtype, "kind", "") == "M":
        return True
    if getattr(dtype, "kind", "") != "O":
        return False
    first = _first(values)
    return hasattr(first, "isoformat") or hasattr(first, "calendar")


def to_nanoseconds(values: Any, *, name: str, notice: bool = True) -> np.ndarray:
    """Dates as naive UTC ``datetime64[ns]``, NaT where missing.

    Args:
        values: array or index of ``datetime64`` (any unit), tz-aware stamps, ``datetime``, cftime or ISO strings.
        name: the coordinate, for messages.
        notice: warn when time zones are converted.

    Returns:
        ``datetime64[ns]`` of the shape of ``values``.

    Raises:
        TimeError: not dates, a calendar that is not Gregorian, dates outside 1678-2262, zoned and zoneless ones mixed.

    Example:
        >>> to_nanoseconds(["2020-01-01T12:00"], name="time")
        array(['2020-01-01T12:00:00.000000000'], dtype='datetime64[ns]')
    """
    if isinstance(values, (pd.Index, pd.Series)) and isinstance(values.dtype, pd.DatetimeTZDtype):
        return _bounded(_zoneless(pd.DatetimeIndex(values), name, notice), name)
    array = np.asarray(values)
    if array.dtype.kind == "M":
        return _bounded(array, name)
    if array.dtype.kind not in "OUST":
        raise TimeError(f"expected dates, got {array.dtype}", variable=name, fix="pass datetimes or ISO strings")
    flat = array.astype(object).ravel()
    stamps = _from_cftime(flat, name) if hasattr(_first(flat), "calendar") else _from_objects(flat, name, notice)
    return _bounded(stamps, name).reshape(array.shape)


def _first(values: Any) -> Any:
    flat = np.asarray(values, dtype=object).ravel()
    present = [v for v in flat if v is not None and v is not pd.NaT and v == v]
    return present[0] if present else None


def _zoneless(index: pd.DatetimeIndex, name: str, notice: bool) -> np.ndarray:
    if index.tz is None:
        return index.to_numpy()
    if notice:
        warnings.warn(f"times {name!r} carry a time zone and were converted to UTC", SciInferWarning, stacklevel=2)
    return index.tz_convert("UTC").tz_localize(None).to_numpy()


def _from_objects(flat: np.ndarray, name: str, notice: bool) -> np.ndarray:
    strings = any(isinstance(v, str) for v in flat)
    zoned = {_zoned(v) for v in flat if (isinstance(v, str) or hasattr(v, "isoformat")) and v is not pd.NaT}
    try:
        if len(zoned) > 1:
            raise ValueError("zoned and zoneless dates are mixed")
        # strict ISO 8601: "01/02/2020" would be guessed, and guessed wrongly half of the time
        parsed = pd.to_datetime(flat, format="ISO8601" if strings else None, utc=zoned == {True})
        return _zoneless(pd.DatetimeIndex(parsed), name, notice)
    except (ValueError, TypeError, OverflowError) as err:
        raise TimeError(
            f"cannot read the times as dates: {err}".splitlines()[0],
            variable=name,
            fix="pass datetimes, or ISO strings such as 2020-01-31T12:00",
        ) from err


def _zoned(value: Any) -> bool:
    if isinstance(value, str):
        return _OFFSET.search(value.strip()) is not None
    return getattr(value, "tzinfo", None) is not None


def _from_cftime(flat: np.ndarray, name: str) -> np.ndarray:
    calendar = _first(flat).calendar
    if calendar not in STANDARD_CALENDARS:
        raise TimeError(
            f"the calendar {calendar!r} has dates that do not exist in the standard one",
            variable=name,
            code="time/calendar",
            fix="convert it first: ds.convert_calendar('standard', align_on='date')",
        )
    text = [v.isoformat() if hasattr(v, "calendar") else "NaT" for v in flat]
    return np.array(text, dtype="datetime64[us]")


def _bounded(stamps: np.ndarray, name: str) -> np.ndarray:
    unit = np.datetime_data(stamps.dtype)[0]
    low, high = np.datetime64("1677-09-22"), np.datetime64("2262-04-11")
    if unit not in ("ns", "ps", "fs", "as"):  # coarser units reach further than nanoseconds: a cast would wrap around
        outside = ~np.isnat(stamps) & ((stamps < low) | (stamps > high))
        if outside.any():
            index = tuple(int(i) for i in np.argwhere(outside)[0])
            raise TimeError(
                f"{stamps[index]} lies outside 1677-2262, the range of nanoseconds",
                variable=name,
                index=index[0] if len(index) == 1 else index,
                code="time/range",
                fix="use a numeric time axis, e.g. decimal years",
            )
    return stamps.astype("datetime64[ns]")
