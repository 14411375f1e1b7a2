"""Light curves in plain tables: time, brightness, error bar, band, object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from sciinfer.errors import DataError, SchemaError, TimeError
from sciinfer.extend import registry

if TYPE_CHECKING:
    import pandas as pd

_TIMES = {
    "time": "time",
    "mjd": "modified Julian date",
    "hjd": "heliocentric Julian date",
    "bjd": "barycentric Julian date",
    "jd": "Julian date",
}
_ERRORS = {"mag": ("err", "magerr", "mag_err", "e_mag"), "flux": ("err", "fluxerr", "flux_err", "e_flux")}
_OBJECTS = ("object_id", "object", "id", "name")


class _Columns(NamedTuple):
    time: str
    kind: str
    value: str
    error: str | None
    band: str | None
    object: str | None


def read_light_curve(path: Path | str, *, limits: Any, flux_units: str = "1") -> xr.Dataset:
    """Read a CSV light curve of one or many objects, in one or many bands.

    Args:
        path: the file; columns as in the README, in any order and case.
        limits: limits on the size of the file.
        flux_units: units of a ``flux`` column (a ``mag`` column is in ``mag``).

    Returns:
        Contiguous ragged data set: dims ``obs`` and, with a band column, ``band``; variables ``mag`` or ``flux`` and
        ``mag_err`` or ``flux_err`` (NaN where a row is of another band), ``time(obs)`` in days, ``row_size(series)``.

    Raises:
        SchemaError: a column is missing, or both magnitudes and fluxes are there.
        DataError: an infinite value, or an error bar that is not positive.
        TimeError: a missing or infinite time.
    """
    table = registry().get("readers", "csv")(Path(path), limits=limits)
    columns = _columns(path, table)
    _check(table, columns)
    order = np.lexsort((table[columns.time].to_numpy(float), _labels(table, columns)))
    table = table.iloc[order]
    units = "mag" if columns.kind == "mag" else flux_units
    return _dataset(table, columns, units)


def _columns(path: Path | str, table: pd.DataFrame) -> _Columns:
    known = {str(column).strip().lower(): str(column) for column in table.columns}

    def find(names: tuple[str, ...]) -> str | None:
        return next((known[name] for name in names if name in known), None)

    time, kinds = find(tuple(_TIMES)), [kind for kind in ("mag", "flux") if kind in known]
    if time is None or len(kinds) != 1:
        what = "no time column" if time is None else f"{len(kinds)} brightness columns"
        raise SchemaError(
            f"{path} has {what}; its columns are {', '.join(map(str, table.columns))}",
            fix=f"name one column {' or '.join(_TIMES)}, and one mag or flux",
        )
    return _Columns(time, kinds[0], known[kinds[0]], find(_ERRORS[kinds[0]]), find(("band", "filter")), find(_OBJECTS))


def _check(table: pd.DataFrame, columns: _Columns) -> None:
    if not len(table):
        raise DataError("the file has no rows", variable=columns.value, fix="check how it was made")
    for column in (columns.time, columns.value, columns.error):
        if column is not None and table[column].dtype.kind not in "fiu":
            raise DataError("the column is not numeric", variable=column, fix="write missing values as empty fields")
    time, value = table[columns.time].to_numpy(float), table[columns.value].to_numpy(float)
    if not np.isfinite(time).all():
        first = int(np.flatnonzero(~np.isfinite(time))[0])
        raise TimeError("a time is missing or infinite", variable=columns.time, index=first, fix="drop the row")
    if np.isinf(value).any():
        first = int(np.flatnonzero(np.isinf(value))[0])
        raise DataError("value is infinite", variable=columns.value, index=first, fix="leave the field empty")
    if columns.error is not None:
        _check_errors(table, columns.error, value)


def _check_errors(table: pd.DataFrame, column: str, value: np.ndarray) -> None:
    error = table[column].to_numpy(float)
    bad = ~(np.isfinite(error) & (error > 0)) & ~np.isnan(value)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"error bar is {error[first]}, it must be positive",
            variable=column,
            index=first,
            code="data/noise",
            fix="drop the row, or write its true error bar",
        )


def _labels(table: pd.DataFrame, columns: _Columns) -> np.ndarray:
    return np.zeros(len(table), dtype=int) if columns.object is None else table[columns.object].to_numpy()


def _dataset(table: pd.DataFrame, columns: _Columns, units: str) -> xr.Dataset:
    labels, sizes = np.unique(_labels(table, columns), return_counts=True)
    key = columns.time.strip().lower()
    ds = xr.Dataset(
        {"row_size": ("series", sizes, {"sample_dimension": "obs"})},
        coords={
            "series": labels.astype(str) if labels.dtype.kind == "O" else labels,
            "time": ("obs", table[columns.time].to_numpy(float), {"units": "d", "long_name": _TIMES[key], "axis": "T"}),
        },
        attrs={"title": "light curves", "featureType": "timeSeries"},
    )
    names = {columns.kind: columns.value, f"{columns.kind}_err": columns.error}
    for name, column in names.items():
        if column is not None:
            dims, values = _channels(table, column, columns.band)
            ds[name] = (dims, values, {"units": units})
    if columns.band is not None:
        ds["band"] = ("band", np.unique(table[columns.band].to_numpy(str)))
    return ds


def _channels(table: pd.DataFrame, column: str, band: str | None) -> tuple[tuple[str, ...], np.ndarray]:
    values = table[column].to_numpy(float)
    if band is None:
        return ("obs",), values
    bands, place = np.unique(table[band].to_numpy(str), return_inverse=True)
    spread = np.full((len(values), len(bands)), np.nan)
    spread[np.arange(len(values)), place] = values
    return ("obs", "band"), spread
