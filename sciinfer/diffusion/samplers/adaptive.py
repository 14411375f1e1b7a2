"""Adaptive steps of the reverse stochastic equation, each sample at its own pace."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import BudgetError, ConfigError
from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler


class AdaptiveSDE(Sampler):
    """Stochastic improved Euler with an error estimate ("Gotta go fast"); of the ladder only the two ends count.

    ``du = 2 (u - D) / s ds + sqrt(2 s) dW`` downwards in ``s``, stepped in ``log s``. A step is accepted where the
    distance of Euler's point to the improved one, over ``max(absolute, relative |u|)`` and as a root mean square over
    the sample, is at most one. A rejected step is divided by a Brownian bridge and its rest kept: drawing anew
    would favour small increments and spoil the distribution. Two evaluations a step.

    Args:
        absolute, relative: tolerances. first: first step in ``log s``. end: ratio below which the mean is taken.
        limit: steps after which it gives up.

    Raises:
        ConfigError: a tolerance that is not positive.

    References:
        Jolicoeur-Martineau, Li, Piché-Taillefer, Kachman, Mitliagkas (2021), Gotta go fast when generating data with
        score-based models.
        Rackauckas, Nie (2017), Adaptive methods for stochastic differential equations via natural embeddings and
        rejection sampling with memory.
    """

    stochastic: ClassVar[bool] = True

    def __init__(
        self, *, absolute: float = 1e-2, relative: float = 1e-2, first: float = 0.05, end: float = 1e-3,
        limit: int = 10_000,
    ) -> None:  # fmt: skip
        if not (absolute > 0 and relative >= 0 and first > 0 and end > 0):
            raise ConfigError("tolerances, first step and end must be positive", fix="AdaptiveSDE()")
        self.absolute, self.relative, self.first, self.end, self.limit = absolute, relative, first, end, limit

    def integrate(self, denoiser: Denoiser, u: Tensor, ratios: Tensor, noise: RowNoise) -> Tensor:
        """From the first ratio to the last in one go: steps are the samples' own."""
        return super().integrate(denoiser, u, ratios[[0, -1]], noise)

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """All steps from ``s`` to ``below``, and the mean at the end if that is zero."""
        goal = float(below.clamp(min=self.end))
        walk = _Walk(u, s, goal, self.first, noise)
        for _ in range(self.limit):
            if not bool(walk.active.any()):
                break
            self._try(denoiser, walk, noise.normal())
        else:
            raise BudgetError(f"{self.limit} adaptive steps did not reach the end", fix="larger tolerances or limit")
        last = s.new_tensor(goal)
        return (denoiser.denoise(walk.u, last) if float(below) < self.end else walk.u), None

    def _try(self, denoiser: Denoiser, walk: _Walk, z: Tensor) -> None:
        u, s, low = walk.u, walk.column(walk.at), walk.column(walk.to)
        euler = u + (low - s) * 2 * (u - denoiser.denoise(u, s)) / s + walk.kick
        again = u + (low - s) * 2 * (euler - denoiser.denoise(euler, low)) / low + walk.kick
        better = 0.5 * (euler + again)
        largest = torch.maximum(euler.abs(), walk.before.abs())
        size = torch.maximum(torch.full_like(u, self.absolute), self.relative * largest)
        error = ((euler - better) / size).flatten(1).square().mean(1).sqrt()
        walk.move(better, euler, error, z)


class _Walk:
    """Where each sample is, the step it tries next with its noise, and the rests of divided steps.

    ``at, to [n]``: ratios; ``kick``: the increment between them; ``rests``: what follows, the nearest last.
    """

    def __init__(self, u: Tensor, s: Tensor, goal: float, first: float, noise: RowNoise) -> None:
        self.u = self.before = u
        self.goal, self.at = goal, s.expand(len(u)).clone()
        self.h = torch.full_like(self.at, first)
        self.to = self._ahead()
        self.kick = self._spread(self.at, self.to) * noise.normal()
        self.depth = torch.zeros(len(u), dtype=torch.int64, device=u.device)
        self.rest_to: list[Tensor] = []
        self.rest_kick: list[Tensor] = []

    @property
    def active(self) -> Tensor:
        """Samples that have not arrived, ``[n]``."""
        return self.at > self.goal * (1 + 1e-12)

    def column(self, values: Tensor) -> Tensor:
        """``[n, 1, ...]``."""
        return values.reshape(-1, *[1] * (self.u.ndim - 1))

    def move(self, better: Tensor, euler: Tensor, error: Tensor, z: Tensor) -> None:
        """Take the accepted steps, divide the others; samples that have arrived stand still."""
        takes, refused = self.active & (error <= 1.0), self.active & ~(error <= 1.0)
        tried = (self.at / self.to).log()
        # the error of a stochastic step grows with its length to a power near one half
        wanted = 0.9 * tried * error.clamp(min=1e-6) ** -0.9
        self.h = torch.where(refused, torch.minimum(wanted, 0.5 * tried), wanted).clamp(max=1.0)
        self._divide(refused, z)
        row = self.column(takes)
        self.u, self.before = torch.where(row, better, self.u), torch.where(row, euler, self.before)
        self.at = torch.where(takes, self.to, self.at)
        self._next(takes, z)

    def _divide(self, refused: Tensor, z: Tensor) -> None:
        """Split the step where the shorter one ends, by a Brownian bridge, and keep the rest."""
        if not bool(refused.any()):
            return
        middle = torch.maximum(self.at * (-self.h).exp(), self.to)
        whole = (self.at.square() - self.to.square()).clamp(min=torch.finfo(self.at.dtype).tiny)
        share = (self.at.square() - middle.square()) / whole
        part = self.column(share) * self.kick + self.column((share * (1 - share) * whole).clamp(min=0.0).sqrt()) * z
        self._push(refused, self.to, self.kick - part)
        self.to = torch.where(refused, middle, self.to)
        self.kick = torch.where(self.column(refused), part, self.kick)

    def _push(self, which: Tensor, to: Tensor, kick: Tensor) -> None:
        if int(self.depth[which].max()) == len(self.rest_to):
            self.rest_to.append(torch.zeros_like(self.to))
            self.rest_kick.append(torch.zeros_like(self.kick))
        for level in range(len(self.rest_to)):
            here = which & (self.depth == level)
            self.rest_to[level] = torch.where(here, to, self.rest_to[level])
            self.rest_kick[level] = torch.where(self.column(here), kick, self.rest_kick[level])
        self.depth = self.depth + which.long()

    def _next(self, takes: Tensor, z: Tensor) -> None:
        """A rest of a divided step where there is one, else a new step with new noise."""
        fresh = takes & (self.depth == 0)
        to = self._ahead()
        kick = self._spread(self.at, to) * z
        self.to = torch.where(fresh, to, self.to)
        self.kick = torch.where(self.column(fresh), kick, self.kick)
        kept = takes & (self.depth > 0)
        for level in range(len(self.rest_to)):
            here = kept & (self.depth == level + 1)
            self.to = torch.where(here, self.rest_to[level], self.to)
            self.kick = torch.where(self.column(here), self.rest_kick[level], self.kick)
        self.depth = self.depth - kept.long()

    def _ahead(self) -> Tensor:
        return (self.at * (-self.h).exp()).clamp(min=self.goal)

    def _spread(self, high: Tensor, low: Tensor) -> Tensor:
        return self.column((high.square() - low.square()).clamp(min=0.0).sqrt())
