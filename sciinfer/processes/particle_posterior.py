"""Particle smoothing of a nonlinear process: asymptotically exact, whatever the shape of the posterior.

Forward: an auxiliary particle filter on an Euler grid, guided towards the next datum where decoder and noise are linear
and Gaussian, resampled systematically when the effective sample size falls below half. Backward: whole paths are drawn
with the transition densities of the grid, so that early times keep many different particles.

References:
    Godsill, Doucet, West (2004), Monte Carlo smoothing for nonlinear time series.
    Golightly, Wilkinson (2008), Bayesian inference for nonlinear multivariate diffusion models observed with error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetError, NumericalError
from ..labelled.series import Padded
from ..statespace import cholesky, matvec, whiten
from ..statespace.sequential import update
from .base import NonlinearProcess
from .bridge import take

#: numbers held at once by the backward pass
_CHUNK = 2e7
#: most Euler steps
MAX_STEPS = 20_000


class Particles(NamedTuple):
    """``path [n, S, K, d]``: draws at the query; ``ess [S]``: least effective sample size over the data, a number of
    particles; ``loglik [S]``: unbiased (up to the Euler grid) estimate of the evidence, in logarithms."""

    path: Tensor
    ess: Tensor
    loglik: Tensor


class Sight(NamedTuple):
    """How the state is seen. ``log_prob(z [P, S, d], values [S, C], mask [S, C]) -> [P, S]``; for a guide ``weight
    [C, d]``, ``bias [C]``, ``noise [C]`` of a linear decoder with Gaussian noise, or None."""

    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    weight: Tensor | None = None
    bias: Tensor | None = None
    noise: Tensor | None = None


class _Step(NamedTuple):
    """Particles before a step, their log-weights, and mean and sd of the prior's step from them."""

    z: Tensor
    log_weight: Tensor
    mean: Tensor
    sd: Tensor
    length: Tensor
    column: int


