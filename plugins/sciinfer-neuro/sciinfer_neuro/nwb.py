"""Neurodata Without Borders 2: the table of units, the trials, and series of behaviour.

Files are read with h5py alone: no code of an extension runs, and of a large recording only the spikes are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from sciinfer.errors import DataError, SchemaError
from sciinfer.labelled.readers.common import reading

from .events import cut
from .ragged import check_ragged, ragged_spikes, trial_index

if TYPE_CHECKING:
    import pandas as pd

_UNITS = {"seconds": "s", "meters": "m", "meter": "m", "n/a": "1", "": "1"}


class Table(NamedTuple):
    """A table of the file: the ids of its rows and its plain columns."""

    ids: np.ndarray
    columns: dict[str, np.ndarray]


class Series(NamedTuple):
    """A time series of the file, in its units and in session time."""

    name: str
    time: np.ndarray
    values: np.ndarray
    units: str


def read_nwb(path: Path | str, *, limits: Any, trials: bool | None = None, behaviour: Sequence[str] = ()) -> xr.Dataset:
    """Read the spikes of an NWB file.

    Args:
        path: the file.
        limits: limits on the size of what is read of the file.
        trials: cut the session into the file's trials, each on a clock of its own; default: if there are any.
        behaviour: names of time series, read as ``NAME(NAME_time)`` or ``NAME(NAME_time, NAME_channel)`` on the
            session's clock.

    Returns:
        Ragged spikes; ``unit`` and ``trial`` hold the tables' ids. Plain columns of both tables become coordinates; a
        trial's column ``*_time`` holds an event, in seconds on the trial's clock. ``origin`` is the session time of a
        trial's time zero.

    Raises:
        SchemaError: no units, trials or series of that name. DataError: no spikes.
        TimeError: a spike time that is missing. ReadError: a damaged file.
    """
    import h5py

    path = Path(path)
    with reading(path), h5py.File(path, "r") as opened:
        file: Any = opened
        if "units/spike_times" not in file or "units/spike_times_index" not in file:
            raise SchemaError(f"{path} has no spike times", variable="units", fix="look into it with reader='netcdf4'")
        times = _array(path, file["units/spike_times"], limits)
        ends = _array(path, file["units/spike_times_index"], limits)
        units = _table(path, file["units"], limits)
        windows = _table(path, file["intervals/trials"], limits) if "intervals/trials" in file else None
        series = [_series(path, file, name, limits) for name in behaviour]
        told = {name: _text(file[name][()]) for name in ("identifier", "session_description") if name in file}
    if trials and windows is None:
        raise SchemaError(f"{path} has no trials", variable="trials", fix="pass trials=False, and cut the session")
    return _session(times, ends, units, None if trials is False else windows, series).assign_attrs(told)


def from_nwb(nwb: Any, *, trials: bool | None = None) -> xr.Dataset:
    """The spikes of an ``NWBFile`` that pynwb has opened or made.

    Args:
        nwb: the object. trials: as in :func:`read_nwb`.
    """
    if nwb.units is None or "spike_times" not in nwb.units.colnames:
        raise SchemaError("it has no spike times", variable="units", fix="add_unit(spike_times=...)")
    if trials and nwb.trials is None:
        raise SchemaError("it has no trials", variable="trials", fix="pass trials=False, and cut the session")
    index = nwb.units["spike_times"]
    windows = None if nwb.trials is None or trials is False else _columns_of(nwb.trials)
    times = np.asarray(index.target.data[:], dtype=np.float64)
    return _session(times, np.asarray(index.data[:]), _columns_of(nwb.units), windows, [])


def to_nwb(spikes: xr.Dataset, nwb: Any) -> Any:
    """Add ragged spikes to an ``NWBFile``: a row of its units per unit, and of its trials per trial, in session time.

    Args:
        spikes: ragged spikes. A window without trials (one trial from time zero) adds no row of trials.
        nwb: the object of pynwb, which the caller makes, as it holds what only the caller knows (session, subject).

    Returns:
        ``nwb``. A coordinate of trials with units of seconds (an event) becomes a column, in session time.
    """
    spikes = check_ragged(spikes)
    zero, row = spikes["origin"].values, trial_index(spikes)
    time = spikes["time"].values + zero[row]
    whole = spikes["unit"].dtype.kind in "iu"
    for place, label in enumerate(spikes["unit"].values.tolist()):
        nwb.add_unit(spike_times=np.sort(time[spikes["unit_index"].values == place]), id=label if whole else place)
    if spikes.sizes["trial"] == 1 and zero[0] == 0:
        return nwb
    own = ("trial", "start", "stop", "origin")
    along = {str(n): c for n, c in spikes.coords.items() if c.dims == ("trial",) and n not in own}
    events = [name for name, c in along.items() if c.attrs.get("units") == "s"]
    for name in events:
        nwb.add_trial_column(name, str(along[name].attrs.get("long_name") or name))
    for i in range(spikes.sizes["trial"]):
        columns = {name: float(along[name][i]) + zero[i] for name in events}
        edges = {"start_time": float(spikes["start"][i] + zero[i]), "stop_time": float(spikes["stop"][i] + zero[i])}
        nwb.add_trial(**edges, **columns)
    return nwb


def _columns_of(table: Any) -> Table:
    ids = np.asarray(table.id[:])
    stored = {str(column.name): column.data for column in table.columns}
    flat = [name for name in map(str, table.colnames) if f"{name}_index" not in stored]
    found = {name: np.asarray(stored[name][:]) for name in flat}
    return Table(ids, _plain(found, len(ids)))


def _array(path: Path, dataset: Any, limits: Any) -> np.ndarray:
    limits.check(path, int(np.prod(dataset.shape, dtype=object)) * max(dataset.dtype.itemsize, 8))
    return np.asarray(dataset[()])


def _table(path: Path, group: Any, limits: Any) -> Table:
    ids = _array(path, group["id"], limits)
    listed = [_text(name) for name in group.attrs.get("colnames", [])]
    flat = [n for n in listed if n in group and f"{n}_index" not in group and group[n].shape == ids.shape]
    return Table(ids, _plain({name: _array(path, group[name], limits) for name in flat}, len(ids)))


def _plain(columns: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Columns of numbers or text, one value per row."""
    found = {}
    for name, values in columns.items():
        if values.dtype.kind in "OS" and all(isinstance(value, (str, bytes)) for value in values):
            values = np.array([_text(value) for value in values], dtype=str)
        if values.shape == (rows,) and values.dtype.kind in "biufU":
            found[name] = values
    return found


