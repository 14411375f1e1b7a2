"""One training step of a latent SDE: simulation-free against torchsde's Euler, by backpropagation and by its adjoint.

Equal batch (256 series), times (100), latent size (4), nets (two hidden layers of 128, context 64) and likelihood;
torchsde takes 200 Euler steps. A step is the ELBO and its gradient. "encoder excluded" feeds both the same fixed
context; otherwise both run the same encoder, or torchsde the gated
recurrence of its own example ("against-gru"). The memory rows: what the path term keeps for its gradient beside its
inputs, and what the whole step keeps, for series a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sciinfer.labelled.series import Padded, SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models.grids import pad_for
from sciinfer.models.path_model import PathModel
from sciinfer.nets import MLP, Encoder, LinearDecoder, ScanEncoder
from sciinfer.nets.encoder import row_features
from sciinfer.processes import NeuralSDE, hermite_marginals, path_divergence
from sciinfer.processes.hermite import gaps_of
from sciinfer.processes.matching import antithetic, random_nodes
from sciinfer.processes.posterior import BridgePosterior, HermitePosterior
from sciinfer.random import generator

from .harness import Row, installed, timed_row, versions

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


class Recurrent(Encoder):
    """The gated recurrence of torchsde's example, backwards over the rows, of the same width."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gru = nn.GRU(2 * CHANNELS + 2, WIDTH, batch_first=True, dtype=torch.float64)

    def forward(self, padded: Padded) -> Tensor:
        return self.gru(row_features(padded).flip(1))[0].flip(1)


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

    def loss(self, batch: SeriesBatch, steps: int, adjoint: bool = False) -> Tensor:
        import torchsde

        padded = pad_for(batch)
        self.knots, self.context = padded.time[0], self.encoder(padded)
        mean, log_sd = self.start(self.context[:, 0]).chunk(2, dim=-1)
        z0 = mean + log_sd.exp() * torch.randn(mean.shape, dtype=mean.dtype)
        span = float(self.knots[-1] - self.knots[0])
        settings: dict[str, Any] = {"method": "euler", "dt": span / steps, "logqp": True}
        if adjoint:
            wanted = [x for x in (*self.parameters(), self.context) if x.requires_grad]
            path, ratio = torchsde.sdeint_adjoint(self, z0, self.knots, adjoint_params=wanted, **settings)
        else:
            path, ratio = torchsde.sdeint(self, z0, self.knots, **settings)
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


def ours(batch: SeriesBatch, counted: bool, posterior: str, nodes: int = 8) -> Callable[[], Any]:
    prior, encoder, decoder, likelihood = parts(batch, counted)
    g = generator(2, "posterior")
    q = (
        HermitePosterior(prior, WIDTH, generator=g)
        if posterior == "hermite"
        else BridgePosterior(prior, WIDTH, known_rows=True, generator=g)
    )
    model = PathModel(prior, encoder, q, decoder, likelihood, nodes=nodes)
    return lambda: step(model, lambda: model.loss(batch, generator=generator(0, "step")).value)


def peer(
    batch: SeriesBatch, counted: bool, steps: int, *, adjoint: bool = False, recurrent: bool = False
) -> Callable[[], Any] | None:
    if not installed("torchsde"):
        return None
    prior, encoder, decoder, likelihood = parts(batch, counted)
    model = Simulated(prior, Recurrent() if recurrent else encoder, decoder, likelihood)
    return lambda: step(model, lambda: model.loss(batch, steps, adjoint))


def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    model.zero_grad()
    loss().backward()


def kept(compute: Callable[[], Any], *, given: Iterable[Tensor] = ()) -> int:
    """Bytes that the graph of ``compute`` keeps for its gradient beside ``given``, each memory counted once."""
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        held = compute()
    del held
    for x in given:
        seen.pop(x.untyped_storage().data_ptr(), None)
    return sum(seen.values())


def memory(times: int) -> tuple[int, int]:
    """Kept by the path term given the knots, and by the whole loss; 16 series of ``times``."""
    batch = data(16, times)
    prior, encoder, decoder, likelihood = parts(batch, False)
    q = HermitePosterior(prior, WIDTH, generator=generator(2, "posterior"))
    model = PathModel(prior, encoder, q, decoder, likelihood)
    padded = pad_for(batch)
    knots = q.knots(padded, encoder(padded))
    at, weights = random_nodes(padded.time, 8, generator(0, "nodes"))
    points = antithetic(1, (16, 8, DIM), generator(0, "points"), padded.time)

    def path() -> Tensor:
        return path_divergence(prior, hermite_marginals(knots, gaps_of(knots.time, at), at), weights, points)

    return kept(path, given=knots), kept(lambda: model.loss(batch, generator=generator(0, "step")).value)


def memory_rows(long: int) -> Iterable[Row]:
    short_path, short_all = memory(100)
    long_path, long_all = memory(long)
    for name, mine, other, goal in (
        ("path-term", long_path, short_path, 0.9),
        ("whole-step", long_all, short_all, None),
    ):
        yield Row(
            name=f"simulation_free/memory-{name}-{long}-against-100-times", ours=mine / 1e6, peer=other / 1e6,
            unit="MB", goal=goal, note="flat is a ratio of 1", versions=versions(),
        )  # fmt: skip


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: at least 20 times per step with the encoder excluded, 8 times with it; 50 times torchsde's adjoint."""
    batch = data(8, 10) if tiny else data(256, 100)
    yield from memory_rows(200 if tiny else 10_000)
    yield timed_row(
        "simulation_free/hermite-against-adjoint",
        ours(batch, False, "hermite"),
        peer(batch, False, 20 if tiny else 200, adjoint=True),
        repeats=1,
        goal=50.0,
        packages=("torchsde",),
        steady=True,
    )
    yield timed_row(
        "simulation_free/hermite-8-with-encoder-against-gru",
        ours(batch, True, "hermite"),
        peer(batch, True, 20 if tiny else 200, recurrent=True),
        repeats=1 if tiny else 5,
        goal=8.0,
        packages=("torchsde",),
        steady=True,
    )
    # eight random times a series is the default; one is the published estimator, cheaper and noisier
    for posterior, nodes in (("hermite", 8), ("hermite", 1), ("bridge", 8)):
        for counted, goal in ((False, 20.0), (True, 8.0)):
            label = "with-encoder" if counted else "encoder-excluded"
            yield timed_row(
                f"simulation_free/{posterior}-{nodes}-{label}",
                ours(batch, counted, posterior, nodes),
                peer(batch, counted, 20 if tiny else 200),
                repeats=1 if tiny else 5,
                goal=goal if posterior == "hermite" else None,
                packages=("torchsde",),
                steady=True,
            )
