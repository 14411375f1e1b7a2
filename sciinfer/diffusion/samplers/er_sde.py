"""ER-SDE: reverse stochastic equations with a free amount of noise, solved in closed form step by step."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler

#: nodes of the integral of one over the noise scale
_NODES = 100


class ERSDE(Sampler):
    """``u' = (phi' / phi) u + (1 - phi' / phi) D + correction + noise``, ``phi(s) = s (exp(s^0.3) + 10)``.

    The noise has variance ``s'^2 - s^2 (phi' / phi)^2``; the correction is the slope of ``D`` from the step before.
    One evaluation a step.

    References:
        Cui, Zhang, et al. (2025), Elucidating the solution space of extended reverse-time SDE for diffusion models.
    """

    stochastic: ClassVar[bool] = True

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """One step."""
        D = denoiser.denoise(u, s)
        if float(below) == 0.0:
            return D, None
        ratio = _scale(below) / _scale(s)
        ahead = ratio * u + (1 - ratio) * D
        if memory is not None:
            last, at = memory
            places = torch.linspace(0.0, 1.0, _NODES, dtype=s.dtype, device=s.device) * (s - below) + below
            area = torch.trapezoid(1 / _scale(places), places)
            ahead = ahead + (below - s + _scale(below) * area) * (D - last) / (s - at)
        spread = (below**2 - (s * ratio) ** 2).clamp(min=0.0).sqrt()
        return ahead + spread * noise.normal(), (D, s)


def _scale(s: Tensor) -> Tensor:
    return s * ((s**0.3).exp() + 10)
