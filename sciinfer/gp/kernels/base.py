"""A kernel of time is a linear stochastic differential equation with a scalar readout."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ...errors import ConfigError


class Kernel(nn.Module, ABC):
    """``f(t) = h^T x(t)`` with ``x`` a linear Gauss-Markov process; ``k(t, t') = Cov(f(t), f(t'))``.

    Times and rates are in one unit of time of the caller's choice; all parameters are float64 and learnable.
    """

    #: dimension of the state
    state_dim: int
    #: is ``initial()`` the stationary covariance
    stationary: bool = True
    #: number of outputs; with several, the readout is a matrix ``[C, d]``
    outputs: int = 1

    @abstractmethod
    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A, Q [..., d, d]`` over the steps ``dt [...]``."""

    @abstractmethod
    def initial(self) -> Tensor:
        """``P0 [d, d]``: covariance of the state at the start."""

    @abstractmethod
    def readout(self) -> Tensor:
        """``h [d]``."""

    def covariance(self, lag: Tensor) -> Tensor:
        """``k(lag)`` of a stationary kernel, ``[...]``: ``h^T exp(F |lag|) P0 h``; ``[..., C, C]`` with outputs.

        Raises:
            ConfigError: the kernel is not stationary.
        """
        if not self.stationary:
            raise ConfigError(
                f"{type(self).__name__} is not stationary", fix="condition on data through MarkovGP instead"
            )
        h, A = self.readout(), self.transition(lag.abs())[0]
        if h.ndim == 1:
            return A @ (self.initial() @ h) @ h
        ahead = h @ A @ self.initial() @ h.mT
        return torch.where((lag < 0)[..., None, None], ahead.mT, ahead)

    def dynamics(self) -> tuple[Tensor, Tensor]:
        """``F, D [d, d]`` of ``dx = F x dt + dW``: the slopes of ``A`` and ``Q`` at a step of zero."""
        with torch.enable_grad():
            step = torch.zeros_like(self.initial()[0, 0]).requires_grad_()
            both = torch.stack(self.transition(step)) + 0 * step
            # a derivative with respect to one number, by differentiating the pull-back with respect to its argument
            weights = torch.zeros_like(both, requires_grad=True)
            (pulled,) = torch.autograd.grad(both, step, weights, create_graph=True)
            (slopes,) = torch.autograd.grad(pulled, weights, create_graph=True)
        return slopes[0], slopes[1]

    def truncation(self) -> float:
        """Largest known error of the state-space form against the named covariance, relative to ``k(0)``."""
        return 0.0

    def __add__(self, other: Kernel) -> Kernel:
        from .sum import Sum

        return Sum(self, other)

    def __mul__(self, other: Kernel | float) -> Kernel:
        from .product import Product, Scaled

        return Product(self, other) if isinstance(other, Kernel) else Scaled(self, other)

    def __rmul__(self, factor: float) -> Kernel:
        return self * factor


def log_parameter(value: float, name: str) -> nn.Parameter:
    """A learnable logarithm of a positive number."""
    return nn.Parameter(torch.tensor(math.log(positive(name, value)), dtype=torch.float64))


def positive(name: str, value: float) -> float:
    """``value`` if it is a positive finite number.

    Raises:
        ConfigError: it is not.
    """
    if not (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} must be a positive number, got {value!r}", fix=f"pass {name}=1.0 or similar")
    return float(value)


def matrix(rows: list[list[Tensor]]) -> Tensor:
    """Stack broadcastable entries into ``[..., n, n]``."""
    flat = torch.broadcast_tensors(*(entry for row in rows for entry in row))
    return torch.stack(flat, dim=-1).unflatten(-1, (len(rows), len(rows[0])))
