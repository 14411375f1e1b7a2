"""Langevin steps at a fixed noise: a corrector after any sampler's step, or alone while the noise is lowered."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ...errors import ConfigError
from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler


class Langevin(Sampler):
    """``u + e score + sqrt(2 e) z`` at each ratio of the ladder, ``e = step s^2``; the mean at the end.

    Args:
        moves: Langevin moves at each ratio. step: size of a move in units of the noise variance, below one.

    References:
        Song, Ermon (2019), Generative modeling by estimating gradients of the data distribution.
    """

    stochastic: ClassVar[bool] = True

    def __init__(self, moves: int = 5, step: float = 0.1) -> None:
        self.moves, self.size = _checked(moves, step)

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """Moves at ``s``."""
        for _ in range(self.moves):
            u = _move(denoiser, u, s, self.size, noise)
        return (denoiser.denoise(u, s) if float(below) == 0.0 else u), None


class PredictorCorrector(Sampler):
    """A step of another sampler, then Langevin moves at the ratio it came to.

    Args:
        predictor: the other sampler. moves, step: as for :class:`Langevin`.

    References:
        Song et al. (2021), Score-based generative modeling through stochastic differential equations.
    """

    stochastic: ClassVar[bool] = True

    def __init__(self, predictor: Sampler, moves: int = 1, step: float = 0.1) -> None:
        self.predictor = predictor
        self.moves, self.size = _checked(moves, step)

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """Predict, correct."""
        u, memory = self.predictor.step(denoiser, u, s, below, memory, noise)
        if float(below) > 0.0:
            for _ in range(self.moves):
                u = _move(denoiser, u, below, self.size, noise)
        return u, memory


def _move(denoiser: Denoiser, u: Tensor, s: Tensor, size: float, noise: RowNoise) -> Tensor:
    # in units of the noise: e score = size (D - u)
    return u + size * (denoiser.denoise(u, s) - u) + (2 * size) ** 0.5 * s * noise.normal()


def _checked(moves: int, step: float) -> tuple[int, float]:
    if not isinstance(moves, int) or isinstance(moves, bool) or moves < 1 or not 0 < step < 1:
        raise ConfigError(f"moves={moves!r}, step={step!r}", fix="a whole number of moves, a step in (0, 1)")
    return moves, step
