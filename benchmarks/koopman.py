"""A long record with gaps: fit and smooth 36 channels of a hundred thousand steps, against 60 s and 4 GB."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable

import numpy as np
import torch

from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.koopman import koopman
from sciinfer.training import TrainingConfig, train

from .harness import Row, versions

CHANNELS, LATENT, SECONDS, GIGABYTES = 36, 8, 60.0, 4.0


def record(steps: int) -> SeriesBatch:
    """Three oscillations and a slow part behind 36 channels; a tenth of the entries and whole stretches missing."""
    rng = np.random.default_rng(0)
    latent = [_mode(rng, steps, 0.995, w) for w in (0.26, 0.9, 1.7)] + [_mode(rng, steps, 0.999, 0.0)]
    y = np.concatenate(latent, axis=1) @ rng.normal(size=(8, CHANNELS)) + 0.3 * rng.normal(size=(steps, CHANNELS))
    y[rng.random(y.shape) < 0.1] = np.nan
    for start in range(500, steps, 2000):
        y[start : start + 50] = np.nan
    return SeriesBatch.of([torch.arange(steps, dtype=torch.float64)], [torch.tensor(y / 3)])


def _mode(rng: np.random.Generator, steps: int, size: float, turn: float) -> np.ndarray:
    from scipy.signal import lfilter

    push = (1 - size**2) ** 0.5 * (rng.normal(size=steps) + 1j * rng.normal(size=steps))
    path = np.asarray(lfilter([1.0], [1.0, -size * np.exp(1j * turn)], push))
    return np.stack([np.real(path), np.imag(path)], axis=1)


def run(steps: int) -> tuple[float, float, float]:
    """Seconds, peak memory in GB, and the fitted noise over that of the data."""
    batch = record(steps)
    axis = TimeAxis("t", "number", 0.0, 1.0)
    names = Schema(axis, "s", (Variable("y"),), tuple(Channel("y", (c,)) for c in range(CHANNELS)))
    began = time.perf_counter()
    model = koopman(names, latent=LATENT)
    train(model, batch, TrainingConfig(**model.training_defaults(batch)), seed=0)
    with torch.no_grad():
        bridge = model.condition(batch, batch.time[None, :1])
        bridge.mean(bridge.at_data)
    spent = time.perf_counter() - began
    # kilobytes on Linux
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return spent, memory, float(model.likelihood.noise.detach().mean()) / 0.1


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goal: a hundred thousand steps in a minute and 4 GB, everything in memory at once."""
    steps = 1500 if tiny else 100_000
    spent, memory, noise = run(steps)
    note = f"fit and smooth; fitted noise {noise:.3f} of the true one"
    yield Row(
        name=f"koopman/{steps}x{CHANNELS}-fit-and-smooth", ours=spent, peer=SECONDS, unit="s", goal=1.0, note=note,
        versions=versions("scipy"),
    )  # fmt: skip
    yield Row(
        name=f"koopman/{steps}x{CHANNELS}-memory", ours=memory, peer=GIGABYTES, unit="GB", goal=1.0, note=note,
        versions=versions("scipy"),
    )  # fmt: skip
