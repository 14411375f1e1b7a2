"""Spike tables: one row per spike, binned to counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError, SchemaError, UnitsError
from sciinfer.extend import registry

from .units import check_finite, check_scale

if TYPE_CHECKING:
    import pandas as pd


def read_spikes(
    path: Path | str,
    *,
    limits: Any,
    bin_width: float = 0.01,
    start: float = 0.0,
    stop: float | None = None,
    units: Literal["s", "ms"] | None = None,
) -> xr.Dataset:
    """Read a spike table and count the spikes of each unit in each trial and bin.

    Args:
        path: CSV with columns ``unit``, ``time`` | ``time_s`` | ``time_ms`` and, optionally, ``trial``.
        limits: limits on the size of the file and of the counts.
        bin_width: seconds.
        start, stop: of every trial, seconds; bins are ``[start + k w, start + (k + 1) w)``. Without ``stop`` the last
            bin is the one of the last spike.
        units: units of a column called ``time``; default seconds.

    Returns:
        ``counts(trial, time, unit)``, float64 whole numbers; ``time`` holds the bins' centres in seconds.

    Raises:
        DataError: a spike outside the trial, with its row.
        UnitsError: intervals that look like the other unit of time.
        TimeError: a missing or infinite time.
        SchemaError: a column is missing.
    """
    if not (math.isfinite(bin_width) and bin_width > 0):
        raise ConfigError(f"bin_width is {bin_width}", variable="bin_width", fix="pass seconds, above zero")
    table = registry().get("readers", "csv")(Path(path), limits=limits)
    column, scale = _time_column(path, table, units)
    time = table[column].to_numpy(dtype=float, na_value=np.nan) * scale if len(table) else np.empty(0)
    of_trial = table["trial"].to_numpy() if "trial" in table else np.zeros(len(table), int)
    trials, trial = np.unique(of_trial, return_inverse=True)
    cells, cell = np.unique(table["unit"].to_numpy(), return_inverse=True)
    check_finite(time, column)
    check_scale(column, time, trial, cell, "ms" if scale < 1 else "s")
    edges = _edges(time, start, stop, bin_width)
    limits.check(Path(path), 8 * len(trials) * len(edges) * len(cells))
    place = _place(column, time, start, edges, bin_width)
    counts = np.zeros((len(trials), len(edges), len(cells)))
    np.add.at(counts, (trial, place, cell), 1.0)
    return _dataset(counts, trials, start + (edges + 0.5) * bin_width, cells, bin_width)


def _time_column(path: Path | str, table: pd.DataFrame, units: str | None) -> tuple[str, float]:
    if units not in (None, "s", "ms"):
        raise UnitsError(f"spike times cannot be in {units!r}", variable="time", fix="use units='s' or units='ms'")
    scales = {"time": 1e-3 if units == "ms" else 1.0, "time_s": 1.0, "time_ms": 1e-3}
    found = [name for name in scales if name in table.columns]
    if len(found) != 1 or "unit" not in table.columns:
        raise SchemaError(
            f"{path} needs the columns unit and one of {', '.join(scales)}; it has {', '.join(table.columns)}",
            fix="rename the columns",
        )
    if len(table) and table[found[0]].dtype.kind not in "fiu":
        raise DataError("spike times are not numbers", variable=found[0], fix="write seconds or milliseconds")
    if not len(table):
        raise DataError("the table has no spikes", variable=found[0], fix="check how it was made")
    return found[0], scales[found[0]]


def _edges(time: np.ndarray, start: float, stop: float | None, width: float) -> np.ndarray:
    end = float(time.max()) if stop is None else stop
    bins = math.floor((end - start) / width + 1e-9) + 1 if stop is None else math.ceil((end - start) / width - 1e-9)
    return np.arange(max(bins, 1))


def _place(column: str, time: np.ndarray, start: float, edges: np.ndarray, width: float) -> np.ndarray:
    place = np.floor((time - start) / width + 1e-9).astype(int)  # 1e-9: a spike on an edge belongs to the bin it opens
    outside = (place < 0) | (place >= len(edges))
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"a spike at {time[first]:.6g} s lies outside the trial [{start:g}, {start + len(edges) * width:g}) s",
            variable=column,
            index=first,
            code="data/outside-trial",
            fix="pass start and stop that cover the trial, or drop the row",
        )
    return place


def _dataset(counts: np.ndarray, trials: np.ndarray, time: np.ndarray, cells: np.ndarray, width: float) -> xr.Dataset:
    attrs = {"units": "1", "long_name": "spikes per bin", "bin_width": width, "support": "count"}
    return xr.Dataset(
        {"counts": (("trial", "time", "unit"), counts, attrs)},
        coords={"trial": trials, "time": ("time", time, {"units": "s", "axis": "T"}), "unit": cells},
        attrs={"title": "binned spikes"},
    )
