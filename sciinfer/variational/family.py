"""Families of approximate posteriors: a map of standard normal noise with a density."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class Family(nn.Module, ABC):
    """``q(z)`` on ``R^d``; its parameters are the module's.

    ``noise_size`` standard normal numbers make one draw, so that a fit with the same noise is a deterministic
    function of the parameters.
    """

    dim: int
    noise_size: int

    @abstractmethod
    def transport(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws ``z [n, d]`` and ``log q(z) [n]`` from ``noise [n, noise_size]``; both with gradients."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """``log q(z)``, ``[n, d] -> [n]``."""

    def forward(self, z: Tensor) -> Tensor:
        """``log q(z)``: what :func:`frozen_log_prob` calls with constant parameters."""
        return self.log_prob(z)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``[n, d]`` without a graph."""
        with torch.no_grad():
            return self.transport(self.noise(n, generator))[0]

    def rebase(self) -> None:
        """Take where it is now as the origin and unit of its parameters, without changing ``q``: nothing by default."""

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal ``[n, noise_size]``."""
        return torch.randn(n, self.noise_size, generator=generator, dtype=torch.float64, device=generator.device)


def frozen_log_prob(family: Family, z: Tensor) -> Tensor:
    """``log q(z)`` whose gradient reaches ``z`` but not the parameters of ``q``: for sticking the landing and DReG.

    Example:
        >>> from sciinfer.variational import MeanField
        >>> frozen_log_prob(MeanField(2), torch.zeros(1, 2, dtype=torch.float64)).requires_grad
        False
    """
    constant = {name: p.detach() for name, p in family.named_parameters()}
    return torch.func.functional_call(family, constant, (z,))
