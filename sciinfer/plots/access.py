"""What a figure needs from a result, as plain arrays: times, draws and data of one series and one cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SchemaError, ShapeError, TimeError
from .style import labelled

if TYPE_CHECKING:
    import xarray as xr

PREDICTIVE = ("posterior_predictive", "posterior", "prior_predictive", "prior")
LATENT = ("posterior", "prior")
SAMPLE_DIMS = ("chain", "draw")
_TIME_NAMES = ("time", "t", "date", "ds")


@dataclass(frozen=True)
class Layout:
    """Names of the dims of a result variable besides ``chain`` and ``draw``."""

    time: str
    series: str | None
    extra: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """One series and one cell of a variable, in ascending time.

    Args:
        time: ``[T]`` times of the draws.
        sample: ``[n, T]`` draws.
        data_time, data: ``[R]`` the caller's data; NaN where missing.
        name: of the variable, with the cell. ``label`` is the same with its units, ``time_label`` the time's.
        where: series label, or "".
    """

    time: np.ndarray
    sample: np.ndarray
    data_time: np.ndarray
    data: np.ndarray
    name: str
    label: str
    time_label: str
    where: str

    @property
    def last(self) -> Any:
        """The last time at which something was observed, or None."""
        seen = self.data_time[np.isfinite(self.data)]
        return seen.max() if seen.size else None


def group_of(tree: xr.DataTree, var: str, groups: tuple[str, ...] = PREDICTIVE) -> xr.Dataset:
    """The first of ``groups`` that holds ``var``."""
    known: list[str] = []
    for name in groups:
        if name in tree.children:
            ds = tree[name].to_dataset()
            if var in ds.data_vars:
                return ds
            known += [str(v) for v in ds.data_vars if str(v) not in known]
    raise SchemaError(
        f"no group {' or '.join(groups)} of the result holds this variable",
        variable=var,
        fix=f"variables there: {', '.join(known) or 'none'}",
    )


def variables(tree: xr.DataTree, groups: tuple[str, ...] = PREDICTIVE) -> list[str]:
    """Names of the variables that the first present group holds."""
    for name in groups:
        if name in tree.children and len(tree[name].data_vars):
            return [str(v) for v in tree[name].data_vars]
    return []


def layout_of(da: xr.DataArray) -> Layout:
    """Dims by role: ``(chain, draw, [series], time, *extra)``."""
    dims = [str(d) for d in da.dims if d not in SAMPLE_DIMS]
    time = _time_dim(da, dims)
    before = dims[: dims.index(time)]
    if len(before) > 1:
        raise ShapeError(
            f"expected dims (chain, draw, [series], {time}, ...), got {tuple(da.dims)}",
            variable=str(da.name),
            fix=f"transpose to ('chain', 'draw', ..., {time!r}, ...)",
        )
    return Layout(time, before[0] if before else None, tuple(dims[dims.index(time) + 1 :]))


def _time_dim(da: xr.DataArray, dims: list[str]) -> str:
    for dim in dims:
        coord = da.coords.get(dim)
        attrs = {} if coord is None else coord.attrs
        is_time = attrs.get("axis") == "T" or attrs.get("standard_name") == "time"
        if dim in _TIME_NAMES or is_time or (coord is not None and coord.dtype.kind == "M"):
            return dim
    if len(dims) == 1:
        return dims[0]
    raise SchemaError(
        f"cannot tell which of the dims {dims} is time", variable=str(da.name), fix='set attrs["axis"] = "T" on it'
    )


def panel(
    tree: xr.DataTree,
    var: str,
    *,
    series: int = 0,
    cell: Mapping[str, int] | None = None,
    groups: tuple[str, ...] = PREDICTIVE,
) -> Panel:
    """One series (by position) and one cell (positions along the extra dims, default the first)."""
    da = group_of(tree, var, groups)[var]
    layout = layout_of(da)
    cells = _cells(da, layout, cell)
    if layout.series is not None and not -da.sizes[layout.series] <= series < da.sizes[layout.series]:
        raise ShapeError(
            f"there are {da.sizes[layout.series]} series",
            variable=var,
            dim=layout.series,
            index=series,
            fix="count from 0",
        )
    one = da.isel(cells | ({layout.series: series} if layout.series else {}))
    sample = np.asarray(one.transpose(..., layout.time).values, dtype=np.float64).reshape(-1, da.sizes[layout.time])
    time = time_values(da.coords[layout.time]) if layout.time in da.coords else np.arange(sample.shape[1]) * 1.0
    order = np.argsort(time, kind="stable")
    data_time, data = points(observed(tree), da, layout, series, cells)
    name = _name(da, one, layout)
    return Panel(
        time[order], sample[:, order], data_time, data, name, labelled(name, da.attrs.get("units")),
        _time_label(da, layout), _where(da, layout, series),
    )  # fmt: skip


def panels(tree: xr.DataTree, var: str, groups: tuple[str, ...] = PREDICTIVE) -> Iterator[tuple[int, dict[str, int]]]:
    """``(series, cell)`` of every scalar series of ``var``."""
    da = group_of(tree, var, groups)[var]
    layout = layout_of(da)
    shape = tuple(da.sizes[d] for d in layout.extra)
    for series in range(da.sizes[layout.series] if layout.series else 1):
        for index in np.ndindex(shape):
            yield series, dict(zip(layout.extra, index, strict=True))


def observed(tree: xr.DataTree) -> xr.Dataset | None:
    """The caller's data, when the result carries them."""
    return tree["observed_data"].to_dataset() if "observed_data" in tree.children else None


