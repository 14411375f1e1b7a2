"""Spike tables in ``.npz`` files: one array of times, one of units, one of trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import DataError, SchemaError, ShapeError
from sciinfer.extend import registry

from .optional import closed
from .ragged import ragged_spikes
from .units import seconds

_NAMES = {
    "time": ("spiketimes", "spike_times", "times", "time"),
    "unit": ("neuron_ids", "neurons", "unit_ids", "units", "unit"),
    "trial": ("trial_ids", "trials", "trial"),
    "start": ("tmin", "t_start", "start"),
    "stop": ("tmax", "t_stop", "stop"),
}


def read_npz(path: Path | str, *, limits: Any, units: str | None = None, events: Sequence[str] = ()) -> xr.Dataset:
    """Read arrays of spike times, neurons and trials (as those of ``affinewarp``). Pickled objects are refused.

    Args:
        path: ``.npz`` with one array for each of time (``spiketimes``, ``spike_times``, ``times``, ``time``), unit
            (``neuron_ids``, ``unit_ids``, ``units``, ...) and, optionally, trial (``trial_ids``, ``trials``, ...),
            ``tmin`` and ``tmax``.
        limits: limits on the size of the file.
        units: of all times, ``"s"`` or ``"ms"``; default seconds.
        events: names of arrays with one time per trial, on the trials' clock; they become variables, in seconds.

    Returns:
        Ragged spikes. Names of arrays that were not read are in ``attrs["not_read"]``.

    Raises:
        SchemaError: no array of times or of units. UnitsError: intervals that look like the other unit of time.
        DataError: a spike outside its trial.
    """
    arrays = registry().get("readers", "numpy")(Path(path), limits=limits)
    found = {role: next((n for n in names if n in arrays.data_vars), None) for role, names in _NAMES.items()}
    _check_found(path, arrays, found)
    absent = [name for name in events if name not in arrays.data_vars]
    if absent:
        raise SchemaError(f"{path} has no array {absent[0]!r}", variable=absent[0], fix="correct events=(...)")
    values = {role: arrays[name].values for role, name in found.items() if name is not None}
    _check_numbers(values, found)
    spikes = _spikes(values, units, _trial_labels(arrays, values, events))
    for name in events:
        attrs = {"units": "s", "long_name": f"time of {name}"}
        spikes[name] = ("trial", seconds(arrays[name].values, units, what=name), attrs)
    used = {*events, *(name for name in found.values() if name)}
    rest = ", ".join(str(name) for name in arrays.data_vars if name not in used)
    return spikes.assign_attrs(not_read=rest) if rest else spikes


def _check_found(path: Path | str, arrays: xr.Dataset, found: dict[str, str | None]) -> None:
    for role in ("time", "unit"):
        if found[role] is None:
            have = ", ".join(map(str, arrays.data_vars)) or "none"
            raise SchemaError(
                f"{path} has no array for the {role} of a spike; its arrays: {have}",
                variable=role,
                fix=f"call it {_NAMES[role][0]}",
            )


def _check_numbers(values: dict[str, np.ndarray], found: dict[str, str | None]) -> None:
    for role in ("time", "start", "stop"):
        if role in values and values[role].dtype.kind not in "fiu":
            raise DataError("times are not numbers", variable=found[role], fix="write seconds or milliseconds")
    if not values["time"].size:
        raise DataError("the file has no spikes", variable=found["time"], fix="check how it was made")


def _trial_labels(arrays: xr.Dataset, values: dict[str, np.ndarray], events: Sequence[str]) -> np.ndarray | None:
    """All trials, the silent ones too, where an array of events tells how many there are."""
    if "trial" not in values:
        return None
    sizes = {arrays[name].size for name in events}
    if len(sizes) > 1:
        raise ShapeError(f"events have {sorted(sizes)} values", variable=events[0], fix="give one time per trial")
    seen = np.unique(values["trial"])
    if not sizes or seen.size in sizes:
        return None
    whole = values["trial"].dtype.kind in "iu" and seen.size and seen[0] >= 0 and seen[-1] < max(sizes)
    if not whole:
        raise ShapeError(f"{max(sizes)} events for {seen.size} trials", variable=events[0], fix="one time per trial")
    return np.arange(max(sizes))


def _spikes(values: dict[str, np.ndarray], units: str | None, labels: np.ndarray | None) -> xr.Dataset:
    start = values["start"].ravel() if "start" in values else None
    stop = values.get("stop")
    if stop is not None:
        end = stop.ravel().astype(np.float64)
        last = values["time"].max()
        stop = closed(end, last) if end.size == 1 else end
    return ragged_spikes(
        values["time"], values["unit"], values.get("trial"), units=units, start=start, stop=stop, trial_labels=labels
    )
