"""Posterior of Hurst index, rate, size and noise: the mode, then adaptive importance sampling on the likelihood.

All channels and all proposals are lanes of one filter, so forty posteriors cost hardly more calls than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import NumericalError
from ..integrate.fractional_ou import fractional_ou, stationary, transition
from ..labelled.series import Padded
from ..likelihoods.gaussian import FLOOR
from ..statespace import LinearGaussian, log_likelihood, whiten
from ..variational.psis import psis

#: raw coordinates of a channel: logit H, and the logarithms of rate, stationary sd and noise sd
NAMES = ("hurst", "rate", "scale", "noise")
#: degrees of freedom of the proposals; draws in each round that adapts them; numbers held by one call of the filter
_HEAVY, _ROUND, _LANES = 5, 150, 4e6

#: logarithm of the constant of a four-dimensional t
_LOG_NORMAL = math.lgamma(0.5 * (_HEAVY + 4)) - math.lgamma(0.5 * _HEAVY) - 2 * math.log(_HEAVY * math.pi)

#: ``raw [n, C, 4] -> [n, C]``
Density = Callable[[Tensor], Tensor]


class Prior(NamedTuple):
    """``H`` uniform; the logarithms of rate, stationary sd and noise normal: ``centre, spread [C, 3]``."""

    centre: Tensor
    spread: Tensor

    def log_prob(self, raw: Tensor) -> Tensor:
        """Density of the raw coordinates ``[..., C, 4]``, ``[..., C]``."""
        index = torch.nn.functional.logsigmoid(raw[..., 0]) + torch.nn.functional.logsigmoid(-raw[..., 0])
        z = (raw[..., 1:] - self.centre) / self.spread
        return index - (0.5 * z.square() + self.spread.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``[n, C, 4]``."""
        uniform = torch.rand(n, len(self.centre), 1, generator=generator, dtype=self.centre.dtype)
        z = torch.randn(n, *self.centre.shape, generator=generator, dtype=self.centre.dtype)
        return torch.cat([torch.logit(uniform, eps=1e-12), self.centre + self.spread * z], dim=-1)


class Found(NamedTuple):
    """``draws [n, C, 4]`` and ``mode [C, 4]``, raw; ``khat [C]``: trust below 0.7; ``ess [C]``."""

    draws: Tensor
    mode: Tensor
    khat: Tensor
    ess: Tensor


class Lanes(NamedTuple):
    """Univariate series channel by channel: ``padded [C S, ...]``, ``channel [C S]``; grid and level of the model."""

    padded: Padded
    channel: Tensor
    rates: Tensor
    horizon: Tensor
    level: float


def log_scale_of(raw: Tensor) -> Tensor:
    """``log sigma`` from the stationary sd: ``s^2 = sigma^2 Gamma(2 H + 1) theta^(-2 H) / 2``."""
    hurst = torch.sigmoid(raw[..., 0])
    return raw[..., 2] - 0.5 * (torch.lgamma(2 * hurst + 1) - math.log(2)) + hurst * raw[..., 1]


def log_likelihood_of(lanes: Lanes, raw: Tensor) -> Tensor:
    """``log p(y_c)`` for parameters ``[n, C, 4]``, summed over the series of a channel: ``[n, C]``."""
    n, C = raw.shape[:2]
    S, T = lanes.padded.time.shape
    d = len(lanes.rates) + 2
    size = max(1, int(_LANES / (S * T * d * d)))
    parts = [_chunk(lanes, part) for part in raw.split(size)]
    per_series = torch.cat(parts).reshape(n, S)
    return per_series.new_zeros(n, C).index_add(1, lanes.channel, per_series)


def _chunk(lanes: Lanes, raw: Tensor) -> Tensor:
    mine = raw[:, lanes.channel]
    hurst, theta, sigma = torch.sigmoid(mine[..., 0]), mine[..., 1].exp(), log_scale_of(mine).exp()
    process = fractional_ou(hurst[..., None], theta[..., None], sigma[..., None], lanes.rates, lanes.horizon)
    time = lanes.padded.time
    step = torch.cat([torch.zeros_like(time[:, :1]), time.diff(dim=1)], dim=1)
    A, Q = (_with_level(part, value) for part, value in zip(transition(process, step), (1.0, 0.0), strict=True))
    P0 = _with_level(stationary(process)[:, :, 0], lanes.level)
    h = torch.zeros_like(A[..., :1, :])
    h[..., 0], h[..., -1] = 1.0, 1.0
    values, mask = (x.expand(len(raw), *x.shape) for x in (lanes.padded.values, lanes.padded.mask))
    precision = (FLOOR + mine[..., 3].exp()).pow(-2)[..., None, None].expand_as(values)
    H, y, log_jacobian = whiten(h, values, precision, mask)
    flat = [x.flatten(0, 1) for x in (A, Q, H, y, torch.zeros_like(P0[..., 0]), P0)]
    return log_likelihood(LinearGaussian(*flat)) + log_jacobian.sum(2).flatten()


def _with_level(matrix: Tensor, value: float) -> Tensor:
    """A component more, in which the unknown level stands."""
    out = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
    corner = torch.zeros_like(out[0, 0] if out.ndim == 4 else out[0, 0, 0])
    corner[-1, -1] = value
    return out + corner


