"""What an observation says about its predictor ``eta``: masked log-densities, expectations, draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """Channels are independent given ``eta [..., C]``. A masked entry contributes exactly zero."""

    #: values that ``y`` may take: ``real``, ``count``, ``binary``
    support: ClassVar[str] = "real"

    @abstractmethod
    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """``log p(y | eta)`` of each entry, ``[..., C]``, finite for any ``y`` in the support."""

    @abstractmethod
    def mean(self, eta: Tensor) -> Tensor:
        """``E[y | eta]``, ``[..., C]``."""

    @abstractmethod
    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of ``y`` for each ``eta``."""

    def log_prob(self, y: Tensor, eta: Tensor, mask: Tensor) -> Tensor:
        """``sum_c mask_c log p(y_c | eta_c)``, ``[...]``."""
        return _masked_sum(self.entry_log_prob(_blanked(y, mask), _blanked(eta, mask)), mask)

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """``sum_c mask_c E[log p(y_c | eta_c)]`` under ``eta_c ~ N(mean_c, variance_c)`` (Gauss-Hermite, 20 nodes)."""
        nodes, weights = _hermite(20, mean)
        y, mean, variance = _blanked(y, mask), _blanked(mean, mask), _blanked(variance, mask)
        # the least positive number, not zero, where the root has no gradient
        sd = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
        eta = mean.unsqueeze(-2) + sd.unsqueeze(-2) * nodes[:, None]
        entries = self.entry_log_prob(y.unsqueeze(-2).expand_as(eta), eta)
        return _masked_sum((entries * weights[:, None]).sum(-2), mask)

    def initialise(self, y: Tensor, mask: Tensor) -> None:
        """Set starting values from data ``[N, C]``; default: nothing."""


def _blanked(values: Tensor, mask: Tensor) -> Tensor:
    """Zero where masked, so that whatever lies there (NaN included) reaches neither value nor gradient."""
    return torch.where(mask, values, torch.zeros_like(values))


def _masked_sum(entries: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, entries, torch.zeros_like(entries)).sum(-1)


def _hermite(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights for a standard normal expectation."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    weights = torch.as_tensor(w / math.sqrt(2 * math.pi), dtype=like.dtype, device=like.device)
    return torch.as_tensor(x, dtype=like.dtype, device=like.device), weights
