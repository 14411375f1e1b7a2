"""Long tables of spikes (one row each) or of counts (one row per bin), and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from sciinfer.errors import DataError, SchemaError

from .ragged import check_ragged, ragged_spikes, trial_index

if TYPE_CHECKING:
    import pandas as pd


def to_table(spikes: xr.Dataset) -> pd.DataFrame:
    """Ragged spikes as a table ``trial, unit, time``; ``attrs["units"]`` of the table tells the units of time.

    Example:
        >>> to_table(ragged_spikes([0.2, 0.1], ["a", "b"])).time.tolist()
        [0.1, 0.2]
    """
    import pandas as pd

    spikes = check_ragged(spikes)
    columns = {
        "trial": spikes["trial"].values[trial_index(spikes)],
        "unit": spikes["unit"].values[spikes["unit_index"].values],
        "time": spikes["time"].values,
    }
    table = pd.DataFrame(columns)
    table.attrs["units"] = "s"
    return table


def to_windows(spikes: xr.Dataset) -> pd.DataFrame:
    """The trials as a table ``trial, start, stop, origin``, in seconds.

    Example:
        >>> to_windows(ragged_spikes([0.2], ["a"], stop=1.0)).stop.tolist()
        [1.0]
    """
    import pandas as pd

    spikes = check_ragged(spikes)
    table = pd.DataFrame({name: spikes[name].values for name in ("trial", "start", "stop", "origin")})
    table.attrs["units"] = "s"
    return table


def from_table(
    table: pd.DataFrame,
    windows: pd.DataFrame | None = None,
    *,
    unit_labels: ArrayLike | None = None,
    units: str | None = None,
) -> xr.Dataset:
    """A long table as ragged spikes. ``from_table(to_table(s), to_windows(s), unit_labels=s.unit)`` is ``s``.

    Args:
        table: columns ``unit``, ``time`` and, optionally, ``trial``.
        windows: columns ``trial``, ``start``, ``stop`` and, optionally, ``origin``; every trial that was watched.
        unit_labels: all units, so that silent ones are kept.
        units: of the times of both tables; default ``table.attrs["units"]``, else seconds.

    Raises:
        SchemaError: a column is missing. DataError: a spike outside its trial, or of a trial without a window.

    Example:
        >>> import pandas as pd
        >>> from_table(pd.DataFrame({"unit": [1, 2], "time": [13.0, 20.0]}), units="ms").time.values.tolist()
        [0.013, 0.02]
    """
    _check_columns(table, ("unit", "time"), "the table of spikes")
    told = units or table.attrs.get("units")
    trial = table["trial"].to_numpy() if "trial" in table else None
    time = _numbers(table, "time")
    if windows is None:
        return ragged_spikes(time, table["unit"].to_numpy(), trial, units=told, unit_labels=unit_labels)
    _check_columns(windows, ("trial", "start", "stop"), "the table of windows")
    _check_once(windows)
    if trial is None and len(windows) == 1:
        trial = np.repeat(windows["trial"].to_numpy(), len(table))
    return ragged_spikes(
        time, table["unit"].to_numpy(), trial, units=told, unit_labels=unit_labels,
        trial_labels=windows["trial"].to_numpy(), start=_numbers(windows, "start"), stop=_numbers(windows, "stop"),
        origin=_numbers(windows, "origin") if "origin" in windows else None,
    )  # fmt: skip


def counts_table(binned: xr.Dataset) -> pd.DataFrame:
    """Binned counts as a table ``trial, time, unit, counts, exposure``; bins without exposure are left out.

    Example:
        >>> from sciinfer_neuro.binned import bin_spikes
        >>> counts_table(bin_spikes(ragged_spikes([0.1], ["a"], stop=0.2), 0.1)).counts.tolist()
        [0.0, 1.0]
    """
    import pandas as pd

    counts = binned["counts"].transpose("trial", "time", "unit")
    trial, time, unit = (np.arange(size) for size in counts.shape)
    i, j, k = (index.ravel() for index in np.meshgrid(trial, time, unit, indexing="ij"))
    share = binned["exposure"].transpose("trial", "time").values if "exposure" in binned.coords else np.ones((1, 1))
    share = np.broadcast_to(share, counts.shape[:2])
    columns = {"trial": counts["trial"].values[i], "time": counts["time"].values[j], "unit": counts["unit"].values[k]}
    columns |= {"counts": counts.values.ravel(), "exposure": share[i, j]}
    table = pd.DataFrame(columns)
    table = table.loc[table["exposure"] > 0].reset_index(drop=True)
    table.attrs |= {"units": "s", "bin_width": float(binned["counts"].attrs["bin_width"])}
    return table


def from_counts_table(table: pd.DataFrame, *, bin_width: float | None = None) -> xr.Dataset:
    """A table of :func:`counts_table` as binned counts; bins that have no row get NaN and no exposure.

    Args:
        table: columns ``trial, time, unit, counts`` and, optionally, ``exposure``.
        bin_width: seconds; default ``table.attrs["bin_width"]``.

    Raises:
        SchemaError: a column is missing, or the width of the bins is not known. DataError: a bin has two rows.

    Example:
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"trial": 0, "time": [0.05, 0.15], "unit": "a", "counts": [0.0, 2.0]})
        >>> from_counts_table(rows, bin_width=0.1).counts.values.ravel().tolist()
        [0.0, 2.0]
    """
    from .binned import binned_dataset

    _check_columns(table, ("trial", "time", "unit", "counts"), "the table of counts")
    width = bin_width if bin_width is not None else table.attrs.get("bin_width")
    if width is None:
        raise SchemaError("the width of the bins is not known", variable="bin_width", fix="pass bin_width, seconds")
    labels, places = zip(*(_labels(table, name) for name in _KEYS), strict=True)
    counts = np.full([len(label) for label in labels], np.nan)
    if table.duplicated(list(_KEYS)).any():
        first = int(np.flatnonzero(table.duplicated(list(_KEYS)))[0])
        raise DataError("two rows for one bin", variable="counts", index=first, fix="add them up, or drop one")
    counts[places] = _numbers(table, "counts")
    share = np.zeros(counts.shape[:2])
    np.maximum.at(share, places[:2], _numbers(table, "exposure") if "exposure" in table else 1.0)
    trials, times, cells = labels
    return binned_dataset(counts, trials, times, cells, float(width), share)


_KEYS = ("trial", "time", "unit")


def _labels(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "time":
        return np.unique(_numbers(table, name), return_inverse=True)
    place, labels = table[name].factorize()  # in the order in which they appear
    values = np.asarray(labels)
    return values.astype(str) if values.dtype.kind in "OU" else values, place


def _check_columns(table: pd.DataFrame, names: tuple[str, ...], what: str) -> None:
    absent = [name for name in names if name not in table]
    if absent:
        have = ", ".join(map(str, table.columns))
        raise SchemaError(f"{what} has no column {', '.join(absent)}; it has {have}", fix="rename the columns")


def _check_once(windows: pd.DataFrame) -> None:
    repeated = windows["trial"].duplicated()
    if repeated.any():
        first = int(np.flatnonzero(repeated)[0])
        raise DataError("a trial has two windows", variable="trial", index=first, fix="give each its own label")


def _numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    if table[name].dtype.kind not in "fiu":
        raise DataError("the column is not numeric", variable=name, fix="write numbers")
    return table[name].to_numpy(dtype=np.float64, na_value=np.nan)
