"""Neo: its objects and the files that its readers know, to ragged spikes and back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError, ReadError, SchemaError
from sciinfer.labelled.readers.common import reading

from .optional import closed, optional
from .ragged import check_ragged, ragged_spikes, trial_index
from .units import seconds

#: suffix -> class of ``neo.io``
FORMATS = {
    ".neo.mat": "NeoMatlabIO",
    ".nev": "BlackrockIO",
    ".plx": "PlexonIO",
    ".nex": "NeuroExplorerIO",
    ".smr": "Spike2IO",
}
_LABELS = ("unit_id", "unit", "id")


def from_neo(data: Any) -> xr.Dataset:
    """Spike trains of neo as ragged spikes; each segment becomes a trial, on its own clock.

    Args:
        data: a ``Block`` (of several segments), a ``Segment``, or a list of ``SpikeTrain`` (one trial). A train's unit
            is its annotation ``unit_id``, ``unit`` or ``id``, or its name, if these differ; else its position.

    Raises:
        SchemaError: another type. DataError: no spike trains.
    """
    segments = [list(segment) for segment in _segments(data)]
    if not any(segments):
        raise DataError("there are no spike trains", fix="check what the file holds; analog signals are not read")
    labels = _labels(segments)
    time, unit, trial = [np.zeros(0)], [], []
    start, stop = np.full(len(segments), np.inf), np.full(len(segments), -np.inf)
    for row, (trains, names) in enumerate(zip(segments, labels, strict=True)):
        for train, name in zip(trains, names, strict=True):
            own = _seconds(train)
            time.append(own)
            unit += [name] * len(own)
            trial += [row] * len(own)
            start[row] = min(start[row], float(_seconds(train.t_start)))
            end = float(closed(_seconds(train.t_stop), own.max(initial=-np.inf)))
            stop[row] = max(stop[row], end)
    filled = np.isfinite(start)
    kept = np.flatnonzero(filled)
    place = np.cumsum(filled) - 1
    return ragged_spikes(
        np.concatenate(time), np.array(unit, dtype=_label_type(labels)), place[np.array(trial, dtype=int)],
        start=start[kept], stop=stop[kept], trial_labels=np.arange(len(kept)),
        unit_labels=np.array(list(dict.fromkeys(name for names in labels for name in names)), _label_type(labels)),
    )  # fmt: skip


def to_neo(spikes: xr.Dataset) -> Any:
    """Ragged spikes as a ``Block``: a segment per trial, a ``SpikeTrain`` per unit, annotated with ``unit_id``."""
    neo = optional("neo", "neo")
    spikes = check_ragged(spikes)
    block = neo.Block()
    row, cell, time = trial_index(spikes), spikes["unit_index"].values, spikes["time"].values
    for i in range(spikes.sizes["trial"]):
        segment = neo.Segment(name=str(spikes["trial"].values[i]))
        low, high = float(spikes["start"][i]), float(spikes["stop"][i])
        for k, label in enumerate(spikes["unit"].values.tolist()):
            own = time[(row == i) & (cell == k)]
            segment.spiketrains.append(
                neo.SpikeTrain(own, t_start=low, t_stop=high, units="s", unit_id=label, name=str(label))
            )
        block.segments.append(segment)
    return block


def read_neo(path: Path | str, *, limits: Any, io: str | None = None) -> xr.Dataset:
    """Read the spike trains of a file with a reader of neo.

    Args:
        path: the file; its suffix says which reader, or ``io`` does.
        limits: limits on the size of the file.
        io: name of a class of ``neo.io``. Its readers of pickles are refused: these can run code.

    Raises:
        ReadError: a damaged file. ConfigError: an unknown ``io``. DataError: no spike trains.
    """
    path = Path(path)
    name = io or next((reader for suffix, reader in FORMATS.items() if path.name.lower().endswith(suffix)), None)
    if name is None:
        raise ConfigError(f"no reader of neo is known for {path}", variable="io", fix="pass io='NameOfItsIO'")
    if "pickle" in name.lower():
        raise ReadError(f"{name} reads pickles, which can run code", code="read/refused", fix="save it as NWB")
    if not path.exists():
        raise ReadError(f"{path} does not exist", code="read/missing", fix="check the name")
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
    limits.check(path, size)
    reader = getattr(optional("neo.io", "neo"), name, None)
    if reader is None:
        raise ConfigError(f"neo.io has no {name!r}", variable="io", fix="see neo.io.iolist")
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neo's own, on formats
        blocks = reader(str(path)).read()
    return from_neo(list(blocks))


def _segments(data: Any) -> Sequence[Any]:
    kind = type(data).__name__
    if kind == "Block":
        return [segment.spiketrains for segment in data.segments]
    if kind == "Segment":
        return [data.spiketrains]
    items: list[Any] = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else []
    kinds = {type(item).__name__ for item in items}
    if kinds == {"Block"}:
        return [segment.spiketrains for block in items for segment in block.segments]
    if kinds == {"SpikeTrain"} or kind == "SpikeTrainList":
        return [data]
    raise SchemaError(f"cannot take spikes from a {kind}", fix="pass a Block, a Segment or a list of SpikeTrain")


def _seconds(quantity: Any) -> np.ndarray:
    return seconds(np.asarray(quantity.magnitude), quantity.dimensionality.string)


def _labels(segments: list[list[Any]]) -> list[list[Any]]:
    for key in (*_LABELS, "name"):
        found = [[_label(train, key) for train in trains] for trains in segments]
        if all(None not in names and len(set(names)) == len(names) for names in found):
            return found
    return [list(range(len(trains))) for trains in segments]


def _label(train: Any, key: str) -> Any:
    value = train.name if key == "name" else train.annotations.get(key)
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, (str, int)) and value != "" else None


def _label_type(labels: list[list[Any]]) -> type:
    return int if all(isinstance(name, int) for names in labels for name in names) else str
