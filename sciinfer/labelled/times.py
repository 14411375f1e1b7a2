"""The model's clock: where it starts, how long its unit is, and whether the times resolve their own spacing."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ..errors import TimeError
from .schema import Schema, TimeAxis
from .values import Rows

_RESOLUTION = 1e-3  # rounding of a time may be at most this part of a typical gap


def time_axis(coord: xr.DataArray, rows: Rows) -> TimeAxis:
    """Origin = earliest time; unit = the median positive gap within a series (1 where there is none).

    Args:
        coord: the time coordinate (name, units, the precision that it came in).
        rows: the data's rows, sorted by time within each series.

    Raises:
        TimeError: single-precision times that do not resolve their own spacing.

    Example:
        >>> rows = Rows(np.array([5.0, 7.0]), np.zeros((2, 1)), np.array([2]), np.arange(2), True)
        >>> time_axis(xr.DataArray([5.0, 7.0], dims="t", name="t"), rows).scale
        2.0
    """
    check_precision(coord, rows)
    kind = "datetime" if rows.time.dtype.kind == "M" else "number"
    gaps = _gaps(rows)
    positive = gaps[gaps > 0]
    unit = 1e9 if kind == "datetime" else 1.0
    scale = float(np.median(positive)) if len(positive) else unit
    start = rows.time.min()
    # an integer stays one: float64 counts nanoseconds since 1970 in steps of 256
    origin = int(start.astype(np.int64)) if kind == "datetime" else float(start)
    units = coord.attrs.get("units") if kind == "number" else None
    return TimeAxis(str(coord.name), kind, origin, scale, None if units is None else str(units))


def check_precision(coord: xr.DataArray, rows: Rows) -> None:
    """Refuse times stored in single or half precision whose rounding is not small against a typical gap.

    With ``eps`` of the stored type: ``eps * max|t| <= 1e-3 * median positive gap``. Whole numbers that the type holds
    exactly pass.

    Raises:
        TimeError: code ``time/precision``.

    Example:
        >>> time = np.array([0.0, 1.0])
        >>> rows = Rows(time, np.zeros((2, 1)), np.array([2]), np.arange(2), True)
        >>> check_precision(xr.DataArray(time.astype("float32"), name="t"), rows)
    """
    if coord.dtype.kind != "f" or coord.dtype.itemsize >= 8 or len(rows.time) < 2:
        return
    info = np.finfo(coord.dtype)
    largest = float(np.abs(rows.time).max())
    if largest < 2.0**info.nmant and bool((rows.time == np.floor(rows.time)).all()):
        return
    gaps = _gaps(rows)
    positive = gaps[gaps > 0]
    typical = float(np.median(positive)) if len(positive) else 0.0
    if len(gaps) and float(info.eps) * largest > _RESOLUTION * typical:
        raise TimeError(
            f"times stored as {coord.dtype} are rounded by up to {float(info.eps) * largest:.3g}, "
            f"their typical gap is {typical:.3g}",
            variable=str(coord.name),
            code="time/precision",
            fix="read the times again as float64, or subtract the first time before casting",
        )


def query_times(schema: Schema, time: Any) -> tuple[np.ndarray, np.ndarray]:
    """Times that a caller asks for, as given and in model units; order and ties are kept.

    Args:
        schema: of the fit.
        time: numbers in the data's units, or dates (strings, datetimes, with or without zone).

    Returns:
        ``[T]`` in the caller's type and ``[T]`` float64 in model units.

    Raises:
        TimeError: of another kind than the data's times, missing or infinite, or not one list.

    Example:
        >>> schema = Schema(TimeAxis("t", "number", 1.0, 2.0), None, (), ())
        >>> query_times(schema, [5.0, 1.0])[1]
        array([2., 0.])
    """
    values = schema.time.parse(time)
    if len(values) == 0:
        raise TimeError("no times were asked for", variable=schema.time.name, fix="pass at least one")
    return values, schema.time.to_model(values)


def _gaps(rows: Rows) -> np.ndarray:
    """Steps between neighbouring rows of the same series (datetimes in nanoseconds)."""
    owner = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
    same = owner[1:] == owner[:-1]
    if rows.time.dtype.kind == "M":
        return np.diff(rows.time.astype(np.int64))[same].astype(np.float64)
    return np.diff(rows.time)[same]
