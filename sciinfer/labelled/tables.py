"""Tables to Datasets: long frames become contiguous ragged arrays, wide frames get a time dim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import DataError, SchemaError, TimeError
from .stamps import to_nanoseconds
from .tidy import check_exact, notice_casts

TIME_NAMES = ("time", "t", "date", "ds")
SERIES_NAMES = ("id", "series", "series_id", "unique_id", "subject")


def from_table(frame: pd.DataFrame, *, time: str | None = None, series: str | None = None) -> xr.Dataset:
    """A long or wide pandas table as a Dataset (see :func:`sciinfer.labelled.as_dataset`).

    Raises:
        DataError, SchemaError, TimeError: as there.

    Example:
        >>> from_table(pd.DataFrame({"t": [0.0, 1.0], "y": [1.0, 2.0]}))["y"].dims
        ('t',)
    """
    frame = _with_index_columns(frame, time, series)
    if len(frame) == 0:
        raise DataError("the table has no rows", code="data/empty", fix="check the filter or the file that made it")
    series = _series_column(frame, series)
    clock, values = _time_column(frame, time, series)
    columns: dict[str, Any] = {str(c): frame[c] for c in frame.columns if c not in (clock, series)}
    floats = _floats(columns)
    times = _times(values, str(clock))
    if series is None:
        return _wide(str(clock), times, floats)
    return _long(str(clock), times, floats, frame[series])


def _with_index_columns(frame: pd.DataFrame, time: str | None, series: str | None) -> pd.DataFrame:
    frame = frame.rename(columns={c: str(c) for c in frame.columns if not isinstance(c, str)})
    named = [n for n in frame.index.names if n is not None]
    keys = {time, series, *TIME_NAMES, *SERIES_NAMES}
    clash = [n for n in named if n in frame.columns]
    if named and not clash and (isinstance(frame.index, pd.MultiIndex) or named[0] in keys):
        frame = frame.reset_index()
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise SchemaError(f"two columns are called {repeated[0]!r}", variable=str(repeated[0]), fix="rename one")
    return frame


def _series_column(frame: pd.DataFrame, series: str | None) -> str | None:
    if series is None:
        return next((name for name in SERIES_NAMES if name in frame.columns), None)
    if series not in frame.columns:
        raise SchemaError(f"there is no series column {series!r}", fix=f"one of {list(frame.columns)}")
    return series


def _time_column(frame: pd.DataFrame, time: str | None, series: str | None) -> tuple[str, Any]:
    """The name and the values of the times; the index serves where no column does."""
    columns, index = [c for c in frame.columns if c != series], frame.index
    if time is not None and time in columns:
        return time, frame[time]
    if time not in (None, str(index.name or "time")):
        raise SchemaError(f"there is no time column {time!r}", code="schema/no-time", fix=f"one of {columns}")
    if isinstance(index, pd.DatetimeIndex):
        return str(index.name or "time"), index
    named = [name for name in TIME_NAMES if name in columns]
    dated = [c for c in columns if pd.api.types.is_datetime64_any_dtype(frame[c])]
    both = [name for name in named if name in dated]  # a column "t" beside dates is a temperature
    if named or len(dated) == 1:
        found = (both or (dated if len(dated) == 1 else named))[0]
        return found, frame[found]
    counting = isinstance(index, pd.RangeIndex) and series is not None  # row numbers of a long table are no clock
    if pd.api.types.is_numeric_dtype(index) and not counting and not dated:
        return str(index.name or "time"), index
    raise SchemaError(
        f"no time column found; candidates: {dated or columns}",
        code="schema/no-time",
        fix="name it: time='...'",
    )


def _times(values: Any, name: str) -> np.ndarray:
    dtype = values.dtype
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_complex_dtype(dtype) or dtype.kind == "m":
        raise TimeError(f"times of type {dtype} are not supported", variable=name, fix="use numbers or dates")
    if pd.api.types.is_numeric_dtype(dtype):
        return values.to_numpy(dtype=dtype if isinstance(dtype, np.dtype) else np.float64, na_value=np.nan)
    return to_nanoseconds(values if isinstance(dtype, pd.DatetimeTZDtype) else values.to_numpy(), name=name)


def _floats(columns: dict[str, Any]) -> dict[str, np.ndarray]:
    numeric = [n for n, c in columns.items() if pd.api.types.is_numeric_dtype(c.dtype)]
    for name, column in columns.items():
        if pd.api.types.is_complex_dtype(column.dtype):
            raise DataError("complex numbers", variable=name, code="data/complex", fix="split into .real and .imag")
        if name not in numeric:
            raise DataError(
                f"column of type {column.dtype} is not numeric; numeric columns: {numeric}",
                variable=name,
                code="data/not-numeric",
                fix="drop or encode it, or name it as the time or series column",
            )
    whole = [n for n in numeric if columns[n].dtype.kind in "iub"]
    for name in whole:
        check_exact(columns[name].dropna().to_numpy(), name)
    notice_casts(whole)
    return {n: columns[n].to_numpy(dtype=np.float64, na_value=np.nan) for n in numeric}


def _wide(clock: str, times: np.ndarray, floats: dict[str, np.ndarray]) -> xr.Dataset:
    variables = {n: (clock, v.copy()) for n, v in floats.items()}
    return xr.Dataset(variables, coords={clock: (clock, times.copy(), {"axis": "T"})})


def _long(clock: str, times: np.ndarray, floats: dict[str, np.ndarray], labels: Any) -> xr.Dataset:
    """Rows of one series together, series by first appearance, row order kept within each."""
    codes, unique = pd.factorize(labels)
    if (codes < 0).any():
        raise DataError(
            "a series label is missing",
            variable=str(labels.name),
            index=int(np.flatnonzero(codes < 0)[0]),
            code="data/no-label",
            fix="drop the row or name its series",
        )
    order = np.argsort(codes, kind="stable")
    series, taken = str(labels.name), {*floats, clock, str(labels.name)}
    obs, size = _free("obs", taken), _free("row_size", taken)
    data: dict[str, Any] = {n: (obs, v[order]) for n, v in floats.items()}
    data[size] = (series, np.bincount(codes), {"sample_dimension": obs})
    known = (series, _plain(unique), {"cf_role": "timeseries_id"})
    return xr.Dataset(data, coords={clock: (obs, times[order], {"axis": "T"}), series: known})


def _plain(labels: Any) -> np.ndarray:
    values = np.asarray(labels)
    return values.astype(str) if values.dtype.kind in "OUT" else values


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else _free(name + "_", taken)
