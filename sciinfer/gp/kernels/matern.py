"""Matérn kernels of half-integer order in state-space form.

References:
    Hartikainen, Särkkä (2010), Kalman filtering and smoothing solutions to temporal Gaussian process regression models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Kernel, log_parameter, matrix
from .matern_table import MANY, gamma3, in_blocks, matern32_table, matern52_plain

__entries__ = [
    {
        "kind": "kernels",
        "name": "matern12",
        "target": "Matern12",
        "summary": "exponential covariance (Ornstein-Uhlenbeck)",
        "options": {"lengthscale": "time", "variance": "signal units squared"},
    },
    {
        "kind": "kernels",
        "name": "matern32",
        "target": "Matern32",
        "summary": "once differentiable Matérn covariance",
        "options": {"lengthscale": "time", "variance": "signal units squared"},
    },
    {
        "kind": "kernels",
        "name": "matern52",
        "target": "Matern52",
        "summary": "twice differentiable Matérn covariance",
        "options": {"lengthscale": "time", "variance": "signal units squared"},
    },
]


class _Matern(Kernel):
    """Shared parameters: ``lengthscale`` (time) and ``variance``."""

    def __init__(self, lengthscale: float = 1.0, variance: float = 1.0) -> None:
        super().__init__()
        self.log_lengthscale = log_parameter(lengthscale, "lengthscale")
        self.log_variance = log_parameter(variance, "variance")

    @property
    def lengthscale(self) -> Tensor:
        """Length-scale, in units of time."""
        return self.log_lengthscale.exp()

    @property
    def variance(self) -> Tensor:
        """``k(0)``."""
        return self.log_variance.exp()

    def readout(self) -> Tensor:
        """The first state component is the function itself."""
        h = torch.zeros(self.state_dim, dtype=self.log_variance.dtype, device=self.log_variance.device)
        h[0] = 1.0
        return h


class Matern12(_Matern):
    """``k(r) = s2 exp(-r / l)``: the Ornstein-Uhlenbeck process with rate ``1 / l``.

    Args:
        lengthscale: ``l``, time. variance: ``s2``.

    Example:
        >>> lag = torch.tensor(2.0, dtype=torch.float64)
        >>> round(Matern12(lengthscale=2.0).covariance(lag).item(), 4)
        0.3679
    """

    state_dim = 1

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A = exp(-dt/l)``, ``Q = s2 (1 - exp(-2 dt/l))``."""
        x = dt / self.lengthscale
        return (-x).exp()[..., None, None], (-self.variance * torch.expm1(-2 * x))[..., None, None]

    def initial(self) -> Tensor:
        """``s2``."""
        return self.variance.reshape(1, 1)


class Matern32(_Matern):
    """``k(r) = s2 (1 + a) exp(-a)``, ``a = sqrt(3) r / l``.

    Args:
        lengthscale: ``l``, time. variance: ``s2``.

    Example:
        >>> Matern32(lengthscale=0.7, variance=1.0).state_dim
        2
    """

    state_dim = 2

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Closed form; ``Q`` by the regularised incomplete gamma function, free of cancellation for small steps."""
        rate = math.sqrt(3) / self.lengthscale
        if dt.numel() >= MANY and not dt.requires_grad:
            return matern32_table(dt, rate, self.variance)
        x = rate * dt
        decay = (-x).exp()
        A = matrix([[(1 + x) * decay, dt * decay], [-rate * x * decay, (1 - x) * decay]])
        g, tail = gamma3(2 * x), x.square() * (-2 * x).exp()
        s2 = self.variance
        return A, matrix(
            [[s2 * g, 2 * s2 * rate * tail], [2 * s2 * rate * tail, s2 * rate.square() * (g + 4 * x * (-2 * x).exp())]]
        )

    def initial(self) -> Tensor:
        """``diag(s2, 3 s2 / l^2)``."""
        return torch.diag(torch.stack([self.variance, 3 * self.variance / self.lengthscale.square()]))


class Matern52(_Matern):
    """``k(r) = s2 (1 + a + a^2/3) exp(-a)``, ``a = sqrt(5) r / l``.

    Args:
        lengthscale: ``l``, time. variance: ``s2``.

    Example:
        >>> Matern52().state_dim
        3
    """

    state_dim = 3

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Closed form, free of cancellation for small steps."""
        rate = math.sqrt(5) / self.lengthscale
        if dt.numel() >= MANY and not dt.requires_grad:
            return in_blocks(matern52_plain, dt, rate, self.variance)
        return matern52_plain(dt, rate, self.variance)

    def initial(self) -> Tensor:
        """Stationary covariance."""
        s2, rate = self.variance, math.sqrt(5) / self.lengthscale
        zero, middle = torch.zeros_like(s2), s2 * rate.square() / 3
        return matrix([[s2, zero, -middle], [zero, middle, zero], [-middle, zero, s2 * rate**4]])
