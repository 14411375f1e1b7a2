"""What is seen of a hidden state: one predictor per state and channel, or a table of probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..likelihoods import Gaussian, Likelihood


class Emission(nn.Module, ABC):
    """``p(y | z = k)``, channels independent given the state."""

    @abstractmethod
    def log_prob(self, values: Tensor, mask: Tensor) -> Tensor:
        """``[..., K]`` for ``values, mask [..., C]``; a masked entry contributes zero."""

    @abstractmethod
    def mean(self) -> Tensor:
        """``E[y | z = k]``, ``[K, C]``."""

    @abstractmethod
    def sample(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """``[..., C]`` for ``states [...]``."""

    @abstractmethod
    def start(self, centres: Tensor, spread: Tensor) -> None:
        """Set starting values from cluster means ``[K, C]`` and the scatter around them ``[C]``."""

    def variance(self) -> Tensor | None:
        """``var[y | z = k]``, ``[K, C]``, where known in closed form."""
        return None


class PredictorEmission(Emission):
    """A registered likelihood with a predictor ``eta_kc`` for each state and channel.

    Args:
        states: ``K``. channels: ``C``. likelihood: of one entry given its predictor. generator: starting predictors.
    """

    def __init__(self, states: int, channels: int, likelihood: Likelihood, *, generator: torch.Generator) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.eta = nn.Parameter(torch.randn(states, channels, generator=generator, dtype=torch.float64))

    def log_prob(self, values: Tensor, mask: Tensor) -> Tensor:
        """Sum over the channels."""
        y = values.unsqueeze(-2).expand(*values.shape[:-1], *self.eta.shape)
        return self.likelihood.log_prob(y, self.eta.expand_as(y), mask.unsqueeze(-2).expand_as(y))

    def mean(self) -> Tensor:
        """The likelihood's."""
        return self.likelihood.mean(self.eta)

    def sample(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """The likelihood's."""
        return self.likelihood.sample(self.eta[states], generator)

    def variance(self) -> Tensor | None:
        """Of Gaussian noise."""
        return self.likelihood.noise.square().expand_as(self.eta) if isinstance(self.likelihood, Gaussian) else None

    def start(self, centres: Tensor, spread: Tensor) -> None:
        """Means through the inverse link."""
        link = {
            "count": lambda m: m.clamp(min=0.05).log(),
            "binary": lambda m: m.clamp(0.05, 0.95).logit(),
        }.get(self.likelihood.support, lambda m: m)
        with torch.no_grad():
            self.eta.copy_(link(centres))
            if isinstance(self.likelihood, Gaussian):
                self.likelihood.log_noise.copy_(spread.clamp(min=1e-2).log())


class CategoricalEmission(Emission):
    """Values are one of ``0, 1, ..., levels - 1``, each with its own probability in each state.

    Args:
        shift, scale: ``[C]``, from model values back to levels: ``level = value * scale + shift``.
    """

    def __init__(self, states: int, levels: int, shift: Tensor, scale: Tensor, *, generator: torch.Generator) -> None:
        super().__init__()
        self.levels = levels
        shape = (states, len(shift), levels)
        self.logits = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def level_of(self, values: Tensor) -> Tensor:
        """From model units back to levels."""
        return values * self.get_buffer("scale") + self.get_buffer("shift")

    def log_prob(self, values: Tensor, mask: Tensor) -> Tensor:
        """The table's entry."""
        level = self.level_of(values).round().long()
        table = self.logits.log_softmax(-1)
        at = torch.where(mask, level, torch.zeros_like(level)).clamp(0, self.levels - 1)
        picked = table.expand(*at.shape[:-1], *table.shape).gather(
            -1, at[..., None, :, None].expand(*at.shape[:-1], *table.shape[:2], 1)
        )
        return torch.where(mask[..., None, :], picked[..., 0], torch.zeros_like(picked[..., 0])).sum(-1)

    def _values(self, levels: Tensor) -> Tensor:
        return (levels - self.get_buffer("shift")) / self.get_buffer("scale")

    def mean(self) -> Tensor:
        """The expected level, in model units."""
        number = torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)
        return self._values((self.logits.softmax(-1) * number).sum(-1))

    def sample(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """One level, by inversion."""
        below = self.logits.softmax(-1).cumsum(-1)[states]
        uniform = torch.rand(below.shape[:-1], generator=generator, dtype=below.dtype, device=below.device)
        level = (uniform[..., None] > below).sum(-1).clamp(max=self.levels - 1)
        return self._values(level.to(below.dtype))

    def start(self, centres: Tensor, spread: Tensor) -> None:
        """Levels near the cluster's mean are likelier."""
        number = torch.arange(self.levels, dtype=centres.dtype, device=centres.device)
        mean = self.level_of(centres)
        with torch.no_grad():
            self.logits.copy_(-(number - mean[..., None]).square())
