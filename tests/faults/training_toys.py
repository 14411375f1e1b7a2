"""Small models for the training tests: a line per channel with noise, and ways to break it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.base import Draws, Loss, Model
from sciinfer.random import generator
from sciinfer.training import TrainingConfig


class Affine(nn.Module):
    """``nn.Linear``, whose own initialisation would read the global random state."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros_like(weight[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Line(Model):
    """``y = a + b t + noise``; ``jitter`` adds draws to the loss as a sampled ELBO would."""

    def __init__(self, channels: int = 2, *, jitter: float = 0.0) -> None:
        super().__init__()
        self.line = Affine(torch.randn(channels, 1, generator=generator(5, "init"), dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(channels, dtype=torch.float64))
        self.jitter = jitter
        self.initialised = 0

    def initialise(self, batch: SeriesBatch) -> None:
        self.initialised += 1

    def mean(self, time: Tensor) -> Tensor:
        return self.line(time[:, None])

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        mean = self.mean(batch.time)
        if self.jitter:
            draws = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            mean = mean + self.jitter * draws
        z = (batch.values - mean) * torch.exp(-self.log_scale)
        nll = 0.5 * z.square() + self.log_scale + 0.5 * math.log(2 * math.pi)
        value = (nll * batch.mask).sum() / batch.mask.sum()
        return Loss(value, {"fit": value, "scale": self.log_scale.sum()})

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        raise NotImplementedError

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        raise NotImplementedError


def lines(series: int = 7, rows: int = 20, channels: int = 2, seed: int = 3) -> SeriesBatch:
    """Ragged, gappy series on ``y = 1 + 2 t`` (channel 0) and ``y = -1`` (others), noise 0.1."""
    noise = generator(seed, "lines")
    times, values = [], []
    for index in range(series):
        n = rows + 3 * (index % 4)
        t = torch.rand(n, generator=noise, dtype=torch.float64).sort().values
        y = 0.1 * torch.randn(n, channels, generator=noise, dtype=torch.float64) - 1
        y[:, 0] += 2 + 2 * t
        y[torch.rand(n, channels, generator=noise) < 0.2] = float("nan")
        times.append(t)
        values.append(y)
    return SeriesBatch.of(times, values)


def noisy_line() -> tuple[Model, SeriesBatch, TrainingConfig]:
    """A run with everything that has state: mini-batches, noise in the loss, schedule, validation, checkpoints."""
    config = TrainingConfig(
        steps=120, batch_size=3, warmup=5, validate_every=10, patience=50, checkpoint_every=7, checkpoint_seconds=None
    )
    return Line(jitter=0.05), lines(), config


def noisy_line_lbfgs() -> tuple[Model, SeriesBatch, TrainingConfig]:
    """The same by L-BFGS."""
    config = TrainingConfig(
        optimiser="lbfgs", steps=40, validate_every=4, checkpoint_every=3, checkpoint_seconds=None, tolerance=1e-15
    )
    return Line(jitter=0.05), lines(), config
