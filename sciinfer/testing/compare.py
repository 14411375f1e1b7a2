"""Bit-equality of anything that an entry may return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def same(a: Any, b: Any) -> bool:
    """True if two results are equal to the last bit (NaN equals NaN, dtypes and labels count)."""
    import numpy as np
    import torch
    import xarray as xr

    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and same(a.detach().cpu().numpy(), b.detach().cpu().numpy())
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and _equal_arrays(a, b)
    if isinstance(a, (xr.Dataset, xr.DataArray, xr.DataTree)):
        return a.identical(b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    equals = getattr(a, "equals", None)  # data frames
    return bool(equals(b)) if equals is not None else bool(a == b) or (a != a and b != b)


def _equal_arrays(a: Any, b: Any) -> bool:
    import numpy as np

    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fcmM"))
