"""The sparse inverse Cholesky posterior at new points: each given the nearest latent values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...random import generator
from .conditionals import blocks, condition_last
from .covariances import Covariance
from .inputs import Values, points
from .neighbours import nearest_among, nearest_before
from .ordering import maximin
from .pattern import Pattern, dense_factor, local_factor, place_in

_CHUNK = 512


class DKLPosterior:
    """``f`` under ``q``: a new point given its nearest latent values, those from ``N(nu, (V V^T)^-1)``.

    Joint draws take new points in maximin order, each given also its nearest earlier new points.
    """

    def __init__(
        self, covariance: Covariance, X: Tensor, pattern: Pattern, nu: Tensor, V: Tensor, mean: float, *, dense: bool
    ) -> None:
        self._covariance, self._X, self._pattern, self._mean = covariance, X, pattern, mean
        self._nu, self._V, self._dense = nu, V, dense
        self._near = max(20, 2 * pattern.columns.shape[1])

    @torch.no_grad()
    def mean(self, at: Values) -> Tensor:
        """``E[f] [k]`` at ``at [k, d]``."""
        near, weights, _ = self._given(points(at, "at", self._X.shape[1]))
        return self._mean + (weights * self._nu[near]).sum(-1)

    @torch.no_grad()
    def variance(self, at: Values) -> Tensor:
        """``Var[f] [k]``."""
        near, weights, variance = self._given(points(at, "at", self._X.shape[1]))
        if self._dense:
            V = dense_factor(self._pattern.columns, self._V)
            right = torch.zeros(len(V), len(near), dtype=torch.float64).scatter(0, near.T, weights.T)
            return variance + torch.linalg.solve_triangular(V, right, upper=True).square().sum(0)
        parts = [torch.zeros(0, dtype=torch.float64)]
        for rows, own in zip(near.split(_CHUNK), weights.split(_CHUNK), strict=True):
            sets = self._united(rows)
            factor = local_factor(self._pattern.columns, self._V, sets)
            right = place_in(sets, rows, own)[..., None]
            parts.append(torch.linalg.solve_triangular(factor, right, upper=True).square().sum((1, 2)))
        return variance + torch.cat(parts)

    @torch.no_grad()
    def covariance(self, at: Values) -> Tensor:
        """``Cov[f] [k, k]`` of the joint draws."""
        unique, back = torch.unique(points(at, "at", self._X.shape[1]), dim=0, return_inverse=True)
        root = self._joint(unique, None)[back]
        return root @ root.mT

    @torch.no_grad()
    def sample(self, at: Values, n: int = 1, *, seed: int = 0) -> Tensor:
        """Joint draws of ``f``, ``[n, k]``; points given twice get the same value."""
        unique, back = torch.unique(points(at, "at", self._X.shape[1]), dim=0, return_inverse=True)
        size = len(self._X) + len(unique), n
        normal = torch.randn(size, generator=generator(seed, "spatial", "sample"), dtype=torch.float64)
        return (self.mean(unique) + self._joint(unique, normal).mT)[:, back]

    def _given(self, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nearest latent values ``[k, m]``, weights and variance of each new point given them."""
        old, new = (self._covariance.scaled(X).numpy() for X in (self._X, where))
        near = torch.as_tensor(nearest_among(old, new, self._near))
        own = torch.arange(len(where))[:, None] + len(old)
        weights, variance = self._conditionals(where, torch.cat([near, own], 1))
        return near, weights, variance

    def _conditionals(self, where: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([self._X, where])
        noise = torch.zeros(len(joined), dtype=torch.float64)
        parts = [condition_last(blocks(self._covariance, joined, noise, part)) for part in index.split(_CHUNK)]
        if not parts:
            return torch.zeros(0, index.shape[1] - 1, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        return torch.cat([part.weights for part in parts]), torch.cat([part.variance for part in parts])

    def _united(self, rows: Tensor) -> Tensor:
        """Ascending union of the ancestors of ``rows [B, m]``; padding n stays last."""
        union = self._pattern.ancestors[rows].flatten(1).sort(-1).values
        repeated = torch.zeros_like(union, dtype=torch.bool)
        repeated[:, 1:] = union[:, 1:] == union[:, :-1]
        union = union.masked_fill(repeated, len(self._X)).sort(-1).values
        return union[:, : int((union < len(self._X)).sum(1).max())].contiguous()

    def _joint(self, where: Tensor, normal: Tensor | None) -> Tensor:
        """Deviations ``root z`` of the new points for ``z [n + k, draws]`` (None: the root itself, ``[k, n + k]``)."""
        from scipy.sparse import csr_array
        from scipy.sparse.linalg import spsolve_triangular

        old, new = (self._covariance.scaled(X).numpy() for X in (self._X, where))
        order = torch.as_tensor(maximin(new)[0])
        near = torch.as_tensor(nearest_among(old, new[order], self._near))
        earlier = torch.as_tensor(nearest_before(new[order], self._near))
        shifted = torch.where(earlier >= 0, earlier + len(old), earlier)
        own = torch.arange(len(where))[:, None] + len(old)
        index = torch.cat([near, shifted, own], 1)
        weights, variance = self._conditionals(where[order], index)
        z = (np.eye(len(old) + len(new)) if normal is None else normal.numpy()).copy()
        z[len(old) :] *= variance.sqrt().numpy()[:, None]
        # (V^T, then new points below) f = z, one sparse lower triangle
        columns = self._pattern.columns
        kept, seen = columns >= 0, index >= 0
        below = torch.arange(len(where))[:, None].expand_as(index) + len(old)
        rows = torch.cat([torch.arange(len(old))[:, None].expand_as(columns)[kept], below[seen]])
        values = torch.cat([self._V[kept], torch.cat([-weights, torch.ones_like(weights[:, :1])], 1)[seen]])
        at = rows.numpy(), torch.cat([columns[kept], index[seen]]).numpy()
        lower: Any = csr_array((values.numpy(), at), shape=(len(z), len(z)))
        solved = torch.as_tensor(spsolve_triangular(lower, z, lower=True))[len(old) :]
        return torch.empty_like(solved).index_copy_(0, order, solved)
