"""Stochastic-gradient Hamiltonian Monte Carlo: draws from gradients that need not see all the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, NumericalError, ShapeError
from .result import Summary, summarise

#: ``(z [n, d], generator) -> [n, d]``: an unbiased estimate of the slope of the log-density, rows apart
Slope = Callable[[Tensor, torch.Generator], Tensor]
#: memory of the running mean square of slopes, and what is added to it
_MEMORY, _LEAST = 0.95, 1e-8


class SGDraws(NamedTuple):
    """``draws [chain, draw, d]``; ``scale [d]``: the unit in which each parameter moved."""

    draws: Tensor
    scale: Tensor

    @property
    def flat(self) -> Tensor:
        """``[chain * draw, d]``."""
        return self.draws.reshape(-1, self.draws.shape[-1])

    def summary(self) -> Summary:
        """Means, standard deviations, Monte Carlo errors, effective sample sizes, R-hat."""
        return summarise(self.draws)


def slope_of(log_density: Callable[[Tensor], Tensor]) -> Slope:
    """The slope of ``[n, d] -> [n]`` by differentiation, for densities that need no randomness.

    Example:
        >>> slope = slope_of(lambda z: -0.5 * z.square().sum(-1))
        >>> slope(torch.ones(1, 2), torch.Generator()).tolist()
        [[-1.0, -1.0]]
    """

    def slope(z: Tensor, generator: torch.Generator) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(log_density(z).sum(), z)[0]

    return slope


@torch.no_grad()
def sghmc(
    slope: Slope,
    start: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 1000,
    burn: int = 1000,
    thin: int = 1,
    step: float = 0.05,
    friction: float = 1.0,
    noise: float | Tensor = 0.0,
    scale: Tensor | None = None,
    adapt: bool = False,
) -> SGDraws:
    """Draw from a density of which only noisy slopes are known, without accept-reject.

    ``dz = v dt``, ``dv = slope dt - g v dt + sqrt(2 g) dW`` in units of ``scale``, by the symmetric splitting
    half drift, friction and noise (exact), half drift, kick: one slope a step, bias of second order in the step. What
    slopes with a noise of variance ``V`` bring into the momentum is left out of the injected noise.

    Args:
        slope: unbiased estimate of ``d log p / dz``, ``[n, d] -> [n, d]``; see :func:`slope_of`.
        start: ``[chains, d]``. generator: all randomness, on the device of ``start``.
        draws: kept per chain, one in ``thin``. burn: steps before.
        step: in units of ``scale``, small against one. friction: ``g``; ``1/g`` is the memory of the momentum.
        noise: variance of the slopes' noise, one number or ``[d]``, if it is known.
        scale: ``[d]``, about the posterior's standard deviations; default ones.
        adapt: learn the scale in the first half of the burn-in: one over the root of the mean squared slope.

    Raises:
        ConfigError: an option is out of range. ShapeError: start. NumericalError: a slope is not finite.

    References:
        Chen, Fox, Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo.
        Springenberg, Klein, Falkner, Hutter (2016), Bayesian optimization with robust Bayesian neural networks.
        Leimkuhler, Matthews (2013), Rational construction of stochastic numerical methods for molecular sampling.

    Example:
        >>> from sciinfer.random import generator
        >>> target = slope_of(lambda z: -0.5 * (z - 5).square().sum(-1))
        >>> start = torch.zeros(4, 1, dtype=torch.float64)
        >>> found = sghmc(target, start, generator=generator(0), draws=2000, burn=200, step=0.3)
        >>> round(found.flat.mean().item()), round(found.flat.std().item())
        (5, 1)
    """
    _check(start, draws, burn, thin, step, friction)
    z = start.detach().clone()
    walk = _Walk(slope, step, friction, torch.as_tensor(noise, dtype=z.dtype, device=z.device), generator)
    walk.scale = torch.ones_like(z[0]) if scale is None else scale.to(z).clone()
    walk.square = walk.scale.square().reciprocal()
    v = walk.normal(z)
    for k in range(burn):
        z, v = walk.advance(z, v, adapt=adapt and k < burn // 2)
    kept = []
    for _ in range(draws):
        for _ in range(thin):
            z, v = walk.advance(z, v, adapt=False)
        kept.append(z)
    return SGDraws(torch.stack(kept, dim=1), walk.scale)


class _Walk:
    """One step after another; the scale may be learnt on the way."""

    scale: Tensor
    square: Tensor

    def __init__(self, slope: Slope, step: float, friction: float, noise: Tensor, generator: torch.Generator) -> None:
        self.slope, self.step, self.noise, self.generator = slope, step, noise, generator
        self.keep = math.exp(-friction * step)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal momenta."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def advance(self, z: Tensor, v: Tensor, *, adapt: bool) -> tuple[Tensor, Tensor]:
        """One step of positions and momenta, both ``[n, d]``."""
        half = 0.5 * self.step * self.scale
        z = z + half * v
        # noise that comes with the kick is damped half a step sooner than noise injected here
        known = (0.5 * (1 + self.keep) * self.step * self.scale).square() * self.noise
        injected = (1 - self.keep**2 - known).clamp(min=0.0)
        v = self.keep * v + injected.sqrt() * self.normal(v)
        z = z + half * v
        slope = self.slope(z, self.generator)
        if not bool(slope.isfinite().all()):
            raise NumericalError("a slope of the log-density is not finite", fix="take a smaller step")
        if adapt:
            self._learn(slope)
        return z, v + self.step * self.scale * slope

    def _learn(self, slope: Tensor) -> None:
        self.square = _MEMORY * self.square + (1 - _MEMORY) * slope.square().mean(0)
        self.scale = (self.square + _LEAST).rsqrt()


def _check(start: Tensor, draws: int, burn: int, thin: int, step: float, friction: float) -> None:
    if start.ndim != 2 or 0 in start.shape:
        raise ShapeError(f"start must be [chains, d], got {tuple(start.shape)}", fix="start.expand(chains, -1)")
    if draws < 1 or burn < 0 or thin < 1:
        raise ConfigError(f"draws and thin must be at least 1, burn at least 0; got {draws}, {thin}, {burn}")
    if not (0 < step < math.inf and 0 < friction < math.inf):
        raise ConfigError(f"step and friction must be positive, got {step}, {friction}", fix="step=0.05, friction=1.0")
