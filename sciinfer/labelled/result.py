"""Labels on: draws in model units to a DataTree in the caller's variables, dims, coordinates and units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ..errors import ConfigError, ShapeError
from .attributes import plain_attrs, plain_coords
from .schema import Schema, Variable

#: arrays of a group that live in the channels of the schema, and are unscaled and unfolded
_FOLDED = ("signal", "observation")


def build_tree(
    schema: Schema,
    *,
    caller_time: np.ndarray,
    series_labels: np.ndarray | None,
    groups: Mapping[str, Mapping[str, Any]],
    observed: xr.Dataset | None = None,
    stats: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """A result with ArviZ groups: dims ``(chain, draw, [series], time, ...)``, ``y = model value * scale + shift``.

    Args:
        schema: of the fit.
        caller_time: ``[T]`` the times asked for, in the caller's clock and order.
        series_labels: ``[S]``, or None (then a single series gets no series dim).
        groups: ``{"posterior": {"signal": [n, S, T, C], "latent": [n, S, T, d]}, ...}`` in model units. ``signal`` and
            ``observation`` become the caller's variables, ``latent`` a variable of that name with dim ``latent_dim``.
        observed: the caller's data; copied into ``observed_data``.
        stats: scalars, or arrays with one entry per draw, for ``sample_stats``.
        attrs: of the root; anything that is not a number or a text is written as JSON.

    Returns:
        ``xarray.DataTree``; chain has length one.

    Raises:
        ShapeError: an array does not fit the schema, the times or the series.

    Example:
        >>> ds = xr.Dataset({"y": ("time", [1.0, 3.0])}, coords={"time": [0.0, 1.0]})
        >>> from sciinfer.labelled import infer_schema
        >>> groups = {"posterior": {"signal": np.zeros((5, 1, 2, 1))}}
        >>> tree = build_tree(infer_schema(ds), caller_time=ds.time.values, series_labels=None, groups=groups)
        >>> dict(tree["posterior"]["y"].sizes), float(tree["posterior"]["y"][0, 0, 0])
        ({'chain': 1, 'draw': 5, 'time': 2}, 2.0)
    """
    arrays = {name: {key: _array(value) for key, value in group.items()} for name, group in groups.items()}
    draws = _check_sizes(schema, arrays, np.shape(caller_time), series_labels)
    coords = _coords(schema, caller_time, series_labels, arrays)
    children = {name: _group(schema, group, coords, draws) for name, group in arrays.items()}
    if stats is not None:
        children["sample_stats"] = _stats(stats, draws)
    if observed is not None:
        children["observed_data"] = plain_coords(observed)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=plain_attrs(attrs or {})), **children})


def interval(array: xr.DataArray, prob: float = 0.9) -> tuple[xr.DataArray, xr.DataArray]:
    """Central interval over ``chain`` and ``draw``: quantiles ``(1 - prob) / 2`` and ``(1 + prob) / 2``.

    Args:
        array: with dims ``chain`` and ``draw``.
        prob: in (0, 1).

    Returns:
        ``(lo, hi)`` without those dims, attributes kept.

    Raises:
        ConfigError: ``prob`` is out of range.

    Example:
        >>> lo, hi = interval(xr.DataArray(np.arange(101.0)[None], dims=("chain", "draw")), 0.5)
        >>> float(lo), float(hi)
        (25.0, 75.0)
    """
    if not 0.0 < prob < 1.0:
        raise ConfigError(f"prob must lie between 0 and 1, got {prob}", fix="pass prob=0.9")
    levels = [0.5 - prob / 2.0, 0.5 + prob / 2.0]
    both = array.quantile(levels, dim=("chain", "draw"), keep_attrs=True)
    return both.isel(quantile=0, drop=True), both.isel(quantile=1, drop=True)


def _array(value: Any) -> np.ndarray:
    # a tensor may need a gradient or live on a device
    plain = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    return np.asarray(plain, dtype=np.float64)


def _check_sizes(
    schema: Schema,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    time_shape: tuple[int, ...],
    labels: np.ndarray | None,
) -> int:
    """Number of draws, the same in all groups."""
    if len(time_shape) != 1:
        raise ShapeError(f"times have shape {time_shape}, expected one axis", variable=schema.time.name)
    draws = 0
    for group, members in arrays.items():
        for key, value in members.items():
            draws = draws or (value.shape[0] if value.ndim else 0)
            counted = value.shape[1] if value.ndim == 4 else 1
            series = counted if labels is None else len(labels)
            last = schema.n_channels if key in _FOLDED else (value.shape[-1] if value.ndim else 0)
            expected = (draws, series, time_shape[0], last)
            if value.shape != expected:
                raise ShapeError(
                    f"{group}/{key} has shape {value.shape}, expected {expected} (draws, series, times, channels)",
                    variable=key,
                    fix="return [n, S, T, C] from the model",
                )
    return draws


def _series_dim(schema: Schema, labels: np.ndarray | None, count: int) -> str | None:
    """A generated series has no label and so no dim; several unlabelled ones are counted."""
    if labels is None and count == 1:
        return None
    return schema.series or "series"


def _coords(
    schema: Schema,
    time: np.ndarray,
    labels: np.ndarray | None,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    count = next((value.shape[1] for group in arrays.values() for value in group.values()), 1)
    attrs = {"units": schema.time.units} if schema.time.units else {}
    coords: dict[str, Any] = {schema.time.name: (schema.time.name, np.array(time), {"axis": "T"} | attrs)}
    series = _series_dim(schema, labels, count)
    if series is not None:
        known = np.arange(count) if labels is None else np.asarray(labels)
        coords = {series: (series, known, {"cf_role": "timeseries_id"})} | coords
    return coords


def _group(schema: Schema, members: Mapping[str, np.ndarray], coords: Mapping[str, Any], draws: int) -> xr.Dataset:
    sample = {"chain": [0], "draw": np.arange(draws)}
    own = [name for name in coords if name != schema.time.name]
    lead = ("chain", "draw", *own, schema.time.name)
    data: dict[str, Any] = {}
    further: dict[str, Any] = {}
    for key, value in members.items():
        rows = value if own else value[:, 0]
        if key in _FOLDED:
            rows = rows * schema.scale + schema.shift
            data.update(_unfold(schema, rows[None], lead))
            further |= {d: list(ls) for v in schema.variables for d, ls in zip(v.dims, v.labels, strict=True) if ls}
        else:
            further[f"{key}_dim"] = np.arange(value.shape[-1])
            data[_free(key, schema)] = ((*lead, f"{key}_dim"), rows[None])
    return xr.Dataset(data, coords={**sample, **coords, **further})


def _unfold(schema: Schema, rows: np.ndarray, lead: tuple[str, ...]) -> dict[str, Any]:
    """``[1, n, ..., T, C]`` to the caller's variables; channels of a variable are neighbours, last dim fastest."""
    out, start = {}, 0
    for spec in schema.variables:
        width = int(np.prod(spec.sizes, dtype=int))
        values = rows[..., start : start + width].reshape(*rows.shape[:-1], *spec.sizes)
        out[spec.name] = ((*lead, *spec.dims), values, _attrs(spec))
        start += width
    return out


def _attrs(spec: Variable) -> dict[str, str]:
    return {"units": spec.units} if spec.units else {}


def _free(key: str, schema: Schema) -> str:
    taken = {spec.name for spec in schema.variables}
    return key if key not in taken else f"{key}_path"


def _stats(stats: Mapping[str, Any], draws: int) -> xr.Dataset:
    """Numbers and arrays as variables (one entry per draw: dims chain, draw), everything else as attributes."""
    data: dict[str, Any] = {}
    attrs: dict[str, Any] = {}
    for name, value in stats.items():
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.dtype.kind not in "fiub":
            attrs[name] = value
        elif array.ndim and array.shape[0] == draws:
            rest = tuple(f"{name}_dim_{i}" for i in range(array.ndim - 1))
            data[name] = (("chain", "draw", *rest), array[None])
        else:
            data[name] = (tuple(f"{name}_dim_{i}" for i in range(array.ndim)), array)
    return xr.Dataset(data, coords={"chain": [0], "draw": np.arange(draws)}, attrs=plain_attrs(attrs))
