"""Checks that data sets and simulators share."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from .failures import CheckFailed, expect


def is_dataset(ds: object) -> None:
    """It is a Dataset with data."""
    expect(isinstance(ds, xr.Dataset), f"it returns a {type(ds).__name__}", fix="return an xarray.Dataset")
    if isinstance(ds, xr.Dataset):
        expect(bool(ds.data_vars) and all(size > 0 for size in ds.sizes.values()), "it is empty")


def has_dims(ds: xr.Dataset, dims: tuple[str, ...]) -> None:
    """The declared dims are there."""
    absent = [dim for dim in dims if all(dim not in v.dims for v in ds.data_vars.values())]
    expect(not absent, f"dims {absent} are declared and absent; there are {list(ds.dims)}")


def has_units(ds: xr.Dataset, units: object) -> None:
    """The declared units are on the variables."""
    for name, text in dict(units).items():  # type: ignore[call-overload]
        expect(name in ds.variables, f"units are declared for {name!r}, which is absent")
        expect(ds[name].attrs.get("units") == text, f"{name!r} has units {ds[name].attrs.get('units')!r}, not {text!r}")


def plain_attrs(ds: xr.Dataset) -> None:
    """Attributes are plain data."""
    try:
        json.dumps([ds.attrs, *(v.attrs for v in ds.variables.values())], default=_plain)
    except TypeError as err:
        raise CheckFailed(f"an attribute is not plain data: {err}", fix="use strings and numbers") from err


def _plain(value: object) -> object:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r}")


def no_infinity(ds: xr.Dataset) -> None:
    """No infinities."""
    bad = [n for n, v in ds.variables.items() if v.dtype.kind == "f" and bool(np.isinf(v.values).any())]
    expect(not bad, f"variables {bad} hold infinities")


def numeric(ds: xr.Dataset) -> None:
    """Floating variables are float64, none holds objects."""
    odd = {str(n): str(v.dtype) for n, v in ds.data_vars.items() if v.dtype.kind in "fcO" and v.dtype != float}
    expect(not odd, f"variables have types {odd}", fix="use float64")


def not_all_missing(ds: xr.Dataset) -> None:
    """Every floating variable has at least one value."""
    empty = [n for n, v in ds.data_vars.items() if v.dtype.kind == "f" and bool(np.isnan(v.values).all())]
    expect(not empty, f"variables {empty} are missing everywhere")
