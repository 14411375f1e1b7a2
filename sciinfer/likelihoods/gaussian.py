"""Gaussian noise with a learnable standard deviation per channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import Likelihood, _blanked, _masked_sum

__entries__ = [
    {
        "kind": "likelihoods",
        "name": "gaussian",
        "target": "Gaussian",
        "summary": "additive Gaussian noise, one learnable standard deviation per channel",
        "options": {"channels": "number of channels", "noise": "starting standard deviation, model units"},
    },
]

#: smallest standard deviation, in units of the channel's own: keeps a perfect fit from running to minus infinity
FLOOR = 1e-4


class Gaussian(Likelihood):
    """``y ~ N(eta, sigma_c^2)``.

    Args:
        channels: ``C``. noise: starting ``sigma``.

    Example:
        >>> lik = Gaussian(1, noise=1.0)
        >>> z = torch.zeros(1, dtype=torch.float64)
        >>> round(lik.log_prob(z, z, torch.tensor([True])).item(), 4)
        -0.919
    """

    def __init__(self, channels: int = 1, noise: float = 0.3) -> None:
        super().__init__()
        self.log_noise = nn.Parameter(torch.full((channels,), math.log(noise), dtype=torch.float64))

    @property
    def noise(self) -> Tensor:
        """``sigma [C]``."""
        return FLOOR + self.log_noise.exp()

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``-1/2 ((y - eta)/sigma)^2 - log sigma - 1/2 log 2 pi``."""
        return -0.5 * ((y - eta) / self.noise).square() - self.noise.log() - 0.5 * math.log(2 * math.pi)

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """Closed form: the log-density at the mean less ``variance / (2 sigma^2)``."""
        y, mean, variance = _blanked(y, mask), _blanked(mean, mask), _blanked(variance, mask)
        return _masked_sum(self.entry_log_prob(y, mean) - 0.5 * variance / self.noise.square(), mask)

    def mean(self, eta: Tensor) -> Tensor:
        """``eta``."""
        return eta

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """``eta + sigma * N(0, 1)``."""
        return eta + self.noise * torch.randn(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
