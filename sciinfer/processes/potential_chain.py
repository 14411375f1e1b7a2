"""A linear-Gaussian chain under dense Gaussian potentials: its normaliser, marginals, pairs and draws.

A potential is a precision matrix and a shift, ``t(x) = exp(j^T x - x^T J x / 2)``; ``J`` may be singular or zero and is
never factored, so that gradients stay smooth where a potential says little.

References:
    Johnson et al. (2016), Composing graphical models with neural networks for structured representations.
    Zhao, Linderman (2023), Revisiting structured variational autoencoders.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..statespace import (
    Filtered,
    LinearGaussian,
    Smoothed,
    associative_scan,
    kalman_smoother,
    matvec,
    outer_form,
    sample_paths,
    symmetrise,
)
from ..statespace.scan import combine_filter
from .base import LinearProcess
from .bridge import grid_problem, take, take_paths

Backend = Literal["auto", "sequential", "scan"]
#: series times state dimension from which the loop is the faster one
_WIDE = 192


class Potentials(NamedTuple):
    """``t(x) = exp(shift^T x - x^T precision x / 2)``, ``[S, T, d, d]`` and ``[S, T, d]``; zeros say nothing."""

    precision: Tensor
    shift: Tensor

    def __add__(self, other: tuple[Tensor, ...]) -> Potentials:  # type: ignore[override]
        """The product of both."""
        return Potentials(self.precision + other[0], self.shift + other[1])

    def expected(self, mean: Tensor, cov: Tensor) -> Tensor:
        """``E log t`` for ``x ~ N(mean, cov)``, ``[S]``."""
        second = cov + mean[..., :, None] * mean[..., None, :]
        return (self.shift * mean).sum((1, 2)) - 0.5 * (self.precision * second).sum((1, 2, 3))


class ChainPath(NamedTuple):
    """``q(x) = p(x) prod t(x) / Z`` on the chain of ``problem``; its ``filtered.loglik`` is ``log Z``.

    ``at_data, at_query [S, n]`` are places in the grid; ``divergence [S]`` is ``KL(q || p)`` of whole paths.
    """

    problem: LinearGaussian
    filtered: Filtered
    smoothed: Smoothed
    at_data: Tensor
    at_query: Tensor
    divergence: Tensor

    @property
    def log_normaliser(self) -> Tensor:
        """``log Z [S]``."""
        return self.filtered.loglik

    def mean(self, where: Tensor) -> Tensor:
        """``[S, n, d]`` at grid positions."""
        return take(self.smoothed.mean, where)

    def cov(self, where: Tensor) -> Tensor:
        """``[S, n, d, d]`` at grid positions."""
        return take(self.smoothed.cov, where)

    def crossed(self) -> Tensor:
        """``Cov(x_{t+1}, x_t) [S, N - 1, d, d]`` of neighbours in the grid."""
        return self.smoothed.cov[:, 1:] @ self.smoothed.gain[:, :-1].mT

    def sample(self, draws: int, generator: torch.Generator, where: Tensor | None = None) -> Tensor:
        """Joint draws ``[n, S, N, d]`` on the grid, or at positions ``[S, m]`` of it."""
        mean = self.smoothed.mean
        noise = torch.randn((draws, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        path = sample_paths(self.problem, self.filtered, self.smoothed.gain, draws=draws, noise=noise)
        return path if where is None else take_paths(path, where)


def condition_process(
    process: LinearProcess, time: Tensor, potentials: Potentials, query: Tensor, *, backend: Backend = "auto"
) -> ChainPath:
    """Multiply a linear prior by dense potentials at ``time [S, T]`` (ascending), exactly.

    ``KL(q || p) = E_q log prod t - log Z``. With diagonal precisions the answer is that of
    :func:`~sciinfer.processes.condition_potentials`.

    Args:
        query: ``[S, Q]`` further times, any order.

    Example:
        >>> from sciinfer.random import generator
        >>> from sciinfer.processes import StationaryLinear
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> process = StationaryLinear(1, generator=generator(0, "p"))
        >>> q = condition_process(process, one, Potentials(one[..., None, None], one[..., None]), one)
        >>> round(q.mean(q.at_query).item(), 6)
        0.5
    """
    grid, order = torch.sort(torch.cat([time, query], dim=1), dim=1, stable=True)
    where, T, blank = torch.argsort(order, dim=1), time.shape[1], query.shape[1]
    J, j = potentials
    J = take(torch.cat([J, J.new_zeros(J.shape[0], blank, *J.shape[2:])], dim=1), order)
    j = take(torch.cat([j, j.new_zeros(j.shape[0], blank, j.shape[2])], dim=1), order)
    problem = grid_problem(process, grid, J, j)
    path = condition_chain(problem, Potentials(J, j), backend=backend)
    return path._replace(at_data=where[:, :T], at_query=where[:, T:])


def condition_chain(problem: LinearGaussian, potentials: Potentials, *, backend: Backend = "auto") -> ChainPath:
    """The same for a chain whose transitions are given; ``H`` and ``y`` of the problem are not read."""
    chosen = choose_backend(problem, backend)
    # symmetric, so that every back-end has the same derivative for J
    potentials = Potentials(symmetrise(potentials.precision), potentials.shift)
    filtered = (_filter_scan if chosen == "scan" else _filter)(problem, potentials)
    smoothed = kalman_smoother(problem, filtered, backend=chosen)
    places = torch.arange(problem.A.shape[1], device=problem.A.device).expand(problem.A.shape[:2])
    divergence = potentials.expected(smoothed.mean, smoothed.cov) - filtered.loglik
    return ChainPath(problem, filtered, smoothed, places, places[:, :0], divergence)


def choose_backend(problem: LinearGaussian, backend: Backend = "auto") -> Literal["sequential", "scan"]:
    """The loop for short or wide batches, the scan otherwise."""
    if backend != "auto":
        return backend
    S, T, d = problem.A.shape[:3]
    if problem.A.device.type != "cpu":
        return "scan" if T > 8 else "sequential"
    return "sequential" if T <= 8 or S * d > _WIDE else "scan"


def absorb(m: Tensor, P: Tensor, J: Tensor, j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``N(m, P) exp(j^T x - x^T J x / 2) = Z N(mean, cov)``: mean, cov and ``log Z``.

    ``cov = (I + P J)^{-1} P``; with ``r = j - J m``: ``mean = m + cov r`` and
    ``log Z = j^T m - m^T J m / 2 + r^T cov r / 2 - log|I + P J| / 2``.
    """
    eye = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    inner = eye + P @ J
    cov = symmetrise(torch.linalg.solve(inner, P))
    r = j - matvec(J, m)
    step = matvec(cov, r)
    log_det = torch.linalg.slogdet(inner).logabsdet
    return m + step, cov, 0.5 * ((j * m).sum(-1) + (r * m).sum(-1) + (r * step).sum(-1) - log_det)


