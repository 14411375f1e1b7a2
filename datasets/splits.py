"""Splits without leaks: by whole series, or at a time. Grids, padded rectangles and ragged arrays alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError, SchemaError, TimeError
from sciinfer.random import numpy_generator


def split_series(
    ds: xr.Dataset, fractions: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0, dim: str | None = None
) -> tuple[xr.Dataset, ...]:
    """Disjoint parts of whole series that together hold every series.

    Args:
        ds: grid ``(series, time)``, padded ``(series, obs)`` or CF contiguous ragged.
        fractions: shares that sum to one; sizes are rounded cumulatively.
        seed: of the permutation; within a part the caller's order stays.
        dim: the series dim; default: that of the row sizes of a ragged array, else ``"series"``.

    Raises:
        ConfigError: fractions that do not sum to one.
        DataError: too few series for one of the parts.

    Example:
        >>> ds = xr.Dataset({"y": (("series", "time"), np.zeros((10, 3)))})
        >>> [part.sizes["series"] for part in split_series(ds)]
        [6, 2, 2]
    """
    shares = _shares(fractions)
    sizes = _row_sizes(ds)
    dim = dim or (str(sizes.dims[0]) if sizes is not None else "series")
    if dim not in ds.dims:
        raise SchemaError(
            f"there is no dim {dim!r} to split along", dim=dim, fix=f"pass dim=..., one of {list(ds.dims)}"
        )
    order = numpy_generator(seed, "split_series").permutation(ds.sizes[dim])
    bounds = np.round(np.cumsum(shares) * len(order)).astype(int)
    parts = [np.sort(chosen) for chosen in np.split(order, bounds[:-1])]
    for index, (share, chosen) in enumerate(zip(shares, parts, strict=True)):
        if share > 0 and len(chosen) == 0:
            raise DataError(
                f"{len(order)} series are too few: a part of {share:g} would be empty",
                dim=dim, index=index, fix="use fewer parts or larger fractions",
            )  # fmt: skip
    return tuple(_take(ds, dim, chosen, sizes) for chosen in parts)


def split_time(ds: xr.Dataset, at: Any, time: str = "time", dim: str | None = None) -> tuple[xr.Dataset, xr.Dataset]:
    """What lies before ``at`` and what lies at or after it. Every series stays in both parts, possibly empty.

    Args:
        ds: grid, padded or CF contiguous ragged.
        at: a number in the time's own units, or a date.
        time: the time coordinate.
        dim: of a padded rectangle, the series dim; default ``"series"``, else the first dim of its times.

    Raises:
        TimeError: a time is missing, ``at`` is of another kind, or one side would be empty.

    Example:
        >>> ds = xr.Dataset({"y": ("time", np.arange(4.0))}, coords={"time": [0.0, 1.0, 2.0, 3.0]})
        >>> before, after = split_time(ds, 2.0)
        >>> before["y"].values.tolist(), after["y"].values.tolist()
        ([0.0, 1.0], [2.0, 3.0])
    """
    if time not in ds.variables:
        raise SchemaError(f"there is no coordinate {time!r}", variable=time, fix="pass time=...")
    early = _before(ds[time], at)
    if ds[time].ndim == 2:
        present = ds[time].notnull()
        series = dim or ("series" if "series" in ds[time].dims else str(ds[time].dims[0]))
        early_cells = present.copy(data=early & present.values)
        return _repacked(ds, series, early_cells), _repacked(ds, series, present & ~early_cells)
    _refuse_missing(ds[time])
    along, sizes = str(ds[time].dims[0]), _row_sizes(ds)
    if sizes is None or sizes.attrs["sample_dimension"] != along:
        return _rows(ds, along, early), _rows(ds, along, ~early)
    return _ragged_rows(ds, along, sizes, early), _ragged_rows(ds, along, sizes, ~early)


def _shares(fractions: Sequence[float]) -> np.ndarray:
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or not len(shares) or not (shares >= 0).all() or not np.isclose(shares.sum(), 1.0):
        raise ConfigError(
            f"fractions {list(fractions)} are not shares of a whole", fix="use numbers >= 0 that sum to 1"
        )
    return shares


def _row_sizes(ds: xr.Dataset) -> xr.DataArray | None:
    for name in ds.variables:
        if "sample_dimension" in ds[name].attrs:
            return ds[name]
    return None


def _take(ds: xr.Dataset, dim: str, chosen: np.ndarray, sizes: xr.DataArray | None) -> xr.Dataset:
    if sizes is None or sizes.dims != (dim,):
        return ds.isel({dim: chosen}).copy(deep=True)
    wanted = np.zeros(ds.sizes[dim], dtype=bool)
    wanted[chosen] = True
    rows = np.flatnonzero(np.repeat(wanted, sizes.values))
    return ds.isel({dim: chosen, sizes.attrs["sample_dimension"]: rows}).copy(deep=True)


def _before(times: xr.DataArray, at: Any) -> np.ndarray:
    values = times.values
    if values.dtype.kind not in "Mfiu":
        raise TimeError(
            f"times of type {values.dtype} cannot be split", variable=str(times.name), fix="use numbers or dates"
        )
    try:
        cut = np.datetime64(at, "ns") if values.dtype.kind == "M" else float(at)
    except (ValueError, TypeError) as err:
        kind = "dates" if values.dtype.kind == "M" else "numbers"
        raise TimeError(
            f"cannot split times at {at!r}: {err}",
            variable=str(times.name),
            fix=f"the times are {kind}: pass one of that kind",
        ) from err
    early = values < cut
    if not early.any() or not (values >= cut).any():
        raise TimeError(
            f"nothing lies on one side of {at!r}; the times run from {times.min().values} to {times.max().values}",
            variable=str(times.name),
            fix="choose a time inside that range",
        )
    return early


def _refuse_missing(times: xr.DataArray) -> None:
    missing = np.flatnonzero(times.isnull().values)
    if len(missing):
        raise TimeError(
            "a time is missing", variable=str(times.name), index=int(missing[0]), fix="drop or repair that row"
        )


def _rows(ds: xr.Dataset, dim: str, keep: np.ndarray) -> xr.Dataset:
    return ds.isel({dim: np.flatnonzero(keep)}).copy(deep=True)


def _ragged_rows(ds: xr.Dataset, dim: str, sizes: xr.DataArray, keep: np.ndarray) -> xr.Dataset:
    series = np.repeat(np.arange(sizes.size), sizes.values)
    counts = np.bincount(series[keep], minlength=sizes.size).astype(sizes.dtype)
    out = _rows(ds, dim, keep)
    out[sizes.name] = (sizes.dims, counts, sizes.attrs)
    return out


def _repacked(ds: xr.Dataset, series: str, cells: xr.DataArray) -> xr.Dataset:
    """Keep the ``cells (series, obs)`` of a padded rectangle and move the padding behind them again."""
    (obs,) = (str(dim) for dim in cells.dims if dim != series)
    keep = cells.transpose(series, obs).values
    width = int(keep.sum(axis=1).max())
    order = xr.DataArray(np.argsort(~keep, axis=1, kind="stable")[:, :width], dims=(series, obs))
    kept = xr.DataArray(np.arange(width) < keep.sum(axis=1)[:, None], dims=(series, obs))
    out = ds.isel({obs: slice(width)}).copy(deep=True)
    for name in ds.variables:
        array = ds[name]
        if {series, obs} <= set(array.dims):
            moved = array.reset_coords(drop=True).isel({obs: order}).where(kept).transpose(*array.dims)
            out[name] = (moved.dims, moved.values, array.attrs)
    return out
