"""DEIS: the noise estimate as a polynomial of the noise level, integrated exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError
from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler


class DEIS(Sampler):
    """``u' = u + int_s^{s'} P(r) dr`` with the polynomial ``P`` through the last values of ``(u - D) / s``.

    One evaluation a step; fewer points while there are too few.

    Args:
        order: number of points, 1 to 4 (``tAB`` of order 0 to 3 in the paper's counting).

    Raises:
        ConfigError: another order.

    References:
        Zhang, Chen (2023), Fast sampling of diffusion models with exponential integrator.
    """

    def __init__(self, order: int = 3) -> None:
        if order not in (1, 2, 3, 4):
            raise ConfigError(f"there is no DEIS of order {order!r}", variable="order", fix="order=1, 2, 3 or 4")
        self.order = order

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Any, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """One step."""
        slope = (u - denoiser.denoise(u, s)) / s
        past = [(s, slope), *(memory or [])][: self.order]
        weights = _weights(torch.stack([at for at, _ in past]), s, below)
        return u + sum(weight * value for weight, (_, value) in zip(weights, past, strict=True)), past


def _weights(nodes: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Integrals of the Lagrange polynomials of ``nodes`` from ``start`` to ``stop``."""
    scale = nodes.abs().max()
    powers = torch.arange(len(nodes), dtype=nodes.dtype, device=nodes.device)
    rows = (nodes / scale)[None] ** powers[:, None]
    ends = ((stop / scale) ** (powers + 1) - (start / scale) ** (powers + 1)) / (powers + 1)
    return scale * torch.linalg.solve(rows, ends)
