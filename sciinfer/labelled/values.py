"""Values and times of a Dataset as rows: one row per series and time, one column per channel, dims found by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..errors import DataError, SchemaError, TimeError
from .layouts import Layout
from .schema import Variable
from .stamps import is_stamps, to_nanoseconds
from .tidy import is_layout


class Rows(NamedTuple):
    """``S`` series end to end, sorted by time within each.

    ``time [N]`` in the caller's clock (float64 or datetime64[ns]), ``values [N, C]`` (NaN = missing), ``lengths [S]``,
    ``position [N]``: where each row stands in the caller's order (series after series as given, padding not counted
    out). ``sorted`` tells whether the caller's rows were in order already.
    """

    time: np.ndarray
    values: np.ndarray
    lengths: np.ndarray
    position: np.ndarray
    sorted: bool


def read_rows(ds: xr.Dataset, layout: Layout, variables: Sequence[Variable]) -> Rows:
    """Rows of ``variables`` in the caller's units.

    Raises:
        DataError: infinite, complex or non-numeric values.
        TimeError: a time is missing or infinite, or a value has no time.

    Example:
        >>> ds = xr.Dataset({"y": ("t", [1.0, 2.0])}, coords={"t": [1.0, 0.0]})
        >>> read_rows(ds, Layout("grid", "t", "t"), [Variable("y")]).position.tolist()
        [1, 0]
    """
    values = np.concatenate([_columns(ds[v.name], layout, v) for v in variables], axis=1)
    time, lengths = _times(ds, layout)
    keep = np.flatnonzero(~_missing(time))
    _check_padding(values, time, layout, lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)[keep]
    order = np.lexsort((time[keep], owner))
    position = keep[order]
    counted = np.bincount(owner, minlength=len(lengths))
    return Rows(time[position], values[position], counted, position, bool((np.diff(order) > 0).all()))


def check_numeric(var: xr.DataArray, numeric: Sequence[str]) -> None:
    """Refuse complex and non-numeric variables by name."""
    if var.dtype.kind == "c":
        raise DataError(
            "the values are complex", variable=str(var.name), code="data/complex", fix="split into .real and .imag"
        )
    if var.dtype.kind not in "fiub":
        raise DataError(
            f"values of type {var.dtype} are not numeric; numeric variables: {list(numeric)}",
            variable=str(var.name),
            code="data/not-numeric",
            fix="drop or encode it",
        )


def where_bad(var: xr.DataArray, bad: np.ndarray) -> dict[str, Any]:
    """``variable``, ``dim`` and ``index`` of the first True of ``bad`` (in ``var``'s own dims) for an error."""
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    dims = ", ".join(str(d) for d in var.dims)
    return {"variable": str(var.name), "dim": dims or None, "index": first[0] if len(first) == 1 else first}


def numbers(var: xr.DataArray) -> np.ndarray:
    """The values in float64, computed if lazy, infinities refused.

    Example:
        >>> numbers(xr.DataArray([1, 2], name="n"))
        array([1., 2.])
    """
    check_numeric(var, ())
    values = np.asarray(var.values, dtype=np.float64)
    bad = np.isinf(values)
    if bad.any():
        place = where_bad(var, bad)
        raise DataError("a value is infinite", **place, code="data/infinite", fix="mask it with NaN or repair it")
    return values


def read_times(coord: xr.DataArray, *, padding: bool = False) -> np.ndarray:
    """Times in the coordinate's own dims: float64 or datetime64[ns]; missing ones only where ``padding`` allows them.

    Raises:
        TimeError: NaT, NaN or inf; or a type that is no time.

    Example:
        >>> read_times(xr.DataArray([1, 2], dims="t", name="t"))
        array([1., 2.])
    """
    name = str(coord.name)
    if is_stamps(coord.variable):
        values = to_nanoseconds(coord.to_index() if coord.ndim == 1 else coord.values, name=name)
    elif coord.dtype.kind in "fiu":
        values = np.asarray(coord.values, dtype=np.float64)
    else:
        raise TimeError(
            f"times of type {coord.dtype} are not supported", variable=name, fix="use numbers with units, or dates"
        )
    bad = np.isinf(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    bad |= _missing(values) & (not padding)
    if bad.any():
        place = where_bad(coord, bad)
        raise TimeError("a time is missing or infinite", **place, code="time/missing", fix="drop or repair the row")
    return values


def _missing(time: np.ndarray) -> np.ndarray:
    return np.isnat(time) if time.dtype.kind == "M" else np.isnan(time)


def _columns(var: xr.DataArray, layout: Layout, spec: Variable) -> np.ndarray:
    lacking = [d for d in layout.row_dims if d not in var.dims]
    if lacking:
        raise SchemaError(
            f"the variable has dims {list(var.dims)} and lacks {lacking}",
            variable=spec.name,
            fix="broadcast it over them, or choose others with variables=[...]",
        )
    checked = numbers(var)  # in the caller's own dims, so that an index means what the caller sees
    ordered = xr.DataArray(checked, dims=var.dims).transpose(*layout.row_dims, *spec.dims).values
    rows = int(np.prod(ordered.shape[: len(layout.row_dims)]))
    return np.ascontiguousarray(ordered.reshape(rows, -1))


def _times(ds: xr.Dataset, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Caller's times row by row, and the rows of each series."""
    coord = ds[layout.time]
    values = read_times(coord, padding=layout.kind == "padded")
    if layout.kind == "ragged":
        return values, ds[str(layout.row_size)].values.astype(np.int64)
    if layout.kind == "padded":
        by_series = xr.DataArray(values, dims=coord.dims).transpose(layout.series, layout.dim).values
        return by_series.ravel(), np.full(len(by_series), by_series.shape[1])
    count = ds.sizes[layout.series] if layout.series else 1
    return np.tile(values, count), np.full(count, len(values))


def _check_padding(values: np.ndarray, time: np.ndarray, layout: Layout, lengths: np.ndarray) -> None:
    lost = _missing(time) & ~np.isnan(values).all(axis=1)
    if lost.any():
        row = int(np.flatnonzero(lost)[0])
        raise TimeError(
            "a value has no time",
            variable=layout.time,
            dim=f"{layout.series}, {layout.dim}",
            index=divmod(row, int(lengths[0])),
            code="time/missing",
            fix="give the row a time, or mask its values with NaN",
        )


def value_names(ds: xr.Dataset, layout: Layout) -> tuple[list[str], list[str]]:
    """Data variables along time, and those left out because they lack its dim."""
    own = [str(n) for n, v in ds.data_vars.items() if n not in (layout.time, layout.row_size) and not is_layout(v)]
    along = [n for n in own if layout.dim in ds[n].dims]
    return along, [n for n in own if n not in along]
