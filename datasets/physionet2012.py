"""PhysioNet / Computing in Cardiology Challenge 2012: two days of intensive care, 8,000 stays, every time its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError

from .cards import described, read_card
from .fetch import Fetch
from .layouts import contiguous_ragged

__entries__ = [
    {
        "kind": "datasets",
        "name": "physionet2012",
        "target": "physionet2012",
        "summary": "8,000 intensive-care stays of 48 h: 41 sparse, irregular clinical variables (ragged array)",
        "source": "local",
        "dims": ("obs", "series"),
        "license": "ODC-By-1.0",
        "citation": (
            "Silva, Moody, Scott, Celi, Mark (2012), Predicting in-hospital mortality of ICU patients: the "
            "PhysioNet/Computing in Cardiology Challenge 2012"
        ),
        "sha256": "2107235dec7586fc8abc14d3fab4fa60b4cb1653538e45e79c77dbd083abd254",
        "size": 7270890,
        "options": {
            "subset": "a, b or a+b",
            "static": "row (first row only), series (one value per stay) or drop",
        },
    },
]

STATIC = ("Age", "Gender", "Height", "ICUType")
_MINUTES = 2881  # 48 h, both ends included
_UNKNOWN = ("Gender", "Height", "Weight")  # -1 is written where these were not recorded


class _Records(NamedTuple):
    """Sparse observations: ``stay, minute, variable [N]`` int64, ``value [N]``, and what they refer to."""

    stay: np.ndarray
    minute: np.ndarray
    variable: np.ndarray
    value: np.ndarray
    record_id: np.ndarray
    names: tuple[str, ...]


def physionet2012(*, subset: str = "a+b", static: str = "row", fetch: Fetch | None = None) -> xr.Dataset:
    """Stays laid end to end: one row per stay and minute at which anything was written down.

    Values are as published, except that -1 (unknown) of Gender, Height and Weight is NaN. Where a variable was
    written more than once in a minute the row holds the mean; ``attrs["repeats_averaged"]`` counts those.

    Args:
        subset: ``"a"``, ``"b"`` or ``"a+b"``.
        static: Age, Gender, Height and ICUType are written once, at admission: ``"row"`` keeps them there, ``"series"``
            makes them ``(series,)``, ``"drop"`` leaves them out. Weight is both; it stays a time series.
        fetch: where the files are looked for.

    Returns:
        CF contiguous ragged array: ``obs``, ``row_size(series)``, ``time(obs)`` in h since admission.

    Raises:
        ConfigError: an unknown subset or treatment.
        ResourceError, ReadError: a file is absent or damaged.
    """
    if subset not in ("a", "b", "a+b"):
        raise ConfigError(f"option subset is {subset!r}", variable="subset", fix="a, b or a+b")
    if static not in ("row", "series", "drop"):
        raise ConfigError(f"option static is {static!r}", variable="static", fix="row, series or drop")
    card = read_card("physionet2012")
    paths = (fetch or Fetch()).some(card, *(f"set_{letter}" for letter in subset.split("+")))
    records = _read(paths)
    fixed = _static(records) if static == "series" else {}
    if static != "row":
        records = _without(records, STATIC)
    ds = _ragged(records)
    ds = ds.assign({name: ("series", values) for name, values in fixed.items()})
    ds["time"].attrs["long_name"] = "time since admission to intensive care"
    ds.attrs["subset"] = subset
    return described(ds, card)


def _read(paths: list[Path]) -> _Records:
    parts: list[tuple[np.ndarray, ...]] = []
    names: tuple[str, ...] = ()
    first = 0
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            stay = np.repeat(np.arange(len(file["record_id"])), np.diff(file["ptr"])) + first
            names = tuple(str(name) for name in file["var_names"])
            columns = [file[key].astype(np.int64) for key in ("minute", "var")]
            parts.append((stay, *columns, file["value"].astype(np.float64), file["record_id"].astype(np.int64)))
        first += len(parts[-1][-1])
    stay, minute, variable, value, record_id = (np.concatenate(column) for column in zip(*parts, strict=True))
    unknown = np.isin(variable, [names.index(name) for name in _UNKNOWN]) & (value == -1)
    return _Records(stay, minute, variable, np.where(unknown, np.nan, value), record_id, names)


def _static(records: _Records) -> dict[str, np.ndarray]:
    found = {}
    for name in STATIC:
        rows = records.variable == records.names.index(name)
        found[name] = np.full(len(records.record_id), np.nan)
        found[name][records.stay[rows]] = records.value[rows]
    return found


def _without(records: _Records, names: tuple[str, ...]) -> _Records:
    keep = ~np.isin(records.variable, [records.names.index(name) for name in names])
    return records._replace(
        stay=records.stay[keep],
        minute=records.minute[keep],
        variable=records.variable[keep],
        value=records.value[keep],
    )


def _ragged(records: _Records) -> xr.Dataset:
    key = records.stay * _MINUTES + records.minute
    first = np.diff(key, prepend=-1) > 0  # the files are sorted by stay and minute
    rows, row_of = key[first], np.cumsum(first) - 1
    present = np.unique(records.variable)
    column_of = np.full(len(records.names), -1)
    column_of[present] = np.arange(len(present))
    cell = column_of[records.variable] * len(rows) + row_of
    size = len(present) * len(rows)
    count = np.bincount(cell, minlength=size)
    table = np.bincount(cell, weights=records.value, minlength=size)
    table[count == 0] = np.nan
    several = count > 1
    table[several] /= count[several]
    table = table.reshape(len(present), len(rows))
    row_size = np.bincount(rows // _MINUTES, minlength=len(records.record_id))
    variables = {records.names[k]: table[i] for i, k in enumerate(present)}
    ds = contiguous_ragged(row_size, (rows % _MINUTES) / 60.0, variables, records.record_id)
    ds.attrs["repeats_averaged"] = int((count[several] - 1).sum())
    return ds
