"""Pynapple: its objects and its ``.npz`` files, to ragged spikes and back."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sciinfer.errors import DataError, SchemaError
from sciinfer.labelled.readers.common import reading

from .optional import closed, optional
from .ragged import check_ragged, ragged_spikes

if TYPE_CHECKING:
    import pandas as pd


def from_pynapple(data: Any) -> xr.Dataset | pd.DataFrame:
    """A ``TsGroup`` or ``Ts`` as ragged spikes, an ``IntervalSet`` as a table of windows (for ``cut``).

    Each epoch of the time support becomes a trial, on the session's clock. For clocks of their own:
    ``align(spikes, spikes.start, (0, np.inf))``.

    Args:
        data: the object; of its metadata those of plain numbers or text become coordinates of ``unit``.

    Raises:
        SchemaError: another type.
    """
    kind = type(data).__name__
    if kind == "IntervalSet":
        return _windows(np.asarray(data.start), np.asarray(data.end))
    if kind not in ("TsGroup", "Ts", "Tsd"):
        raise SchemaError(f"cannot take spikes from a {kind}", fix="pass a TsGroup, a Ts or an IntervalSet")
    support = data.time_support
    edges = np.asarray(support.start), np.asarray(support.end)
    if kind != "TsGroup":
        times = np.asarray(data.index, dtype=np.float64)
        return _ragged(times, np.zeros(len(times), int), np.array([0]), *edges)
    keys = np.array(list(data.keys()))
    pieces = [np.asarray(data[key].index, dtype=np.float64) for key in keys]
    unit = np.repeat(keys, [len(piece) for piece in pieces])
    spikes = _ragged(np.concatenate([*pieces, np.zeros(0)]), unit, keys, *edges)
    extra = {str(name): np.asarray(data.metadata[name]) for name in data.metadata_columns if str(name) != "rate"}
    return _describe(spikes, extra)


def to_pynapple(spikes: xr.Dataset) -> Any:
    """Ragged spikes as a ``TsGroup`` in session time; its support is the trials' windows.

    Pynapple merges windows that overlap. Units need whole numbers as labels; others get their positions.
    """
    nap = optional("pynapple", "pynapple")
    spikes = check_ragged(spikes)
    zero = spikes["origin"].values
    time = spikes["time"].values + np.repeat(zero, spikes["row_size"].values)
    support = nap.IntervalSet(spikes["start"].values + zero, spikes["stop"].values + zero)
    labels = spikes["unit"].values
    keys = labels.tolist() if labels.dtype.kind in "iu" else list(range(len(labels)))
    cell = spikes["unit_index"].values
    return nap.TsGroup({key: nap.Ts(np.sort(time[cell == i])) for i, key in enumerate(keys)}, time_support=support)


def read_pynapple(path: Path | str, *, limits: Any) -> xr.Dataset | pd.DataFrame:
    """Read a ``.npz`` file that pynapple saved, without pynapple. Metadata are Python objects there, and not read.

    Args:
        path: file of a ``TsGroup`` or ``Ts`` (gives ragged spikes) or of an ``IntervalSet`` (gives a table).
        limits: limits on the size of the file.

    Raises:
        SchemaError: a file of another program, or another type. ReadError: a damaged file.
    """
    path = Path(path)
    with reading(path):
        with zipfile.ZipFile(path) as archive:
            limits.check(path, sum(info.file_size for info in archive.infolist()))
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files if name in _STORED}
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}  # others are raw bytes
    kind = str(arrays["type"].ravel()[0]) if arrays.get("type") is not None and arrays["type"].size else ""
    needed = {"TsGroup": ("t", "index", "keys"), "Ts": ("t",), "Tsd": ("t",), "IntervalSet": ()}.get(kind)
    if needed is None or any(name not in arrays for name in (*needed, "start", "end")):
        raise SchemaError(f"{path} is no file of spikes that pynapple saved", fix="use TsGroup.save, or reader='numpy'")
    for name in ({*arrays} - {"type"}) & {"t", "start", "end"}:
        arrays[name] = _floats(arrays[name], name)
    if kind == "IntervalSet":
        return _windows(arrays["start"], arrays["end"])
    keys = arrays["keys"] if kind == "TsGroup" else np.array([0])
    unit = arrays["index"] if kind == "TsGroup" else np.zeros(len(arrays["t"]), int)
    return _ragged(arrays["t"], unit, keys, arrays["start"], arrays["end"])


_STORED = ("type", "t", "index", "keys", "start", "end")


def _floats(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind not in "fiu" or values.ndim != 1:
        raise DataError("times are not a list of numbers", variable=name, fix="save it anew with pynapple")
    return values.astype(np.float64)


def _windows(start: np.ndarray, end: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame({"start": start.astype(np.float64), "stop": end.astype(np.float64)})
    table.attrs["units"] = "s"
    return table


def _ragged(time: np.ndarray, unit: np.ndarray, keys: np.ndarray, start: np.ndarray, end: np.ndarray) -> xr.Dataset:
    if not len(start):
        raise DataError("the spikes have no time support", variable="time_support", fix="give it at least one epoch")
    epoch = np.searchsorted(start, time, side="right") - 1
    outside = (epoch < 0) | (time > end[epoch])
    if outside.any():
        raise DataError(
            "a spike lies outside the time support", variable="t", index=int(outside.argmax()),
            code="data/outside-trial", fix="restrict the spikes to the support",
        )  # fmt: skip
    last = np.full(len(start), -np.inf)
    np.maximum.at(last, epoch, time)
    stop = closed(end, last)
    stop = np.maximum(stop, np.nextafter(start, np.inf))  # an epoch of length zero holds one instant
    return ragged_spikes(
        time, unit, epoch, start=start, stop=stop, unit_labels=keys, trial_labels=np.arange(len(start))
    )


def _describe(spikes: xr.Dataset, extra: dict[str, np.ndarray]) -> xr.Dataset:
    plain = {name: v.astype(str) if v.dtype.kind in "OU" else v for name, v in extra.items() if v.ndim == 1}
    free = {name: ("unit", v) for name, v in plain.items() if name not in spikes.variables and v.dtype.kind in "biufU"}
    return spikes.assign_coords(free)
