"""One training step on a long regular series: LS4 by convolution against a latent ODE solved by Runge-Kutta.

Equal batch, times (10,000), channels (3), latent size (4), widths (32) and precision. A step is the loss and its
gradient. The latent ODE reads its start from one state-space stack, integrates ``z' = net(z)`` by one RK4 step per time
and decodes every state; its solver is a plain loop in torch, or torchdiffeq's ``rk4``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import Padded, SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models.ls4 import ls4
from sciinfer.nets import MLP, LinearDecoder, linear
from sciinfer.nets.s5 import S5Stack
from sciinfer.random import generator

from .harness import Row, installed, timed_row

DIM, CHANNELS, WIDTH, TIMES = 4, 3, 32, 10_000
STEP = 0.01


class LatentODE(nn.Module):
    """Start from a stack that reads the series backward, RK4 through all times, linear decoder, Gaussian noise."""

    def __init__(self, solver: str) -> None:
        super().__init__()
        g = generator(0, "ode")
        self.solver = solver
        self.embed = linear(CHANNELS, WIDTH, generator=g)
        self.stack = S5Stack(WIDTH, WIDTH // 2, 1, generator=g)
        self.start = linear(WIDTH, 2 * DIM, generator=g)
        self.net = MLP(DIM, DIM, (WIDTH,), generator=g)
        self.decoder, self.likelihood = LinearDecoder(DIM, CHANNELS, generator=g), Gaussian(CHANNELS)

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        return self.net(z) - z

    def loss(self, padded: Padded) -> Tensor:
        live = padded.rows[..., None].to(padded.values.dtype)
        h, _ = self.stack(self.embed(padded.values.flip(1)) * live, padded.time * 0 + STEP, live)
        mean, log_sd = self.start(h[:, -1]).chunk(2, dim=-1)
        z0 = mean + log_sd.exp() * torch.randn(mean.shape, generator=generator(0, "z"), dtype=mean.dtype)
        eta = self.decoder(self.path(z0, padded.time[0]).transpose(0, 1))
        fit = self.likelihood.log_prob(padded.values, eta, padded.mask).sum()
        return -(fit - 0.5 * (mean.square() + (2 * log_sd).exp() - 1 - 2 * log_sd).sum()) / padded.mask.sum()

    def path(self, z: Tensor, times: Tensor) -> Tensor:
        if self.solver == "torchdiffeq":
            import torchdiffeq

            return torchdiffeq.odeint(self.drift, z, times, method="rk4")
        out, h = [z], STEP
        for t in times[:-1]:
            k1 = self.drift(t, z)
            k2 = self.drift(t, z + 0.5 * h * k1)
            k3 = self.drift(t, z + 0.5 * h * k2)
            k4 = self.drift(t, z + h * k3)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            out.append(z)
        return torch.stack(out)


def data(series: int, times: int, dtype: torch.dtype) -> SeriesBatch:
    """Noise: what is measured is the step, not what it learns."""
    g = generator(0, "data")
    time = STEP * torch.arange(times, dtype=torch.float64)
    values = torch.randn(series, times, CHANNELS, generator=g, dtype=torch.float64)
    return SeriesBatch.of([time] * series, list(values)).to(dtype=dtype)


def schema() -> Schema:
    names = [f"c{k}" for k in range(CHANNELS)]
    axis = TimeAxis("t", "number", 0.0, 1.0)
    return Schema(axis, "series", tuple(map(Variable, names)), tuple(map(Channel, names)))


def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    model.zero_grad()
    loss().backward()


def ours(batch: SeriesBatch, mode: str) -> Callable[[], Any]:
    model = ls4(schema(), latent=DIM, width=WIDTH, mode=mode, hide=0.0).to(batch.values.dtype)
    return lambda: step(model, lambda: model.loss(batch, generator=generator(0, "step")).value)


def peer(batch: SeriesBatch, solver: str) -> Callable[[], Any] | None:
    if solver == "torchdiffeq" and not installed("torchdiffeq"):
        return None
    padded = batch.padded()
    model = LatentODE(solver).to(batch.values.dtype)
    return lambda: step(model, lambda: model.loss(padded))


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goal: at least 100 times per step against each latent ODE."""
    times = 80 if tiny else TIMES
    for series in (1, 4):
        batch = data(series, times, torch.float32)
        for solver in ("torchdiffeq", "loop"):
            yield timed_row(
                f"long_sequences/ls4-conv-{series}x{times}-against-{solver}",
                ours(batch, "conv"),
                peer(batch, solver),
                repeats=1 if tiny else 3,
                goal=100.0,
                packages=("torchdiffeq",) if solver == "torchdiffeq" else (),
            )
    batch = data(1, times, torch.float32)
    yield timed_row(
        f"long_sequences/ls4-conv-1x{times}-against-its-own-scan",
        ours(batch, "conv"),
        ours(batch, "scan"),
        repeats=1 if tiny else 3,
        goal=None,
        packages=(),
    )
