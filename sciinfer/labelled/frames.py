"""Whatever the caller holds to an ``xarray.Dataset``: arrays with labels, pandas and Arrow tables, long or wide."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
import xarray as xr

from ..errors import DataError, SchemaError
from .schema import Schema
from .tables import from_table
from .tidy import tidy

_ADVICE = "pass an xarray.Dataset, an xarray.DataArray, or a table: pd.DataFrame(data) with a time column"


def as_dataset(data: Any, *, time: str | None = None, series: str | None = None) -> xr.Dataset:
    """Labelled data of any make as a Dataset with float64 variables and plain times. The input is not changed.

    A long table (one with a series column) becomes the CF contiguous ragged layout: dim ``obs``, a time coordinate on
    it, ``row_size(series)`` with ``sample_dimension="obs"``; a wide one gets the time as its only dim. Time and series
    keep the caller's column names.

    Args:
        data: ``xarray.Dataset``, ``xarray.DataArray`` (unnamed: ``"value"``), pandas ``DataFrame`` or ``Series``,
            polars or any table that speaks Arrow or the dataframe interchange.
        time: column or coordinate of the times; found by name (``time``, ``t``, ``date``, ``ds``) or type otherwise.
        series: column of the series labels; ``id``, ``series``, ``series_id``, ``unique_id`` or ``subject`` otherwise.

    Returns:
        A new Dataset; whole numbers and booleans cast to float64 and time zones to UTC, with a notice.

    Raises:
        DataError: a column that is not numeric, or data without labels.
        SchemaError: no time column, or two of the same name.
        TimeError: times that cannot be read.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"id": ["a", "a", "b"], "time": [0.0, 1.0, 0.5], "flux": [1.0, 2.0, 3.0]})
        >>> as_dataset(frame)["row_size"].values.tolist()
        [2, 1]
    """
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name if data.name is not None else "value", promote_attrs=False)
    if isinstance(data, xr.Dataset):
        return tidy(data if time is None or time not in data.data_vars else data.set_coords(time))
    if isinstance(data, pd.Series):
        data = data.to_frame(data.name if data.name is not None else "value")
    if not isinstance(data, pd.DataFrame):
        data = _to_pandas(data)
    return from_table(data, time=time, series=series)


def as_fitted(data: Any, schema: Schema) -> xr.Dataset:
    """:func:`as_dataset` with the time and series columns of a fit (a single new series needs no series column).

    Example:
        >>> from sciinfer.labelled import infer_schema
        >>> frame = pd.DataFrame({"hour": [0.0, 1.0], "y": [1.0, 2.0]})
        >>> as_fitted(frame, infer_schema(frame, time="hour"))["y"].dims
        ('hour',)
    """
    if isinstance(data, (xr.Dataset, xr.DataArray)):
        return as_dataset(data, time=schema.time.name if isinstance(data, xr.Dataset) else None)
    index = getattr(data, "index", None)
    columns = {*getattr(data, "columns", ()), *getattr(index, "names", ())}
    return as_dataset(data, time=schema.time.name, series=schema.series if schema.series in columns else None)


def _to_pandas(data: Any) -> pd.DataFrame:
    arrow, interchange = hasattr(data, "__arrow_c_stream__"), hasattr(data, "__dataframe__")
    if not (arrow or interchange):
        _refuse(data)
    if interchange and not arrow:
        return _interchange(data)
    try:
        import pyarrow
    except ImportError:
        if interchange:
            return _interchange(data)
        from ..extend import require

        pyarrow = require("pyarrow", extra="io", purpose="an Arrow table")
    return pyarrow.table(data).to_pandas()


def _interchange(data: Any) -> pd.DataFrame:
    with warnings.catch_warnings():  # pandas deprecates the protocol that older tables still speak alone
        warnings.simplefilter("ignore", DeprecationWarning)
        return pd.api.interchange.from_dataframe(data)


def _refuse(data: Any) -> None:
    kind = type(data).__name__
    if isinstance(data, dict):
        raise SchemaError(f"a {kind} of arrays does not say which dim is time", code="schema/unlabelled", fix=_ADVICE)
    raise DataError(f"data of type {kind} carry no labels", code="data/unlabelled", fix=_ADVICE)
