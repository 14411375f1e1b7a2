"""Truth and draws brought together by label, checked, and handed to a core as arrays with the draws last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xarray as xr

from ..errors import DataError, SchemaError, ShapeError

Dims = str | Iterable[str]
Core = Callable[[np.ndarray, np.ndarray], np.ndarray]


def entries(core: Core, truth: xr.DataArray, sample: xr.DataArray, dim: Dims) -> xr.DataArray:
    """``core(truth [...], draws [..., m])`` for each entry, NaN where the truth is NaN."""
    truth, sample, draws = prepared(truth, sample, dim)

    def flat(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        # entries without a truth are scored against 0 and blanked, so that no NaN enters a sort or a comparison
        seen = ~np.isnan(y)
        x = np.where(seen[..., None], x.reshape(*x.shape[: x.ndim - len(draws)], -1), np.arange(_draws(x, draws)))
        return np.where(seen, core(np.where(seen, y, 0.0), x), np.nan)

    return xr.apply_ufunc(flat, truth, sample, input_core_dims=[[], draws], join="exact")


def prepared(truth: xr.DataArray, sample: xr.DataArray, dim: Dims) -> tuple[xr.DataArray, xr.DataArray, list[str]]:
    """Both in float64 and memory, exactly aligned, finite where it matters; and the names of the draws' dims.

    A dim that only the truth has means the same forecast for each of its entries.
    """
    draws = names_of(dim)
    _subset(draws, sample, "the sample")
    extra = [str(d) for d in sample.dims if d not in truth.dims and d not in draws]
    if extra:
        raise SchemaError(
            f"the sample has a dim that the truth lacks: {extra}",
            dim=extra[0],
            fix=f"pass dim={(*extra, *draws)} if it counts draws, or select one of its entries",
        )
    try:
        truth, sample = xr.align(_floats(truth), _floats(sample), join="exact", copy=False)
    except ValueError as err:
        raise ShapeError(
            f"the labels of truth and sample differ: {err}", fix="select the same labels, for example by xr.align"
        ) from err
    sample = sample.expand_dims({d: truth.sizes[d] for d in truth.dims if d not in sample.dims})
    sample = sample.assign_coords({d: truth[d] for d in truth.dims if d in truth.indexes})
    sample = sample.transpose(*truth.dims, *draws)
    _check_finite(truth, sample, len(draws))
    return truth, sample, draws


def average(score: xr.DataArray, over: Dims | None) -> xr.DataArray:
    """Mean over the dims ``over`` (None: all), without the entries that have no truth."""
    dims = [str(d) for d in score.dims] if over is None else names_of(over)
    _subset(dims, score, "the score")
    return score.mean(dims, skipna=True) if dims else score


def keep_units(score: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """The score with the truth's units."""
    return score.assign_attrs(units=truth.attrs["units"]) if "units" in truth.attrs else score


def names_of(dims: Dims) -> list[str]:
    """One or several dim names as a list."""
    return [dims] if isinstance(dims, str) else [str(d) for d in dims]


def _draws(x: np.ndarray, draws: list[str]) -> int:
    return int(np.prod(x.shape[x.ndim - len(draws) :]))


def _floats(array: xr.DataArray) -> xr.DataArray:
    if array.dtype.kind not in "fiub":
        raise DataError(f"scores need numbers, got {array.dtype}", variable=_name(array), fix="convert it to float")
    return array.compute().astype(np.float64)


def _check_finite(truth: xr.DataArray, sample: xr.DataArray, n_draw_dims: int) -> None:
    y, x = truth.values, sample.values
    bad_truth = np.isinf(y)
    lead = x.ndim - n_draw_dims
    bad = ~np.isfinite(x.reshape(*x.shape[:lead], -1)).all(axis=-1) & ~np.isnan(y)
    for wrong, array, what in ((bad_truth, truth, "the truth is infinite"), (bad, sample, "a draw is not finite")):
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(what, variable=_name(array), index=index or None, fix="mask the truth there with NaN")


def _subset(dims: Iterable[str], array: xr.DataArray, who: str) -> None:
    missing = [d for d in dims if d not in array.dims]
    if missing:
        raise SchemaError(f"{who} has dims {tuple(array.dims)}", dim=missing[0], fix="name or add the missing dim")


def _name(array: xr.DataArray) -> Any:
    return None if array.name is None else str(array.name)
