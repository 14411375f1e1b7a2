"""Heun's rule for the probability flow."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler


class Heun(Sampler):
    """Euler's step, then the mean of the slopes at its two ends; Euler alone at the last. Two evaluations, order two.

    References:
        Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
    """

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """One step."""
        slope = (u - denoiser.denoise(u, s)) / s
        ahead = u + (below - s) * slope
        if float(below) == 0.0:
            return ahead, None
        other = (ahead - denoiser.denoise(ahead, below)) / below
        return u + 0.5 * (below - s) * (slope + other), None
