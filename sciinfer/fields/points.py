"""Labelled data as points: coordinates and variables by name to ``[n, d]``, any dims, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import DataError, SchemaError
from ..labelled.schema import TimeAxis
from ..labelled.stamps import is_stamps, to_nanoseconds
from ..labelled.units import conversion, warn_missing

#: dates are counted in days
_DAY = 86_400e9
_RESERVED = ("chain", "draw")


class Points(NamedTuple):
    """``X [n, d]`` in units of the fit, row by row over ``dims`` (with their ``shape``), and the labels on them."""

    X: np.ndarray
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: dict[str, xr.DataArray]


def as_points_dataset(data: Any, index: str = "point") -> xr.Dataset:
    """A Dataset from itself, a DataArray, a table of points (one row each) or a mapping of coordinates (a grid).

    Raises:
        DataError: none of these.

    Example:
        >>> dict(as_points_dataset(pd.DataFrame({"x": [0.0, 1.0], "z": [1.0, 2.0]})).sizes)
        {'point': 2}
    """
    if isinstance(data, xr.DataArray):
        return data.to_dataset(name=data.name if data.name is not None else "value", promote_attrs=False)
    if isinstance(data, xr.Dataset):
        return data
    if isinstance(data, pd.DataFrame):
        plain = data if isinstance(data.index, pd.RangeIndex) else data.reset_index()
        return xr.Dataset({str(name): (index, plain[name].to_numpy()) for name in plain.columns})
    if isinstance(data, Mapping):
        return xr.Dataset(coords={name: _coordinate(name, value) for name, value in data.items()})
    raise DataError(f"cannot read a {type(data).__name__} as points", fix="pass an xarray.Dataset or a DataFrame")


def _coordinate(name: str, value: Any) -> Any:
    return value if isinstance(value, xr.DataArray) else (name, np.atleast_1d(np.asarray(value)))


def input_axes(ds: xr.Dataset, inputs: Sequence[str]) -> list[TimeAxis]:
    """How each input becomes a number: dates are days since their first, numbers stay as they are.

    Raises:
        SchemaError: no such coordinate or variable, or no input.
    """
    if not inputs or isinstance(inputs, str):
        raise SchemaError("inputs are the names of the coordinates of a point", fix='inputs=["x", "y"]')
    axes = []
    for name in inputs:
        values = _named(ds, name)
        units = units_of(values)
        if is_stamps(values.values):
            stamps = to_nanoseconds(values.values, name=name)
            axes.append(TimeAxis(name, "datetime", float(stamps[~np.isnat(stamps)].min().astype(np.int64)), _DAY))
        else:
            axes.append(TimeAxis(name, "number", 0.0, 1.0, units))
    return axes


def read_points(ds: xr.Dataset, axes: Sequence[TimeAxis]) -> Points:
    """Every combination of the dims that the inputs have.

    Raises:
        SchemaError: an input is missing, or has a reserved dim. DataError: a coordinate that is no finite number.
        UnitsError: units that cannot be converted to those of the fit.
    """
    columns = xr.broadcast(*(_in_fit_units(ds, axis) for axis in axes))
    dims = tuple(str(d) for d in columns[0].dims)
    clash = [d for d in dims if d in _RESERVED]
    if clash:
        raise SchemaError(f"{clash[0]!r} is a dim of results", dim=clash[0], fix=f"ds.rename({clash[0]}='...')")
    X = np.stack([column.transpose(*dims).values.reshape(-1) for column in columns], axis=1)
    kept = {str(name): coord for name, coord in ds.coords.items() if set(coord.dims) <= set(dims)}
    inputs = {axis.name: ds[axis.name] for axis in axes}
    warn_missing([axis.name for axis in axes if axis.units and units_of(ds[axis.name]) is None])
    return Points(X, dims, columns[0].transpose(*dims).shape, kept | inputs)


def read_values(ds: xr.Dataset, variable: str, points: Points, units: str | None) -> np.ndarray:
    """Values ``[n]`` of a variable at the points, NaN = missing; a factor of units is taken into account.

    Raises:
        SchemaError: the variable has other dims than its inputs. DataError: not numbers, or infinite.
    """
    values = _named(ds, variable)
    if set(values.dims) != set(points.dims):
        odd = sorted(str(d) for d in set(values.dims) ^ set(points.dims))[0]
        told = "is in no input" if odd in values.dims else "is one of the inputs' alone"
        raise SchemaError(
            f"its dim {told}", variable=variable, dim=odd, fix=f"select ds.isel({odd}=0), or add an input"
        )
    y = _numbers(values).transpose(*points.dims)
    bad = np.argwhere(np.isinf(y.values))
    if len(bad):
        raise DataError(
            "value is infinite", variable=variable, index=tuple(map(int, bad[0])), fix="mark a missing value with NaN"
        )
    return y.values.reshape(-1) * conversion(variable, units_of(values), units)


def check_finite(points: Points, names: Sequence[str], wanted: np.ndarray) -> None:
    """Rows that are ``wanted [n]`` must have finite coordinates.

    Raises:
        DataError: says where.
    """
    bad = np.argwhere(~np.isfinite(points.X) & wanted[:, None])
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise DataError(
            "a coordinate is missing or infinite",
            variable=names[column],
            index=tuple(int(i) for i in np.unravel_index(row, points.shape)) or None,
            fix="repair it, or mask the value there with NaN",
        )


def _in_fit_units(ds: xr.Dataset, axis: TimeAxis) -> xr.DataArray:
    values = _named(ds, axis.name)
    if axis.kind == "datetime":
        return values.copy(data=axis.to_model(to_nanoseconds(values.values, name=axis.name)))
    have = units_of(values)
    return _numbers(values) * conversion(axis.name, have, axis.units)


def _named(ds: xr.Dataset, name: str) -> xr.DataArray:
    if name not in ds.variables:
        known = ", ".join(str(n) for n in ds.variables)
        what = f"there is no coordinate or variable {name!r}; found {known}"
        raise SchemaError(what, variable=str(name), fix="check the name, or give the dim a coordinate")
    return ds[name].reset_coords(drop=True)


def _numbers(values: xr.DataArray) -> xr.DataArray:
    if values.dtype.kind not in "fiub":
        raise DataError(f"it holds {values.dtype}, no numbers", variable=str(values.name), fix="convert it to numbers")
    return values.astype(np.float64)


def units_of(values: xr.DataArray) -> str | None:
    """The ``units`` attribute, None where it is empty."""
    return str(values.attrs.get("units", "")).strip() or None
