"""New data against the variables of the fit: same names, same dims, same labels, in whatever order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..errors import SchemaError, ShapeError
from .layouts import Layout
from .schema import Variable


def dim_labels(ds: xr.Dataset, dim: str) -> tuple[Any, ...]:
    """The labels along a dim as plain Python values (dates as ISO strings); empty without a coordinate.

    Example:
        >>> dim_labels(xr.Dataset(coords={"lat": [1.5, 2.5]}), "lat")
        (1.5, 2.5)
    """
    if dim not in ds.coords:
        return ()
    values = np.asarray(ds.coords[dim].to_index().to_numpy())
    return tuple(v if isinstance(v, (bool, int, float, str)) else str(v) for v in _plain(values))


def align(ds: xr.Dataset, layout: Layout, variables: Sequence[Variable]) -> xr.Dataset:
    """``ds`` with the further dims of each variable in the order of the fit.

    Raises:
        ShapeError: variables are missing, or sizes differ; both sides are listed.
        SchemaError: other dims or labels than at the fit.

    Example:
        >>> ds = xr.Dataset({"y": (("t", "x"), [[1.0, 2.0]])}, coords={"t": [0.0], "x": ["b", "a"]})
        >>> align(ds, Layout("grid", "t", "t"), [Variable("y", ("x",), (2,), (("a", "b"),))])["y"].values
        array([[2., 1.]])
    """
    expected, found = [v.name for v in variables], [str(n) for n in ds.data_vars]
    absent = [name for name in expected if name not in found]
    if absent:
        raise ShapeError(
            f"the model was fitted on the variables {expected}, the data have {found}",
            variable=absent[0],
            code="shape/channels",
            fix="pass all of them (NaN where nothing was measured)",
        )
    picks: dict[str, np.ndarray] = {}
    for spec in variables:
        _check_dims(ds, layout, spec)
        for dim, labels in zip(spec.dims, spec.labels, strict=True):
            picks[dim] = _order(ds, spec, dim, labels)
    return ds.isel({dim: pick for dim, pick in picks.items() if (np.diff(pick) != 1).any()})


def _check_dims(ds: xr.Dataset, layout: Layout, spec: Variable) -> None:
    dims = sorted(str(d) for d in ds[spec.name].dims if d not in layout.row_dims)
    if tuple(dims) != spec.dims:
        raise SchemaError(
            f"besides series and time the fit had the dims {list(spec.dims)}, the data have {dims}",
            variable=spec.name,
            fix="rename, select or expand dims",
        )
    sizes = tuple(ds.sizes[d] for d in dims)
    if sizes != spec.sizes:
        raise ShapeError(
            f"the fit had sizes {dict(zip(dims, spec.sizes, strict=True))}, "
            f"the data have {dict(zip(dims, sizes, strict=True))}",
            variable=spec.name,
            dim=next(d for d, a, b in zip(dims, sizes, spec.sizes, strict=True) if a != b),
            code="shape/channels",
            fix="pass the same channels (NaN where nothing was measured)",
        )


def _order(ds: xr.Dataset, spec: Variable, dim: str, labels: tuple[Any, ...]) -> np.ndarray:
    have = dim_labels(ds, dim)
    if not labels or not have or have == labels:
        return np.arange(ds.sizes[dim])
    place = {label: i for i, label in enumerate(have)}
    if len(place) != len(have) or set(place) != set(labels):
        raise SchemaError(
            f"the fit had the labels {_short(labels)}, the data have {_short(have)}",
            variable=spec.name,
            dim=dim,
            code="schema/labels",
            fix="select the labels of the fit",
        )
    return np.array([place[label] for label in labels])


def _plain(values: np.ndarray) -> list[Any]:
    if values.dtype.kind == "M":
        return [str(v) for v in values]
    return values.tolist()


def _short(labels: tuple[Any, ...]) -> str:
    shown = ", ".join(map(repr, labels[:8]))
    return f"[{shown}{', ...' if len(labels) > 8 else ''}]"
