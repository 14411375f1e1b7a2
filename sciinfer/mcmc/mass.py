"""The metric of the momenta, the step size, and how both are learnt while warming up."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ..errors import ConfigError, ShapeError

Array = np.ndarray
Metric = Literal["diagonal", "dense"]


class Mass:
    """Momenta ``p ~ N(0, M)`` with ``M^-1`` an estimate of the posterior covariance.

    Args:
        inverse: ``M^-1``, ``[d]`` for a diagonal or ``[d, d]`` for a dense one.

    Example:
        >>> Mass(np.array([4.0, 1.0])).velocity(np.ones(2)).tolist()
        [4.0, 1.0]
    """

    def __init__(self, inverse: Array) -> None:
        self.inverse = inverse
        self.dense = inverse.ndim == 2
        # L L^T = M^-1; then L^-T e has covariance M
        self._root = np.linalg.cholesky(inverse) if self.dense else np.sqrt(inverse)

    def draw(self, rng: np.random.Generator) -> Array:
        """Momenta ``[d]``."""
        e = rng.normal(size=len(self.inverse))
        if not self.dense:
            return e / self._root
        from scipy.linalg import solve_triangular

        return solve_triangular(self._root, e, lower=True, trans=1)

    def velocity(self, p: Array) -> Array:
        """``M^-1 p``."""
        return self.inverse @ p if self.dense else self.inverse * p

    def kinetic(self, p: Array) -> float:
        """``p^T M^-1 p / 2``."""
        return 0.5 * float(p @ self.velocity(p))


def starting_mass(metric: Metric, dim: int, covariance: Array | None) -> Mass:
    """The metric before anything is known: the identity, or a given covariance."""
    if metric not in ("diagonal", "dense"):
        raise ConfigError(f"there is no metric {metric!r}", fix="'diagonal' or 'dense'")
    if covariance is None:
        return Mass(np.eye(dim) if metric == "dense" else np.ones(dim))
    if covariance.shape != (dim, dim):
        raise ShapeError(f"the covariance of {dim} parameters is {dim} x {dim}, got {covariance.shape}")
    return Mass(covariance if metric == "dense" else np.diag(covariance).copy())


class Moments:
    """Running mean and covariance of a window of draws (Welford), shrunk towards a thousandth of the metric before.

    Not towards a multiple of the identity: that would swamp directions whose posterior is narrow in the caller's units.
    """

    def __init__(self, before: Mass) -> None:
        self._before, self._dense, self.count = before.inverse, before.dense, 0
        dim = len(before.inverse)
        self._mean = np.zeros(dim)
        self._square = np.zeros((dim, dim) if self._dense else dim)

    def add(self, q: Array) -> None:
        """One more draw."""
        self.count += 1
        before = q - self._mean
        self._mean = self._mean + before / self.count
        after = q - self._mean
        self._square = self._square + (np.outer(before, after) if self._dense else before * after)

    def mass(self) -> Mass:
        """The metric of this window: ``M^-1 = n/(n+5) cov + 5/(n+5) 1e-3 M_before^-1``."""
        n = self.count
        inverse = self._square / max(n - 1, 1) * (n / (n + 5)) + 1e-3 * 5 / (n + 5) * self._before
        return Mass((inverse + inverse.T) / 2 if self._dense else inverse)


class DualAveraging:
    """A step size whose acceptance meets a target.

    References:
        Hoffman, Gelman (2014), The No-U-Turn sampler.
    """

    def __init__(self, step: float, target: float) -> None:
        self._target = target
        self.restart(step)

    def restart(self, step: float) -> None:
        """Begin again around ``10 step``."""
        self._centre, self._count, self._error, self._average = math.log(10 * step), 0, 0.0, 0.0
        self.step = step

    def update(self, accept: float) -> None:
        """After one transition with mean acceptance ``accept``."""
        self._count += 1
        weight = 1 / (self._count + 10)
        self._error = (1 - weight) * self._error + weight * (self._target - accept)
        log_step = self._centre - math.sqrt(self._count) / 0.05 * self._error
        fade = self._count**-0.75
        self._average = fade * log_step + (1 - fade) * self._average
        self.step = math.exp(min(max(log_step, -50.0), 50.0))

    def final(self) -> float:
        """The averaged step, for sampling."""
        return math.exp(self._average) if self._count else self.step


def windows(warmup: int) -> tuple[int, list[int]]:
    """Where the metric's windows begin, and the (exclusive) ends of them; later ones are twice as long.

    Example:
        >>> windows(1000)
        (75, [100, 150, 250, 450, 950])
    """
    if warmup < 20:
        return warmup, []
    first, last, base = (75, 50, 25) if warmup >= 150 else (int(0.15 * warmup), int(0.1 * warmup), warmup)
    ends, at, size = [], first, base
    stop = warmup - last
    while at < stop:
        at = stop if at + 3 * size > stop else at + size  # no short window at the end
        ends.append(at)
        size *= 2
    return first, ends
