"""Constants, straight lines, Brownian motion and its integral (local level, local linear trend)."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Kernel, log_parameter, matrix, positive

__entries__ = [
    {
        "kind": "kernels",
        "name": "constant",
        "target": "Constant",
        "summary": "an unknown constant level",
        "options": {"variance": "signal units squared"},
    },
    {
        "kind": "kernels",
        "name": "wiener",
        "target": "Wiener",
        "summary": "Brownian motion (local level)",
        "options": {"rate": "variance per time", "variance": "of the level at the start"},
    },
    {
        "kind": "kernels",
        "name": "integrated-wiener",
        "target": "IntegratedWiener",
        "summary": "integrated Brownian motion (local linear trend, cubic spline)",
        "options": {"rate": "variance of the slope per time"},
    },
    {
        "kind": "kernels",
        "name": "linear",
        "target": "Linear",
        "summary": "a straight line through zero at the start",
        "options": {"variance": "of the slope: signal units squared per time squared"},
    },
]


class Constant(Kernel):
    """``k = s2``: a level that is drawn once.

    Example:
        >>> Constant(variance=4.0).state_dim
        1
    """

    state_dim = 1

    def __init__(self, variance: float = 1.0) -> None:
        super().__init__()
        self.log_variance = log_parameter(variance, "variance")

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing changes."""
        one = torch.ones_like(dt)[..., None, None]
        return one, torch.zeros_like(one)

    def initial(self) -> Tensor:
        """``s2``."""
        return self.log_variance.exp().reshape(1, 1)

    def readout(self) -> Tensor:
        """The state itself."""
        return torch.ones(1, dtype=self.log_variance.dtype, device=self.log_variance.device)


class Wiener(Kernel):
    """Brownian motion: ``Var(f(t + h) - f(t)) = q h``, level at the start ``N(0, s2)``.

    Args:
        rate: ``q``, variance per time. variance: ``s2``.

    Example:
        >>> Wiener(rate=0.1).stationary
        False
    """

    state_dim = 1
    stationary = False

    def __init__(self, rate: float = 1.0, variance: float = 100.0) -> None:
        super().__init__()
        self.log_rate = log_parameter(rate, "rate")
        self.variance = positive("variance", variance)

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A = 1``, ``Q = q dt``."""
        return torch.ones_like(dt)[..., None, None], (self.log_rate.exp() * dt)[..., None, None]

    def initial(self) -> Tensor:
        """``s2``."""
        return torch.full((1, 1), self.variance, dtype=self.log_rate.dtype, device=self.log_rate.device)

    def readout(self) -> Tensor:
        """The state itself."""
        return torch.ones(1, dtype=self.log_rate.dtype, device=self.log_rate.device)


class IntegratedWiener(Kernel):
    """Level whose slope is a Brownian motion of rate ``q``; the posterior mean is a cubic smoothing spline.

    Args:
        rate: ``q``, variance of the slope per time. level_variance, slope_variance: at the start.

    References:
        Wahba (1978), Improper priors, spline smoothing and the problem of guarding against model errors.

    Example:
        >>> IntegratedWiener(rate=0.01).state_dim
        2
    """

    state_dim = 2
    stationary = False

    def __init__(self, rate: float = 1.0, level_variance: float = 100.0, slope_variance: float = 1.0) -> None:
        super().__init__()
        self.log_rate = log_parameter(rate, "rate")
        self.level_variance = positive("level_variance", level_variance)
        self.slope_variance = positive("slope_variance", slope_variance)

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A = [[1, h], [0, 1]]``, ``Q = q [[h^3/3, h^2/2], [h^2/2, h]]``."""
        one, zero, q = torch.ones_like(dt), torch.zeros_like(dt), self.log_rate.exp()
        Q = matrix([[q * dt**3 / 3, q * dt**2 / 2], [q * dt**2 / 2, q * dt]])
        return matrix([[one, dt], [zero, one]]), Q

    def initial(self) -> Tensor:
        """``diag(level_variance, slope_variance)``."""
        like = self.log_rate
        return torch.diag(
            torch.tensor([self.level_variance, self.slope_variance], dtype=like.dtype, device=like.device)
        )

    def readout(self) -> Tensor:
        """The level."""
        return torch.tensor([1.0, 0.0], dtype=self.log_rate.dtype, device=self.log_rate.device)


class Linear(Kernel):
    """``k(t, t') = s2 t t'`` with ``t`` measured from the start: a line of random slope; add a constant for its level.

    Args:
        variance: ``s2``, of the slope.

    Example:
        >>> Linear(variance=0.5).state_dim
        2
    """

    state_dim = 2
    stationary = False

    def __init__(self, variance: float = 1.0) -> None:
        super().__init__()
        self.log_variance = log_parameter(variance, "variance")

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A = [[1, h], [0, 1]]``, no noise."""
        one, zero = torch.ones_like(dt), torch.zeros_like(dt)
        A = matrix([[one, dt], [zero, one]])
        return A, torch.zeros_like(A)

    def initial(self) -> Tensor:
        """``diag(0, s2)``."""
        s2 = self.log_variance.exp()
        return torch.diag(torch.stack([torch.zeros_like(s2), s2]))

    def readout(self) -> Tensor:
        """The value."""
        return torch.tensor([1.0, 0.0], dtype=self.log_variance.dtype, device=self.log_variance.device)
