"""Pareto-smoothed importance sampling: weights with a smoothed tail, and k-hat, which says whether to trust them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..errors import NumericalError

Array = np.ndarray

#: above this, means over the weights (and with them a variational fit) are not to be trusted
THRESHOLD = 0.7


class Smoothed(NamedTuple):
    """``log_weights [S]`` normalised to sum to one, and ``khat``, the shape of the tail."""

    log_weights: Array
    khat: float

    @property
    def weights(self) -> Array:
        """``[S]``, sum one."""
        return np.exp(self.log_weights)

    @property
    def ess(self) -> float:
        """``1 / sum w^2``: draws that the weighted ones are worth."""
        return float(1 / np.square(self.weights).sum())


def fit_generalised_pareto(excess: Array) -> tuple[float, float]:
    r"""Shape ``k`` and scale ``sigma`` of a generalised Pareto tail, by the empirical-Bayes profile of its likelihood.

    .. math:: p(x) = \sigma^{-1} (1 + k x / \sigma)^{-1 - 1/k}, \quad x > 0

    Args:
        excess: ``[n]``, positive, at least 5.

    Returns:
        ``k, sigma``.

    References:
        Zhang, Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution.

    Example:
        >>> u = (np.arange(2000) + 0.5) / 2000
        >>> k, sigma = fit_generalised_pareto((u**-0.5 - 1) / 0.5)
        >>> round(k, 1), round(sigma, 1)
        (0.5, 1.0)
    """
    x = np.sort(np.asarray(excess, dtype=float))
    n = len(x)
    if n < 5 or not (x[0] > 0 and math.isfinite(x[-1])):
        raise NumericalError("a tail needs at least 5 positive finite excesses", fix="use more draws")
    m = 30 + int(math.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quartile)
    k = np.log1p(-b[:, None] * x).mean(axis=1)
    profile = n * (np.log(-b / k) - k - 1)
    weight = np.exp(profile - profile.max())
    mean_b = float((b * weight).sum() / weight.sum())
    shape = float(np.log1p(-mean_b * x).mean())
    return shape, -shape / mean_b


def psis(log_weights: Array) -> Smoothed:
    """Smooth the largest importance weights by the quantiles of a generalised Pareto fit to them.

    The tail is the largest ``min(S/5, 3 sqrt(S))`` weights. ``khat`` is shrunk towards 0.5 by ten prior draws, as
    published; equal weights have no tail and get ``-inf``; fewer than 25 draws, or an infinite weight, get ``inf``.

    Args:
        log_weights: ``[S]``, unnormalised; ``-inf`` is a weight of zero, NaN is refused.

    Returns:
        Normalised log-weights and ``khat``.

    Raises:
        NumericalError: NaN, or no weight above zero.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling.

    Example:
        >>> found = psis(np.zeros(1000))
        >>> found.khat, round(found.ess)
        (-inf, 1000)
    """
    log_w = np.array(log_weights, dtype=float)
    if np.isnan(log_w).any() or not (log_w > -np.inf).any():
        raise NumericalError(
            "importance weights are NaN or all zero",
            code="numerical/weights",
            fix="check the log-density; widen the proposal so that it meets the target",
        )
    if np.isposinf(log_w).any():
        return Smoothed(_normalised(np.where(np.isposinf(log_w), 0.0, -np.inf)), math.inf)
    log_w -= log_w.max()
    khat = _smooth_tail(log_w) if len(log_w) >= 25 else math.inf
    return Smoothed(_normalised(log_w), khat)


def _smooth_tail(log_w: Array) -> float:
    """Replace the tail in place; returns k-hat."""
    size = int(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))
    order = np.argsort(log_w, kind="stable")
    tail = order[-size:]
    cut = max(log_w[order[-size - 1]], math.log(np.finfo(float).tiny))
    excess = np.exp(log_w[tail]) - math.exp(cut)
    if not excess[-1] > 1e-12:
        return -math.inf  # equal weights: nothing to smooth
    above = excess > 0
    if above.sum() < 5:
        return math.inf  # a handful of draws holds all the weight
    shape, scale = fit_generalised_pareto(excess[above])
    count = int(above.sum())
    khat = (count * shape + 5) / (count + 10)
    p = (np.arange(count) + 0.5) / count
    quantile = scale * np.expm1(-khat * np.log1p(-p)) / khat if abs(khat) > 1e-12 else -scale * np.log1p(-p)
    log_w[tail[above]] = np.minimum(np.log(quantile + math.exp(cut)), 0.0)
    return khat


def _normalised(log_w: Array) -> Array:
    top = log_w.max()
    return log_w - (top + np.log(np.exp(log_w - top).sum()))


def reliable(khat: float, draws: int) -> bool:
    """Is ``khat`` below ``min(1 - 1/log10(S), 0.7)``, the bound for ``S`` draws."""
    return khat <= min(1 - 1 / math.log10(max(draws, 2)), THRESHOLD)
