"""Vecchia's posterior at new points: each given the nearest observations, draws also given earlier new points."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...random import generator
from .conditionals import blocks, condition_last
from .covariances import Covariance
from .inputs import Values, points
from .neighbours import nearest_among, nearest_before
from .ordering import maximin

#: numbers in one chunk of blocks
_CHUNK = 4_000_000


class VecchiaPosterior:
    """``f | y``. Mean and variance of a point use its ``4 m`` nearest observations.

    Joint draws are that mean and deviations in maximin order of the new points, each given its ``2 m`` nearest
    observations and its ``m`` nearest earlier new points.
    """

    def __init__(
        self, covariance: Covariance, X: Tensor, y: Tensor, noise: Tensor, offset: Tensor, neighbours: int
    ) -> None:
        self._covariance, self._X, self._y, self._noise = covariance, X, y - offset, noise
        self._offset, self._neighbours = offset, neighbours
        #: largest relative jitter that any block has needed so far
        self.jitter = 0.0

    @torch.no_grad()
    def mean(self, at: Values) -> Tensor:
        """``E[f | y] [k]`` at ``at [k, d]``."""
        return self._marginals(at)[0]

    @torch.no_grad()
    def variance(self, at: Values) -> Tensor:
        """``Var[f | y] [k]``."""
        return self._marginals(at)[1]

    @torch.no_grad()
    def covariance(self, at: Values) -> Tensor:
        """``Cov[f | y] [k, k]`` of the joint draws."""
        unique, back = torch.unique(points(at, "at", self._X.shape[1]), dim=0, return_inverse=True)
        lower, sd, order = self._joint(unique)
        root = _solve(lower, np.diag(sd))
        full = np.empty_like(root)
        full[order] = root
        full = torch.as_tensor(full)[back]
        return full @ full.mT

    @torch.no_grad()
    def sample(self, at: Values, n: int = 1, *, seed: int = 0) -> Tensor:
        """Joint draws of ``f | y``, ``[n, k]``; points given twice get the same value."""
        unique, back = torch.unique(points(at, "at", self._X.shape[1]), dim=0, return_inverse=True)
        lower, sd, order = self._joint(unique)
        normal = torch.randn(n, len(unique), generator=generator(seed, "spatial", "sample"), dtype=torch.float64)
        drawn = _solve(lower, sd[:, None] * normal.numpy().T)
        full = np.empty_like(drawn)
        full[order] = drawn
        return (self._marginals(unique)[0] + torch.as_tensor(full.T))[:, back]

    def _marginals(self, at: Values) -> tuple[Tensor, Tensor]:
        where = points(at, "at", self._X.shape[1])
        X = self._covariance.scaled(self._X).detach().numpy()
        near = torch.as_tensor(nearest_among(X, self._covariance.scaled(where).detach().numpy(), 4 * self._neighbours))
        own = torch.arange(len(where)) + len(self._X)
        weights, variance = self._conditionals(where, torch.cat([near, own[:, None]], 1))
        return self._offset + (weights * self._y[near]).sum(-1), variance

    def _joint(self, where: Tensor) -> tuple[object, np.ndarray, np.ndarray]:
        """``lower (f - E f) = sd z`` in maximin order: the sparse unit lower triangle, ``sd``, the order."""
        from scipy.sparse import csr_array

        X = self._covariance.scaled(self._X).detach().numpy()
        new = self._covariance.scaled(where).detach().numpy()
        order = maximin(new)[0]
        near = torch.as_tensor(nearest_among(X, new[order], 2 * self._neighbours))
        earlier = torch.as_tensor(nearest_before(new[order], self._neighbours))
        own = torch.arange(len(where))[:, None]
        shifted = torch.where(earlier >= 0, earlier + len(self._X), earlier)
        weights, variance = self._conditionals(where[order], torch.cat([near, shifted, own + len(self._X)], 1))
        kept = earlier >= 0
        columns = torch.cat([earlier[kept], own[:, 0]]).numpy()
        rows = torch.cat([own.expand_as(earlier)[kept], own[:, 0]]).numpy()
        values = torch.cat([-weights[:, near.shape[1] :][kept], torch.ones(len(where), dtype=torch.float64)]).numpy()
        lower = csr_array((values, (rows, columns)), shape=(len(where), len(where)))
        return lower, variance.sqrt().numpy(), order

    def _conditionals(self, where: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and variances of blocks of rows of ``[X; where]``; only observations carry noise."""
        joined = torch.cat([self._X, where])
        noise = torch.cat([self._noise, torch.zeros(len(where), dtype=torch.float64)])
        size = max(1, _CHUNK // (index.shape[1] ** 2 * joined.shape[1]))
        weights, variances = [], []
        for part in index.split(size):
            given = condition_last(blocks(self._covariance, joined, noise, part))
            self.jitter = max(self.jitter, given.jitter)
            weights.append(given.weights)
            variances.append(given.variance)
        if not weights:
            return torch.zeros(0, index.shape[1] - 1, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        return torch.cat(weights), torch.cat(variances)


def _solve(lower: object, right: np.ndarray) -> np.ndarray:
    from scipy.sparse.linalg import spsolve_triangular

    return spsolve_triangular(lower, right, lower=True, unit_diagonal=True)
