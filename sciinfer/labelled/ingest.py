"""Labels off: a Dataset to a schema (once, at fit time) and to ragged batches in model units."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from ..errors import DataError, SchemaError, SciInferWarning, TimeError
from .alignment import align, dim_labels
from .frames import as_dataset, as_fitted
from .hashing import data_hash
from .layouts import Layout, find_layout, series_labels
from .scaling import scaled
from .schema import Channel, Schema, Variable
from .series import SeriesBatch, offsets_of
from .support import check_support
from .times import check_precision, query_times, time_axis
from .units import conversion, warn_missing
from .values import Rows, check_numeric, read_rows, value_names

__all__ = ["Encoded", "check_support", "data_hash", "encode", "infer_schema", "query_times"]

#: dims that a result adds
RESERVED = ("chain", "draw", "latent_dim")


class Encoded(NamedTuple):
    """Data without labels.

    Args:
        batch: float64, model units, sorted by time within each series.
        series_labels: ``[S]`` labels, None where the schema has no series dim.
        row_order: ``[N]`` position of each row of the batch in the caller's order, series after series: undo it with
            ``out[row_order] = rows``. Padding has positions too, but no rows.
        counts: ``rows``, ``series``, ``observed`` and ``missing`` (entries).
    """

    batch: SeriesBatch
    series_labels: np.ndarray | None
    row_order: np.ndarray
    counts: dict[str, int]


def infer_schema(
    ds: Any,
    *,
    time: str | None = None,
    series: str | None = None,
    variables: Sequence[str] | None = None,
    scale: bool = True,
    keep: Collection[str] = (),
) -> Schema:
    """What the columns mean and how they scale, from the training data.

    Model time = ``(t - earliest) / typical gap``; model value = ``(y - mean) / std`` of each channel.

    Args:
        ds: anything that :func:`as_dataset` takes.
        time, series: names, where they are not plain to see.
        variables: data variables to model, in this order; default all along time.
        scale: False keeps values as they are (counts). keep: variables that are kept as they are.

    Returns:
        The schema; plain data, saved with a model.

    Raises:
        DataError: empty, infinite, complex, non-numeric or all-missing values.
        SchemaError: time, series or variables not found, or a reserved name.
        TimeError: missing times, or times that do not resolve their spacing.

    Example:
        >>> ds = xr.Dataset({"y": ("time", [1.0, 3.0])}, coords={"time": [0.0, 0.5]})
        >>> infer_schema(ds).time.scale
        0.5
    """
    ds = as_dataset(ds, time=time, series=series)
    layout = find_layout(ds, time, series)
    specs = tuple(_specify(ds, layout, name) for name in _chosen(ds, layout, variables))
    _check_reserved(layout, specs)
    rows = read_rows(ds, layout, specs)
    _check_any_rows(rows, layout)
    channels = [channel for spec in specs for channel in _channels(spec)]
    return Schema(
        time=time_axis(ds[layout.time], rows),
        series=layout.series,
        variables=specs,
        channels=scaled(channels, rows.values, scale=scale, keep=keep),
        layout=layout.kind,
    )


def encode(ds: Any, schema: Schema) -> Encoded:
    """Data as a ragged batch in the units and channels of ``schema``.

    Args:
        ds: anything that :func:`as_dataset` takes; any layout, dims in any order.
        schema: of the fit.

    Raises:
        DataError, TimeError: values or times that cannot be used.
        SchemaError, ShapeError: other variables, dims or sizes than at the fit (both are listed).
        UnitsError: units that cannot be converted.

    Example:
        >>> ds = xr.Dataset({"y": ("time", [1.0, float("nan")])}, coords={"time": [0.0, 0.5]})
        >>> encode(ds, infer_schema(ds, scale=False)).counts["missing"]
        1
    """
    ds = as_fitted(ds, schema)
    layout = _layout_of(ds, schema)
    ds = align(ds, layout, schema.variables)
    rows = read_rows(ds, layout, schema.variables)
    _check_any_rows(rows, layout)
    time, values = _in_units(ds, layout, schema, rows)
    if not rows.sorted:
        warnings.warn(f"times {layout.time!r} were not in order and have been sorted", SciInferWarning, stacklevel=2)
    batch = _batch(schema.time.to_model(time), (values - schema.shift) / schema.scale, rows.lengths)
    labels = series_labels(ds, layout)
    if labels is None and schema.series is not None:
        labels = np.arange(1)
    counts = {"rows": len(rows.time), "series": batch.n_series, "observed": batch.observed}
    counts["missing"] = values.size - batch.observed
    return Encoded(batch, labels, rows.position, counts)


def _chosen(ds: xr.Dataset, layout: Layout, variables: Sequence[str] | None) -> list[str]:
    along, others = value_names(ds, layout)
    numeric = [name for name in along if ds[name].dtype.kind in "fiub"]
    if variables is None:
        if along and not numeric and not any(ds[n].dtype.kind == "c" for n in along):
            raise SchemaError(f"no numeric variables along time; found {along}", fix="convert one to numbers")
        if not along:
            raise SchemaError(f"no variables have the dim {layout.dim!r}; found {others}", fix="check the dims")
        if others:
            warnings.warn(f"left out, they do not vary in time: {', '.join(others)}", SciInferWarning, stacklevel=3)
    names = along if variables is None else [variables] if isinstance(variables, str) else list(variables)
    unknown = [name for name in names if name not in ds.data_vars]
    if unknown or not names:
        raise SchemaError(
            f"there are no variables {unknown}; found {along}", code="schema/variables", fix="choose some"
        )
    for name in names:
        check_numeric(ds[name], numeric)
    return names


def _specify(ds: xr.Dataset, layout: Layout, name: str) -> Variable:
    # sorted, so that a transposed array gives the same channels in the same order
    dims = sorted(str(d) for d in ds[name].dims if d not in layout.row_dims)
    return Variable(
        name=name,
        dims=tuple(dims),
        sizes=tuple(ds.sizes[d] for d in dims),
        labels=tuple(dim_labels(ds, d) for d in dims),
        units=_units(ds[name]),
    )


def _channels(spec: Variable) -> list[Channel]:
    cells = itertools.product(*(range(size) for size in spec.sizes))
    return [Channel(spec.name, cell, _cell_label(spec, cell), spec.units) for cell in cells]


def _cell_label(spec: Variable, cell: tuple[int, ...]) -> str:
    named = [f"{d}={ls[i] if ls else i}" for d, ls, i in zip(spec.dims, spec.labels, cell, strict=True)]
    return f"{spec.name}[{', '.join(named)}]" if named else spec.name


def _units(var: xr.DataArray) -> str | None:
    units = var.attrs.get("units")
    return None if units is None or not str(units).strip() else str(units).strip()


def _check_reserved(layout: Layout, specs: Sequence[Variable]) -> None:
    used = [layout.time, *layout.row_dims, layout.series, *(d for s in specs for d in (s.name, *s.dims))]
    clash = [name for name in used if name in RESERVED]
    if clash:
        raise SchemaError(f"{clash[0]!r} is a dim of results", fix=f"rename it: ds.rename({clash[0]}='...')")


def _check_any_rows(rows: Rows, layout: Layout) -> None:
    if len(rows.time) == 0:
        raise DataError("every time is missing", variable=layout.time, code="data/empty", fix="check the selection")


def _layout_of(ds: xr.Dataset, schema: Schema) -> Layout:
    found = find_layout(ds, schema.time.name, schema.series if schema.series in ds.dims else None)
    if found.series is not None and found.series != schema.series:
        told = f"series dim {schema.series!r}" if schema.series else "a single series"
        raise SchemaError(
            f"the data have the series dim {found.series!r}, the model was fitted on {told}",
            dim=found.series,
            fix=f"rename it, or select one series: ds.isel({found.series}=0)",
        )
    return found


def _in_units(ds: xr.Dataset, layout: Layout, schema: Schema, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Times and values in the units of the fit."""
    coord, axis = ds[layout.time], schema.time
    check_precision(coord, rows)
    kind = "datetime" if rows.time.dtype.kind == "M" else "number"
    if kind != axis.kind:
        raise TimeError(
            f"times are {kind}s, the model was fitted on {axis.kind}s", variable=axis.name, fix="convert the times"
        )
    have = {spec.name: _units(ds[spec.name]) for spec in schema.variables}
    wanted = {spec.name: spec.units for spec in schema.variables}
    if kind == "number":
        have[axis.name], wanted[axis.name] = _units(coord), axis.units
    factors = {name: conversion(name, have[name], wanted[name]) for name in have}
    warn_missing([name for name in have if have[name] is None and wanted[name] is not None])
    per_channel = np.array([factors[channel.variable] for channel in schema.channels])
    time = rows.time * factors[axis.name] if kind == "number" else rows.time
    return time, rows.values * per_channel


def _batch(time: np.ndarray, values: np.ndarray, lengths: np.ndarray) -> SeriesBatch:
    stacked = torch.from_numpy(np.ascontiguousarray(values))
    return SeriesBatch(
        torch.from_numpy(np.ascontiguousarray(time)),
        stacked.nan_to_num(nan=0.0),
        ~stacked.isnan(),
        offsets_of(torch.from_numpy(lengths)),
    )
