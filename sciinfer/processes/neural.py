"""A stochastic differential equation whose drift is linear plus a neural correction."""

from __future__ import annotations

from abc import ABC
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..nets.mlp import MLP
from ..statespace.discretise import discretise, unique_steps
from .base import LinearProcess, NonlinearProcess
from .linear import StationaryLinear


class LinearAnchor(Protocol):
    """A linear drift near a nonlinear one, and the diffusion of both."""

    @property
    def drift_matrix(self) -> Tensor:
        """``F [d, d]``."""
        ...

    @property
    def spread(self) -> Tensor:
        """Diagonal of ``G G^T``, ``[d]``."""
        ...


class AnchoredSDE(NonlinearProcess, ABC):
    """A process with constant diffusion and a linear drift that its posterior can start from."""

    #: a LinearAnchor; subclasses hold modules of different kinds here
    linear: Any


class NeuralSDE(AnchoredSDE):
    """``dz = (F z + s tanh(net(z) / s)) dt + G dW``: a stable linear part, a bounded learned rest, diagonal ``G``.

    The net starts at zero, so training starts from a linear process; the bounded rest keeps long rollouts finite.

    Args:
        dim: ``d``. hidden: widths of the net. rate: largest starting rate. generator: starting weights.

    Example:
        >>> from sciinfer.random import generator
        >>> p = NeuralSDE(2, (16,), generator=generator(0, "p"))
        >>> z = torch.ones(3, 2, dtype=torch.float64)
        >>> p.drift(torch.zeros(3, dtype=torch.float64), z).shape
        torch.Size([3, 2])
    """

    #: largest size of the learned drift, in stationary standard deviations per model time
    BOUND = 5.0

    def __init__(
        self, dim: int, hidden: tuple[int, ...] = (64, 64), *, rate: float = 0.5, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.dim = dim
        self.linear = StationaryLinear(dim, rate=rate, generator=generator)
        self.net = MLP(dim, dim, hidden, generator=generator, zero=True)
        self.start_mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """Linear part plus bounded net; does not depend on ``t``."""
        return z @ self.linear.drift_matrix.mT + self.BOUND * torch.tanh(self.net(z) / self.BOUND)

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Constant ``G``."""
        return self.linear.spread.sqrt().expand_as(z)

    def initial(self) -> tuple[Tensor, Tensor]:
        """Learned ``N(m0, diag)``."""
        return self.start_mean, torch.diag(self.log_start.exp().square())


class TiltedLinear(LinearProcess):
    """The linear process under a posterior: free drift matrix, diffusion and start of the prior it approximates.

    A posterior with another diffusion than the prior's has infinite divergence from it; sharing is the only way.
    """

    def __init__(self, prior: AnchoredSDE) -> None:
        super().__init__()
        self.dim = prior.dim
        self.matrix = nn.Parameter(prior.linear.drift_matrix.detach().clone())
        # a list hides the prior from this module's own parameters: it is trained where it belongs
        self._prior = [prior]

    def follow(self) -> None:
        """Take over the prior's linear drift (after the prior has been given a start)."""
        with torch.no_grad():
            self.matrix.copy_(self._prior[0].linear.drift_matrix)

    @property
    def spread(self) -> Tensor:
        """Diagonal of ``G G^T``, the prior's."""
        return self._prior[0].linear.spread

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """By series and doublings, since ``F`` is free."""
        return unique_steps(dt, lambda step: discretise(self.matrix, torch.diag(self.spread), step))

    def initial(self) -> tuple[Tensor, Tensor]:
        """The prior's."""
        return self._prior[0].initial()
