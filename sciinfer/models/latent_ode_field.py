"""Drifts of latent ordinary equations: a linear part plus a bounded network, of first or second order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..integrate import Field
from ..nets import MLP
from ..processes import StationaryLinear


class LatentField(nn.Module, ABC):
    """``z' = f(z)`` with a learned start ``N(m0, diag)``.

    ``dim``: of the state. ``seen``: leading components of the state that the decoder sees.
    """

    def __init__(self, dim: int, seen: int) -> None:
        super().__init__()
        self.dim, self.seen = dim, seen
        self.start_mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    @abstractmethod
    def matrix(self) -> Tensor:
        """The linear part ``[d, d]``."""

    @abstractmethod
    def bound_drift(self) -> Field:
        """The drift with everything computed that does not depend on the state."""

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """``[..., d]``; ``t [...]``, ``z [..., d]``."""
        return self.bound_drift()(t, z)

    def solution(self, z0: Tensor, start: Tensor, times: Tensor) -> Tensor | None:
        """``[P, S, K, d]`` from ``z0 [P, S, d]`` at ``start [S]`` to ``times [S, K]``, where a closed form is known."""
        return None

    def doubt(self, sd: Tensor) -> Tensor:
        """The spread ``[..., d]`` of a start with which questions are answered."""
        return sd

    def initial(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[d]`` at the start of a series."""
        return self.start_mean, self.log_start.exp()


class NetField(LatentField, ABC):
    """``z' = M z + b tanh(net(z) / b)``; the bounded rest keeps rollouts finite."""

    #: largest size of the learned drift, per model time
    BOUND = 5.0

    def __init__(self, dim: int, seen: int, hidden: tuple[int, ...], *, generator: torch.Generator) -> None:
        super().__init__(dim, seen)
        self.net = MLP(dim, seen, hidden, generator=generator, zero=True)

    def bound_drift(self) -> Field:
        """The drift with everything computed that does not depend on the state."""
        M = self.matrix().mT

        def drift(t: Tensor, z: Tensor) -> Tensor:
            push = self.BOUND * torch.tanh(self.net(z) / self.BOUND)
            if self.seen == self.dim:
                return z @ M + push
            return z @ M + torch.cat([torch.zeros_like(push), push], dim=-1)

        return drift


class FirstOrder(NetField):
    """``z' = F z + net(z)``, F stable (see :class:`sciinfer.processes.StationaryLinear`)."""

    def __init__(self, dim: int, hidden: tuple[int, ...], *, generator: torch.Generator) -> None:
        super().__init__(dim, dim, hidden, generator=generator)
        self.linear = StationaryLinear(dim, rate=0.2, generator=generator)

    def matrix(self) -> Tensor:
        """``F``."""
        return self.linear.drift_matrix


class SecondOrder(NetField):
    """``x' = v, v' = -w^2 x - c v + net(x, v)``: the state is a place and a speed, the decoder sees the place.

    References: Yildiz, Heinonen, Lahdesmaki (2019), ODE2VAE: deep generative second order ODEs with Bayesian networks.
    """

    def __init__(self, places: int, hidden: tuple[int, ...], *, generator: torch.Generator) -> None:
        super().__init__(2 * places, places, hidden, generator=generator)
        # periods from six to sixty typical gaps
        slowest, fastest = math.log(2 * math.pi / 60), math.log(2 * math.pi / 6)
        spread = torch.linspace(fastest, slowest, places + 2, dtype=torch.float64)[1:-1]
        self.log_frequency = nn.Parameter(spread)
        self.log_damping = nn.Parameter(torch.full((places,), math.log(0.02), dtype=torch.float64))

    def matrix(self) -> Tensor:
        """``[[0, 1], [-w^2, -c]]``."""
        eye = torch.eye(self.seen, dtype=self.log_damping.dtype, device=self.log_damping.device)
        stiffness, damping = (2 * self.log_frequency).exp(), self.log_damping.exp()
        return torch.cat([torch.cat([0 * eye, eye], 1), torch.cat([-eye * stiffness, -eye * damping], 1)])
