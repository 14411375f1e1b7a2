"""Quantile forms of the CRPS, named by their number of levels, and the mean absolute scaled error.

Much of the forecasting literature prints a sum over 9 or 19 quantiles as "CRPS". For a calibrated normal these are
9.4 % and 4.8 % larger than the CRPS itself, so the two are told apart by name and never compared with one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..errors import ConfigError, DataError, ShapeError
from .align import Dims, average, entries, keep_units, names_of

__entries__ = [
    {
        "kind": "metrics",
        "name": "crps_quantile_9",
        "target": "crps_quantile_9",
        "summary": "Quantile loss at 0.1, ..., 0.9: what much of the literature calls CRPS (the true one is smaller).",
        "proper": True,
        "options": {"normalise": "divide the summed loss by the summed |truth|, default False"},
        "references": ("Salinas, Flunkert, Gasthaus, Januschowski (2020), DeepAR",),
    },
    {
        "kind": "metrics",
        "name": "crps_quantile_19",
        "target": "crps_quantile_19",
        "summary": "Quantile loss at 0.05, ..., 0.95: what imputation papers call CRPS (the true one is smaller).",
        "proper": True,
        "options": {"normalise": "divide the summed loss by the summed |truth|, default False"},
        "references": ("Tashiro, Song, Song, Ermon (2021), CSDI",),
    },
]

#: the two sets of levels in use
LEVELS_9 = tuple(round(0.1 * k, 2) for k in range(1, 10))
LEVELS_19 = tuple(round(0.05 * k, 2) for k in range(1, 20))


def pinball(truth: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    r"""Quantile loss :math:`(y - \hat q)(p - 1\{y < \hat q\})`, one per level.

    Args:
        truth: ``[...]``. quantiles: ``[..., L]``. levels: ``L`` probabilities.

    Returns:
        ``[..., L]``.

    Raises:
        ShapeError: another number of quantiles than of levels. ConfigError: a level outside (0, 1).

    Example:
        >>> pinball(np.array(1.0), np.array([0.0, 3.0]), [0.25, 0.75]).tolist()
        [0.25, 0.5]
    """
    probability = np.asarray(levels, dtype=np.float64)
    if np.shape(quantiles)[-1:] != probability.shape:
        raise ShapeError(
            f"{np.shape(quantiles)[-1:]} quantiles for {len(probability)} levels", fix="pass one per level"
        )
    if not ((probability > 0) & (probability < 1)).all():
        raise ConfigError("a level must lie between 0 and 1", variable="levels", fix="pass 0.05 for 5 %")
    error = np.asarray(truth)[..., None] - quantiles
    return np.maximum(probability * error, (probability - 1.0) * error)


def crps_quantile(truth: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    r"""Mean over the levels of twice the quantile loss; an approximation of the CRPS from above in most cases.

    Args:
        truth: ``[...]``. quantiles: ``[..., L]``. levels: ``L`` probabilities.

    Example:
        >>> float(crps_quantile(np.array(1.0), np.array([0.0, 3.0]), [0.25, 0.75]))
        0.75
    """
    return 2.0 * pinball(truth, quantiles, levels).mean(axis=-1)


def crps_quantile_9(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: Dims = "draw",
    over: Dims | None = None,
    normalise: bool = False,
) -> xr.DataArray:
    """Quantile loss of the draws at 0.1, ..., 0.9, times two, averaged over the levels.

    Args:
        truth: any dims; NaN = ignored.
        sample: the truth's dims and ``dim``. Its quantiles are interpolated linearly, as the literature does.
        dim: the dims of the draws. over: dims to average over; None: all.
        normalise: divide the sum over ``over`` by that of ``|truth|`` (the "mean weighted quantile loss"). Without
            meaning on standardised data, where the divisor depends on what zero means.

    Returns:
        The remaining dims of the truth.

    Raises:
        SchemaError: dims do not fit. ShapeError: labels differ. DataError: non-finite draws, or a truth of zeros.

    Example:
        >>> x = xr.DataArray(np.linspace(0.0, 1.0, 101), dims="draw")
        >>> float(crps_quantile_9(xr.DataArray(0.5), x).round(6))
        0.088889
    """
    return _quantile_score(truth, sample, LEVELS_9, dim, over, normalise)


def crps_quantile_19(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: Dims = "draw",
    over: Dims | None = None,
    normalise: bool = False,
) -> xr.DataArray:
    """As :func:`crps_quantile_9`, at 0.05, ..., 0.95.

    Example:
        >>> x = xr.DataArray(np.linspace(0.0, 1.0, 101), dims="draw")
        >>> float(crps_quantile_19(xr.DataArray(0.5), x).round(6))
        0.086842
    """
    return _quantile_score(truth, sample, LEVELS_19, dim, over, normalise)


def mase_scale(insample: np.ndarray, season: int = 1) -> np.ndarray:
    r"""Mean absolute error of the seasonal naive forecast within the training part, :math:`E|y_t - y_{t-m}|`.

    Args:
        insample: ``[n, ...]``, rows in order of time, NaN = missing (pairs with a missing member drop out).
        season: ``m``, rows in a season; 1: the last value.

    Returns:
        ``[...]``; NaN where no pair exists or the training part repeats itself exactly, so that nothing is scaled by 0.

    Raises:
        ConfigError: a season that is not a positive whole number.

    References:
        Hyndman, Koehler (2006), Another look at measures of forecast accuracy

    Example:
        >>> float(mase_scale(np.array([1.0, 2.0, 4.0, np.nan])))
        1.5
    """
    if not isinstance(season, int | np.integer) or isinstance(season, bool) or season < 1:
        raise ConfigError(f"season must be a whole number of rows >= 1, got {season!r}", variable="season", fix="12")
    change = np.abs(insample[season:] - insample[:-season]) if len(insample) > season else insample[:0]
    seen = np.isfinite(change)
    count, total = seen.sum(axis=0), np.where(seen, change, 0.0).sum(axis=0)
    return np.where((count > 0) & (total > 0), total / np.maximum(count, 1), np.nan)


def mase(
    truth: xr.DataArray,
    sample: xr.DataArray,
    insample: xr.DataArray,
    *,
    time: str,
    season: int = 1,
    dim: Dims = "draw",
    over: Dims | None = None,
) -> xr.DataArray:
    """Mean absolute scaled error: that of the draws' median over the in-sample error of the seasonal naive forecast.

    Args:
        truth, sample, dim, over: as for :func:`crps_quantile_9`.
        insample: the training part, with dim ``time`` and any of the truth's others. season: rows in a season.

    Returns:
        The remaining dims of the truth; 1 is as good as repeating the last season one step ahead.

    Raises:
        DataError: a training part that repeats itself exactly, or is shorter than a season.

    Example:
        >>> past = xr.DataArray([0.0, 1.0, 0.0], dims="t")
        >>> future, draws = xr.DataArray([2.0], dims="t"), xr.DataArray([[0.0, 0.0]], dims=("t", "draw"))
        >>> float(mase(future, draws, past, time="t"))
        2.0
    """
    values = insample.transpose(time, ...)
    scale = xr.DataArray(mase_scale(values.values, season), dims=values.dims[1:])
    scale = scale.assign_coords({d: insample[d] for d in scale.dims if d in insample.coords})
    if not bool(np.isfinite(scale).all()):
        raise DataError(
            "the training part is shorter than a season or repeats itself exactly",
            variable=None if insample.name is None else str(insample.name),
            fix="give a longer training part, or another season",
        )
    error = entries(lambda y, x: np.abs(np.median(x, axis=-1) - y), truth, sample, dim)
    return average(error / scale, over)


def _quantile_score(
    truth: xr.DataArray, sample: xr.DataArray, levels: Sequence[float], dim: Dims, over: Dims | None, normalise: bool
) -> xr.DataArray:
    def core(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return crps_quantile(y, np.moveaxis(np.quantile(x, levels, axis=-1), 0, -1), levels)

    score: Any = entries(core, truth, sample, dim)
    if not normalise:
        return keep_units(average(score, over), truth)
    dims = [str(d) for d in score.dims] if over is None else names_of(over)
    total = abs(truth).sum(dims)
    if not bool((total > 0).all()):
        raise DataError("every truth is zero, so there is nothing to divide by", fix="use normalise=False")
    return score.sum(dims) / total
