"""Exposure: the share of a bin that lies inside its trial.

A bin that a trial's edge cuts is watched for a part of its width only, so its expected count is

    ``E[counts] = rate * bin_width * exposure``.

Binned data carry ``exposure(trial, time)`` as a coordinate: 1 inside, 0 outside (there ``counts`` is NaN, that is
missing), between 0 and 1 in a bin that an edge cuts. Three ways to use it:

- a model whose likelihood takes an exposure or an offset multiplies its rate by it (:func:`expected_counts`);
- any other model gets :func:`mask_partial` data, where the cut bins are missing as well;
- descriptive rates divide by it (:func:`firing_rate`).
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, SchemaError

_SNAP = 1e-9  # of a bin: rounding of edges, not exposure


def exposure_of(start: np.ndarray, stop: np.ndarray, left: np.ndarray, width: float) -> np.ndarray:
    """``|[l, l + w) with [start, stop)| / w`` for each trial and bin.

    Args:
        start, stop: ``[K]`` windows of the trials. left: ``[T]`` left edges of the bins. width: of a bin.

    Returns:
        ``[K, T]``, from 0 to 1.

    Example:
        >>> exposure_of(np.array([0.0]), np.array([0.25]), np.array([0.0, 0.1, 0.2, 0.3]), 0.1).round(6).tolist()
        [[1.0, 1.0, 0.5, 0.0]]
    """
    inside = np.minimum(left + width, stop[:, None]) - np.maximum(left, start[:, None])
    share = np.clip(inside / width, 0.0, 1.0)
    share[share < _SNAP] = 0.0
    share[share > 1.0 - _SNAP] = 1.0
    return share


def mask_partial(binned: xr.Dataset, limit: float = 1.0, *, var: str = "counts") -> xr.Dataset:
    """Bins with an exposure below ``limit`` become missing (NaN, exposure 0); the default keeps whole bins only.

    Args:
        binned: counts with the coordinate ``exposure``.
        limit: from 0 to 1.
        var: the variable that is masked.

    Example:
        >>> from sciinfer_neuro.binned import bin_spikes
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> binned = bin_spikes(ragged_spikes([0.01], ["a"], stop=0.25), 0.1)
        >>> mask_partial(binned).counts.values.ravel().tolist()
        [1.0, 0.0, nan]
    """
    if not 0.0 <= limit <= 1.0:
        raise ConfigError(f"limit is {limit}", variable="limit", fix="pass a share, 0 to 1")
    share = _exposure(binned)
    kept = (share >= limit) & (share > 0)
    attrs = binned[var].attrs
    masked = binned[var].where(kept).transpose(*binned[var].dims).assign_attrs(attrs)
    return binned.assign({var: masked}).assign_coords(exposure=share.where(kept, 0.0).assign_attrs(share.attrs))


def firing_rate(binned: xr.Dataset, *, var: str = "counts") -> xr.DataArray:
    """``counts / (bin_width * exposure)`` in Hz; NaN where nothing was watched.

    Example:
        >>> from sciinfer_neuro.binned import bin_spikes
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> firing_rate(bin_spikes(ragged_spikes([0.22], ["a"], stop=0.25), 0.1)).values.ravel().round(3).tolist()
        [0.0, 0.0, 20.0]
    """
    share = _exposure(binned)
    rate = binned[var] / (float(binned[var].attrs["bin_width"]) * share.where(share > 0))
    return rate.transpose(*binned[var].dims).assign_attrs(units="Hz", long_name="firing rate").rename("rate")


def expected_counts(rate: xr.DataArray, binned: xr.Dataset, *, var: str = "counts") -> xr.DataArray:
    """``rate * bin_width * exposure``: what a model with a rate in Hz expects to count; NaN where nothing is watched.

    Example:
        >>> from sciinfer_neuro.binned import bin_spikes
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> binned = bin_spikes(ragged_spikes([0.22], ["a"], stop=0.25), 0.1)
        >>> expected_counts(xr.full_like(binned.counts, 10.0), binned).values.ravel().round(3).tolist()
        [1.0, 1.0, 0.5]
    """
    share = _exposure(binned)
    mean = rate * (float(binned[var].attrs["bin_width"]) * share.where(share > 0))
    return mean.transpose(*rate.dims).assign_attrs(units="1", long_name="expected spikes per bin").rename("expected")


def _exposure(binned: xr.Dataset) -> xr.DataArray:
    if "exposure" not in binned.coords:
        raise SchemaError("the data carry no exposure", variable="exposure", fix="bin them with bin_spikes(...)")
    return binned["exposure"]
