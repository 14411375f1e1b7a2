"""Seconds or milliseconds: conversion by the ``units`` attribute, and a look at whether the numbers can be true."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sciinfer.errors import TimeError, UnitsError
from sciinfer.labelled.units import factor

SHORTEST = 2e-4  # s: a median interval between two spikes of a neuron below this is beyond any neuron
LONGEST = 50.0  # s: a median interval above this is milliseconds taken for seconds
BURST = 0.75  # s: of many intervals the shortest hundredth lies below this even in a Poisson train with that median
MANY = 200


def seconds(times: ArrayLike | xr.DataArray, units: str | None = None, *, what: str = "time") -> np.ndarray:
    """Times in seconds, as float64.

    Args:
        times: numbers; a DataArray's own ``attrs["units"]`` is used, and ``units`` must agree with it.
        units: ``"s"``, ``"ms"``, ``"us"``, ``"min"``, ...; default: the attribute, else seconds.
        what: the name used in errors.

    Raises:
        UnitsError: units that are no units of time, or that contradict the attribute.

    Example:
        >>> seconds([10.0, 250.0], "ms").tolist()
        [0.01, 0.25]
        >>> seconds(xr.DataArray([10.0], attrs={"units": "ms"})).tolist()
        [0.01]
    """
    told = times.attrs.get("units") if isinstance(times, xr.DataArray) else None
    if told is not None and units is not None and factor(str(told), units) != 1.0:
        raise UnitsError(f"units are {told!r}, but units={units!r} was passed", variable=what, fix="pass one of them")
    have = str(told or units or "s")
    scale = factor(have, "s")
    if scale is None:
        raise UnitsError(f"times cannot be in {have!r}", variable=what, fix="use units='s' or units='ms'")
    values = np.asarray(times, dtype=np.float64)
    if scale < 1.0:  # dividing by a whole number rounds once: 13 ms is 0.013 s
        return values / (factor("s", have) or 1.0)
    return values.copy() if scale == 1.0 else values * scale


def check_finite(times: np.ndarray, what: str) -> None:
    """Refuse missing and infinite times.

    Example:
        >>> check_finite(np.array([0.1, 0.2]), "time")
    """
    if not np.isfinite(times).all():
        first = int(np.flatnonzero(~np.isfinite(times))[0])
        raise TimeError("a spike time is missing or infinite", variable=what, index=first, fix="drop the row")


def check_scale(what: str, time: np.ndarray, trial: np.ndarray, cell: np.ndarray, used: str = "s") -> None:
    """Refuse intervals that no neuron can have: seconds taken for milliseconds, or the reverse.

    Args:
        what: the name used in errors.
        time: seconds. trial, cell: of each spike.
        used: units that the times had before they were converted.

    Raises:
        UnitsError: the median interval between spikes of a unit is below 0.2 ms or above 50 s, or hardly any of many
            intervals is below a second.

    Example:
        >>> check_scale("time", np.array([0.1, 0.2]), np.zeros(2, int), np.zeros(2, int))
    """
    order = np.lexsort((time, cell, trial))
    same = (np.diff(trial[order]) == 0) & (np.diff(cell[order]) == 0)
    gaps = np.diff(time[order])[same]
    if not len(gaps):
        return
    middle = float(np.median(gaps))
    slow = len(gaps) >= MANY and (gaps > 0).any() and float(np.quantile(gaps[gaps > 0], 0.01)) > BURST
    if middle < SHORTEST or middle > LONGEST or slow:
        other = "s" if used == "ms" else "ms"
        raise UnitsError(
            f"the median interval between spikes of a unit is {middle:.3g} s in {used}: are the times in {other}?",
            variable=what,
            fix=f"name the column time_{other}, or pass units={other!r}",
        )
