"""Heavy-tailed noise: Student's t with learnable scale and degrees of freedom."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .base import Likelihood
from .gaussian import FLOOR

__entries__ = [
    {
        "kind": "likelihoods",
        "name": "student-t",
        "target": "StudentT",
        "summary": "additive Student-t noise: outliers cost little",
        "options": {
            "channels": "number of channels",
            "noise": "starting scale, model units",
            "df": "starting degrees of freedom, > 2",
        },
    },
]


class StudentT(Likelihood):
    """``y = eta + sigma_c t``, ``t`` Student with ``df_c > 2`` degrees of freedom (finite variance).

    Args:
        channels: ``C``. noise: starting ``sigma``. df: starting degrees of freedom.

    Example:
        >>> float(StudentT(1, df=5.0).df.detach().round(decimals=6))
        5.0
    """

    def __init__(self, channels: int = 1, noise: float = 0.3, df: float = 4.0) -> None:
        super().__init__()
        self.log_noise = nn.Parameter(torch.full((channels,), math.log(noise), dtype=torch.float64))
        self.log_excess_df = nn.Parameter(torch.full((channels,), math.log(df - 2.0), dtype=torch.float64))

    @property
    def noise(self) -> Tensor:
        """``sigma [C]``."""
        return FLOOR + self.log_noise.exp()

    @property
    def df(self) -> Tensor:
        """Degrees of freedom ``[C]``."""
        return 2.0 + self.log_excess_df.exp()

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """Student-t log-density."""
        df, z = self.df, (y - eta) / self.noise
        constant = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * (df * math.pi).log() - self.noise.log()
        return constant - (df + 1) / 2 * torch.log1p(z.square() / df)

    def mean(self, eta: Tensor) -> Tensor:
        """``eta``."""
        return eta

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """``eta + sigma N(0,1) / sqrt(chi2_df / df)``."""
        half = (self.df / 2).expand_as(eta).contiguous()
        chi2 = 2 * _standard_gamma(half.detach(), generator)
        normal = torch.randn(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        return eta + self.noise * normal * (self.df / chi2).sqrt()


def _standard_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Gamma draws with an explicit generator, which the public sampler does not take."""
    return torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
