"""The exact posterior of a linear process given whitened observation rows, at the data's times and at any others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..statespace import (
    Backend,
    Filtered,
    LinearGaussian,
    Smoothed,
    kalman_filter,
    kalman_smoother,
    sample_paths,
)
from .base import LinearProcess


class Bridge(NamedTuple):
    """Posterior on the merged, sorted grid of observation and query times.

    ``loglik [S]`` is that of the whitened rows; ``at_data [S, T]`` and ``at_query [S, K]`` are positions in the grid.
    """

    problem: LinearGaussian
    filtered: Filtered
    smoothed: Smoothed
    at_data: Tensor
    at_query: Tensor

    @property
    def loglik(self) -> Tensor:
        """``[S]``."""
        return self.filtered.loglik

    def mean(self, where: Tensor) -> Tensor:
        """Smoothed means ``[S, K, d]`` at grid positions."""
        return take(self.smoothed.mean, where)

    def cov(self, where: Tensor) -> Tensor:
        """Smoothed covariances ``[S, K, d, d]``."""
        return take(self.smoothed.cov, where)

    def predicted(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Moments given the data before, ``[S, K, d]`` and ``[S, K, d, d]``."""
        return take(self.filtered.mean_pred, where), take(self.filtered.cov_pred, where)

    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """Joint draws on the whole grid, ``[n, S, T + K, d]``."""
        mean = self.smoothed.mean
        shape = (draws, *mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return sample_paths(self.problem, self.filtered, self.smoothed.gain, draws=draws, noise=noise)


def take(values: Tensor, where: Tensor) -> Tensor:
    """``values[s, where[s, k]]`` for ``values [S, N, ...]``."""
    index = where.reshape(*where.shape, *([1] * (values.ndim - 2))).expand(*where.shape, *values.shape[2:])
    return values.gather(1, index)


def take_paths(paths: Tensor, where: Tensor) -> Tensor:
    """``paths[n, s, where[s, k]]`` for draws ``paths [n, S, N, d]``."""
    return paths.gather(2, where[None, ..., None].expand(len(paths), *where.shape, paths.shape[-1]))


def build_bridge(
    process: LinearProcess, time: Tensor, H: Tensor, y: Tensor, query: Tensor, *, backend: Backend = "auto"
) -> Bridge:
    """Condition ``process`` on whitened rows.

    Args:
        time: ``[S, T]``, ascending. H: ``[S, T, m, d]``; y: ``[S, T, m]``; query: ``[S, K]``, any order.
    """
    grid, order = torch.sort(torch.cat([time, query], dim=1), dim=1, stable=True)
    where = torch.argsort(order, dim=1)
    blank = query.shape[1]
    H = torch.cat([H, H.new_zeros(H.shape[0], blank, *H.shape[2:])], dim=1)
    y = torch.cat([y, y.new_zeros(y.shape[0], blank, y.shape[2])], dim=1)
    problem = grid_problem(process, grid, take(H, order), take(y, order))
    filtered = kalman_filter(problem, backend=backend)
    smoothed = kalman_smoother(problem, filtered, backend=backend)
    return Bridge(problem, filtered, smoothed, where[:, : time.shape[1]], where[:, time.shape[1] :])


def grid_problem(process: LinearProcess, grid: Tensor, H: Tensor, y: Tensor) -> LinearGaussian:
    """The engine's input for a process on an ascending grid ``[S, T]``."""
    step = torch.cat([torch.zeros_like(grid[:, :1]), grid.diff(dim=1)], dim=1)
    A, Q = process.transition(step)
    m0, P0 = process.initial()
    S = grid.shape[0]
    return LinearGaussian(A, Q, H, y, m0.expand(S, *m0.shape[-1:]), P0.expand(S, *P0.shape[-2:]))
