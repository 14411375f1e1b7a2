"""``scotch``: which variable drives which, from noisy, irregular, gappy series."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from ..likelihoods import Gaussian
from ..nets import ENCODERS, Encoder, LinearDecoder
from ..processes import cubature
from ..processes.graph import MOST, FreeLinear, GraphSDE, Parents, drift_moments, parent_posterior
from ..processes.matching import Marginals, drifts_of, path_divergence
from ..processes.posterior import BridgePosterior
from ..random import generator
from .base import Loss
from .exact import ExactPathModel
from .grids import pad_for
from .linear_start import longest_rows, minimise_exactly
from .path_model import PathModel

__entries__ = [
    {
        "kind": "models",
        "name": "scotch",
        "target": "scotch",
        "summary": "structure learning: an SDE over the channels with a posterior over the graph of effects",
        "references": [
            "Wang, Jennings, Gong (2024), Neural structure learning with stochastic differential equations",
        ],
        "options": {
            "edge": "prior probability of an edge, in (0, 1)",
            "encoder": "scan (default) | attention",
            "width": "width of the encoder",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "nodes": "random times per series and step at which the path divergence is taken",
            "warmup": "fraction of training over which the divergences fade in",
        },
    },
]


def scotch(
    schema: Schema,
    *,
    seed: int = 0,
    edge: float = 0.2,
    encoder: str = "scan",
    width: int = 16,
    noise: float = 0.1,
    nodes: int = 16,
    warmup: float = 0.0,
) -> Scotch:
    """Build a structure-learning SDE for data of this schema, one state per channel.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    References:
        Wang, Jennings, Gong (2024), Neural structure learning with stochastic differential equations.
    """
    for name, value in (("width", width), ("nodes", nodes)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}", variable=name, fix=f"{name}=16")
    if not 0 < edge < 1:
        raise ConfigError(f"edge must be a probability, got {edge!r}", variable="edge", fix="edge=0.2")
    if not noise > 0 or not 0 <= warmup <= 1:
        raise ConfigError("noise must be above 0 and warmup in [0, 1]", fix="noise=0.1, warmup=0.2")
    if encoder not in ENCODERS:
        raise ConfigError(f"unknown encoder {encoder!r}", fix=f"one of: {', '.join(ENCODERS)}")
    d, g = schema.n_channels, generator(seed, "weights")
    prior = GraphSDE(d, edge=edge, generator=g)
    q = BridgePosterior(prior, width, known_rows=True, generator=g)
    names = tuple(channel.label or channel.variable for channel in schema.channels)
    enc = ENCODERS[encoder](d, width, generator=g)
    return Scotch(prior, enc, q, Gaussian(d, noise=noise), names=names, nodes=nodes, warmup=warmup)


class ChannelDecoder(LinearDecoder):
    """``eta = z``: each state is a channel; nothing is learned."""

    def __init__(self, dim: int) -> None:
        torch.nn.Module.__init__(self)
        self.register_buffer("weight", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(dim, dtype=torch.float64))


class Scotch(PathModel):
    """``y = z + noise``, ``z`` a :class:`~sciinfer.processes.graph.GraphSDE`.

    ``ELBO = sum E log p(y | z) - KL(q_0 || p_0) - 1/2 int E |g^{-1}(f - h)|^2 dt - KL(q(G, w) || p(G, w))`` with the
    expectation over graphs and weights in closed form.

    Args:
        process, encoder, posterior, likelihood: the parts. names: of the channels.
        nodes: random times per series and step. warmup: fraction of training over which the divergences fade in.
    """

    process: GraphSDE
    posterior: BridgePosterior
    likelihood: Gaussian

    def __init__(
        self,
        process: GraphSDE,
        encoder: Encoder,
        posterior: BridgePosterior,
        likelihood: Gaussian,
        *,
        names: tuple[str, ...],
        nodes: int = 16,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(
            process, encoder, posterior, ChannelDecoder(process.dim), likelihood, nodes=nodes, warmup=warmup
        )
        self.names = names
        #: entries of the training data: the divergence of the graph is paid once for all of them
        self.register_buffer("entries", torch.zeros((), dtype=torch.float64))

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Start from the paths of the best linear SDE and from the graph that they speak for."""
        self.get_buffer("entries").fill_(float(batch.observed))
        if batch.observed == 0:
            return
        prior, posterior, some = self.process, self.posterior, longest_rows(batch)
        linear = FreeLinear(prior.dim)
        model = ExactPathModel(linear, ChannelDecoder(linear.dim), self.likelihood).to(some.values)
        minimise_exactly(model, some, 40)
        with torch.no_grad():
            prior.linear.log_spread.copy_(linear.log_spread)
            prior.start_mean.copy_(linear.start_mean)
            prior.log_start.copy_(linear.log_start)
            posterior.tilted.matrix.copy_(linear.matrix)
            if prior.dim <= MOST:
                prior.adopt(self.parents(some))
            else:
                prior.weight[..., 0] = linear.matrix.mT

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry."""
        paths = super().loss(batch, generator=generator, progress=progress)
        entries = self.get_buffer("entries")
        share = self.process.divergence() / torch.where(entries > 0, entries, entries + max(batch.observed, 1))
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        return Loss(paths.value + beta * share, {**paths.terms, "graph": share.detach()})

    def _path_divergence(self, q: Marginals, weights: Tensor, points: Tensor) -> Tensor:
        # a rule that is exact for quadratics, since the posterior drift near a precise datum is steep
        points = cubature(self.process.dim, q.mean)
        z = q.mean + (q.root @ points.unsqueeze(-1)).squeeze(-1)
        doubt = (self.process.drift_variance(z) / self.process.linear.spread).sum(-1).mean(0)
        return path_divergence(self.process, q, weights, points) + 0.5 * (weights * doubt).sum(-1)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series; nothing held out: the graph's divergence guards against fitting noise."""
        return {"optimiser": "adam", "steps": 300, "learning_rate": 1e-2, "validation": 0.0, "batch_size": 16}

    # -- the graph -----------------------------------------------------------------------------------------------

    def edge_probabilities(self, batch: SeriesBatch | None = None) -> Tensor:
        """``P(i -> j) [from, to]``, in the order of ``names``; one on the diagonal.

        Args:
            batch: None: of the fitted independent edges. Data: given the posterior paths of these data, summed over all
                sets of parents (few variables).
        """
        if batch is None:
            return self.process.edge_probabilities().detach()
        return self.parents(batch).edges

    @torch.no_grad()
    def parents(self, batch: SeriesBatch) -> Parents:
        """Edges and weights given the posterior paths of these data, by a sum over all sets of parents."""
        padded = pad_for(batch)
        q = self.posterior.infer(padded, self.encoder(padded), self._rows(padded), nodes=0, generator=None)
        z, f = drifts_of(self.process, q.nodes, cubature(self.process.dim, q.mean))
        return parent_posterior(self.process, drift_moments(self.process, z, f, q.weights))

    def edge_table(self, batch: SeriesBatch | None = None) -> dict[str, dict[str, float]]:
        """``table[cause][effect]``: probabilities of the edges by channel names."""
        p = self.edge_probabilities(batch).tolist()
        return {a: {b: p[i][j] for j, b in enumerate(self.names) if j != i} for i, a in enumerate(self.names)}

    def summary(self) -> dict[str, float]:
        """Learned noise and edge probabilities."""
        edges = {f"edge[{a}->{b}]": p for a, row in self.edge_table().items() for b, p in row.items()}
        return super().summary() | edges
