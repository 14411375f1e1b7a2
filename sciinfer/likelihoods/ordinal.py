"""Ordered grades with learnable cut points."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Likelihood

__entries__ = [
    {
        "kind": "likelihoods",
        "name": "ordinal",
        "target": "Ordinal",
        "summary": "ordered grades 0, 1, ..., levels - 1 by cut points of a logistic variable",
        "options": {"channels": "number of channels", "levels": "number of grades, >= 2"},
    },
]

#: the outermost cut points; beyond them nothing is left in double precision
_FAR = 1e4


class Ordinal(Likelihood):
    """``P(y <= k) = 1 / (1 + exp(eta - b_k))`` with increasing cut points ``b_0 < ... < b_{levels-2}``.

    Args:
        channels: ``C``. levels: number of grades; cut points start one apart around zero.

    References:
        McCullagh (1980), Regression models for ordinal data.

    Example:
        >>> grade, eta = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> round(float(Ordinal(1, levels=3).log_prob(grade, eta, torch.tensor([True])).exp().detach()), 4)
        0.2449
    """

    support = "count"

    def __init__(self, channels: int = 1, levels: int = 5) -> None:
        super().__init__()
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 2:
            raise ConfigError(f"levels must be a whole number >= 2, got {levels!r}", fix="levels=5")
        self.levels = levels
        self.first = nn.Parameter(torch.full((channels,), -0.5 * (levels - 2), dtype=torch.float64))
        self.log_gaps = nn.Parameter(torch.full((channels, levels - 2), math.log(1.0), dtype=torch.float64))

    @property
    def cuts(self) -> Tensor:
        """``b [C, levels - 1]``."""
        steps = torch.cat([self.first[:, None], self.log_gaps.exp()], dim=1)
        return steps.cumsum(1)

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``log(s(u) - s(l)) = log s(u) + log s(-l) + log(1 - exp(l - u))``, ``u, l = b_y - eta, b_{y-1} - eta``."""
        far = torch.full_like(self.first, _FAR)[:, None]
        cuts = torch.cat([-far, self.cuts, far], dim=1)
        grade = y.detach().long().clamp(0, self.levels - 1)
        channel = torch.arange(cuts.shape[0], device=y.device).expand(grade.shape)
        upper, lower = cuts[channel, grade + 1] - eta, cuts[channel, grade] - eta
        inside = nn.functional.logsigmoid(upper) + nn.functional.logsigmoid(-lower)
        log_p = inside + torch.log(-torch.expm1(lower - upper))
        return torch.where((y >= 0) & (y < self.levels), log_p, torch.full_like(log_p, -math.inf))

    def mean(self, eta: Tensor) -> Tensor:
        """``E[y] = sum_k P(y > k)``."""
        return torch.sigmoid(eta[..., None] - self.cuts).sum(-1)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """The grade of one uniform number."""
        u = torch.rand(eta.shape, generator=generator, dtype=eta.dtype, device=eta.device)
        return (u[..., None] > torch.sigmoid(self.cuts.detach() - eta[..., None])).sum(-1).to(eta.dtype)
