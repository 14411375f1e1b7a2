"""Seasonal kernels: a sum of harmonics, strictly periodic or slowly changing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .base import Kernel, log_parameter, positive

__entries__ = [
    {
        "kind": "kernels",
        "name": "seasonal",
        "target": "Seasonal",
        "summary": "harmonics of one period, strictly periodic or slowly changing",
        "options": {
            "period": "time",
            "harmonics": "number of harmonics",
            "variance": "signal units squared, all harmonics together",
            "lengthscale": "time over which the pattern changes, None = never",
        },
    },
]


class Seasonal(Kernel):
    """``k(r) = exp(-r/l) sum_j v_j cos(2 pi j r / p)``, ``j = 1..J``.

    Args:
        period: ``p``, time, fixed.
        harmonics: ``J``.
        lengthscale: ``l``, time over which the pattern forgets itself; None: never (strictly periodic).
        variance: total ``sum_j v_j`` at the start, split as ``1/j^2``.

    Example:
        >>> Seasonal(period=12.0, harmonics=2).state_dim
        4
    """

    def __init__(
        self, period: float, harmonics: int = 2, lengthscale: float | None = None, variance: float = 1.0
    ) -> None:
        super().__init__()
        positive("variance", variance)
        if not isinstance(harmonics, int) or harmonics < 1:
            raise ConfigError(f"harmonics must be a whole number >= 1, got {harmonics!r}", fix="harmonics=2")
        self.period, self.state_dim = positive("period", period), 2 * harmonics
        orders = torch.arange(1, harmonics + 1, dtype=torch.float64)
        weights = orders.pow(-2) / orders.pow(-2).sum() * variance
        self.log_variances = nn.Parameter(weights.log())
        self.log_lengthscale = None if lengthscale is None else log_parameter(lengthscale, "lengthscale")
        self.register_buffer("frequencies", 2 * math.pi * orders / self.period)

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations by ``2 pi j dt / p``, damped by ``exp(-dt/l)``."""
        angle = dt[..., None] * self.get_buffer("frequencies").to(dt.dtype)
        cos, sin = angle.cos(), angle.sin()
        blocks = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        rate = 0.0 if self.log_lengthscale is None else (-self.log_lengthscale).exp()
        decay = torch.exp(-rate * dt) if self.log_lengthscale is not None else torch.ones_like(dt)
        lost = -torch.expm1(-2 * rate * dt) if self.log_lengthscale is not None else torch.zeros_like(dt)
        A = _block_diagonal(blocks * decay[..., None, None, None])
        return A, self.initial() * lost[..., None, None]

    def initial(self) -> Tensor:
        """``v_j`` on both components of harmonic ``j``."""
        return torch.diag(self.log_variances.exp().repeat_interleave(2))

    def readout(self) -> Tensor:
        """The first component of every harmonic."""
        first = torch.tensor([1.0, 0.0], dtype=self.log_variances.dtype, device=self.log_variances.device)
        return first.repeat(self.state_dim // 2)


def _block_diagonal(blocks: Tensor) -> Tensor:
    """``[..., J, n, n]`` to ``[..., J n, J n]``."""
    J, n = blocks.shape[-3], blocks.shape[-1]
    eye = torch.eye(J, dtype=blocks.dtype, device=blocks.device)
    spread = blocks.unsqueeze(-2) * eye[:, None, :, None]
    return spread.reshape(*blocks.shape[:-3], J * n, J * n)
