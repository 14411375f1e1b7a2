"""Rolling origins: which rows are known and which are to be forecast, for each window and series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, DataError
from .panel import Panel

#: rows that must lie before an origin; rounding of a time, in typical gaps; labels in a message
_LEAST, _ROUNDING, _NAMED = 2, 1e-6, 5


class Window(NamedTuple):
    """Row numbers within each series, ``[S]``: known are ``[first, origin)``, to be forecast ``[origin, stop)``.

    ``active [S]``: series that take part in this window.
    """

    first: np.ndarray
    origin: np.ndarray
    stop: np.ndarray
    active: np.ndarray


def rolling_windows(panel: Panel, *, horizon: Any, windows: int, step: Any, context: Any) -> list[Window]:
    """Origins that end at the end of the data.

    A horizon in rows is counted from the end of each series; a duration from the latest time of all, so that every
    series is cut at the same moment.

    Raises:
        ConfigError: a horizon, step, context or number of windows that is none. DataError: series too short, by label.
    """
    if not isinstance(windows, int) or isinstance(windows, bool) or windows < 1:
        raise ConfigError(f"windows must be a whole number >= 1, got {windows!r}", variable="windows", fix="windows=5")
    h, by_rows = length_of(panel, horizon, "horizon")
    s, step_by_rows = (h, by_rows) if step is None else length_of(panel, step, "step")
    if by_rows != step_by_rows:
        raise ConfigError(
            f"horizon={horizon!r} and step={step!r} are of different kinds",
            variable="step",
            fix="give both in rows (whole numbers) or both as durations",
        )
    parts = _by_rows(panel, int(h), windows, int(s)) if by_rows else _by_time(panel, h, windows, s)
    if context is None:
        return parts
    return [part._replace(first=_context(panel, part, context)) for part in parts]


def length_of(panel: Panel, value: Any, name: str) -> tuple[float, bool]:
    """A number of rows (whole numbers), or a duration in typical gaps (texts, timedeltas, floats in time units).

    Raises:
        ConfigError: not positive, or neither.
    """
    if isinstance(value, bool) or value is None:
        raise ConfigError(f"{name} must be rows or a duration, got {value!r}", variable=name, fix=f'{name}=24 or "30D"')
    # numpy counts a timedelta among its integers
    rows = isinstance(value, int | np.integer) and not isinstance(value, np.timedelta64)
    if rows or isinstance(value, str | float | np.floating):
        length = float(value) if rows else panel.schema.time.duration(value)
    else:
        length = panel.schema.time.duration(str(_timedelta(value, name)))
    if not length > 0 or not np.isfinite(length):
        raise ConfigError(f"{name} must be positive, got {value!r}", variable=name, fix=f'{name}=24 or "30D"')
    return length, rows


def _timedelta(value: Any, name: str) -> Any:
    import pandas as pd

    try:
        return pd.Timedelta(value)
    except (ValueError, TypeError) as err:
        raise ConfigError(
            f"{name} must be rows or a duration, got {value!r}", variable=name, fix=f'{name}=24 or {name}="30D"'
        ) from err


def _by_rows(panel: Panel, horizon: int, windows: int, step: int) -> list[Window]:
    lengths = np.asarray(panel.rows.lengths)
    need = _LEAST + horizon + (windows - 1) * step
    short = np.flatnonzero(lengths < need)
    if len(short):
        most = (int(lengths[short].min()) - _LEAST - horizon) // step + 1
        fix = f"windows={most}" if most >= 1 else "a shorter horizon"
        raise DataError(
            f"{_listed(panel, short)} too short: {lengths[short[0]]} rows, {windows} windows of {horizon} rows need "
            f"{need} ({_LEAST} of them before the first origin)",
            dim=panel.schema.series,
            index=None if panel.labels is None else panel.labels[short[0]].item(),
            code="data/too-short",
            fix=f"{fix}, a smaller step, or leave the short series out",
        )
    found = []
    for window in range(windows):
        stop = lengths - (windows - 1 - window) * step
        origin, stop = _before_ties(panel, stop - horizon), _before_ties(panel, stop)
        found.append(Window(np.zeros_like(origin), origin, stop, (origin > 0) & (stop > origin)))
    _check_active(panel, found)
    return found


def _by_time(panel: Panel, horizon: float, windows: int, step: float) -> list[Window]:
    time = panel.schema.time.to_model(panel.rows.time)
    found = []
    for window in range(windows):
        end = float(time.max()) - (windows - 1 - window) * step
        origin, stop = (_known_at(panel, time, moment) for moment in (end - horizon, end))
        found.append(Window(np.zeros_like(origin), origin, stop, (origin >= _LEAST) & (stop > origin)))
    _check_active(panel, found)
    return found


def _known_at(panel: Panel, time: np.ndarray, moment: float) -> np.ndarray:
    """``[S]``: rows of each series at or before a moment."""
    pairs = zip(panel.starts[:-1], panel.starts[1:], strict=True)
    return np.array([np.searchsorted(time[a:b], moment + _ROUNDING, side="right") for a, b in pairs])


def _before_ties(panel: Panel, row: np.ndarray) -> np.ndarray:
    """Rows of one time stay together: what has the time of the first unknown row is unknown too."""
    out = row.copy()
    for series, (start, end) in enumerate(zip(panel.starts[:-1], panel.starts[1:], strict=True)):
        time = panel.rows.time[start:end]
        if row[series] < len(time):
            out[series] = np.searchsorted(time, time[row[series]], side="left")
    return out


def _context(panel: Panel, window: Window, context: Any) -> np.ndarray:
    length, by_rows = length_of(panel, context, "context")
    if by_rows:
        return np.maximum(window.origin - int(length), 0)
    time = panel.schema.time.to_model(panel.rows.time)
    first = np.zeros_like(window.origin)
    for series in np.flatnonzero(window.origin > 0):
        start = panel.starts[series]
        known = time[start : start + window.origin[series]]
        first[series] = np.searchsorted(known, known[-1] - length + _ROUNDING, side="right")
    return first


def _check_active(panel: Panel, windows: Sequence[Window]) -> None:
    for number, window in enumerate(windows):
        if not window.active.any():
            raise DataError(
                f"window {number} of {len(windows)}: no series has {_LEAST} rows before its origin and one after",
                code="data/too-short",
                fix="use fewer windows, a smaller step or another horizon",
            )
    never = np.flatnonzero(~np.any([window.active for window in windows], axis=0))
    if len(never):
        raise DataError(
            f"{_listed(panel, never)} in no window: nothing lies before or after an origin",
            dim=panel.schema.series,
            index=None if panel.labels is None else panel.labels[never[0]].item(),
            code="data/too-short",
            fix="leave them out, or give the horizon in rows: each series is then cut from its own end",
        )


def _listed(panel: Panel, which: np.ndarray) -> str:
    if panel.labels is None:
        return "the series is"
    names = ", ".join(repr(panel.labels[s].item()) for s in which[:_NAMED])
    more = f" and {len(which) - _NAMED} more" if len(which) > _NAMED else ""
    return f"series {names}{more} {'is' if len(which) == 1 else 'are'}"
