"""Binary observations with a logistic link."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Likelihood

__entries__ = [
    {
        "kind": "likelihoods",
        "name": "bernoulli",
        "target": "Bernoulli",
        "summary": "zeros and ones with probability sigmoid(eta)",
        "options": {"channels": "number of channels"},
    },
]


class Bernoulli(Likelihood):
    """``P(y = 1) = 1 / (1 + exp(-eta))``.

    Args:
        channels: ``C`` (kept for a uniform constructor).

    Example:
        >>> eta = torch.zeros(1, dtype=torch.float64)
        >>> round(float(Bernoulli(1).log_prob(eta, eta, torch.tensor([True]))), 4)
        -0.6931
    """

    support = "binary"

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``y eta - log(1 + exp(eta))``."""
        return y * eta - nn.functional.softplus(eta)

    def mean(self, eta: Tensor) -> Tensor:
        """``P(y = 1)``."""
        return eta.sigmoid()

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Zeros and ones."""
        uniform = torch.rand(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        return (uniform < eta.sigmoid()).to(eta.dtype)