def _session(
    times: np.ndarray, ends: np.ndarray, units: Table, trials: Table | None, series: Sequence[Series]
) -> xr.Dataset:
    if not len(times):
        raise DataError("the file has no spikes", variable="spike_times", fix="check how it was made")
    times = times.astype(np.float64)
    counts = np.diff(np.concatenate([[0], ends.astype(np.int64)]))
    windows = None if trials is None else _windows(trials)
    edges = np.zeros(0) if windows is None else windows[["start", "stop"]].to_numpy(dtype=np.float64).ravel()
    low = np.nanmin(np.concatenate([[0.0], times, edges]))
    high = np.nanmax(np.concatenate([np.nextafter(times, np.inf), edges]))
    spikes = ragged_spikes(times, np.repeat(units.ids, counts), start=low, stop=high, unit_labels=units.ids)
    if trials is not None and windows is not None:
        spikes = _described(cut(spikes, windows), trials, "trial")
    spikes = _described(spikes, units, "unit")
    for one in series:
        spikes = spikes.assign(_behaviour(one))
    return spikes


def _windows(trials: Table) -> pd.DataFrame:
    import pandas as pd

    absent = [name for name in ("start_time", "stop_time") if name not in trials.columns]
    if absent:
        raise SchemaError(f"the trials have no {absent[0]}", variable="trials", fix="pass trials=False")
    edges = {"start": trials.columns["start_time"], "stop": trials.columns["stop_time"]}
    return pd.DataFrame({"trial": trials.ids, **edges})


def _described(spikes: xr.Dataset, table: Table, dim: str) -> xr.Dataset:
    """Plain columns as coordinates; times of events are counted from the trial's origin."""
    found: dict[str, Any] = {}
    for name, values in table.columns.items():
        if name in ("start_time", "stop_time") or name in spikes.variables:
            continue
        if dim == "trial" and name.endswith("_time") and values.dtype.kind in "iuf":
            attrs = {"units": "s", "long_name": name.replace("_", " ")}
            found[name] = (dim, values - spikes["origin"].values, attrs)
        else:
            found[name] = (dim, values)
    return spikes.assign_coords(found)


def _series(path: Path, file: Any, name: str, limits: Any) -> Series:
    known: dict[str, Any] = {}

    def note(where: str, item: Any) -> None:
        if hasattr(item, "keys") and "data" in item and ("timestamps" in item or "starting_time" in item):
            known[where] = item

    file.visititems(note)
    fits = [item for where, item in known.items() if name in (where, where.rpartition("/")[2])]
    if len(fits) != 1:
        what = "several series" if fits else "no series"
        names = sorted(known if fits else {where.rpartition("/")[2] for where in known})
        raise SchemaError(f"{path} has {what} {name!r}", variable=name, fix=f"use one of {', '.join(names) or 'none'}")
    data, attrs = fits[0]["data"], fits[0]["data"].attrs
    scale, shift = (float(np.asarray(attrs.get(key, value))) for key, value in (("conversion", 1.0), ("offset", 0.0)))
    values = _array(path, data, limits) * scale + shift
    if "timestamps" in fits[0]:
        time = _array(path, fits[0]["timestamps"], limits).astype(np.float64)
    else:
        first = fits[0]["starting_time"]
        time = float(first[()]) + np.arange(len(values)) / float(np.asarray(first.attrs["rate"]))
    units = _text(attrs.get("unit", ""))
    return Series(name.rpartition("/")[2], time, values.astype(np.float64), _UNITS.get(units, units))


def _behaviour(series: Series) -> xr.Dataset:
    name = series.name
    if series.values.ndim not in (1, 2):
        raise SchemaError(f"the series has {series.values.ndim} dims", variable=name, fix="read it with pynwb")
    dims = (f"{name}_time", f"{name}_channel")[: series.values.ndim]
    return xr.Dataset(
        {name: (dims, series.values, {"units": series.units, "long_name": name})},
        coords={dims[0]: (dims[0], series.time, {"units": "s", "long_name": "session time"})},
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
