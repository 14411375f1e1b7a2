"""Ragged spikes: one row per spike, and the window in which each trial was watched.

A Dataset of CF contiguous ragged form. Dims ``spike``, ``trial``, ``unit``; coordinates

- ``time(spike)``: seconds, on the trial's own clock; sorted by trial, then time,
- ``start(trial)``, ``stop(trial)``: the window ``[start, stop)`` that was watched, seconds,
- ``origin(trial)``: session time of the trial's time zero, seconds,

and variables ``unit_index(spike)``, the position along ``unit``, and ``row_size(trial)``, spikes per trial.
Units and trials without a spike keep their places.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sciinfer.errors import DataError, SchemaError, ShapeError

from .units import check_finite, check_scale, seconds

_SECONDS = {"units": "s"}


def ragged_spikes(
    time: ArrayLike | xr.DataArray,
    unit: ArrayLike,
    trial: ArrayLike | None = None,
    *,
    start: ArrayLike | None = None,
    stop: ArrayLike | None = None,
    units: str | None = None,
    unit_labels: ArrayLike | None = None,
    trial_labels: ArrayLike | None = None,
    origin: ArrayLike | None = None,
) -> xr.Dataset:
    """Spikes with the windows in which they were watched.

    Args:
        time: ``[N]`` spike times on the trial's clock.
        unit: ``[N]`` label of the neuron.
        trial: ``[N]`` label of the trial; default one trial.
        start, stop: window ``[start, stop)``, one number or one per trial; default from 0 (or the first spike, if
            that is earlier) to just after the last spike.
        units: of all times, ``"s"`` or ``"ms"``; default ``time.attrs["units"]``, else seconds.
        unit_labels, trial_labels: all of them, in order, so that silent ones are kept; default those seen, sorted.
        origin: session time of each trial's time zero; default 0.

    Returns:
        A ragged Dataset, in seconds.

    Raises:
        DataError: a spike outside its trial's window. TimeError: a missing time.
        UnitsError: intervals that look like the other unit of time.

    Example:
        >>> spikes = ragged_spikes([13, 52, 21], ["a", "a", "b"], start=0, stop=100, units="ms")
        >>> spikes.time.values.tolist(), spikes.unit_index.values.tolist(), float(spikes.stop[0])
        ([0.013, 0.021, 0.052], [0, 1, 0], 0.1)
    """
    when = seconds(time, units)
    used = units or (str(time.attrs.get("units", "s")) if isinstance(time, xr.DataArray) else "s")
    _check_lengths(when, unit, trial)
    check_finite(when, "time")
    cells, cell = _places(unit, unit_labels, "unit")
    trials, row = _places(np.zeros(len(when), int) if trial is None else trial, trial_labels, "trial")
    check_scale("time", when, row, cell, used)
    low, high = _windows(when, len(trials), start, stop, used)
    _check_inside(when, row, low, high)
    zero = np.zeros(len(trials)) if origin is None else np.broadcast_to(seconds(origin, used), len(trials))
    return assemble(when, cell, row, low, high, zero, cells, trials)


def assemble(
    time: np.ndarray, cell: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray, origin: np.ndarray,
    units: np.ndarray, trials: np.ndarray,
) -> xr.Dataset:  # fmt: skip
    """The Dataset of checked parts; sorts the spikes by trial, time and unit.

    Example:
        >>> one = np.ones(1)
        >>> assemble(0.5 * one, np.zeros(1, int), np.zeros(1, int), 0 * one, one, 0 * one, one, one).sizes["spike"]
        1
    """
    order = np.lexsort((cell, time, row))
    sizes = np.bincount(row, minlength=len(trials))
    coords = {
        "time": ("spike", time[order], {**_SECONDS, "axis": "T", "long_name": "spike time"}),
        "unit": ("unit", units),
        "trial": ("trial", trials),
        "start": ("trial", np.array(start, dtype=np.float64), {**_SECONDS, "long_name": "start of the trial's window"}),
        "stop": ("trial", np.array(stop, dtype=np.float64), {**_SECONDS, "long_name": "end of the trial's window"}),
        "origin": ("trial", np.array(origin, dtype=np.float64), {**_SECONDS, "long_name": "session time of time zero"}),
    }
    return xr.Dataset(
        {
            "unit_index": ("spike", cell[order].astype(np.int64), {"long_name": "position along unit"}),
            "row_size": ("trial", sizes.astype(np.int64), {"sample_dimension": "spike"}),
        },
        coords=coords,
        attrs={"title": "spikes", "featureType": "timeSeries"},
    )


def trial_index(spikes: xr.Dataset) -> np.ndarray:
    """Position along ``trial`` of each spike.

    Example:
        >>> trial_index(ragged_spikes([0.1, 0.2, 0.1], [1, 1, 1], [5, 5, 9])).tolist()
        [0, 0, 1]
    """
    return np.repeat(np.arange(spikes.sizes["trial"]), spikes["row_size"].values)


def check_ragged(spikes: xr.Dataset) -> xr.Dataset:
    """Is this a Dataset of ragged spikes, in seconds? Returns it, converted if its ``units`` say milliseconds.

    Raises:
        SchemaError: variables are missing. UnitsError: no units of time. DataError: a spike outside its window.

    Example:
        >>> check_ragged(ragged_spikes([0.1], [1])).sizes["spike"]
        1
    """
    absent = [n for n in ("time", "unit_index", "row_size", "start", "stop") if n not in spikes.variables]
    if absent:
        raise SchemaError(
            f"these are no ragged spikes: no {', '.join(absent)}", fix="make them with ragged_spikes(...)"
        )
    if int(spikes["row_size"].sum()) != spikes.sizes["spike"]:
        raise ShapeError("row sizes do not add up", variable="row_size", fix="select trials with select_trials")
    times = {n: seconds(spikes[n], what=n) for n in ("time", "start", "stop", "origin") if n in spikes.coords}
    fresh = {n: (spikes[n].dims, v, {**spikes[n].attrs, "units": "s"}) for n, v in times.items()}
    if "origin" not in fresh:
        fresh["origin"] = (("trial",), np.zeros(spikes.sizes["trial"]), dict(_SECONDS))
    _check_inside(times["time"], trial_index(spikes), times["start"], times["stop"])
    return spikes.assign_coords(fresh)


def select_trials(spikes: xr.Dataset, which: Any) -> xr.Dataset:
    """Some trials, by position (a slice, positions or a mask); ``isel`` alone would keep the other trials' spikes.

    Example:
        >>> spikes = ragged_spikes([0.1, 0.2, 0.1], [1, 2, 1], [5, 5, 9])
        >>> select_trials(spikes, slice(1, None)).sizes["spike"]
        1
    """
    chosen = np.atleast_1d(np.arange(spikes.sizes["trial"])[which])
    sizes = spikes["row_size"].values
    ends = np.cumsum(sizes)
    rows = [np.arange(int(ends[i] - sizes[i]), int(ends[i])) for i in chosen]
    take = np.concatenate(rows) if rows else np.zeros(0, int)
    return spikes.isel(trial=chosen, spike=take)


def _places(labels: ArrayLike, known: ArrayLike | None, what: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(labels)
    values = values.astype(str) if values.dtype.kind in "OU" else values
    if known is None:
        return np.unique(values, return_inverse=True)
    table = np.asarray(known)
    table = table.astype(str) if table.dtype.kind in "OU" else table
    order = np.argsort(table, kind="stable")
    spot = np.searchsorted(table, values, sorter=order).clip(max=max(len(table) - 1, 0))
    place = order[spot] if len(table) else np.zeros(len(values), int)
    wrong = table[place] != values if len(table) else np.ones(len(values), bool)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{what} {values[first]!r} is not among the {what} labels", variable=what, index=first, fix="add it to them"
        )
    return table, place


def _check_lengths(time: np.ndarray, unit: ArrayLike, trial: ArrayLike | None) -> None:
    sizes = {"time": time.shape, "unit": np.shape(unit), "trial": time.shape if trial is None else np.shape(trial)}
    if time.ndim != 1 or len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {list(shape)}" for name, shape in sizes.items())
        raise ShapeError(f"spikes need one row each: {told}", fix="pass three lists of one length")


def _windows(
    time: np.ndarray, trials: int, start: ArrayLike | None, stop: ArrayLike | None, used: str
) -> tuple[np.ndarray, np.ndarray]:
    first, last = (float(time.min()), float(time.max())) if len(time) else (0.0, 0.0)
    low = np.full(trials, min(first, 0.0)) if start is None else _each(seconds(start, used), trials, "start")
    high = np.full(trials, np.nextafter(last, np.inf)) if stop is None else _each(seconds(stop, used), trials, "stop")
    bad = ~(np.isfinite(low) & np.isfinite(high) & (high > low))
    if bad.any():
        first_bad = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"a trial lasts from {low[first_bad]:g} to {high[first_bad]:g} s", variable="stop", dim="trial",
            index=first_bad, fix="give every trial a window with stop above start",
        )  # fmt: skip
    return low, high


def _each(values: np.ndarray, trials: int, what: str) -> np.ndarray:
    if values.ndim > 1 or values.size not in (1, trials):
        raise ShapeError(f"{values.size} values for {trials} trials", variable=what, fix="one number, or one per trial")
    return np.broadcast_to(values.ravel() if values.ndim else values, trials).astype(np.float64)


def _check_inside(time: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray) -> None:
    outside = (time < start[row]) | (time >= stop[row])
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        low, high = start[row[first]], stop[row[first]]
        raise DataError(
            f"a spike at {time[first]:.6g} s lies outside its trial [{low:g}, {high:g}) s",
            variable="time",
            index=first,
            code="data/outside-trial",
            fix="pass start and stop that cover the trial, or drop the row",
        )
