"""Counts that scatter more than Poisson's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import Likelihood
from .student_t import _standard_gamma

__entries__ = [
    {
        "kind": "likelihoods",
        "name": "negative-binomial",
        "target": "NegativeBinomial",
        "summary": "over-dispersed counts with mean exp(eta), one learnable dispersion per channel",
        "options": {
            "channels": "number of channels",
            "dispersion": "starting dispersion r: variance = mean + mean^2 / r",
        },
    },
]


class NegativeBinomial(Likelihood):
    """``y ~ NB(mean = exp(eta), r_c)``: a Poisson count whose rate is Gamma with shape ``r_c``.

    Args:
        channels: ``C``. dispersion: starting ``r``; large ``r`` is Poisson.

    Example:
        >>> eta = torch.zeros(1, dtype=torch.float64)
        >>> round(float(NegativeBinomial(1, dispersion=1.0).log_prob(eta, eta, torch.tensor([True])).detach()), 4)
        -0.6931
    """

    support = "count"

    def __init__(self, channels: int = 1, dispersion: float = 5.0) -> None:
        super().__init__()
        self.log_dispersion = nn.Parameter(torch.full((channels,), math.log(dispersion), dtype=torch.float64))

    @property
    def dispersion(self) -> Tensor:
        """``r [C]``."""
        return self.log_dispersion.exp()

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``log Gamma(y + r) - log Gamma(r) - log y! + y x - (y + r) log(1 + e^x)``, ``x = eta - log r``."""
        r, x = self.dispersion, eta - self.log_dispersion
        constant = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
        # softplus without its linear shortcut, which is 2e-9 off where it sets in
        return constant + y * x - (y + r) * torch.logaddexp(x, torch.zeros_like(x))

    def mean(self, eta: Tensor) -> Tensor:
        """``exp(eta)``."""
        return eta.exp()

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """A Gamma rate, then a Poisson count."""
        r = self.dispersion.detach().expand_as(eta).contiguous()
        rate = _standard_gamma(r, generator) / r * eta.detach().exp()
        return torch.poisson(rate, generator=generator)
