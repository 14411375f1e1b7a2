"""A posterior averaged over draws of the hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..random import generator
from .posterior import MarkovPosterior


class MixedPosterior:
    """``f | y`` with the hyper-parameters integrated out: an equal mixture of Gaussian posteriors.

    Same methods as :class:`sciinfer.gp.MarkovPosterior`; moments are those of the mixture.
    """

    def __init__(self, parts: Sequence[MarkovPosterior]) -> None:
        self.parts = list(parts)

    def mean(self, at: Any) -> Tensor:
        """``E[f | y]``, ``[K]``."""
        return torch.stack([part.mean(at) for part in self.parts]).mean(0)

    def variance(self, at: Any) -> Tensor:
        """``Var[f | y]``, ``[K]``: mean of the variances plus variance of the means."""
        within = torch.stack([part.variance(at) for part in self.parts]).mean(0)
        return within + torch.stack([part.mean(at) for part in self.parts]).var(0, correction=0)

    def covariance(self, at: Any) -> Tensor:
        """``Cov[f | y]``, ``[K, K]``, or ``[K, C, K, C]`` with outputs."""
        within = torch.stack([part.covariance(at) for part in self.parts]).mean(0)
        means = torch.stack([part.mean(at) for part in self.parts])
        off = (means - means.mean(0)).flatten(1)
        return within + (off.mT @ off / len(off)).reshape(within.shape)

    def sample(self, at: Any, n: int = 1, *, seed: int = 0) -> Tensor:
        """Joint draws of ``f | y``, ``[n, K]``; each from a part chosen at random."""
        chosen = torch.randint(len(self.parts), (n,), generator=generator(seed, "gp-mixture"))
        counts = torch.bincount(chosen, minlength=len(self.parts)).tolist()
        drawn = [part.sample(at, c, seed=seed + i) for i, (part, c) in enumerate(zip(self.parts, counts, strict=True))]
        # as many as each part was chosen, in the order in which they were
        return torch.cat(drawn)[torch.argsort(torch.argsort(chosen, stable=True))]
