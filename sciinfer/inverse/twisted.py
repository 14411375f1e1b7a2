"""Sequential Monte Carlo down the ladder of noise, with guided proposals and weights that correct them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..diffusion import Denoiser, RowNoise
from ..errors import ConfigError
from ..statespace.linalg import cholesky
from .budget import Meter

#: numbers of a signal up to which covariances are written out
DENSE_LIMIT = 300


class Particles(NamedTuple):
    """``x [K, *shape]`` with equal weights; ``log_evidence``; ``ess``: effective number at each rung, least first."""

    x: Tensor
    log_evidence: float
    ess: list[float]


class _Rung(NamedTuple):
    """Particles at one ratio: prior mean and covariance of the signal, the same given the data, and the twist."""

    mean: Tensor
    cov: Tensor
    mean_y: Tensor
    cov_y: Tensor
    log_twist: Tensor


@torch.no_grad()
def twisted_smc(
    prior: Denoiser,
    forward: Callable[[Tensor], Tensor],
    b: Tensor,
    ratios: Tensor,
    *,
    particles: int = 1024,
    seed: int = 0,
    least: float = 0.5,
    meter: Meter | None = None,
) -> Particles:
    r"""Particles from ``p(x | b)``, ``b = A x + N(0, I)``, right in the limit of many at any number of rungs.

    With the moments ``D, C`` of ``x | u`` and ``D_y, C_y`` of ``x | u, b`` as if it were normal, a particle moves by
    ``q(u' | u) = N(D_y + r (u - D_y), (1 - r)^2 C_y + s'^2 (1 - r) I)``, ``r = (s' / s)^2``, and is weighed by

    ``p_{s'}(u') h(u') N(u; u', (s^2 - s'^2) I) / (p_s(u) h(u) q(u' | u))``, ``h(u) = N(b; A D, I + A C A^T)``,

    with ``h`` the likelihood itself at the end: the densities of all rungs are known, so there is no error of
    discretisation. All weights are equal where the prior is Gaussian.

    Args:
        prior: with a known density (``prior.log_prob``). forward: ``A`` per unit of noise, ``[n, *shape] -> [n, m]``.
        b: ``[m]``. ratios: descending, last zero. particles: ``K``. seed: of the random numbers.
        least: effective share of the particles below which they are resampled (systematically). meter: stops the run
            when its time is over.

    Raises:
        ConfigError: the prior has no density, or a signal is too long for dense covariances.

    References:
        Wu, Trippe, Naesseth, Blei, Cunningham (2023), Practical and asymptotically exact conditional sampling in
        diffusion models. Cardoso et al. (2024), Monte Carlo guided diffusion for Bayesian linear inverse problems.
        Del Moral, Doucet, Jasra (2006), Sequential Monte Carlo samplers.
    """
    d = math.prod(prior.shape)
    if not prior.density or d > DENSE_LIMIT:
        raise ConfigError(
            f"signals of {d} numbers of a prior {'with' if prior.density else 'without'} a known density",
            variable="prior",
            fix=f"a prior with a density and at most {DENSE_LIMIT} numbers",
        )
    A = forward(torch.eye(d, dtype=b.dtype, device=b.device).reshape(d, *prior.shape)).T
    ladder = ratios.to(b)
    noise = RowNoise(seed, particles, (d,), like=b)
    pick = torch.Generator(device=b.device).manual_seed(seed)
    mean, variance = (moment.flatten() for moment in prior.prior_moments(b))
    spread = variance + ladder[0] ** 2
    z = noise.normal()
    u = mean + spread.sqrt() * z
    rung = _rung(prior, u, ladder[0], A, b)
    start = -0.5 * (z.square() + spread.log() + math.log(2 * math.pi)).sum(1)
    logs = prior.log_prob(u.reshape(-1, *prior.shape), ladder[0]) + rung.log_twist - start
    evidence, ess = 0.0, []
    for s, below in itertools.pairwise(ladder):
        kept, logs, gained, effective = _resample(logs, least, pick)
        evidence, ess = evidence + gained, [*ess, effective]
        if kept is not None:
            u, rung = u[kept], _Rung(*(part[kept] for part in rung))
        if meter is not None:
            meter.spend(0)
        u, rung, change = _move(prior, u, s, below, rung, A, b, noise)
        logs = logs + change
    kept, logs, gained, effective = _resample(logs, math.inf, pick)
    return Particles(u[kept].reshape(-1, *prior.shape), evidence + gained, [*ess, effective])


def _rung(prior: Denoiser, u: Tensor, s: Tensor, A: Tensor, b: Tensor) -> _Rung:
    signals = u.reshape(-1, *prior.shape)
    D, C = prior.denoise(signals, s).flatten(1), prior.covariance(signals, s)
    kernel = A @ C @ A.mT + torch.eye(len(b), dtype=b.dtype, device=b.device)
    lower = cholesky(0.5 * (kernel + kernel.mT), what="A C A^T + I")
    misfit = b - D @ A.mT
    cross = C @ A.mT
    white = torch.linalg.solve_triangular(lower, misfit[..., None], upper=False)[..., 0]
    gain = torch.cholesky_solve(cross.mT, lower)
    log_twist = -0.5 * (white.square().sum(1) + len(b) * math.log(2 * math.pi)) - _half_log_det(lower)
    mean_y = D + (cross @ torch.cholesky_solve(misfit[..., None], lower))[..., 0]
    return _Rung(D, C, mean_y, C - cross @ gain, log_twist)


def _move(
    prior: Denoiser, u: Tensor, s: Tensor, below: Tensor, rung: _Rung, A: Tensor, b: Tensor, noise: RowNoise
) -> tuple[Tensor, _Rung, Tensor]:
    """New particles, what is known there, and the change of their log-weights."""
    share = (below / s) ** 2
    eye = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    cov = (1 - share) ** 2 * 0.5 * (rung.cov_y + rung.cov_y.mT) + below**2 * (1 - share) * eye
    lower, z = cholesky(cov, what="proposal covariance"), noise.normal()
    to = rung.mean_y + share * (u - rung.mean_y) + (lower @ z[..., None])[..., 0]
    log_q = -0.5 * (z.square().sum(1) + u.shape[1] * math.log(2 * math.pi)) - _half_log_det(lower)
    gap = s**2 - below**2
    back = -0.5 * ((u - to).square().sum(1) / gap + u.shape[1] * (gap.log() + math.log(2 * math.pi)))
    old = prior.log_prob(u.reshape(-1, *prior.shape), s) + rung.log_twist
    if float(below) > 0:
        rung = _rung(prior, to, below, A, b)
    else:
        rung = rung._replace(log_twist=-0.5 * ((b - to @ A.mT).square() + math.log(2 * math.pi)).sum(1))
    return to, rung, prior.log_prob(to.reshape(-1, *prior.shape), below) + rung.log_twist + back - old - log_q


def _resample(logs: Tensor, least: float, generator: torch.Generator) -> tuple[Tensor | None, Tensor, float, float]:
    """Which particles are kept (None: all as they are), log-weights, evidence gained, effective number."""
    weights = logs.softmax(0)
    effective = float(1 / weights.square().sum())
    if effective >= least * len(logs):
        return None, logs, 0.0, effective
    gained = float(logs.logsumexp(0)) - math.log(len(logs))
    first = torch.rand((), generator=generator, dtype=logs.dtype, device=logs.device)
    points = (torch.arange(len(logs), dtype=logs.dtype, device=logs.device) + first) / len(logs)
    which = torch.searchsorted(weights.cumsum(0), points).clamp(max=len(logs) - 1)
    return which, torch.zeros_like(logs), gained, effective


def _half_log_det(lower: Tensor) -> Tensor:
    return lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
