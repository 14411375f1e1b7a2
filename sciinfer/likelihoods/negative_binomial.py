"""Counts that scatter more than Poisson's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import Likelihood, _blanked, _hermite, _masked_sum
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
        # softplus without its linear shortcut, which is 2e-9 off where it sets in
        return self._constant(y) + y * x - (y + r) * torch.logaddexp(x, torch.zeros_like(x))

    def _constant(self, y: Tensor) -> Tensor:
        r = self.dispersion
        return torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """Only ``E log(1 + e^x)`` needs nodes (Gauss-Hermite, 20 of them); the Gamma functions are taken once."""
        nodes, weights = _hermite(20, mean)
        y, mean, variance = _blanked(y, mask), _blanked(mean, mask), _blanked(variance, mask)
        x = mean - self.log_dispersion
        # the least positive number, not zero, where the root has no gradient
        at = x.unsqueeze(-2) + variance.clamp(min=torch.finfo(x.dtype).tiny).sqrt().unsqueeze(-2) * nodes[:, None]
        soft = (torch.logaddexp(at, torch.zeros_like(at)) * weights[:, None]).sum(-2)
        return _masked_sum(self._constant(y) + y * x - (y + self.dispersion) * soft, mask)

    def mean(self, eta: Tensor) -> Tensor:
        """``exp(eta)``."""
        return eta.exp()

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """A Gamma rate, then a Poisson count."""
        r = self.dispersion.detach().expand_as(eta).contiguous()
        rate = _standard_gamma(r, generator) / r * eta.detach().exp()
        return torch.poisson(rate, generator=generator)
