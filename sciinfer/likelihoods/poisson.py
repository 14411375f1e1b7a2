"""Counts with a log-linear rate."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Likelihood, _blanked, _masked_sum

__entries__ = [
    {
        "kind": "likelihoods",
        "name": "poisson",
        "target": "Poisson",
        "summary": "counts with rate exp(eta)",
        "options": {
            "channels": "number of channels",
            "exposure": "length of the counting window, in units of the rate's time",
        },
    },
]


class Poisson(Likelihood):
    """``y ~ Poisson(exposure * exp(eta))``.

    Args:
        channels: ``C`` (kept for a uniform constructor). exposure: window length.

    Example:
        >>> eta = torch.zeros(1, dtype=torch.float64)
        >>> float(Poisson(1).log_prob(eta, eta, torch.tensor([True])))
        -1.0
    """

    support = "count"

    def __init__(self, channels: int = 1, exposure: float = 1.0) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("exposure", torch.tensor(float(exposure), dtype=torch.float64))

    def _rate(self, eta: Tensor) -> Tensor:
        return self.get_buffer("exposure").to(eta.dtype) * eta.exp()

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``y log rate - rate - log y!``."""
        exposure = self.get_buffer("exposure").to(eta.dtype)
        return y * (eta + exposure.log()) - self._rate(eta) - torch.lgamma(y + 1)

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """Closed form: ``E[exp(eta)] = exp(mean + variance/2)``."""
        exposure = self.get_buffer("exposure").to(mean.dtype)
        y, mean, variance = _blanked(y, mask), _blanked(mean, mask), _blanked(variance, mask)
        entries = y * (mean + exposure.log()) - self._rate(mean + 0.5 * variance) - torch.lgamma(y + 1)
        return _masked_sum(entries, mask)

    def mean(self, eta: Tensor) -> Tensor:
        """The rate."""
        return self._rate(eta)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Counts."""
        return torch.poisson(self._rate(eta).detach(), generator=generator)
