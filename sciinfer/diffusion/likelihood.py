"""The density of a diffusion prior, through its probability flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError
from ..integrate import odeint
from .denoiser import Denoiser
from .noise import RowNoise


def log_prob(
    denoiser: Denoiser,
    x: Tensor,
    *,
    divergence: str = "exact",
    probes: int = 8,
    low: float = 1e-3,
    high: float = 1e3,
    tolerance: float = 1e-7,
    seed: int = 0,
) -> Tensor:
    """``log p(x)``, ``[n]``, by the change of variables along ``du / d log s = u - D(u, s)``.

    ``log p_low(x) = log p_high(u_high) + int (n - tr dD/du) d log s``; ``p_high`` is normal with the prior's moments.

    Args:
        x: ``[n, *shape]``. divergence: ``"exact"`` (one backward pass for each number of a signal) or ``"hutchinson"``.
        probes: random vectors for the second. low, high: ends of the flow; ``p_low`` stands for the density itself.
        tolerance: of the integrator, relative. seed: of the probes.

    Raises:
        ConfigError: an unknown divergence.

    References:
        Song et al. (2021), Score-based generative modeling through stochastic differential equations.
        Hutchinson (1990), A stochastic estimator of the trace of the influence matrix.

    Example:
        >>> from sciinfer.diffusion import GaussianDenoiser
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> round(float(log_prob(GaussianDenoiser(0 * one, one[None]), 0 * one[None])), 4)
        -0.9189
    """
    if divergence not in ("exact", "hutchinson"):
        raise ConfigError(f"unknown divergence {divergence!r}", variable="divergence", fix="exact or hutchinson")
    shape, size = x.shape[1:], x[0].numel()
    vectors = _directions(x, divergence, probes, seed)

    def slope(t: Tensor, state: Tensor) -> Tensor:
        u = state[:, :size].reshape(-1, *shape)
        D, trace = _with_trace(denoiser, u, t.exp().reshape(-1, *[1] * len(shape)), vectors)
        return torch.cat([(u - D).flatten(1), (size - trace)[:, None]], dim=1)

    start = torch.cat([x.detach().flatten(1), x.new_zeros(len(x), 1)], dim=1)
    times = x.new_tensor([math.log(low), math.log(high)])
    with torch.no_grad():
        end = odeint(slope, start, times, solver="dopri5", rtol=tolerance, atol=tolerance).z[-1]
    mean, variance = (moment.flatten() for moment in denoiser.prior_moments(x))
    spread = variance + high**2
    away = (end[:, :size] - mean).square() / spread + spread.log() + math.log(2 * math.pi)
    return end[:, size] - 0.5 * away.sum(1)


def _directions(x: Tensor, divergence: str, probes: int, seed: int) -> Tensor:
    """``[v, n, *shape]``: all axes, or random signs' kin whose products average to the trace."""
    n, shape, size = len(x), x.shape[1:], x[0].numel()
    if divergence == "exact":
        eye = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *shape)
        return eye.expand(size, n, *shape)
    noise = RowNoise(seed, n, shape, like=x)
    return torch.stack([noise.normal().sign() for _ in range(probes)]) / probes**0.5


def _with_trace(denoiser: Denoiser, u: Tensor, s: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """``D`` and ``sum_v v^T (dD/du) v``, ``[n]``."""
    with torch.enable_grad():
        at = u.detach().requires_grad_()
        D = denoiser.denoise(at, s)
        (rows,) = torch.autograd.grad(D, at, vectors, is_grads_batched=True)
    return D.detach(), (rows * vectors).flatten(2).sum(2).sum(0)
