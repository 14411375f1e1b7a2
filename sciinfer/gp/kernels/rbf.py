"""The squared-exponential kernel, approximated by a stable rational spectrum."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError
from ...statespace.discretise import discretise
from .base import Kernel, log_parameter

__entries__ = [
    {
        "kind": "kernels",
        "name": "rbf",
        "target": "RBF",
        "summary": "squared exponential covariance, by a rational spectrum of a given order",
        "references": [
            "Hartikainen, Särkkä (2010), Kalman filtering and smoothing solutions to temporal Gaussian process "
            "regression models"
        ],
        "options": {
            "lengthscale": "time",
            "variance": "signal units squared",
            "order": "dimension of the state, 2 to 16; the error is in the kernel's truncation()",
        },
    },
]
_ORDERS = range(2, 17)


class RBF(Kernel):
    """``k(r) ~ s2 exp(-r^2 / (2 l^2))``: ``1/S(w)`` is cut after ``(l w)^(2 order)`` and factorised.

    Args:
        lengthscale: ``l``, time. variance: ``s2``. order: state dimension.

    References:
        Hartikainen, Särkkä (2010), Kalman filtering and smoothing solutions to temporal Gaussian process regression.

    Example:
        >>> kernel = RBF(lengthscale=2.0)
        >>> kernel.state_dim, kernel.truncation() < 0.02
        (8, True)
    """

    def __init__(self, lengthscale: float = 1.0, variance: float = 1.0, order: int = 8) -> None:
        super().__init__()
        if order not in _ORDERS:
            raise ConfigError(f"order must lie in 2..16, got {order!r}", variable="order", fix="order=8")
        self.state_dim = int(order)
        self.log_lengthscale = log_parameter(lengthscale, "lengthscale")
        self.log_variance = log_parameter(variance, "variance")
        for name, value in zip(("F", "D", "P"), _factorise(self.state_dim), strict=True):
            self.register_buffer(name, torch.as_tensor(value.copy()), persistent=False)

    @property
    def lengthscale(self) -> Tensor:
        """Length-scale, in units of time."""
        return self.log_lengthscale.exp()

    @property
    def variance(self) -> Tensor:
        """``k(0)``."""
        return self.log_variance.exp()

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Taylor series and doublings of the balanced form, in time scaled by the length-scale."""
        A, Q = discretise(self.get_buffer("F"), self.get_buffer("D"), dt / self.lengthscale)
        return A, Q * self.variance

    def initial(self) -> Tensor:
        """Stationary covariance."""
        return self.get_buffer("P") * self.variance

    def readout(self) -> Tensor:
        """The function itself."""
        h = torch.zeros(self.state_dim, dtype=self.log_variance.dtype, device=self.log_variance.device)
        h[0] = 1.0
        return h

    def truncation(self) -> float:
        """``max_r |k(r) - s2 exp(-r^2 / 2 l^2)| / s2`` on a grid of lags up to eight length-scales."""
        lag = torch.linspace(0, 8, 161, dtype=torch.float64, device=self.log_variance.device)
        with torch.no_grad():
            found = self.covariance(lag * self.lengthscale) / self.variance
        return float((found - (-0.5 * lag.square()).exp()).abs().max())


@functools.cache
def _factorise(order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``F, D, P [n, n]`` for unit length-scale and variance, states scaled to unit variance."""
    from scipy.linalg import solve_continuous_lyapunov

    # 1/S(w) ~ sum_k (w^2/2)^k / k!; with s = i w the roots in x = w^2 give s = +-sqrt(-x)
    x = np.roots([0.5**k / math.factorial(k) for k in range(order, -1, -1)])
    # the principal root has a positive real part, so its negative is stable
    poles = -np.sqrt(-np.asarray(x, dtype=np.complex128))
    F = np.diag(np.ones(order - 1), 1)
    F[-1] = -np.real(np.poly(poles))[:0:-1]
    # balance by the derivatives' sizes before solving, then once more by the solution
    size = np.sqrt([math.prod(range(2 * k - 1, 0, -2)) for k in range(order)])
    F = F * size / size[:, None]
    D = np.zeros((order, order))
    D[-1, -1] = 1.0
    P = solve_continuous_lyapunov(F, -D)
    sd = np.sqrt(np.diagonal(P))
    return F * sd / sd[:, None], D / sd / sd[:, None], 0.5 * (P + P.T) / sd / sd[:, None]