def _filter(problem: LinearGaussian, potentials: Potentials) -> Filtered:
    A, Q, J, j = (part.unbind(1) for part in (problem.A, problem.Q, *potentials))
    b = None if problem.b is None else problem.b.unbind(1)
    m, P = problem.m0, problem.P0
    found: list[list[Tensor]] = [[] for _ in range(5)]
    for k in range(len(A)):
        if k:
            m = matvec(A[k], m) if b is None else matvec(A[k], m) + b[k]
            P = outer_form(A[k], P) + Q[k]
        before = m, P
        m, P, gained = absorb(m, P, J[k], j[k])
        for part, value in zip(found, (m, P, *before, gained), strict=True):
            part.append(value)
    mean, cov, mean_pred, cov_pred, gained = (torch.stack(part, dim=1) for part in found)
    return Filtered(mean, cov, mean_pred, cov_pred, gained.sum(1))


def _filter_scan(problem: LinearGaussian, potentials: Potentials) -> Filtered:
    A, Q, _, _, m0, P0, b = problem
    J, j = potentials
    first = (torch.arange(A.shape[1], device=A.device) == 0)[:, None, None]
    A = torch.where(first, torch.zeros_like(A), A)
    Q = torch.cat([P0[:, None], Q[:, 1:]], dim=1)
    shift = torch.zeros_like(A[..., 0]) if b is None else b
    shift = torch.cat([m0[:, None], shift[:, 1:]], dim=1)
    mean, cov = _scanned(A, Q, shift, J, j)
    moved = matvec(A[:, 1:], mean[:, :-1]) + shift[:, 1:]
    mean_pred = torch.cat([m0[:, None], moved], dim=1)
    cov_pred = torch.cat([P0[:, None], outer_form(A[:, 1:], cov[:, :-1]) + Q[:, 1:]], dim=1)
    mean, cov, gained = absorb(mean_pred, cov_pred, J, j)
    return Filtered(mean, cov, mean_pred, cov_pred, gained.sum(1))


def _scanned(A: Tensor, Q: Tensor, shift: Tensor, J: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Filtered moments by the scan of the Kalman filter, its elements built from potentials."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    right = torch.cat([A, Q, (shift + matvec(Q, j)).unsqueeze(-1)], dim=-1)
    moved, C, b = torch.linalg.solve(eye + Q @ J, right).split([A.shape[-1], A.shape[-1], 1], dim=-1)
    # (I + J Q)^{-1} = (I + Q J)^{-T}; its products with J and A are symmetric
    eta = matvec(moved.mT, j - matvec(J, shift))
    elements = (moved, eta, symmetrise(moved.mT @ J @ A), b.squeeze(-1), symmetrise(C))
    _, _, _, mean, cov = associative_scan(combine_filter, elements)
    return mean, cov
