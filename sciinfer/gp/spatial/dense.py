"""The exact answer by one Cholesky factor: for few points, and as the reference of the approximations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...random import generator
from .conditionals import safe_cholesky
from .covariances import Covariance
from .inputs import Values, points


def dense_log_likelihood(
    covariance: Covariance, X: Tensor, y: Tensor, noise: Tensor, jitter: list[float] | None = None
) -> Tensor:
    """``log N(y; 0, K + diag(noise))``: ``X [n, d]``, ``y [n]``, ``noise [n]``; ``jitter[0]`` notes the largest.

    Example:
        >>> from sciinfer.gp.spatial import Matern
        >>> x, y = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> round(dense_log_likelihood(Matern(), x, y, torch.ones(1, dtype=torch.float64)).item(), 4)
        -1.2655
    """
    batch, taken = safe_cholesky((covariance(X, X) + torch.diag(noise))[None])
    factor = batch[0]
    if jitter is not None:
        jitter[0] = max(jitter[0], taken)
    half = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    return -0.5 * half.square().sum() - factor.diagonal().log().sum() - 0.5 * len(y) * math.log(2 * math.pi)


class DensePosterior:
    """``f | y`` exactly; ``mean``, ``variance``, ``covariance`` and ``sample`` at any points."""

    def __init__(self, covariance: Covariance, X: Tensor, y: Tensor, noise: Tensor, offset: Tensor) -> None:
        self._covariance, self._X, self._offset = covariance, X, offset
        with torch.no_grad():
            factor, self.jitter = safe_cholesky((covariance(X, X) + torch.diag(noise))[None])
            self._factor = factor[0]
            self._half = torch.linalg.solve_triangular(self._factor, (y - offset)[:, None], upper=False)

    @torch.no_grad()
    def mean(self, at: Values) -> Tensor:
        """``E[f | y] [m]`` at ``at [m, d]``."""
        where = points(at, "at", self._X.shape[1])
        return self._offset + (self._projected(where).mT @ self._half)[:, 0]

    @torch.no_grad()
    def variance(self, at: Values) -> Tensor:
        """``Var[f | y] [m]``."""
        where = points(at, "at", self._X.shape[1])
        prior = self._covariance.variance_at(where)
        return (prior - self._projected(where).square().sum(0)).clamp(min=0.0)

    @torch.no_grad()
    def covariance(self, at: Values) -> Tensor:
        """``Cov[f | y] [m, m]``."""
        where = points(at, "at", self._X.shape[1])
        projected = self._projected(where)
        return self._covariance(where, where) - projected.mT @ projected

    @torch.no_grad()
    def sample(self, at: Values, n: int = 1, *, seed: int = 0) -> Tensor:
        """Joint draws of ``f | y``, ``[n, m]``."""
        where = points(at, "at", self._X.shape[1])
        return joint_draws(self.mean(where), self.covariance(where), n, seed)

    def _projected(self, where: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._factor, self._covariance(self._X, where), upper=False)


def joint_draws(mean: Tensor, covariance: Tensor, n: int, seed: int) -> Tensor:
    """Draws ``[n, m]`` of ``N(mean [m], covariance [m, m])``."""
    # a posterior of repeated or well-measured points is singular up to rounding: a symmetric root needs no jitter
    values, vectors = torch.linalg.eigh(covariance)
    normal = torch.randn(n, len(mean), generator=generator(seed, "spatial", "sample"), dtype=torch.float64)
    return mean + normal @ (vectors * values.clamp(min=0.0).sqrt()).mT
