"""Scores of predicted rates: bits per spike under either null, explained variance, PSTHs and decoded behaviour.

Rates are expected counts per bin. NaN counts are not scored.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr
from scipy.special import xlogy

from sciinfer.errors import DataError, SchemaError, ShapeError

from .ridge import VELOCITY_RIDGES, fit_ridge
from .smoothing import smooth

_LEAST = 1e-9  # counts per bin; a rate of zero that meets a spike would cost infinitely many bits


def bits_per_spike(counts: np.ndarray, rates: np.ndarray, *, null: np.ndarray | None = None) -> float:
    r"""``(L(rates) - L(null)) / (number of spikes log 2)`` with the Poisson log-likelihood ``L``; more is better.

    Args:
        counts: ``[..., unit]``, NaN = missing. rates: the same shape, expected counts per bin.
        null: rates that broadcast against ``counts``: for an honest null the means of the training data. None is the
            null of the Neural Latents Benchmark: each unit's mean over the *evaluated* counts, which no model can know.

    Raises:
        DataError: a negative or missing rate where there is a count. ShapeError: shapes differ.

    References:
        Pei et al. (2021), Neural Latents Benchmark '21.

    Example:
        >>> round(bits_per_spike(np.array([[0.0], [2.0]]), np.array([[0.5], [1.5]])), 6)
        0.584963
    """
    y, r = np.asarray(counts, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    if y.shape != r.shape:
        raise ShapeError(f"counts have shape {y.shape}, rates {r.shape}", variable="rates", fix="one rate per count")
    base = unit_means(y) if null is None else np.broadcast_to(np.asarray(null, dtype=np.float64), y.shape)
    gain, spikes = _gain(y, r, np.broadcast_to(base, y.shape))
    return float(gain.sum() / (spikes.sum() * np.log(2))) if spikes.sum() else float("nan")


def unit_means(counts: np.ndarray) -> np.ndarray:
    """Each unit's mean count per bin, ``[..., unit]`` to ``[unit]``; NaN is left out.

    Example:
        >>> unit_means(np.array([[[1.0, np.nan], [3.0, 2.0]]])).tolist()
        [2.0, 2.0]
    """
    y = np.asarray(counts, dtype=np.float64)
    flat = y.reshape(-1, y.shape[-1])
    seen = ~np.isnan(flat)
    return np.where(seen, flat, 0.0).sum(0) / np.maximum(seen.sum(0), 1)


def _gain(y: np.ndarray, rates: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seen = ~np.isnan(y)
    for name, array in (("counts", y), ("rates", rates), ("null", null)):
        bad = seen & ~(np.isfinite(array) & (array >= 0))
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            raise DataError(f"the value is {array[index]}", variable=name, index=index, fix="pass finite values >= 0")
    filled = np.where(seen, y, 0.0)
    r, n = (np.maximum(np.where(seen, a, 1.0), _LEAST) for a in (rates, null))
    return np.where(seen, xlogy(filled, r / n) - r + n, 0.0), filled


def co_bps(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: str | Iterable[str] = "draw",
    null: xr.DataArray | None = None,
    over: Iterable[str] | None = None,
) -> xr.DataArray:
    """Bits per spike of labelled counts; the draws' mean is the rate.

    Args:
        truth: counts with a dim ``unit``; NaN = missing. sample: rates, with or without the dims of the draws.
        dim: of the draws. null: rates of the null by unit (``train_null``); None: the NLB null, the truth's own means.
        over: dims to pool; None: all. ``("trial", "time")`` gives a value for each unit; NaN without a spike.

    Returns:
        Bits per spike; ``attrs["null"]`` says which null.

    Example:
        >>> y = xr.DataArray([[0.0], [2.0]], dims=("time", "unit"))
        >>> float(co_bps(y, y * 0 + 1.0).round(6)), co_bps(y, y).attrs["null"]
        (0.0, 'evaluation')
    """
    truth, rates = _paired(truth, sample, dim)
    base = truth.mean([d for d in truth.dims if d != "unit"]) if null is None else null
    base = (base + xr.zeros_like(truth.fillna(0.0))).transpose(*truth.dims)
    if base.shape != truth.shape:
        raise ShapeError("the null has other units than the counts", variable="null", fix="select the same units")
    gain, spikes = _gain(truth.values, rates.values, base.values)
    dims = list(truth.dims) if over is None else [over] if isinstance(over, str) else list(over)
    bits, number = (truth.copy(data=part).sum(dims) for part in (gain, spikes))
    score = (bits / (number.where(number > 0) * np.log(2))).rename("bits_per_spike")
    score.attrs = {"units": "bit", "null": "evaluation" if null is None else "given"}
    return score


def fp_bps(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: str | Iterable[str] = "draw",
    after: float,
    null: xr.DataArray | None = None,
    over: Iterable[str] | None = None,
) -> xr.DataArray:
    """Bits per spike of the bins later than ``after`` seconds: forward prediction (the rest as for :func:`co_bps`).

    Example:
        >>> y = xr.DataArray([[9.0], [1.0]], dims=("time", "unit"), coords={"time": [0.1, 0.2]})
        >>> float(fp_bps(y, y, after=0.15))
        0.0
    """
    later = truth["time"] > after
    return co_bps(truth.isel(time=later.values), sample.isel(time=later.values), dim=dim, null=null, over=over)


def train_null(counts: xr.DataArray) -> xr.DataArray:
    """Each unit's mean count per bin over training data: the null that a model could have known.

    Example:
        >>> train_null(xr.DataArray([[1.0, 3.0]], dims=("unit", "time"))).values.tolist()
        [2.0]
    """
    return counts.mean([d for d in counts.dims if d != "unit"])


def r2(
    truth: xr.DataArray,
    sample: xr.DataArray,
    *,
    dim: str | Iterable[str] = "draw",
    over: Iterable[str] | None = None,
) -> xr.DataArray:
    """Explained variance ``1 - sum (y - m)^2 / sum (y - mean y)^2`` of the draws' mean ``m``.

    Args:
        truth: any dims; NaN = missing. sample: the same, with or without the dims of the draws.
        dim: of the draws. over: dims to pool; None: all.

    Example:
        >>> y = xr.DataArray([1.0, 2.0, 3.0], dims="time")
        >>> float(r2(y, y)), float(r2(y, y * 0 + 2.0))
        (1.0, 0.0)
    """
    truth, mean = _paired(truth, sample, dim)
    dims = list(truth.dims) if over is None else [over] if isinstance(over, str) else list(over)
    error = ((truth - mean) ** 2).sum(dims)
    spread = ((truth - truth.mean(dims)) ** 2).sum(dims)
    return (1 - error / spread.where(spread > 0)).rename("r2")


def psth_r2(
    counts: xr.DataArray,
    rates: xr.DataArray,
    condition: Iterable | None = None,
    *,
    width: float = 0.0,
    shift: Iterable[int] | None = None,
) -> xr.DataArray:
    """Explained variance of each unit's trial averages by those of the rates, bins and conditions pooled.

    Args:
        counts: ``trial, time, unit``. rates: the same.
        condition: of each trial; None: one for all.
        width: standard deviation of the smoothing of the counts' averages, in bins.
        shift: of each trial, in bins: its events come this much later than they should. Both are moved back.

    Returns:
        One value per unit; the benchmark's number is their mean.

    Example:
        >>> y = xr.DataArray(np.arange(6.0).reshape(1, 6, 1), dims=("trial", "time", "unit"))
        >>> psth_r2(y, y).values.tolist()
        [1.0]
    """
    counts, rates = _paired(counts, rates, ())
    y, r = (a.transpose("trial", "time", "unit").values.astype(np.float64) for a in (counts, rates))
    r = np.where(np.isfinite(y), r, np.nan)
    if shift is not None:
        y, r = (_moved(a, np.asarray(list(shift), int)) for a in (y, r))
    groups = (
        np.zeros(len(y), int) if condition is None else np.unique(np.asarray(list(condition)), return_inverse=True)[1]
    )
    pairs = [tuple(_average(a[groups == g]) for a in (y, r)) for g in range(int(groups.max()) + 1)]
    truth = np.stack([smooth(t[None], width)[0] if width else t for t, _ in pairs])
    labels = {"unit": counts["unit"]} if "unit" in counts.coords else {}
    dims = ("condition", "time", "unit")
    stacked = xr.DataArray(np.stack([m for _, m in pairs]), dims=dims, coords=labels)
    return r2(stacked.copy(data=truth), stacked.where(np.isfinite(truth), 0.0), over=("condition", "time"))


def velocity_r2(
    train_rates: np.ndarray, train_velocity: np.ndarray, test_rates: np.ndarray, test_velocity: np.ndarray
) -> float:
    """Explained variance of behaviour decoded from rates by ridge regression, mean over its components.

    The ridge is chosen from ``logspace(-4, 0, 9)`` by 5 folds in order on the training data, as in the Neural Latents
    Benchmark. Rows with NaN behaviour are left out.

    Args:
        train_rates, test_rates: ``[..., unit]``. train_velocity, test_velocity: ``[..., component]``.

    Example:
        >>> x = np.linspace(0, 1, 40)[:, None]
        >>> velocity_r2(x, 2 * x, x, 2 * x) > 0.999
        True
    """
    x, v, z, w = (np.asarray(a, np.float64) for a in (train_rates, train_velocity, test_rates, test_velocity))
    x, v, z, w = (a.reshape(-1, a.shape[-1]) for a in (x, v, z, w))
    known, scored = np.isfinite(v).all(-1), np.isfinite(w).all(-1)
    fit = fit_ridge(x[known], v[known], ridges=VELOCITY_RIDGES, folds=5, shuffle=False, standardise=False)
    error = ((w[scored] - fit.predict(z[scored])) ** 2).sum(0)
    spread = ((w[scored] - w[scored].mean(0)) ** 2).sum(0)
    if not (spread > 0).all():
        raise DataError("a component does not vary", variable="test_velocity", fix="score components that move")
    return float(np.mean(1 - error / spread))


def _average(trials: np.ndarray) -> np.ndarray:
    seen = np.isfinite(trials)
    return np.where(seen, trials, 0.0).sum(0) / np.where(seen.any(0), seen.sum(0), np.nan)


def _moved(trials: np.ndarray, shift: np.ndarray) -> np.ndarray:
    moved = np.full_like(trials, np.nan)
    for row, by in enumerate(shift):
        kept = trials[row, max(by, 0) : len(trials[row]) + min(by, 0)]
        moved[row, max(-by, 0) : max(-by, 0) + len(kept)] = kept
    return moved


def _paired(truth: xr.DataArray, sample: xr.DataArray, dim: str | Iterable[str]) -> tuple[xr.DataArray, xr.DataArray]:
    draws = [dim] if isinstance(dim, str) else list(dim)
    extra = [d for d in sample.dims if d not in truth.dims and d not in draws]
    if extra:
        raise SchemaError(f"the rates have a dim that the counts lack: {extra}", fix="pass it as dim")
    mean = sample.mean([d for d in draws if d in sample.dims])
    try:
        truth, mean = xr.align(truth.astype(np.float64), mean.astype(np.float64), join="exact", copy=False)
    except ValueError as err:
        raise ShapeError(f"labels of counts and rates differ: {err}", fix="select the same labels") from err
    spread = set(truth.dims) - set(mean.dims)
    return truth, mean.expand_dims({d: truth.sizes[d] for d in spread}).transpose(*truth.dims)
