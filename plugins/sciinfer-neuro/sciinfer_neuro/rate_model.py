"""Poisson regression of many units on features of bins, each unit's ridge chosen by folds of whole trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciinfer.errors import ConfigError, DataError

from .arrays import rows
from .glm import newton

#: penalties on features of unit spread, strongest first, so that each fit starts from a smoother one
RIDGES = (3000.0, 1000.0, 300.0, 100.0, 30.0)
_LOG_LIMIT = 20.0


@dataclass(frozen=True)
class RateModel:
    """Log-rates linear in features of unit spread.

    Attributes:
        centre, spread: ``[feature]``. weights: ``[1 + feature, unit]``. ridge: ``[unit]``.
        held_rates: ``[trial, time, unit]``, rates of each training trial by the fit to the other folds.
    """

    centre: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    ridge: np.ndarray
    held_rates: np.ndarray

    def rates(self, features: np.ndarray) -> np.ndarray:
        """Expected counts in a whole bin, ``[..., feature]`` to ``[..., unit]``."""
        return _rates(_columns(features, self.centre, self.spread), self.weights).reshape(*features.shape[:-1], -1)


def fit_rates(
    features: np.ndarray,
    counts: np.ndarray,
    exposure: np.ndarray,
    fold: np.ndarray,
    ridges: Sequence[float] = RIDGES,
) -> RateModel:
    """Choose each unit's ridge on folds of trials, then fit all trials.

    Args:
        features: ``[trial, time, feature]``. counts: ``[trial, time, unit]``, NaN = missing.
        exposure: ``[trial, time]``. fold: ``[trial]``. ridges: the grid, features in units of their spread.

    Raises:
        DataError: a unit without a spike in some part. ConfigError: a ridge that is not positive.
    """
    grid = sorted((float(r) for r in ridges), reverse=True)
    if not grid or not np.isfinite(grid).all() or grid[-1] <= 0:
        raise ConfigError("ridges must be positive", variable="ridges", fix="pass one or more numbers above zero")
    flat = rows(features)
    centre, spread = flat.mean(0), flat.std(0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    guesses = np.full((len(grid), *counts.shape), np.nan)
    for k in np.unique(fold):
        out, rest = fold == k, fold != k
        for i, part in enumerate(_path(features[rest], counts[rest], exposure[rest], centre, spread, grid)):
            guesses[i, out] = _rates(_columns(features[out], centre, spread), part).reshape(counts[out].shape)
    best = np.argmax([likelihood(counts, g, exposure).sum((0, 1)) for g in guesses], 0)
    path = _path(features, counts, exposure, centre, spread, grid[: int(best.max()) + 1])
    weights = np.stack([path[b][:, j] for j, b in enumerate(best)], -1)
    held = np.stack([guesses[b][..., j] for j, b in enumerate(best)], -1)
    return RateModel(centre, spread, weights, np.asarray(grid)[best], held)


def likelihood(counts: np.ndarray, rates: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Poisson log-likelihood of each count without ``log y!``; 0 where it is missing or nothing was watched."""
    seen = np.isfinite(counts) & (exposure > 0)[..., None]
    mean = np.maximum(np.where(seen, rates * exposure[..., None], 1.0), 1e-9)
    return np.where(seen, np.where(seen, counts, 0.0) * np.log(mean) - mean, 0.0)


def _path(
    features: np.ndarray,
    counts: np.ndarray,
    exposure: np.ndarray,
    centre: np.ndarray,
    spread: np.ndarray,
    grid: Sequence[float],
) -> list[np.ndarray]:
    x, y, e = _columns(features, centre, spread), rows(counts), exposure.ravel()
    found = [np.zeros((x.shape[1], y.shape[1])) for _ in grid]
    for j in range(y.shape[1]):
        kept = np.isfinite(y[:, j]) & (e > 0)
        if not y[kept, j].sum() > 0:
            raise DataError("a unit has no spike in a part of the training trials", index=j, fix="leave the unit out")
        b = None
        for i, ridge in enumerate(grid):
            b = newton(x[kept], y[kept, j], e[kept], ridge, b, tolerance=1e-7)[0]
            found[i][:, j] = b
    return found


def _columns(features: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    scaled = (rows(features) - centre) / spread
    return np.column_stack([np.ones(len(scaled)), scaled])


def _rates(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(columns @ weights, -_LOG_LIMIT, _LOG_LIMIT))
