"""Where things are in a Dataset: the time coordinate, its dim, the series dim, and which of three layouts it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from ..errors import DataError, SchemaError, ShapeError
from .stamps import is_stamps
from .tables import SERIES_NAMES, TIME_NAMES

SERIES_DIMS = (*SERIES_NAMES, "trial")
_ROW_DIMS = ("obs", "observation", "sample", "row", "step", *TIME_NAMES)


@dataclass(frozen=True)
class Layout:
    """How a Dataset is laid out.

    Args:
        kind: ``"grid"`` (shared 1-D time), ``"padded"`` (2-D time, NaN = padding) or ``"ragged"`` (CF contiguous).
        time: name of the time coordinate.
        dim: the dim along which rows of a series lie.
        series: the series dim, or None.
        row_size: name of the variable with the rows of each series (ragged only).
    """

    kind: Literal["grid", "padded", "ragged"]
    time: str
    dim: str
    series: str | None = None
    row_size: str | None = None

    @property
    def row_dims(self) -> tuple[str, ...]:
        """Dims that make rows; a variable's other dims make channels."""
        return (self.series, self.dim) if self.series and self.kind != "ragged" else (self.dim,)


def find_layout(ds: xr.Dataset, time: str | None = None, series: str | None = None) -> Layout:
    """Recognise the layout by names and attributes, never by the order of dims.

    Raises:
        DataError: no variables, or a dim of length zero.
        SchemaError: the time or the series dim is not there or not clear.
        ShapeError: row sizes do not add up.

    Example:
        >>> find_layout(xr.Dataset({"y": (("id", "time"), [[1.0, 2.0]])}, coords={"time": [0.0, 1.0]})).series
        'id'
    """
    _check_filled(ds)
    name = find_time(ds, time)
    coord = ds[name]
    ragged = _ragged(ds, coord)
    if ragged is not None:
        _check_series(ds, series, (ragged.series or "",))
        return ragged
    if coord.ndim == 2:
        return _padded(name, coord, series)
    if coord.ndim != 1:
        raise SchemaError(f"time has {coord.ndim} dims", variable=name, fix="give it one dim, or (series, obs)")
    dim = str(coord.dims[0])
    others = [str(d) for d in ds.dims if d != dim]
    _check_series(ds, series, others)
    found = series or next((d for d in SERIES_DIMS if d in others), None)
    return Layout("grid", name, dim, found)


def find_time(ds: xr.Dataset, time: str | None = None) -> str:
    """The time coordinate: as named, else ``time``, ``t``, ``date`` or ``ds``, else the only one with dates or axis T.

    Raises:
        SchemaError: none or several; the candidates are named.

    Example:
        >>> find_time(xr.Dataset(coords={"t": [0.0, 1.0], "x": [0.0]}))
        't'
    """
    coords = [str(name) for name, c in ds.coords.items() if c.ndim > 0]
    if time is not None:
        if time not in ds.variables:
            raise _no_time(f"there is no time coordinate {time!r}", ds, coords)
        return time
    for group in ([c for c in coords if c in ds.dims], coords):
        named = [name for name in TIME_NAMES if name in group]
        if named:
            return named[0]
    marked = [c for c in coords if ds[c].attrs.get("axis") == "T" or ds[c].attrs.get("standard_name") == "time"]
    dated = [c for c in coords if is_stamps(ds[c].variable)]
    found = marked or dated
    if len(found) == 1:
        return found[0]
    raise _no_time(
        "several coordinates could be the time" if found else "no time coordinate found", ds, found or coords
    )


def series_labels(ds: xr.Dataset, layout: Layout) -> np.ndarray | None:
    """Labels of the series: the dim's coordinate, else the one with ``cf_role``, else 0, 1, ...; None without a dim."""
    if layout.series is None:
        return None
    along = [c for c in ds.coords.values() if c.dims == (layout.series,)]
    roles = [c for c in along if c.attrs.get("cf_role") in ("timeseries_id", "trajectory_id", "profile_id")]
    if layout.series in ds.coords:
        values = ds.coords[layout.series].to_index().to_numpy()
    elif roles:
        values = roles[0].values
    else:
        return np.arange(ds.sizes[layout.series])
    return values.astype(str) if values.dtype.kind in "OU" else np.array(values)


def _no_time(what: str, ds: xr.Dataset, candidates: Iterable[Hashable]) -> SchemaError:
    bare = [str(d) for d in ds.dims if d not in ds.coords]
    hint = f"; dims without a coordinate: {bare}" if bare else ""
    return SchemaError(
        f"{what}; candidates: {list(candidates)}{hint}",
        code="schema/no-time",
        fix="name it, time='...', or add it with ds.assign_coords(time=...)",
    )


def _check_filled(ds: xr.Dataset) -> None:
    if not ds.data_vars:
        raise DataError("the dataset has no data variables", code="data/empty", fix="pass data with at least one")
    for dim, size in ds.sizes.items():
        if size == 0:
            raise DataError("the dim has length zero", dim=str(dim), code="data/empty", fix="check the selection made")


def _check_series(ds: xr.Dataset, series: str | None, dims: Iterable[str]) -> None:
    if series is not None and series not in dims:
        raise SchemaError(
            f"the series dim {series!r} is not there; dims: {[str(d) for d in ds.dims]}",
            dim=series,
            fix="name one of the dims besides time",
        )


def _padded(name: str, coord: xr.DataArray, series: str | None) -> Layout:
    dims = [str(d) for d in coord.dims]
    rows = [d for d in dims if d in _ROW_DIMS]
    found = series or next((d for d in SERIES_DIMS if d in dims), None)
    if found is None and len(rows) == 1:
        found = next(d for d in dims if d not in rows)
    if found not in dims:
        raise SchemaError(
            f"time has dims {dims}: which one counts the series", variable=name, fix="name it: series='...'"
        )
    return Layout("padded", name, next(d for d in dims if d != found), found)


def _ragged(ds: xr.Dataset, coord: xr.DataArray) -> Layout | None:
    if any("instance_dimension" in v.attrs for v in ds.variables.values()):
        raise SchemaError(
            "indexed ragged arrays are not supported", code="schema/ragged", fix="sort by series and write row_size"
        )
    sizes = [n for n, v in ds.variables.items() if coord.dims == (v.attrs.get("sample_dimension"),) and v.ndim == 1]
    if not sizes:
        return None
    row_size = ds[sizes[0]]
    layout = Layout("ragged", str(coord.name), str(coord.dims[0]), str(row_size.dims[0]), str(sizes[0]))
    rows, length = row_size.values, ds.sizes[layout.dim]
    if (rows < 0).any() or (rows != np.floor(rows)).any() or rows.sum() != length:
        raise ShapeError(
            f"row sizes add up to {rows.sum()}, the dim has {length} rows",
            variable=layout.row_size,
            dim=layout.dim,
            fix="recount the rows of each series",
        )
    return layout