class ParticlePosterior:
    """Draws from ``p(path | data)`` of ``dz = h dt + g dW`` under any likelihood.

    Args:
        process: the prior. sight: what is observed of the state. particles: ``P``. step: longest Euler step.
        reach: time before a datum in which particles are guided towards it.
    """

    def __init__(
        self, process: NonlinearProcess, sight: Sight, *, particles: int = 1000, step: float, reach: float | None = None
    ) -> None:
        self.process, self.sight, self.particles, self.step = process, sight, particles, step
        self.reach = 5 * step if reach is None else reach

    @torch.no_grad()
    def sample(self, padded: Padded, query: Tensor, *, draws: int, generator: torch.Generator) -> Particles:
        """Joint draws at ``query [S, K]`` (any order, not after the last datum).

        Raises:
            NumericalError: every particle of a series is impossible. BudgetError: more than ``MAX_STEPS`` Euler steps.
        """
        grid, order = torch.sort(torch.cat([padded.time, query], dim=1), dim=1, stable=True)
        where = torch.argsort(order, dim=1)[:, padded.time.shape[1] :]
        blank = padded.values.new_zeros(*query.shape, padded.values.shape[-1])
        values = take(torch.cat([padded.values, blank], 1), order)
        mask = take(torch.cat([padded.mask, blank.bool()], 1), order)
        steps, last, ess, loglik = self._forward(grid, values, mask, generator)
        path = self._backward(steps, last, grid.shape[1], draws, generator)
        index = where[None, ..., None].expand(draws, *where.shape, path.shape[-1])
        return Particles(path.gather(2, index), ess, loglik)

    # -- forward -------------------------------------------------------------------------------------------------

    def _forward(
        self, grid: Tensor, values: Tensor, mask: Tensor, generator: torch.Generator
    ) -> tuple[list[_Step], tuple[Tensor, Tensor], Tensor, Tensor]:
        P, (S, N) = self.particles, grid.shape
        counts = _substeps(grid, self.step)
        z, known = self._first(values[:, 0], mask[:, 0], generator)
        log_weight = torch.full((P, S), -math.log(P), dtype=grid.dtype, device=grid.device)
        ess = torch.full((S,), float(P), dtype=grid.dtype, device=grid.device)
        loglik, steps, target = known, [], _next_data(grid, mask)
        for n in range(N):
            if n:
                gap = (grid[:, n] - grid[:, n - 1]) / counts[n - 1]
                for i in range(counts[n - 1]):
                    t = grid[:, n - 1] + i * gap
                    aim = _Aim(*(take(part, target[:, n : n + 1])[:, 0] for part in (grid, values, mask)))
                    z, log_weight = self._move(z, log_weight, t, gap, aim, steps, n - 1, generator)
            # with a guide the first datum has been conditioned on already
            if n or self.sight.weight is None:
                log_weight = log_weight + self.sight.log_prob(z, values[:, n], mask[:, n])
            total = log_weight.logsumexp(0)
            _check(total, n)
            loglik, log_weight = loglik + total, log_weight - total
            now = (-(2 * log_weight).logsumexp(0)).exp()
            ess = torch.minimum(ess, now)
            z, log_weight = _resample(z, log_weight, now < 0.5 * P, generator)
        return steps, (z, log_weight), ess, loglik

    def _first(self, values: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Particles at the first time, and the log-likelihood of what they are conditioned on."""
        S, (m, P) = len(values), self.process.initial()
        m, P, loglik = m.expand(S, -1), P.expand(S, -1, -1), values.new_zeros(S)
        weight, bias, noise = self.sight.weight, self.sight.bias, self.sight.noise
        if weight is not None and bias is not None and noise is not None:
            precision = noise.square().reciprocal().expand_as(values)
            H, y, jacobian = whiten(weight.expand(S, *weight.shape), values - bias, precision, mask)
            m, P, loglik = update(m, P, H, y)
            loglik = loglik + jacobian
        return m + matvec(cholesky(P), _normal((self.particles, *m.shape), generator, values)), loglik

    def _move(
        self, z: Tensor, log_weight: Tensor, t: Tensor, gap: Tensor, aim: _Aim, steps: list[_Step], column: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        at, dt = t.expand(z.shape[:-1]), gap[:, None]
        h, g = self.process.drift(at, z), self.process.diffusion(at, z)
        mean, sd = z + h * dt, g * dt.sqrt()
        steps.append(_Step(z, log_weight, mean, sd, gap, column))
        noise = _normal(tuple(z.shape), generator, z)
        if self.sight.weight is None or not self.process.additive:
            return mean + sd * noise, log_weight
        shift, root = self._guide(z, h, g[0], t, gap, aim)
        new = mean + shift * dt + matvec(root, noise)
        moving = (gap > 0)[:, None]
        own = torch.where(moving, (new - mean) / torch.where(moving, sd, torch.ones_like(sd)), torch.zeros_like(new))
        diagonal = root.diagonal(dim1=-2, dim2=-1)
        shrunk = torch.where(moving, (diagonal / torch.where(moving, sd[0], 1.0)).log(), torch.zeros_like(diagonal))
        ratio = -0.5 * own.square().sum(-1) + 0.5 * noise.square().sum(-1) * moving[:, 0] + shrunk.sum(-1)
        return new, log_weight + ratio

    def _guide(self, z: Tensor, h: Tensor, g: Tensor, t: Tensor, gap: Tensor, aim: _Aim) -> tuple[Tensor, Tensor]:
        """Shift of the drift ``[P, S, d]`` and root of the step's covariance ``[S, d, d]`` given the next datum, as if
        the drift stayed as it is."""
        weight, bias, noise = self.sight.weight, self.sight.bias, self.sight.noise
        if weight is None or bias is None or noise is None:
            raise NumericalError("a guide needs a linear decoder")
        left = aim.time - t
        close = (left > 0) & (left <= self.reach + 1e-12)
        H = weight * (aim.mask & close[:, None])[..., None].to(weight.dtype)
        a, wait = g.square(), left.clamp(min=0.0)[:, None, None]
        seen = H * a[:, None, :]
        S = seen @ H.mT * wait + torch.diag(noise.square())
        gain = torch.linalg.solve(S, seen).mT
        residual = aim.values - bias - matvec(H, z + h * wait[..., 0])
        cov = torch.diag_embed(a * gap[:, None]) - gain @ seen * gap[:, None, None].square()
        # a step of no length has no root; its noise is multiplied by zero
        still = (gap <= 0)[:, None, None]
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        root = torch.where(still, torch.zeros_like(cov), cholesky(torch.where(still, eye, cov), what="guided step"))
        return matvec(gain, residual), root

    # -- backward ------------------------------------------------------------------------------------------------

    def _backward(
        self, steps: list[_Step], last: tuple[Tensor, Tensor], columns: int, draws: int, generator: torch.Generator
    ) -> Tensor:
        z, log_weight = last
        x = _choose(z, log_weight.expand(draws, *log_weight.shape), generator)
        path, column = [x], columns - 1
        for step in reversed(steps):
            earlier = self._earlier(x, step, generator)
            x = torch.where((step.length > 0)[:, None], earlier, x)
            if step.column < column:
                column = step.column
                path.append(x)
            else:
                path[-1] = x
        return torch.stack(path[::-1], dim=2)

    def _earlier(self, x: Tensor, step: _Step, generator: torch.Generator) -> Tensor:
        sd = torch.where(step.sd > 0, step.sd, torch.ones_like(step.sd))
        norm = step.log_weight - sd.log().sum(-1)
        size = max(1, int(_CHUNK / (norm.numel() * x.shape[-1])))
        found = []
        for part in x.split(size):
            away = ((part[:, None] - step.mean) / sd).square().sum(-1)
            found.append(_choose(step.z, norm - 0.5 * away, generator))
        return torch.cat(found)


class _Aim(NamedTuple):
    """The next datum of each series: ``time [S]``, ``values``, ``mask [S, C]``."""

    time: Tensor
    values: Tensor
    mask: Tensor


def _next_data(grid: Tensor, mask: Tensor) -> Tensor:
    """``[S, N]``: column of the first datum at or after each column (the last column where there is none)."""
    N = grid.shape[1]
    number = torch.arange(N, device=grid.device).expand_as(grid)
    at = torch.where(mask.any(-1), number, torch.full_like(number, N - 1))
    return at.flip(1).cummin(1).values.flip(1)


def _substeps(grid: Tensor, step: float) -> list[int]:
    counts = torch.ceil(grid.diff(dim=1).amax(0) / step).clamp(min=1).long()
    if int(counts.sum()) > MAX_STEPS:
        raise BudgetError(
            f"the particle smoother would take {int(counts.sum())} steps", dim="time", fix="a longer step, fewer times"
        )
    return counts.tolist()


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _check(total: Tensor, column: int) -> None:
    if bool(torch.isfinite(total).all()):
        return
    series = int(torch.nonzero(~torch.isfinite(total))[0])
    raise NumericalError(
        "no particle explains the data",
        dim="series",
        index=series,
        fix="more particles, a smaller step, or more noise",
        details={"column": column},
    )


def _resample(z: Tensor, log_weight: Tensor, which: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Systematic, in the series ``which [S]``."""
    P, S = log_weight.shape
    start = torch.rand(S, generator=generator, dtype=z.dtype, device=z.device)
    points = (torch.arange(P, dtype=z.dtype, device=z.device)[:, None] + start) / P
    below = log_weight.exp().cumsum(0)
    ancestor = torch.searchsorted(below.mT.contiguous(), points.mT.contiguous()).mT.clamp(max=P - 1)
    moved = z.gather(0, ancestor[..., None].expand_as(z))
    even = torch.full_like(log_weight, -math.log(P))
    return torch.where(which[:, None], moved, z), torch.where(which, even, log_weight)


def _choose(z: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
    """One particle of ``z [P, S, d]`` for each of ``logits [n, P, S]``: ``[n, S, d]``, by inversion."""
    below = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
    uniform = torch.rand((len(logits), 1, z.shape[1]), generator=generator, dtype=z.dtype, device=z.device)
    index = (below < uniform * below[:, -1:]).sum(1).clamp(max=len(z) - 1)
    return z.gather(0, index[..., None].expand(*index.shape, z.shape[-1]))
