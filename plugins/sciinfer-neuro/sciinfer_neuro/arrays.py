"""Labelled counts to plain arrays, checked by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError, SchemaError

DIMS = ("trial", "time", "unit")


def counts_of(data: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """``counts(trial, time, unit)`` in float64, of an array or of a Dataset with the variable ``counts``.

    Raises:
        SchemaError: a dim is missing. DataError: a negative or infinite count, with its trial, bin and unit.

    Example:
        >>> counts_of(xr.DataArray([[[1]]], dims=("unit", "time", "trial"))).dims
        ('trial', 'time', 'unit')
    """
    if isinstance(data, xr.Dataset):
        if "counts" not in data:
            raise SchemaError(f"there is no variable counts among {list(data.data_vars)}", fix="pass binned counts")
        data = data["counts"]
    if set(data.dims) != set(DIMS):
        raise SchemaError(f"counts have dims {data.dims}", variable="counts", fix=f"name them {DIMS}")
    data = data.transpose(*DIMS).astype(np.float64)
    bad = np.isinf(data.values) | (data.values < 0)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        value = data.values[index]
        raise DataError(
            f"a count is {value}", variable="counts", index=index, fix="mask it", code="data/negative-count"
        )
    return data


def positions(given: Any, size: int, what: str) -> np.ndarray:
    """Positions along a dim from a slice, positions (negative ones count from the end) or a mask, in order, each once.

    Example:
        >>> positions(slice(3, None, 4), 10, "held_out").tolist()
        [3, 7]
    """
    fix = "pass a slice, positions or a mask"
    asked = given if isinstance(given, slice) or len(given) else slice(0)
    try:
        found = np.arange(size)[asked if isinstance(asked, slice) else np.asarray(asked)]
    except IndexError as err:
        raise ConfigError(f"{what} does not fit {size} entries: {err}", variable=what, fix=fix) from err
    if found.ndim != 1 or not len(found):
        raise ConfigError(f"{what} selects nothing", variable=what, fix=fix)
    if len(np.unique(found)) != len(found):
        raise ConfigError(f"{what} names an entry twice", variable=what, fix="pass each position once")
    return found


def exposure_along(counts: xr.DataArray) -> np.ndarray:
    """``[trial, time]``: the coordinate ``exposure``, or ones."""
    if "exposure" not in counts.coords:
        return np.ones((counts.sizes["trial"], counts.sizes["time"]))
    return counts["exposure"].transpose("trial", "time").values.astype(np.float64)


def bin_width(counts: xr.DataArray) -> float:
    """Seconds: the attribute ``bin_width``, else the spacing of ``time``."""
    if "bin_width" in counts.attrs:
        return float(counts.attrs["bin_width"])
    if "time" not in counts.coords or counts.sizes["time"] < 2:
        raise SchemaError("the width of a bin is not known", variable="counts", fix="set attrs['bin_width'] in seconds")
    return float(np.median(np.diff(counts["time"].values)))


def rows(array: np.ndarray) -> np.ndarray:
    """``[..., c]`` to ``[n, c]``."""
    return array.reshape(-1, array.shape[-1])


def folds_of(trials: int, folds: int, seed: int) -> np.ndarray:
    """The fold of each trial, equal sizes, in an order drawn from ``seed``."""
    from sciinfer.random import numpy_generator

    if not 2 <= folds <= trials:
        raise ConfigError(f"{folds} folds of {trials} trials", variable="folds", fix="2 to the number of trials")
    return numpy_generator(seed, "folds").permutation(trials) % folds


def disjoint(train: Sequence[int] | np.ndarray, test: Sequence[int] | np.ndarray) -> None:
    """Refuse trials that are in both sets."""
    both = np.intersect1d(train, test)
    if len(both):
        raise ConfigError("trials are in train and in test", variable="test", fix=f"drop trial {int(both[0])} from one")
