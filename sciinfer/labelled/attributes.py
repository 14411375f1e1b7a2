"""Attributes and coordinates in the forms that files can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr


def plain_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Numbers, texts and flat arrays of them as they are; everything else as JSON text.

    Example:
        >>> plain_attrs({"seed": 0, "config": {"lr": 0.1}, "note": None})
        {'seed': 0, 'config': '{"lr": 0.1}', 'note': 'null'}
    """
    return {str(name): _plain(value) for name, value in attrs.items()}


def plain_coords(ds: xr.Dataset) -> xr.Dataset:
    """A deep copy whose attributes and indexes files can hold; values, dims, names and times are unchanged."""
    out = ds.copy(deep=True)
    stacked = [name for name, index in out.indexes.items() if isinstance(index, pd.MultiIndex)]
    if stacked:
        out = out.reset_index([d for d in out.dims if d in stacked])
    out.attrs = plain_attrs(out.attrs)
    for var in out.variables.values():
        var.attrs = plain_attrs(var.attrs)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, (float, str)):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.ndim == 1 and value.size:
        return value
    return json.dumps(value, default=_default)


def _default(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return str(value)
