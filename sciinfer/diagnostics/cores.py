"""Scores of one forecast on plain arrays: draws on the last axis, one number per entry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError

Array = np.ndarray


def crps_fair(truth: Array, sample: Array) -> Array:
    r"""Fair ensemble CRPS, unbiased for any number of draws, in O(m log m).

    .. math:: \frac1m \sum_i |x_i - y| - \frac{1}{2m(m-1)} \sum_{i,j} |x_i - x_j|

    Args:
        truth: ``[...]``.
        sample: ``[..., m]``.

    Returns:
        ``[...]``; may be slightly negative, because it is unbiased.

    References:
        Ferro (2014), Fair scores for ensemble forecasts.
    """
    m = need_draws(sample)
    centred = np.sort(sample - truth[..., None], axis=-1)
    spread = centred @ ((2.0 * np.arange(m) - (m - 1)) / (m * (m - 1)))
    return np.abs(centred).mean(axis=-1) - spread


def energy_fair(truth: Array, sample: Array) -> Array:
    r"""Fair energy score of vectors ``truth [..., d]`` and ``sample [..., d, m]``; NaN components of truth drop out.

    .. math:: \frac1m \sum_i \|x_i - y\| - \frac{1}{2m(m-1)} \sum_{i,j} \|x_i - x_j\|
    """
    m = need_draws(sample)
    seen = ~np.isnan(truth)
    centred = np.where(seen[..., None], sample - truth[..., None], 0.0)
    distance = np.sqrt((centred**2).sum(axis=-2)).mean(axis=-1)
    pairs = np.zeros(truth.shape[:-1])
    for i in range(m - 1):  # memory stays O(m d) per entry
        gap = centred[..., i + 1 :] - centred[..., i : i + 1]
        pairs = pairs + np.sqrt((gap**2).sum(axis=-2)).sum(axis=-1)
    return np.where(seen.any(axis=-1), distance - pairs / (m * (m - 1)), np.nan)


def crps_normal(mean: Array, sd: Array, truth: Array) -> Array:
    """Closed-form CRPS of N(mean, sd^2): sd [z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)]."""
    z = (truth - mean) / sd
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return sd * (z * (2 * normal_cdf(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def nlpd_normal(mean: Array, sd: Array, truth: Array) -> Array:
    """Negative log density of N(mean, sd^2) at the truth."""
    return 0.5 * ((truth - mean) / sd) ** 2 + np.log(sd) + 0.5 * math.log(2 * math.pi)


def ranks(truth: Array, sample: Array) -> tuple[Array, Array]:
    """How many draws lie below the truth, and how many at or below it (they differ at ties only)."""
    below = (sample < truth[..., None]).sum(axis=-1)
    return below, below + (sample == truth[..., None]).sum(axis=-1)


def covered(truth: Array, sample: Array, prob: float) -> Array:
    r"""Share of the randomised rank's interval that lies inside the central ``prob``: exactly unbiased for finite m.

    Of m exchangeable draws and the truth, the rank r is uniform on 0..m, so (r + U)/(m + 1) is uniform on [0, 1].
    This returns P(tail <= (r + U)/(m + 1) <= 1 - tail | r), tail = (1 - prob)/2. It is 0 or 1 except in the two
    gaps between draws that hold an edge of the interval.
    """
    m = need_draws(sample)
    tail = 0.5 * (1 - check_prob(prob))
    low, high = ranks(truth, sample)
    left, right = low / (m + 1), (high + 1) / (m + 1)
    inside = np.minimum(right, 1 - tail) - np.maximum(left, tail)
    return np.clip(inside, 0.0, None) / (right - left)


def covered_normal(mean: Array, sd: Array, truth: Array, prob: float) -> Array:
    """1.0 where the truth is inside the central ``prob`` interval of N(mean, sd^2), else 0.0."""
    level = np.abs(2 * normal_cdf((truth - mean) / sd) - 1)
    return (level <= check_prob(prob)).astype(np.float64)


def interval(sample: Array, prob: float) -> tuple[Array, Array]:
    """Central interval of the draws; quantile p is the order statistic at p (m + 1), interpolated, kept in range."""
    need_draws(sample)
    tail = 0.5 * (1 - check_prob(prob))
    low, high = np.quantile(sample, [tail, 1 - tail], axis=-1, method="weibull")
    return low, high


def interval_penalty(truth: Array, low: Array, high: Array, prob: float) -> Array:
    """Winkler's interval score: width + (2 / alpha) times the distance by which the truth lies outside."""
    outside = np.clip(low - truth, 0, None) + np.clip(truth - high, 0, None)
    return high - low + 2 / (1 - prob) * outside


def normal_cdf(z: Any) -> Array:
    """Standard normal distribution function."""
    import torch

    return _through_torch(torch.special.ndtr, z)


def normal_quantile(p: Any) -> Array:
    """Inverse of :func:`normal_cdf`."""
    import torch

    return _through_torch(torch.special.ndtri, p)


def chi2_tail(statistic: float, dof: int) -> float:
    """P(chi-square with ``dof`` degrees of freedom > statistic)."""
    import torch

    half = torch.tensor([dof / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _through_torch(function: Any, value: Any) -> Array:
    import torch

    tensor = function(torch.from_numpy(np.array(value, dtype=np.float64)))
    return tensor.numpy()


def need_draws(sample: Array) -> int:
    """The number of draws; fewer than two hold no spread and raise."""
    m = sample.shape[-1]
    if m < 2:
        raise DataError(
            f"a score of draws needs at least 2 of them, got {m}",
            code="data/too-few-draws",
            fix="ask for more (draws=100), or score a mean and sd with crps_gaussian",
        )
    return m


def check_prob(prob: float) -> float:
    """``prob`` if it is strictly between 0 and 1."""
    if not 0 < prob < 1:
        raise ConfigError(f"an interval's probability must be between 0 and 1, got {prob}", fix="pass prob=0.9")
    return prob
