"""What the facade and the training loop ask of a model. Everything here is tensors; labels stay outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..labelled.series import SeriesBatch


class Loss(NamedTuple):
    """``value``: scalar to minimise (negative ELBO or log-likelihood per observed entry); ``terms``: parts to log."""

    value: Tensor
    terms: dict[str, Tensor]


class Draws(NamedTuple):
    """Draws at asked-for times, model units.

    ``signal [n, S, T, C]``: E[y | path], without observation noise; ``observation [n, S, T, C]``: with it;
    ``latent [n, S, T, d]`` or None. ``mean``, ``variance [S, T, C]``: predictive moments where known in closed form.
    """

    signal: Tensor
    observation: Tensor
    latent: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None


class Model(nn.Module, ABC):
    """A model of ragged series."""

    @abstractmethod
    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Loss of a batch. ``progress`` in [0, 1] is how far training is (for warm-up)."""

    @abstractmethod
    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Condition on ``batch`` and draw at ``times [S, T]`` (any order; before, between or after the data)."""

    @abstractmethod
    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draw from the learned prior at ``times [T]`` (ascending); the series axis has length one."""

    def initialise(self, batch: SeriesBatch) -> None:
        """Set starting values from the training data (called once, before training). Default: nothing."""

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Fields of :class:`sciinfer.training.TrainingConfig` that suit this model on this data."""
        return {}

    def summary(self) -> dict[str, float]:
        """A few learned quantities worth printing after a fit."""
        return {}
