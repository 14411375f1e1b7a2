"""The posterior of a Markov Gaussian process at any times, in the caller's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ..random import generator
from ..statespace import (
    Backend,
    Filtered,
    LinearGaussian,
    Smoothed,
    kalman_filter,
    kalman_smoother,
    sample_paths,
    symmetrise,
)
from .kernels import Kernel, Sum
from .observations import DERIVATIVE, DIFFERENCE, Layout, Observed, as_observed

Pose = Callable[[Observed], tuple[LinearGaussian, Tensor, Layout, Tensor]]


class Components(NamedTuple):
    """Posterior moments of each summed kernel: ``names``, ``mean [parts, K]``, ``variance [parts, K]``."""

    names: tuple[str, ...]
    mean: Tensor
    variance: Tensor


class _Solved(NamedTuple):
    """The smoothed problem, the event and the readout ``[K, C, n]`` of each query, and the prior mean ``[K, C]``."""

    problem: LinearGaussian
    filtered: Filtered
    smoothed: Smoothed
    at: Tensor
    readout: Tensor
    level: Tensor


class MarkovPosterior:
    """``f | y``. Every method takes times ``at [K]`` in any order (or functionals, see
    :mod:`sciinfer.gp.observations`) and answers in that order; with ``C`` outputs an axis follows each ``K``.
    """

    def __init__(self, kernel: Kernel, level: Tensor, pose: Pose, backend: Backend = "auto") -> None:
        self._kernel, self._level, self._pose = kernel, level, pose
        self._backend: Backend = backend
        self._last: tuple[Observed, _Solved] | None = None

    @torch.no_grad()
    def mean(self, at: Any) -> Tensor:
        """``E[f | y]``, ``[K]``."""
        solved = self._solve(at)
        states = solved.smoothed.mean[0, solved.at]
        return self._shaped((solved.readout @ states.unsqueeze(-1)).squeeze(-1) + solved.level)

    @torch.no_grad()
    def variance(self, at: Any) -> Tensor:
        """``Var[f | y]``, ``[K]``; without noise."""
        solved = self._solve(at)
        P = solved.readout @ solved.smoothed.cov[0, solved.at] @ solved.readout.mT
        return self._shaped(P.diagonal(dim1=-2, dim2=-1).clamp(min=0.0))

    @torch.no_grad()
    def covariance(self, at: Any) -> Tensor:
        """``Cov[f | y]``, ``[K, K]``, or ``[K, C, K, C]`` with outputs."""
        solved = self._solve(at)
        K, C = solved.readout.shape[:2]
        if not K:
            return solved.readout.new_zeros(0, 0)
        found = joint_covariance(Smoothed(*(part[0] for part in solved.smoothed)), solved.at, solved.readout)
        return symmetrise(found.reshape(K, K)) if C == 1 else found

    @torch.no_grad()
    def sample(self, at: Any, n: int = 1, *, seed: int = 0) -> Tensor:
        """Joint draws of ``f | y``, ``[n, K]``."""
        solved = self._solve(at)
        shape = (n, *solved.smoothed.mean.shape)
        noise = torch.randn(shape, generator=generator(seed, "gp-sample"), dtype=torch.float64).to(solved.level.device)
        paths = sample_paths(solved.problem, solved.filtered, solved.smoothed.gain, draws=n, noise=noise)
        states = paths[:, 0, solved.at]
        return self._shaped((solved.readout @ states.unsqueeze(-1)).squeeze(-1) + solved.level)

    @torch.no_grad()
    def components(self, at: Any) -> Components:
        """Moments of each part of a sum of kernels (one part for other kernels); the mean level is in none.

        Raises:
            ConfigError: several outputs, or ``at`` is not made of times.
        """
        query = as_observed(at)
        if self._kernel.outputs != 1 or bool((query.kind != 0).any()):
            raise ConfigError("components are those of one output at times", fix="pass times")
        solved, start, means, variances = self._solve(query), 0, [], []
        parts = self._kernel.parts if isinstance(self._kernel, Sum) else [self._kernel]
        for part in parts:
            where, h = slice(start, start + part.state_dim), part.readout()
            means.append(solved.smoothed.mean[0, solved.at, where] @ h)
            variances.append(((solved.smoothed.cov[0, solved.at][:, where, where] @ h) @ h).clamp(min=0.0))
            start += part.state_dim
        return Components(_names(parts), torch.stack(means), torch.stack(variances))

    def _solve(self, at: Any) -> _Solved:
        """The answer for the last asked times is kept: mean, variance and draws usually go together."""
        query = as_observed(at).to(self._level.device)
        if self._last is not None and all(torch.equal(a, b) for a, b in zip(self._last[0], query, strict=True)):
            return self._last[1]
        problem, _, layout, readout = self._pose(query)
        filtered = kalman_filter(problem, backend=self._backend)
        smoothed = kalman_smoother(problem, filtered, backend=self._backend)
        flat = ((query.kind == DERIVATIVE) | (query.kind == DIFFERENCE))[:, None]
        level = torch.where(flat, torch.zeros_like(self._level), self._level)
        at_event = layout.read[len(layout.read) - len(query.kind) :]
        solved = _Solved(problem, filtered, smoothed, at_event, readout, level)
        self._last = query, solved
        return solved

    def _shaped(self, values: Tensor) -> Tensor:
        return values.squeeze(-1) if self._kernel.outputs == 1 else values


def joint_covariance(smoothed: Smoothed, at: Tensor, readout: Tensor) -> Tensor:
    """``Cov(f_i, f_j | y) [K, C, K, C]`` of one series at the steps ``at [K]``, in any order and repeated.

    Args:
        smoothed: without the axis of series. readout: ``[C, n]``, or one for each step ``[K, C, n]``.
    """
    rows = readout.expand(len(at), *readout.shape[-2:])
    if not len(at):
        return rows.new_zeros(0, rows.shape[1], 0, rows.shape[1])
    events, place = torch.unique(at, return_inverse=True)
    joint = _joint(smoothed, events)[place][:, place]
    return torch.einsum("icn,ijnm,jdm->icjd", rows, joint, rows)


def _joint(smoothed: Smoothed, events: Tensor) -> Tensor:
    """``Cov(x_i, x_j | y) [E, E, n, n]`` at ascending events: ``G_i G_{i+1} .. G_{j-1} P_j`` for ``i < j``."""
    gains, cov = smoothed.gain, smoothed.cov[events]
    E, n = len(events), cov.shape[-1]
    links = []
    for i, j in zip(events[:-1].tolist(), events[1:].tolist(), strict=True):
        # products in the order of time: each carries what is known at j back to i
        links.append(gains[i] if j == i + 1 else torch.linalg.multi_dot([*gains[i:j]]))
    joint = cov.new_zeros(E, E, n, n)
    for j in range(E):
        block = cov[j]
        joint[j, j] = block
        for i in range(j - 1, -1, -1):
            block = links[i] @ block
            joint[i, j], joint[j, i] = block, block.mT
    return joint


def _names(parts: list[Kernel]) -> tuple[str, ...]:
    """Class names, numbered where they repeat."""
    names, seen = [], {}
    for name in (type(part).__name__ for part in parts):
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(names)
