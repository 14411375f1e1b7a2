"""Scores of draws against the truth, on labelled arrays.

Every metric is ``metric(truth, sample, *, dim="draw", over=None)``: ``dim`` names the draws (several are stacked, as in
``("chain", "draw")``), ``over`` the dims to average over (None: all, ``[]``: one value per entry). Entries whose truth
is NaN are ignored. Labels must agree exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ..errors import DataError
from . import cores
from .align import Dims, average, entries, keep_units, names_of, prepared

__entries__ = [
    {"kind": "metrics", "name": "rmse", "target": "rmse", "summary": "Root mean squared error of the draws' mean."},
    {"kind": "metrics", "name": "mae", "target": "mae", "summary": "Mean absolute error of the draws' median."},
    {
        "kind": "metrics",
        "name": "crps",
        "target": "crps",
        "summary": "Continuous ranked probability score, fair for any number of draws.",
        "proper": True,
        "references": ("Gneiting & Raftery (2007), Strictly proper scoring rules", "Ferro (2014), Fair scores"),
    },
    {
        "kind": "metrics",
        "name": "energy_score",
        "target": "energy_score",
        "summary": "Energy score: the CRPS of vectors, fair for any number of draws.",
        "proper": True,
        "references": ("Gneiting & Raftery (2007), Strictly proper scoring rules",),
    },
    {
        "kind": "metrics",
        "name": "interval_score",
        "target": "interval_score",
        "summary": "Width of the central interval plus a penalty for each miss.",
        "proper": True,
        "options": {"prob": "probability of the interval, default 0.9"},
        "references": ("Winkler (1972), A decision-theoretic approach to interval estimation",),
    },
    {
        "kind": "metrics",
        "name": "coverage",
        "target": "coverage",
        "summary": "Share of truths inside the central interval; best is the interval's own probability.",
        "orientation": "target",
        "options": {"prob": "probability of the interval, default 0.9"},
    },
    {
        "kind": "metrics",
        "name": "coverage_error",
        "target": "coverage_error",
        "summary": "Distance of the coverage from the interval's probability.",
        "options": {"prob": "probability of the interval, default 0.9"},
    },
    {
        "kind": "metrics",
        "name": "nlpd",
        "target": "nlpd",
        "summary": "Negative log density of a normal with the draws' mean and variance.",
        "proper": True,
        "references": ("Dawid & Sebastiani (1999), Coherent dispersion criteria",),
    },
]


def rmse(truth: xr.DataArray, sample: xr.DataArray, *, dim: Dims = "draw", over: Dims | None = None) -> xr.DataArray:
    """Root mean squared error of the draws' mean: sqrt(mean((mean(x) - y)^2)), in the truth's units.

    Args:
        truth: any dims; NaN = ignored.
        sample: the truth's dims and ``dim``.
        dim: the dims of the draws.
        over: dims to average over; None: all.

    Returns:
        The remaining dims of the truth.

    Raises:
        SchemaError: dims do not fit. ShapeError: labels differ. DataError: too few or non-finite draws.

    Example:
        >>> y, x = xr.DataArray([1.0, 2.0], dims="t"), xr.DataArray([[0.0, 2.0], [4.0, 4.0]], dims=("t", "draw"))
        >>> float(rmse(y, x).round(6))
        1.414214
    """
    error = entries(lambda y, x: (x.mean(axis=-1) - y) ** 2, truth, sample, dim)
    return keep_units(average(error, over) ** 0.5, truth)


def mae(truth: xr.DataArray, sample: xr.DataArray, *, dim: Dims = "draw", over: Dims | None = None) -> xr.DataArray:
    """Mean absolute error of the draws' median, in the truth's units (arguments as for :func:`rmse`).

    Example:
        >>> float(mae(xr.DataArray(1.0), xr.DataArray([0.0, 3.0, 9.0], dims="draw")))
        2.0
    """
    error = entries(lambda y, x: np.abs(np.median(x, axis=-1) - y), truth, sample, dim)
    return keep_units(average(error, over), truth)


def crps(truth: xr.DataArray, sample: xr.DataArray, *, dim: Dims = "draw", over: Dims | None = None) -> xr.DataArray:
    r"""Fair ensemble CRPS: mean_i |x_i - y| - 1 / (2 m (m - 1)) sum_ij |x_i - x_j| (arguments as for :func:`rmse`).

    Unbiased: its expectation does not depend on the number of draws. One draw raises.

    References:
        Ferro (2014), Fair scores for ensemble forecasts.

    Example:
        >>> float(crps(xr.DataArray(1.0), xr.DataArray([0.0, 2.0], dims="draw")))
        0.0
    """
    return keep_units(average(entries(cores.crps_fair, truth, sample, dim), over), truth)


def energy_score(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: Dims = "draw",
    across: Dims | None = None,
    over: Dims | None = None,
) -> xr.DataArray:
    """Fair energy score of the vectors formed by the dims ``across`` (None: all dims of the truth are one vector).

    Missing components are left out of the norm; the rest as for :func:`rmse`.

    Example:
        >>> y, x = xr.DataArray([0.0, 0.0], dims="c"), xr.DataArray([[3.0, 3.0], [4.0, 4.0]], dims=("c", "draw"))
        >>> float(energy_score(y, x))
        5.0
    """
    truth, sample, draws = prepared(truth, sample, dim)
    vector = [str(d) for d in truth.dims] if across is None else names_of(across)

    def core(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        lead = y.ndim - len(vector)
        flat = x.reshape(*x.shape[:lead], int(np.prod(y.shape[lead:])), -1)
        return cores.energy_fair(y.reshape(*y.shape[:lead], -1), flat)

    score = xr.apply_ufunc(core, truth, sample, input_core_dims=[vector, [*vector, *draws]], join="exact")
    return keep_units(average(score, over), truth)


def interval_score(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: Dims = "draw",
    prob: float = 0.9,
    over: Dims | None = None,
) -> xr.DataArray:
    """Interval score of the central ``prob`` interval: (u - l) + 2/(1 - prob) ((l - y)+ + (y - u)+); lower is better.

    The quantile p of m draws is the order statistic at p (m + 1), linearly interpolated (Weibull's convention).

    Example:
        >>> x = xr.DataArray([0.0, 1.0, 2.0], dims="draw")
        >>> float(interval_score(xr.DataArray(3.0), x, prob=0.5))
        6.0
    """

    def core(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return cores.interval_penalty(y, *cores.interval(x, prob), prob)

    return keep_units(average(entries(core, truth, sample, dim), over), truth)


def coverage(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: Dims = "draw",
    prob: float = 0.9,
    over: Dims | None = None,
) -> xr.DataArray:
    """Share of truths inside the equal-tailed ``prob`` interval; exactly ``prob`` on average for calibrated draws.

    An edge of the interval falls in a gap between two sorted draws; a truth in that gap counts with the fraction of the
    gap that is inside. So the expectation is right for any number of draws (quantiles of few draws cover too little).

    Example:
        >>> x = xr.DataArray([0.0, 1.0, 2.0], dims="draw")
        >>> [float(coverage(xr.DataArray(y), x, prob=0.5)) for y in (-1.0, 0.5, 1.5, 3.0)]
        [0.0, 1.0, 1.0, 0.0]
    """
    return average(entries(lambda y, x: cores.covered(y, x, prob), truth, sample, dim), over)


def coverage_error(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: Dims = "draw",
    prob: float = 0.9,
    over: Dims | None = None,
) -> xr.DataArray:
    """Distance of :func:`coverage` from ``prob``; 0 is best.

    Example:
        >>> round(float(coverage_error(xr.DataArray(9.0), xr.DataArray([0.0, 1.0, 2.0], dims="draw"), prob=0.5)), 6)
        0.5
    """
    return abs(coverage(truth, sample, dim=dim, prob=prob, over=over) - prob)


def nlpd(truth: xr.DataArray, sample: xr.DataArray, *, dim: Dims = "draw", over: Dims | None = None) -> xr.DataArray:
    """Negative log density at the truth of a normal with the draws' mean and (m - 1) variance.

    Example:
        >>> round(float(nlpd(xr.DataArray(0.0), xr.DataArray([-1.0, 0.0, 1.0], dims="draw"))), 6)
        0.918939
    """

    def core(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        cores.need_draws(x)
        sd = x.std(axis=-1, ddof=1)
        if np.any(sd == 0):
            raise DataError("all draws of an entry are equal, so their density is not defined", fix="score with crps")
        return cores.nlpd_normal(x.mean(axis=-1), sd, y)

    return average(entries(core, truth, sample, dim), over)


def crps_gaussian(mean: Any, sd: Any, y: Any) -> Any:
    """Closed-form CRPS of N(mean, sd^2) at ``y``, entry by entry; arrays or DataArrays that broadcast.

    Example:
        >>> round(float(crps_gaussian(0.0, 1.0, 0.0)), 6)
        0.233695
    """
    return xr.apply_ufunc(cores.crps_normal, mean, _positive(sd), y, join="exact")


def nlpd_gaussian(mean: Any, sd: Any, y: Any) -> Any:
    """Negative log density of N(mean, sd^2) at ``y``, entry by entry.

    Example:
        >>> round(float(nlpd_gaussian(0.0, 1.0, 0.0)), 6)
        0.918939
    """
    return xr.apply_ufunc(cores.nlpd_normal, mean, _positive(sd), y, join="exact")


def _positive(sd: Any) -> Any:
    if not bool((np.asarray(sd) > 0).all()):
        raise DataError("a standard deviation must be positive", fix="pass the standard deviation, not the log")
    return sd
