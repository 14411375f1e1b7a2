"""One training step of a latent SDE: simulation-free against torchsde's Euler with backpropagation through the solver.

Equal batch (256 series), times (100), latent size (4), nets (two hidden layers of 128, context 64) and likelihood;
torchsde takes 200 Euler steps. A step is the ELBO and its gradient. "encoder excluded" feeds both the same fixed
context; otherwise both run the same encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sciinfer.labelled.series import Padded, SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models.grids import pad_for
from sciinfer.models.path_model import PathModel
from sciinfer.nets import MLP, Encoder, LinearDecoder, ScanEncoder
from sciinfer.processes import NeuralSDE
from sciinfer.processes.posterior import BridgePosterior, HermitePosterior
from sciinfer.random import generator

from .harness import Row, installed, timed_row

# the sizes of torchsde's own latent-Lorenz example
DIM, CHANNELS, HIDDEN, WIDTH = 4, 3, (128, 128), 64


class FixedContext(Encoder):
    """Stands for an encoder whose cost is not counted."""

    width = WIDTH

    def __init__(self, series: int, times: int) -> None:
        super().__init__()
        self.context = torch.randn(series, times, WIDTH, generator=generator(0, "context"), dtype=torch.float64)

    def forward(self, padded: Padded) -> Tensor:
        return self.context


class Simulated(nn.Module):
    """The latent SDE as torchsde trains it: posterior drift on state and context, shared diffusion, log-ratio term."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, prior: NeuralSDE, encoder: Encoder, decoder: LinearDecoder, likelihood: Gaussian) -> None:
        super().__init__()
        self.prior, self.encoder, self.decoder, self.likelihood = prior, encoder, decoder, likelihood
        g = generator(1, "posterior")
        self.net = MLP(DIM + WIDTH, DIM, HIDDEN, generator=g)
        self.start = MLP(WIDTH, 2 * DIM, (), generator=g)
        self.knots, self.context = torch.zeros(1), torch.zeros(1)

    def f(self, t: Tensor, z: Tensor) -> Tensor:
        # the context of the next datum, as in the published examples
        index = min(int(torch.searchsorted(self.knots, t)), len(self.knots) - 1)
        return self.net(torch.cat([z, self.context[:, index]], dim=-1))

    def h(self, t: Tensor, z: Tensor) -> Tensor:
        return self.prior.drift(t, z)

    def g(self, t: Tensor, z: Tensor) -> Tensor:
        return self.prior.diffusion(t, z)

    def loss(self, batch: SeriesBatch, steps: int) -> Tensor:
        import torchsde

        padded = pad_for(batch)
        self.knots, self.context = padded.time[0], self.encoder(padded)
        mean, log_sd = self.start(self.context[:, 0]).chunk(2, dim=-1)
        z0 = mean + log_sd.exp() * torch.randn(mean.shape, dtype=mean.dtype)
        span = float(self.knots[-1] - self.knots[0])
        path, ratio = torchsde.sdeint(self, z0, self.knots, method="euler", dt=span / steps, logqp=True)
        eta = self.decoder(path.transpose(0, 1))
        fit = self.likelihood.log_prob(padded.values, eta, padded.mask).sum()
        start = 0.5 * (mean.square() + (2 * log_sd).exp() - 1 - 2 * log_sd).sum()
        return -(fit - start - ratio.sum()) / batch.observed


def data(series: int, times: int) -> SeriesBatch:
    """Noise: what is measured is the step, not what it learns."""
    g = generator(0, "data")
    time = torch.linspace(0.0, float(times - 1), times, dtype=torch.float64)
    values = torch.randn(series, times, CHANNELS, generator=g, dtype=torch.float64)
    return SeriesBatch.of([time] * series, list(values))


def parts(batch: SeriesBatch, counted: bool) -> tuple[NeuralSDE, Encoder, LinearDecoder, Gaussian]:
    g = generator(0, "weights")
    times = int(batch.lengths[0])
    encoder: Encoder = ScanEncoder(CHANNELS, WIDTH, generator=g) if counted else FixedContext(batch.n_series, times)
    return NeuralSDE(DIM, HIDDEN, generator=g), encoder, LinearDecoder(DIM, CHANNELS, generator=g), Gaussian(CHANNELS)


def ours(batch: SeriesBatch, counted: bool, posterior: str) -> Callable[[], Any]:
    prior, encoder, decoder, likelihood = parts(batch, counted)
    g = generator(2, "posterior")
    q = (
        HermitePosterior(prior, WIDTH, generator=g)
        if posterior == "hermite"
        else BridgePosterior(prior, WIDTH, known_rows=True, generator=g)
    )
    model = PathModel(prior, encoder, q, decoder, likelihood)
    return lambda: step(model, lambda: model.loss(batch, generator=generator(0, "step")).value)


def peer(batch: SeriesBatch, counted: bool, steps: int) -> Callable[[], Any] | None:
    if not installed("torchsde"):
        return None
    model = Simulated(*cast(Any, parts(batch, counted)))
    return lambda: step(model, lambda: model.loss(batch, steps))


def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    model.zero_grad()
    loss().backward()


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: at least 10 times per step with the encoder excluded, 3 times with it."""
    batch = data(8, 10) if tiny else data(256, 100)
    for posterior in ("hermite", "bridge"):
        for counted, goal in ((False, 10.0), (True, 3.0)):
            label = "with-encoder" if counted else "encoder-excluded"
            yield timed_row(
                f"simulation_free/{posterior}-{label}",
                ours(batch, counted, posterior),
                peer(batch, counted, 20 if tiny else 200),
                repeats=1 if tiny else 5,
                goal=goal if posterior == "hermite" else None,
                packages=("torchsde",),
            )