def find_posterior(density: Density, prior: Prior, start: Tensor, draws: int, generator: torch.Generator) -> Found:
    """Mode and Laplace, then rounds that adapt the proposal; all draws are weighted against the mixture of all.

    The prior is one of the proposals: where the data say little, the tails are its own.

    Args:
        density: log-posterior of every channel for itself, differentiable. prior: its prior. start: ``[C, 4]``.

    Raises:
        NumericalError: the density is finite nowhere near the mode.

    References:
        Cornuet, Marin, Mira, Robert (2012), Adaptive multiple importance sampling; Vehtari et al. (2024), Pareto
        smoothed importance sampling.
    """
    mode = find_mode(density, start)
    sizes = [_ROUND, _ROUND, _ROUND, max(draws, _ROUND)]
    proposals = [(mode, _laplace(density, mode))]
    points = prior.sample(_ROUND, generator)
    with torch.no_grad():
        value = _values(density, points)
    value = torch.where(value.isfinite(), value, -torch.inf)
    weights, khat, ess = value, mode[:, 0], mode[:, 0]
    for size in sizes:
        new, at = _propose(density, *proposals[-1], size, generator)
        points, value = torch.cat([points, new]), torch.cat([value, at])
        weights, khat, ess = _smooth(value - _log_mixture(points, prior, proposals, sizes))
        proposals.append(_moments(points, weights, proposals[-1][1]))
    chosen = torch.multinomial(weights.mT, draws, replacement=True, generator=generator).mT
    return Found(points.gather(0, chosen[..., None].expand(*chosen.shape, 4)), mode, khat, ess)


def find_mode(density: Density, start: Tensor, iterations: int = 60) -> Tensor:
    """``[C, 4]``: the best point of every channel, by one quasi-Newton run over all of them."""
    from scipy.optimize import minimize

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        raw = torch.as_tensor(x).reshape(1, *start.shape).requires_grad_()
        value = -density(raw).sum()
        (slope,) = torch.autograd.grad(value, raw)
        return float(value.detach()), slope.reshape(-1).numpy()

    bounds = [(-6.0, 6.0), (-12.0, 12.0), (-12.0, 12.0), (-12.0, 12.0)] * len(start)
    found = minimize(
        objective,
        start.reshape(-1).numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": iterations},
    )
    return torch.as_tensor(found.x).reshape(start.shape)


def _laplace(density: Density, mode: Tensor, step: float = 1e-3) -> Tensor:
    """Root of the inverse Hessian at the mode ``[C, 4, 4]``, from central differences of the gradient."""
    eye = torch.eye(4, dtype=mode.dtype)
    points = (mode + step * torch.cat([eye, -eye])[:, None, :]).requires_grad_()
    (slope,) = torch.autograd.grad(density(points).sum(), points)
    hessian = (slope[:4] - slope[4:]).movedim(0, 1) / (2 * step)
    values, vectors = torch.linalg.eigh(-0.5 * (hessian + hessian.mT))
    # flat directions are held by the prior, whose widths are about one
    return vectors / values.clamp(min=0.2).sqrt().unsqueeze(-2)


@torch.no_grad()
def _propose(
    density: Density, centre: Tensor, root: Tensor, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``n`` draws of a multivariate t ``[n, C, 4]`` and the density there ``[n, C]``."""
    C, k = centre.shape
    z = torch.randn(n, C, k, generator=generator, dtype=centre.dtype)
    # chi-square with a whole number of degrees of freedom as a sum of squares
    chi = torch.randn(n, C, _HEAVY, generator=generator, dtype=centre.dtype).square().sum(-1)
    points = centre + (root @ (z * (_HEAVY / chi).sqrt()[..., None]).unsqueeze(-1)).squeeze(-1)
    inside = points.abs().amax(-1) < 25.0
    value = _values(density, torch.where(inside[..., None], points, centre))
    return points, torch.where(inside & value.isfinite(), value, -torch.inf)


def _log_mixture(points: Tensor, prior: Prior, proposals: list[tuple[Tensor, Tensor]], sizes: list[int]) -> Tensor:
    """Log-density ``[n, C]`` of the mixture of the prior and the t's, each by its share of the draws."""
    inside = points.clamp(-25.0, 25.0)
    parts = [prior.log_prob(inside) + math.log(_ROUND)]
    for (centre, root), size in zip(proposals, sizes, strict=False):
        t = torch.linalg.solve(root, (points - centre).unsqueeze(-1)).squeeze(-1)
        log_q = -0.5 * (_HEAVY + t.shape[-1]) * (t.square().sum(-1) / _HEAVY).log1p()
        parts.append(log_q - torch.linalg.slogdet(root)[1] + _LOG_NORMAL + math.log(size))
    return torch.stack(parts).logsumexp(0)


def _values(density: Density, points: Tensor) -> Tensor:
    """The density; ``-inf`` at points where a covariance loses its definiteness, found by halving."""
    try:
        return density(points)
    except NumericalError:
        if len(points) == 1:
            return torch.full_like(points[..., 0], -torch.inf)
        half = len(points) // 2
        return torch.cat([_values(density, points[:half]), _values(density, points[half:])])


def _smooth(log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised weights ``[n, C]``, k-hat and effective size ``[C]``."""
    if not bool((log_weight > -torch.inf).any(dim=0).all()):
        raise NumericalError("the posterior is finite nowhere near its mode", fix="check the scale of the data")
    found = [psis(column) for column in log_weight.mT.numpy()]
    weights = torch.as_tensor(np.stack([f.weights for f in found], axis=1))
    return weights, torch.tensor([f.khat for f in found]).double(), torch.tensor([f.ess for f in found]).double()


def _moments(points: Tensor, weights: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean, and root of the covariance, with a tenth of the old one for safety."""
    mean = (weights[..., None] * points).sum(0)
    away = points - mean
    covariance = torch.einsum("nc,nci,ncj->cij", weights, away, away) + 0.1 * root @ root.mT
    return mean, torch.linalg.cholesky(covariance)
