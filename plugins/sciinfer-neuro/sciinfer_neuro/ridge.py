"""Ridge regression with the penalty chosen by cross-validation on the training rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciinfer.errors import ConfigError, DataError, ShapeError

#: the grid of the Neural Latents Benchmark's velocity decoder
VELOCITY_RIDGES = tuple(np.logspace(-4, 0, 9))
_WIDE = tuple(np.logspace(0, 6, 25))


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        centre, spread: ``[p]`` of the features. weights: ``[p, m]``. intercept: ``[m]``.
        ridge: the one chosen. validation_r2: ``[ridges]``, mean over folds and outputs; NaN without a choice.
    """

    centre: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    ridge: float
    validation_r2: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """``[n, p]`` to ``[n, m]``."""
        return (np.asarray(features, np.float64) - self.centre) / self.spread @ self.weights + self.intercept


def fit_ridge(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    ridges: Sequence[float] = _WIDE,
    folds: int = 10,
    repeats: int = 1,
    shuffle: bool = True,
    standardise: bool = True,
    seed: int = 0,
) -> Ridge:
    """``min |y - x w - c|^2 + ridge |w|^2``, the ridge of the best mean validation R2.

    Args:
        features: ``[n, p]``. targets: ``[n]`` or ``[n, m]``.
        ridges: the grid. folds, repeats: of the validation; ``repeats`` in new orders make the choice steadier.
        shuffle: folds in random order, else blocks in order.
        standardise: features to unit spread, that of the training rows.

    Raises:
        DataError: values that are not finite. ShapeError: sizes differ.

    Example:
        >>> x = np.arange(20.0)[:, None]
        >>> bool(np.allclose(fit_ridge(x, 3 * x + 1, ridges=[1e-9], folds=2).predict(x), 3 * x + 1))
        True
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    _check(x, y, folds)
    grid = np.asarray(ridges, dtype=np.float64)
    scores = np.full(len(grid), np.nan)
    if len(grid) > 1:
        parts = [part for r in range(repeats) for part in _splits(len(x), folds, shuffle, seed + r)]
        scores = np.mean([_fold_scores(x, y, part, grid, standardise) for part in parts], 0)
    best = 0 if len(grid) == 1 else int(np.argmax(scores))
    centre, spread, z = _scaled(x, standardise)
    weights = _solve(z, y - y.mean(0), grid[best : best + 1])[0]
    return Ridge(centre, spread, weights, y.mean(0), float(grid[best]), scores)


def _fold_scores(x: np.ndarray, y: np.ndarray, held: np.ndarray, grid: np.ndarray, standardise: bool) -> np.ndarray:
    rest = np.setdiff1d(np.arange(len(x)), held)
    centre, spread, z = _scaled(x[rest], standardise)
    weights = _solve(z, y[rest] - y[rest].mean(0), grid)
    guess = np.einsum("np,gpm->gnm", (x[held] - centre) / spread, weights) + y[rest].mean(0)
    spread_y = ((y[held] - y[held].mean(0)) ** 2).sum(0)
    return (1 - ((guess - y[held]) ** 2).sum(1) / np.maximum(spread_y, 1e-300)).mean(-1)


def _solve(z: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    # one decomposition of the centred features serves every ridge
    u, s, v = np.linalg.svd(z - z.mean(0), full_matrices=False)
    filters = s / np.maximum(s**2 + grid[:, None], 1e-300)
    return np.einsum("kp,gk,km->gpm", v, filters, u.T @ y)


def _scaled(x: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centre, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 1e-12, spread, 1.0) if standardise else np.ones(x.shape[1])
    return centre, spread, (x - centre) / spread


def _splits(rows: int, folds: int, shuffle: bool, seed: int) -> list[np.ndarray]:
    from sciinfer.random import numpy_generator

    order = numpy_generator(seed, "ridge folds").permutation(rows) if shuffle else np.arange(rows)
    return [np.sort(part) for part in np.array_split(order, folds)]


def _check(x: np.ndarray, y: np.ndarray, folds: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ShapeError(f"features have shape {x.shape}, targets {y.shape}", fix="pass [n, p] and [n, m]")
    if not 2 <= folds <= len(x):
        raise ConfigError(f"{folds} folds of {len(x)} rows", variable="folds", fix="2 to the number of rows")
    for name, array in (("features", x), ("targets", y)):
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise DataError(f"the value is {array[index]}", variable=name, index=index, fix="drop the row")
