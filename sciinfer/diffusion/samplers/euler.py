"""Euler's rule for the probability flow, which is DDIM without noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler, toward


class Euler(Sampler):
    """``u' = D + (s' / s) (u - D)``; one evaluation a step, first order.

    References:
        Song, Meng, Ermon (2021), Denoising diffusion implicit models.
    """

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """One step."""
        return toward(u, denoiser.denoise(u, s), below / s), None
