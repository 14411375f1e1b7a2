"""Effective sample size of chains."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from .cores import normal_quantile

Array = np.ndarray


def bulk_ess(draws: Array) -> Array:
    r"""Bulk effective sample size: rank-normalised split chains, Geyer's initial monotone sequence.

    .. math:: n_\mathrm{eff} = \frac{m n}{-1 + 2 \sum_t \hat P_t}, \quad \hat P_t = \hat\rho_{2t} + \hat\rho_{2t+1}

    Args:
        draws: ``[chain, draw, ...]``, at least 4 draws.

    Returns:
        ``[...]``; at most ``m n log10(m n)``; NaN where the draws are constant.

    References:
        Geyer (1992), Practical Markov chain Monte Carlo; Vehtari et al. (2021), Rank-normalization, folding, and
        localization.

    Example:
        >>> ess = bulk_ess(np.random.default_rng(0).normal(size=(4, 500)))
        >>> 1500 < float(ess) < 2600
        True
    """
    n = draws.shape[1]
    if n < 4:
        raise DataError(f"the effective sample size needs at least 4 draws a chain, got {n}", fix="draw more")
    half = n // 2
    split = np.concatenate([draws[:, :half], draws[:, n - half :]])
    return geyer_ess(_rank_normalised(split), constant=draws.min(axis=(0, 1)) == draws.max(axis=(0, 1)))


def geyer_ess(split: Array, *, constant: Array | None = None) -> Array:
    """Effective sample size of the mean of chains as they are, by Geyer's initial monotone sequence.

    Args:
        split: ``[chain, draw, ...]``, already split in halves. constant: where to answer NaN, ``[...]``; by default
            where no value differs.

    Returns:
        ``[...]``; at most ``m n log10(m n)``.
    """
    chains, half = split.shape[:2]
    rho = _autocorrelation(split)
    pairs = rho[0 : 2 * (half // 2) : 2] + rho[1 : 2 * (half // 2) : 2]
    positive = np.cumprod(pairs > 0, axis=0).astype(bool)
    tau = -1 + 2 * np.where(positive, np.minimum.accumulate(pairs, axis=0), 0.0).sum(axis=0)
    total = chains * half
    ess = total / np.maximum(tau, 1 / np.log10(total))
    none_differs = split.min(axis=(0, 1)) == split.max(axis=(0, 1))
    return np.where(none_differs if constant is None else constant, np.nan, ess)


def _rank_normalised(split: Array) -> Array:
    flat = split.reshape(-1, *split.shape[2:])
    rank = flat.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable") + 1
    return normal_quantile((rank - 0.375) / (len(flat) + 0.25)).reshape(split.shape)


def _autocorrelation(split: Array) -> Array:
    """``[lag, ...]``: 1 - (W - mean autocovariance) / var+, over chains."""
    n = split.shape[1]
    centred = split - split.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(centred, n=2 * n, axis=1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, n=2 * n, axis=1)[:, :n] / n
    within = covariance[:, 0].mean(axis=0) * n / (n - 1)
    between = split.mean(axis=1).var(axis=0, ddof=1)
    total = within * (n - 1) / n + between
    return 1 - (within - covariance.mean(axis=0) * n / (n - 1)) / np.where(total > 0, total, 1.0)