def points(
    ds: xr.Dataset | None, da: xr.DataArray, layout: Layout, series: int, cell: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """``(time [R], value [R])`` of one series and cell of ``ds`` (grid, padded or contiguous ragged), ascending."""
    empty = np.zeros(0), np.zeros(0)
    if ds is None or str(da.name) not in ds.data_vars:
        return empty
    try:
        one = _pick_cell(ds[str(da.name)], da, cell)
        one = _pick_series(ds, one, da, layout, series)
    except (KeyError, IndexError):  # a series or cell that these data do not hold
        return empty
    coord = _time_coord(one, layout)
    if coord is None or one.ndim != 1:
        return empty
    time, value = time_values(coord), np.asarray(one.values, dtype=np.float64)
    keep = ~(np.isnat(time) if time.dtype.kind == "M" else np.isnan(time))
    order = np.argsort(time[keep], kind="stable")
    return time[keep][order], value[keep][order]


def _pick_cell(one: xr.DataArray, da: xr.DataArray, cell: Mapping[str, int]) -> xr.DataArray:
    for dim, index in cell.items():
        both = dim in da.coords and dim in one.coords
        one = one.sel({dim: da[dim].values[index]}) if both else one.isel({dim: index})
    return one


def _pick_series(ds: xr.Dataset, one: xr.DataArray, da: xr.DataArray, layout: Layout, series: int) -> xr.DataArray:
    ragged = [v for v in ds.data_vars.values() if "sample_dimension" in v.attrs]
    if ragged:
        sizes = ragged[0]
        position = _position(sizes, str(sizes.dims[0]), da, layout, series)
        end, size = int(sizes.values[: position + 1].sum()), int(sizes.values[position])
        return one.isel({sizes.attrs["sample_dimension"]: slice(end - size, end)})
    if layout.series is None or layout.series not in one.dims:
        return one
    return one.isel({layout.series: _position(one, layout.series, da, layout, series)})


def _position(one: xr.DataArray, dim: str, da: xr.DataArray, layout: Layout, series: int) -> int:
    if layout.series and layout.series in da.coords and dim in one.coords:
        found = np.flatnonzero(one[dim].values == da[layout.series].values[series])
        return int(found[0])
    return range(one.sizes[dim])[series]


def _time_coord(one: xr.DataArray, layout: Layout) -> xr.DataArray | None:
    if layout.time in one.coords:
        return one.coords[layout.time]
    stamps = [
        c for c in one.coords.values() if c.dims == one.dims and (c.dtype.kind == "M" or c.attrs.get("axis") == "T")
    ]
    return stamps[0] if stamps else None


def time_values(coord: xr.DataArray) -> np.ndarray:
    """Datetimes or float64 numbers."""
    values = np.asarray(coord.values)
    if values.dtype.kind in "Mfiu":
        return values if values.dtype.kind == "M" else values.astype(np.float64)
    raise TimeError(
        f"cannot draw times of type {values.dtype}", variable=str(coord.name), fix="use datetime64 or numbers"
    )


def _cells(da: xr.DataArray, layout: Layout, cell: Mapping[str, int] | None) -> dict[str, int]:
    wanted = dict(cell or {})
    unknown = sorted(set(wanted) - set(layout.extra))
    if unknown:
        raise ShapeError(f"no dim {unknown[0]!r} here", variable=str(da.name), fix=f"extra dims: {list(layout.extra)}")
    for dim, index in wanted.items():
        if not -da.sizes[dim] <= index < da.sizes[dim]:
            raise ShapeError(
                f"its size is {da.sizes[dim]}", variable=str(da.name), dim=dim, index=index, fix="count from 0"
            )
    return {dim: wanted.get(dim, 0) for dim in layout.extra}


def _name(da: xr.DataArray, one: xr.DataArray, layout: Layout) -> str:
    name = str(da.attrs.get("long_name") or da.name)
    parts = [f"{one.coords[d].item()}" if d in one.coords else "" for d in layout.extra]
    parts = [f"{d} {p}" if p.lstrip("-").isdigit() else p for d, p in zip(layout.extra, parts, strict=True)]
    return f"{name} · {', '.join(filter(None, parts))}" if any(parts) else name


def _time_label(da: xr.DataArray, layout: Layout) -> str:
    coord = da.coords.get(layout.time)
    attrs = {} if coord is None else coord.attrs
    name = str(attrs.get("long_name") or layout.time)
    return name if coord is not None and coord.dtype.kind == "M" else labelled(name, attrs.get("units"))


def _where(da: xr.DataArray, layout: Layout, series: int) -> str:
    if layout.series is None:
        return ""
    label = da[layout.series].values[series] if layout.series in da.coords else series
    return f"{layout.series} {label}"
