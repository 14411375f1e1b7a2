"""Simulation-free inference: given posterior marginals, the path divergence is an integral over time, no solver.

With marginals ``N(m(t), S(t))`` that move by ``z' = v + B (z - m)``, the posterior drift for diffusion ``g`` is
``f(z) = v + B (z - m) - 1/2 g g^T S^{-1} (z - m) + 1/2 div(g g^T)`` and
``KL(q || p) = KL(q_0 || p_0) + 1/2 int E |g^{-1} (f - h)|^2 dt``.

References:
    Bartosh, Vetrov, Naesseth (2025), SDE matching: scalable and simulation-free training of latent SDEs.
    Course, Nair (2023), Amortized reparametrization: efficient and scalable variational inference for latent SDEs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..statespace import cholesky, matvec
from .base import NonlinearProcess
from .bridge import Bridge


class Marginals(NamedTuple):
    """Gaussian marginals and their motion at ``K`` times: ``mean [S, K, d]``, ``root [S, K, d, d]`` (lower Cholesky
    factor of the covariance), ``velocity [S, K, d]`` = dm/dt, ``flow [S, K, d, d]`` = ``B``."""

    time: Tensor
    mean: Tensor
    root: Tensor
    velocity: Tensor
    flow: Tensor


def bridge_marginals(bridge: Bridge, time: Tensor, where: Tensor, drift: Tensor, spread: Tensor) -> Marginals:
    """Marginals of a linear bridge at grid positions without observations.

    The conditioned process has drift ``F z + D P^{-1} (z - m^-) - D S^{-1} (z - m)`` with ``P, m^-`` the moments given
    the past and ``S, m`` those given everything, hence ``B = F + D P^{-1} - 1/2 D S^{-1}``.

    Args:
        drift: ``F [d, d]``; spread: diagonal of ``D [d]``.
    """
    mean, cov = bridge.mean(where), bridge.cov(where)
    past_mean, past_cov = bridge.predicted(where)
    root = cholesky(cov, what="posterior covariance")
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    past_inverse = torch.cholesky_inverse(cholesky(past_cov, what="filtered covariance"))
    inverse = torch.cholesky_solve(eye.expand_as(cov), root)
    D = torch.diag(spread)
    flow = drift + D @ past_inverse - 0.5 * D @ inverse
    velocity = matvec(drift, mean) + matvec(D @ past_inverse, mean - past_mean)
    return Marginals(time, mean, root, velocity, flow)


def path_divergence(prior: NonlinearProcess, q: Marginals, weights: Tensor, points: Tensor) -> Tensor:
    """``1/2 sum_k w_k E |g^{-1} (f - h)|^2``, ``[S]``.

    Args:
        weights: ``[S, K]`` of the time quadrature. points: ``[P, S, K, d]`` or ``[P, 1, 1, d]``, standard normal
        (random, or a cubature rule: exact when the drift is linear).
    """
    z, f = drifts_of(prior, q, points)
    t = q.time.expand(z.shape[:-1])
    integrand = 0.5 * ((f - prior.drift(t, z)) / prior.diffusion(t, z)).square().sum(-1).mean(0)
    return (weights * integrand).sum(-1)


def drifts_of(prior: NonlinearProcess, q: Marginals, points: Tensor) -> tuple[Tensor, Tensor]:
    """States ``m + R x`` at standard normal ``points [P, S, K, d]`` and the posterior drift ``f`` there."""
    centred = matvec(q.root, points)
    z = q.mean + centred
    t = q.time.expand(z.shape[:-1])
    g = prior.diffusion(t, z)
    whitened = torch.linalg.solve_triangular(q.root.mT, points.expand_as(centred).unsqueeze(-1), upper=True).squeeze(-1)
    return z, q.velocity + matvec(q.flow, centred) - 0.5 * g.square() * whitened + 0.5 * prior.spread_divergence(t, z)


def gaussian_divergence(m1: Tensor, S1: Tensor, m0: Tensor, S0: Tensor) -> Tensor:
    """``KL(N(m1, S1) || N(m0, S0))``, ``[...]``.

    Example:
        >>> one = torch.eye(1, dtype=torch.float64); zero = one[0] * 0
        >>> float(gaussian_divergence(zero + 1, one, zero, one))
        0.5
    """
    L0, L1 = cholesky(S0), cholesky(S1)
    scaled = torch.linalg.solve_triangular(L0.expand_as(L1), L1, upper=False)
    shift = torch.linalg.solve_triangular(L0.expand_as(L1), (m1 - m0).unsqueeze(-1), upper=False)
    logs = L0.diagonal(dim1=-2, dim2=-1).log().sum(-1) - L1.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return logs + 0.5 * (scaled.square().sum((-2, -1)) + shift.square().sum((-2, -1)) - m1.shape[-1])


def gap_nodes(time: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes inside each gap of ``time [S, T]``: posterior drifts have kinks at observations, so no rule
    may cross one.

    Returns:
        times and weights ``[S, (T - 1) nodes]``.
    """
    start, length = time[:, :-1, None], time.diff(dim=1)[..., None]
    x, w = np.polynomial.legendre.leggauss(nodes)
    unit = torch.as_tensor((x + 1) / 2, dtype=time.dtype, device=time.device)
    weight = torch.as_tensor(w / 2, dtype=time.dtype, device=time.device)
    return (start + length * unit).flatten(1), (length * weight).flatten(1)


def random_nodes(time: Tensor, nodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform times, one in each of ``nodes`` equal parts of every series' span: unbiased, and as many for a long
    series as for a short one.

    Returns:
        ascending times and weights ``[S, nodes]``.
    """
    start, span = time[:, :1], time[:, -1:] - time[:, :1]
    jitter = torch.rand((len(time), nodes), generator=generator, dtype=time.dtype, device=time.device)
    unit = (torch.arange(nodes, dtype=time.dtype, device=time.device) + jitter) / nodes
    return start + span * unit, (span / nodes).expand(-1, nodes)


def cubature(dim: int, like: Tensor) -> Tensor:
    """``[2 d, 1, 1, d]`` points ``+- sqrt(d) e_i``: equal weights, exact for quadratics."""
    eye = torch.eye(dim, dtype=like.dtype, device=like.device) * math.sqrt(dim)
    return torch.cat([eye, -eye])[:, None, None, :]


def antithetic(pairs: int, shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """``[2 pairs, *shape]`` standard normal draws and their mirror images."""
    half = torch.randn((pairs, *shape), generator=generator, dtype=like.dtype, device=like.device)
    return torch.cat([half, -half])
