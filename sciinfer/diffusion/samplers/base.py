"""What a sampler is: steps down a ladder of noise, from pure noise to a signal."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError
from ..denoiser import Denoiser
from ..noise import RowNoise


class Sampler(ABC):
    """Integrates ``du / ds = (u - D(u, s)) / s``, or the stochastic equation of the same marginals, to ``s = 0``."""

    #: does it add noise on the way
    stochastic: ClassVar[bool] = False

    @abstractmethod
    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """From ratio ``s`` to ``below``: the new ``u [n, *shape]`` and what the next step should remember."""

    def integrate(self, denoiser: Denoiser, u: Tensor, ratios: Tensor, noise: RowNoise) -> Tensor:
        """Down the ladder ``ratios``, descending and ending in zero, from ``u`` at the first.

        Raises:
            ConfigError: ratios that do not descend.
        """
        if ratios.ndim != 1 or len(ratios) < 2 or bool((ratios.diff() >= 0).any()) or float(ratios[-1]) < 0:
            raise ConfigError("ratios must descend and not be negative", variable="ratios", fix="EDM().ratios(32)")
        memory: Any = None
        for s, below in itertools.pairwise(ratios.to(u)):
            u, memory = self.step(denoiser, u, s, below, memory, noise)
        return u


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    ratios: Tensor,
    n: int,
    *,
    seed: int = 0,
    keys: Tensor | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """``n`` draws ``[n, *shape]``; the draw of a key is the same in any batch.

    The start has the marginal mean and variance of the noisy signal, not those of pure noise.

    Args:
        ratios: descending, last zero (``Schedule.ratios``). seed, keys: of the random numbers; ``like``: their dtype
            and device, default float64 on the CPU.

    Example:
        >>> from sciinfer.diffusion import EDM, GaussianDenoiser, Heun
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> draws = sample(GaussianDenoiser(3 * one, 0.25 * one[None]), Heun(), EDM().ratios(32), 2000)
        >>> bool((draws.mean() - 3).abs() < 0.05), bool((draws.var() - 0.25).abs() < 0.03)
        (True, True)
    """
    like = torch.zeros((), dtype=torch.float64) if like is None else like
    noise = RowNoise(seed, n if keys is None else keys, denoiser.shape, like=like)
    mean, variance = denoiser.prior_moments(like)
    first = ratios[0].to(like)
    return sampler.integrate(denoiser, mean + (variance + first**2).sqrt() * noise.normal(), ratios, noise)


def toward(u: Tensor, D: Tensor, share: Tensor) -> Tensor:
    """``D + share (u - D)``: what stays of the noise."""
    return D + share * (u - D)
