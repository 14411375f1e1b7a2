"""The caller's data as rows that can be cut at any row of any series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ..labelled.frames import as_dataset
from ..labelled.ingest import infer_schema
from ..labelled.layouts import Layout, find_layout, series_labels
from ..labelled.schema import Schema
from ..labelled.values import Rows, read_rows


@dataclass(frozen=True)
class Panel:
    """Data in the caller's own units.

    Args:
        ds: the Dataset. layout: where time and series are. schema: unscaled; it only reads, no model sees it.
        rows: sorted by time within each series. labels: ``[S]``, or None for a single series without a dim.
    """

    ds: xr.Dataset
    layout: Layout
    schema: Schema
    rows: Rows
    labels: np.ndarray | None

    @property
    def starts(self) -> np.ndarray:
        """``[S + 1]``: where each series begins among the rows."""
        return np.concatenate([[0], np.cumsum(self.rows.lengths)])

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.rows.lengths)

    def name(self, series: int) -> str:
        """What the caller calls a series."""
        return "the series" if self.labels is None else f"series {self.labels[series].item()!r}"

    def cut(self, low: np.ndarray, high: np.ndarray) -> xr.Dataset:
        """Rows ``low[s]:high[s]`` of every series, in the caller's layout."""
        chosen = [np.arange(self.starts[s] + low[s], self.starts[s] + high[s]) for s in range(self.n_series)]
        position = self.rows.position[np.concatenate(chosen)]
        if self.layout.kind == "padded":
            return self._padded(position)
        if self.layout.kind == "grid":
            # the same rows of every series: positions of the first are those along the dim
            return self.ds.isel({self.layout.dim: self.rows.position[chosen[0]]})
        out = self.ds.isel({self.layout.dim: position})
        size = self.ds[str(self.layout.row_size)]
        return out.assign({str(self.layout.row_size): size.copy(data=(high - low).astype(np.int64))})

    def _padded(self, position: np.ndarray) -> xr.Dataset:
        row_dims = self.layout.row_dims
        shape = tuple(self.ds.sizes[d] for d in row_dims)
        keep = np.zeros(int(np.prod(shape)), dtype=bool)
        keep[position] = True
        kept = xr.DataArray(keep.reshape(shape), dims=row_dims)
        time = self.ds[self.layout.time]
        values = {str(v.name): v.where(kept) for v in self.ds.data_vars.values() if set(row_dims) <= set(v.dims)}
        return self.ds.assign(values).assign_coords({self.layout.time: time.where(kept).transpose(*time.dims)})


def read_panel(data: Any, *, time: str | None, series: str | None, variables: Sequence[str] | None) -> Panel:
    """Data of any make, cut down to the variables asked for.

    Raises:
        DataError, SchemaError, TimeError: as :func:`sciinfer.fit`.
    """
    ds = as_dataset(data, time=time, series=series)
    schema = infer_schema(ds, time=time, series=series, variables=variables, scale=False)
    layout = find_layout(ds, schema.time.name, schema.series)
    names = [variable.name for variable in schema.variables]
    ds = ds[[*names, layout.row_size] if layout.row_size else names]
    return Panel(ds, layout, schema, read_rows(ds, layout, schema.variables), series_labels(ds, layout))
