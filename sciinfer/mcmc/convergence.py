"""Have the chains mixed: rank-normalised R-hat, bulk and tail effective sample sizes, Monte Carlo errors."""

from __future__ import annotations

import numpy as np

from ..diagnostics.cores import normal_quantile
from ..diagnostics.ess import bulk_ess, geyer_ess
from ..errors import DataError

Array = np.ndarray


def split_chains(draws: Array) -> Array:
    """``[2 chains, draws // 2, ...]``.

    Raises:
        DataError: fewer than 4 draws a chain.
    """
    n = draws.shape[1]
    if n < 4:
        raise DataError(f"convergence needs at least 4 draws a chain, got {n}", fix="draw more")
    return np.concatenate([draws[:, : n // 2], draws[:, n - n // 2 :]])


def rhat(draws: Array) -> Array:
    r"""Rank-normalised split R-hat: the larger of that of the ranks and that of the folded ranks.

    .. math:: \hat R = \sqrt{\frac{(n-1)/n\, W + B/n}{W}}

    Args:
        draws: ``[chain, draw, ...]``.

    Returns:
        ``[...]``; 1 is mixed, above 1.01 is not; NaN where the draws are constant.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), Rank-normalization, folding, and localization.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(4, 500))
        >>> bool(rhat(z) < 1.01), bool(rhat(z + np.arange(4)[:, None]) > 1.5)
        (True, True)
    """
    split = split_chains(draws)
    folded = np.abs(split - np.median(split, axis=(0, 1)))
    return np.maximum(_plain_rhat(_ranks(split)), _plain_rhat(_ranks(folded)))


def _plain_rhat(split: Array) -> Array:
    n = split.shape[1]
    within = split.var(axis=1, ddof=1).mean(axis=0)
    between = split.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((within * (n - 1) / n + between) / within)


def _ranks(split: Array) -> Array:
    """Normal scores of average ranks, over all chains."""
    from scipy.stats import rankdata

    flat = split.reshape(-1, *split.shape[2:])
    rank = rankdata(flat, axis=0)
    scores = normal_quantile((rank - 0.375) / (len(flat) + 0.25))
    constant = flat.min(axis=0) == flat.max(axis=0)
    return np.where(constant, 0.0, scores).reshape(split.shape)


def tail_ess(draws: Array) -> Array:
    """The smaller effective sample size of the indicators below the 5 % and above the 95 % quantile, ``[...]``.

    Example:
        >>> bool(tail_ess(np.random.default_rng(0).normal(size=(4, 500))) > 800)
        True
    """
    split = split_chains(draws)
    low, high = np.quantile(split, [0.05, 0.95], axis=(0, 1))
    return np.minimum(geyer_ess((split <= low).astype(float)), geyer_ess((split >= high).astype(float)))


def mcse_mean(draws: Array) -> Array:
    """Monte Carlo standard error of the mean: ``sd / sqrt(ESS)`` with the effective size of the raw draws, ``[...]``.

    Example:
        >>> round(float(mcse_mean(np.random.default_rng(0).normal(size=(4, 500)))), 2)
        0.02
    """
    return draws.std(axis=(0, 1), ddof=1) / np.sqrt(geyer_ess(split_chains(draws)))


__all__ = ["bulk_ess", "mcse_mean", "rhat", "split_chains", "tail_ess"]
