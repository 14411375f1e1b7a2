"""Ragged spikes to binned counts and back."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sciinfer.errors import ConfigError, DataError

from .exposure import exposure_of
from .ragged import assemble, check_ragged, trial_index

_EMPTY = 20.0  # a grid that is emptier than this is a session's clock, not the trials' own


def bin_spikes(
    spikes: xr.Dataset, width: float, *, start: float | None = None, stop: float | None = None
) -> xr.Dataset:
    """Counts of each unit in each trial and bin ``[start + k w, start + (k + 1) w)``.

    A spike on an edge belongs to the bin that it opens. Without ``start`` and ``stop`` the grid covers all windows,
    and ``counts.sum()`` is the number of spikes.

    Args:
        spikes: ragged spikes.
        width: of a bin, seconds.
        start, stop: of the grid, seconds on the trials' clock; spikes outside it are not counted. The last bin may
            reach beyond ``stop`` when ``width`` does not divide the length.

    Returns:
        ``counts(trial, time, unit)``: whole numbers as float64, NaN where the trial was not watched; the bins' centres
        ``time`` in seconds; ``exposure(trial, time)``, the share of a bin inside its trial's window.

    Raises:
        ConfigError: a width that is not positive. DataError: trials that lie apart on one clock (align them first).

    Example:
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> binned = bin_spikes(ragged_spikes([0.01, 0.12, 0.13], ["a", "b", "b"], stop=0.2), 0.1)
        >>> binned.counts.values.tolist(), binned.time.values.round(3).tolist()
        ([[[1.0, 0.0], [0.0, 2.0]]], [0.05, 0.15])
    """
    if not (math.isfinite(width) and width > 0):
        raise ConfigError(f"the width of a bin is {width}", variable="width", fix="pass seconds, above zero")
    spikes = check_ragged(spikes)
    low, high = spikes["start"].values, spikes["stop"].values
    left = left_edges(low, high, width, start, stop)
    share = exposure_of(low, high, left, width)
    row, cell = trial_index(spikes), spikes["unit_index"].values
    place, inside = _places(spikes["time"].values, row, left, width, share, start is None and stop is None)
    counts = np.zeros((len(low), len(left), spikes.sizes["unit"]))
    np.add.at(counts, (row[inside], place[inside], cell[inside]), 1.0)
    counts[share == 0] = np.nan
    extra = {"origin": ("trial", spikes["origin"].values, spikes["origin"].attrs)}
    return binned_dataset(
        counts, spikes["trial"].values, left + 0.5 * width, spikes["unit"].values, width, share
    ).assign_coords(extra)


def binned_dataset(
    counts: np.ndarray, trials: ArrayLike, time: ArrayLike, units: ArrayLike, width: float, exposure: np.ndarray
) -> xr.Dataset:
    """The binned container of its parts.

    Args:
        counts: ``[trial, time, unit]``. time: centres of the bins, seconds. exposure: ``[trial, time]``.

    Example:
        >>> binned_dataset(np.zeros((1, 2, 3)), [0], [0.5, 1.5], [1, 2, 3], 1.0, np.ones((1, 2))).sizes["unit"]
        3
    """
    attrs = {"units": "1", "long_name": "spikes per bin", "bin_width": float(width), "support": "count"}
    return xr.Dataset(
        {"counts": (("trial", "time", "unit"), counts, attrs)},
        coords={
            "trial": ("trial", np.asarray(trials)),
            "time": ("time", np.asarray(time, dtype=np.float64), {"units": "s", "axis": "T"}),
            "unit": ("unit", np.asarray(units)),
            "exposure": (("trial", "time"), exposure, {"units": "1", "long_name": "share of the bin inside the trial"}),
        },
        attrs={"title": "binned spikes"},
    )


def unbin(binned: xr.Dataset) -> xr.Dataset:
    """Ragged spikes with the ``n`` spikes of a bin spread evenly over its watched part.

    The times are made up within the bins, the counts are not: ``bin_spikes(unbin(b), w)`` has the counts of ``b``.

    Args:
        binned: counts with their ``bin_width``; missing bins hold no spikes. The watched part of a trial must be one
            stretch, and cut bins may lie at its ends only.

    Raises:
        DataError: counts that are negative or not whole, or a trial that is watched in several stretches.

    Example:
        >>> counts = np.array([[[2.0], [0.0], [1.0]]])
        >>> binned = binned_dataset(counts, [0], [0.1, 0.3, 0.5], ["a"], 0.2, np.ones((1, 3)))
        >>> unbin(binned).time.values.round(3).tolist()
        [0.05, 0.15, 0.5]
    """
    counts = binned["counts"].transpose("trial", "time", "unit")
    width = float(counts.attrs["bin_width"])
    values = np.nan_to_num(counts.values, nan=0.0)
    _check_counts(values)
    left = counts["time"].values - 0.5 * width
    share = _shares(binned, counts)
    low, high = _stretch(share, left, width)
    row, place, cell = np.nonzero(values)
    times = values[row, place, cell].astype(int)
    row, place, cell = (np.repeat(index, times) for index in (row, place, cell))
    rank = np.concatenate([np.arange(n) for n in times]) if len(times) else np.zeros(0)
    first = np.maximum(left[place], low[row])
    last = np.minimum(left[place] + width, high[row])
    time = first + (rank + 0.5) / np.repeat(times, times) * (last - first)
    zero = binned["origin"].values if "origin" in binned.coords else np.zeros(len(low))
    return assemble(time, cell, row, low, high, zero, counts["unit"].values, counts["trial"].values)


def left_edges(
    low: np.ndarray, high: np.ndarray, width: float, start: float | None = None, stop: float | None = None
) -> np.ndarray:
    """Left edges ``[T]`` of bins that cover the windows ``[low, high)`` of all trials.

    Raises:
        ConfigError: an empty grid. DataError: trials that lie apart on one clock.

    Example:
        >>> left_edges(np.zeros(1), np.ones(1), 0.5).tolist()
        [0.0, 0.5]
    """
    first = float(low.min()) if start is None else start
    last = float(high.max()) if stop is None else stop
    if not last > first:
        raise ConfigError(f"the grid runs from {first:g} to {last:g} s", variable="stop", fix="choose stop above start")
    bins = max(math.ceil((last - first) / width - 1e-9), 1)
    watched = float((high - low).sum())
    if start is None and stop is None and len(low) > 1 and (last - first) * len(low) > _EMPTY * watched:
        raise DataError(
            f"the trials lie apart: they last {watched:.3g} s together, one grid over all {last - first:.3g} s",
            variable="start",
            fix="give each trial its own clock, align(spikes, events, window), or pass start and stop",
        )
    return first + np.arange(bins) * width


def _places(
    time: np.ndarray, row: np.ndarray, left: np.ndarray, width: float, share: np.ndarray, whole: bool
) -> tuple[np.ndarray, np.ndarray]:
    place = np.floor((time - left[0]) / width + 1e-9).astype(int)
    inside = np.ones(len(time), bool) if whole else (time >= left[0] - 1e-9 * width) & (place < len(left))
    watched = share > 0
    # rounding may put a spike just before its trial's edge into the bin beyond it
    first = watched.argmax(axis=1)
    last = share.shape[1] - 1 - watched[:, ::-1].argmax(axis=1)
    return np.clip(place, first[row], last[row]), inside & np.any(watched, axis=1)[row]


def _check_counts(values: np.ndarray) -> None:
    bad = (values < 0) | (values != np.floor(values))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError("counts must be whole numbers, not negative", variable="counts", index=first, fix="recount")


def _shares(binned: xr.Dataset, counts: xr.DataArray) -> np.ndarray:
    seen = counts.notnull().any("unit").transpose("trial", "time").values
    told = binned["exposure"].transpose("trial", "time").values if "exposure" in binned.coords else 1.0
    return np.where(seen, told, 0.0)


def _stretch(share: np.ndarray, left: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The window ``[start, stop)`` of each trial that gives these exposures."""
    bins = share.shape[1]
    watched = share > 0
    first, last = watched.argmax(axis=1), bins - 1 - watched[:, ::-1].argmax(axis=1)
    inner = (np.arange(bins) > first[:, None]) & (np.arange(bins) < last[:, None])
    broken = (inner & (share < 1)).any(axis=1) | ~watched.any(axis=1)
    if broken.any():
        raise DataError(
            "a trial is not watched in one stretch", variable="exposure", dim="trial", index=int(broken.argmax()),
            fix="drop the trial, or fill its missing bins",
        )  # fmt: skip
    trials = np.arange(len(share))
    # one cut bin alone: it could be cut at either end, here at its end
    cut = np.where(first == last, 0.0, 1.0 - share[trials, first])
    return left[first] + cut * width, left[last] + share[trials, last] * width
