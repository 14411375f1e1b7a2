"""Casts that every input gets: numbers to float64, stamps to naive UTC. Each says so, once."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import DataError, SciInferWarning
from .stamps import is_stamps, to_nanoseconds

_EXACT = 2**53  # beyond it float64 skips integers


def tidy(ds: xr.Dataset) -> xr.Dataset:
    """A shallow copy with numeric data variables in float64 and date coordinates as ``datetime64``.

    Variables of the layout (``sample_dimension``, ``instance_dimension``) stay integer.

    Raises:
        DataError: an integer too large for float64.
        TimeError: dates that cannot be read.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     tidy(xr.Dataset({"n": ("time", [1, 2])}))["n"].dtype
        dtype('float64')
    """
    whole = [name for name, var in ds.data_vars.items() if var.dtype.kind in "iub" and not is_layout(var)]
    dates = [name for name, var in ds.coords.items() if _needs_reading(var)]
    out = ds.assign({name: _to_float(ds[name]) for name in whole})
    for name in dates:
        out = _replace_coord(out, name)
    notice_casts(whole)
    return out


def is_layout(var: xr.DataArray) -> bool:
    """Whether a variable describes the layout (CF ragged arrays) and holds no data."""
    return "sample_dimension" in var.attrs or "instance_dimension" in var.attrs


def notice_casts(names: Iterable[Hashable]) -> None:
    """One notice for all columns that were not floating point."""
    listed = ", ".join(repr(name) for name in names)
    if listed:
        warnings.warn(f"whole-number or boolean data cast to float64: {listed}", SciInferWarning, stacklevel=4)


def check_exact(values: np.ndarray, name: str) -> None:
    """Refuse integers that float64 cannot hold."""
    if values.dtype.kind in "iu" and values.size and max(abs(int(values.min())), abs(int(values.max()))) > _EXACT:
        raise DataError(
            "an integer beyond 2**53 cannot be held exactly in float64",
            variable=name,
            code="data/precision",
            fix="subtract an offset, or drop the column if it is an identifier",
        )


def _to_float(var: xr.DataArray) -> xr.DataArray:
    if isinstance(var.data, np.ndarray):  # a lazy array is checked when it is computed, by nobody: it stays lazy
        check_exact(var.data, str(var.name))
    return var.astype(np.float64)


def _needs_reading(var: xr.DataArray) -> bool:
    if isinstance(var.dtype, pd.DatetimeTZDtype):
        return True
    return var.dtype.kind == "O" and is_stamps(var.to_index() if var.ndim == 1 else var.values)


def _replace_coord(ds: xr.Dataset, name: Any) -> xr.Dataset:
    var = ds[name]
    stamps = to_nanoseconds(var.to_index() if var.ndim == 1 else var.values, name=str(name))
    return ds.drop_vars(name).assign_coords({name: (var.dims, stamps, var.attrs)})
