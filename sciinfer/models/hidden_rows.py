"""Models that regress hidden entries on the others: the objective, and how entries are hidden."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from .base import Loss, Model
from .grids import pad_for


class HiddenRowModel(Model):
    """Trained on the predictive log-density of hidden entries given the remaining ones.

    Nothing that is scored is ever part of what the model conditions on. In training each series of a batch is hidden in
    one of four random ways (single entries, rows, everything after some row, all), so that imputation, smoothing,
    forecasts and the prior are all learned. Without randomness, :meth:`log_likelihood` scores every entry four-fold:
    odd rows given even ones and the reverse, the later half given the earlier and the reverse.

    The score is the sum over rows of the marginal predictive log-density (proper for each row's marginal; it is not the
    joint density of a series).
    """

    likelihood: Gaussian

    @abstractmethod
    def predictive_score(
        self, padded: Padded, kept: Tensor, hidden: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """``[S]``: sum over the rows of ``log p(hidden entries | kept entries)``; masks ``[S, T, C]``."""

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative score per hidden entry; in evaluation mode that of :meth:`log_likelihood` per entry."""
        if not self.training:
            value = -self.log_likelihood(batch).sum() / max(batch.observed, 1)
            return Loss(value, {"score": -value.detach()})
        padded = pad_for(batch)
        kept = padded.mask & ~hide(padded, generator)
        hidden = padded.mask & ~kept
        score = self.predictive_score(padded, kept, hidden, generator).sum() / hidden.sum().clamp(min=1)
        return Loss(-score, {"score": score.detach()})

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """Cross-validated predictive log-score of each series, ``[S]``: every entry predicted from others only."""
        padded = pad_for(batch)
        S = padded.time.shape[0]
        folds = fold_masks(padded)
        four = Padded(*(part.repeat(len(folds), *[1] * (part.ndim - 1)) for part in padded))
        hidden = four.mask & torch.cat(folds)[..., None]
        score = self.predictive_score(four, four.mask & ~hidden, hidden, None)
        # either pair of folds scores every entry once
        return 0.5 * score.view(len(folds), S).sum(0)

    def initialise(self, batch: SeriesBatch) -> None:
        """Starting noise."""
        self.likelihood.initialise(batch.values, batch.mask)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series, nothing held out.

        The chain rule by which a held-out loss is taken does not hold for this score; hiding other entries at every
        step is what keeps the fit from learning them by heart.
        """
        return {"optimiser": "adam", "steps": 500, "learning_rate": 1e-2, "validation": 0.0, "batch_size": 32}

    def summary(self) -> dict[str, float]:
        """Learned noise."""
        return {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}


def hide(padded: Padded, generator: torch.Generator) -> Tensor:
    """Which entries to hide, ``[S, T, C]`` bool: for each series entries, rows, a tail, or all of it."""
    S, T, C = padded.values.shape
    device, dtype = padded.time.device, padded.time.dtype

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device, dtype=dtype)

    rate = 0.1 + 0.5 * uniform(S, 1, 1)
    entries, rows = uniform(S, T, C) < rate, (uniform(S, T, 1) < rate).expand(S, T, C)
    lengths = padded.rows.sum(1)[:, None, None]
    cut = (uniform(S, 1, 1) * lengths).floor()
    tail = (torch.arange(T, device=device)[None, :, None] >= cut).expand(S, T, C)
    way = uniform(S, 1, 1)
    hidden = torch.where(way < 0.15, entries, torch.where(way < 0.5, rows, tail))
    return hidden | (way > 0.95)


def fold_masks(padded: Padded) -> list[Tensor]:
    """Rows hidden in each fold, ``[S, T]`` bool: even, odd, earlier half, later half."""
    row = torch.arange(padded.time.shape[1], device=padded.time.device)
    even = (row % 2 == 0).expand_as(padded.rows)
    early = row < (padded.rows.sum(1)[:, None] + 1) // 2
    return [even, ~even, early, ~early]
