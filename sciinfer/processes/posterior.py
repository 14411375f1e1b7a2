"""Amortised posteriors over paths of a nonlinear process: affine, with kinks at the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..labelled.series import Padded
from ..nets.mlp import linear
from .bridge import Bridge, build_bridge
from .hermite import HermiteKnots, gaps_of, hermite_marginals
from .matching import Marginals, bridge_marginals, gap_nodes, random_nodes
from .neural import AnchoredSDE, NeuralSDE, TiltedLinear

#: Gauss-Legendre nodes per gap where the answer must be exact to round-off
GAUSS = 16


class Inferred(NamedTuple):
    """``mean [S, T, d]``, ``cov [S, T, d, d]`` at the data; ``nodes`` inside the gaps with quadrature ``weights``."""

    mean: Tensor
    cov: Tensor
    nodes: Marginals
    weights: Tensor


class Rows(NamedTuple):
    """Whitened observation rows known without an encoder (linear decoder, Gaussian noise): ``H``, ``y``."""

    H: Tensor
    y: Tensor


class PathPosterior(nn.Module, ABC):
    """Gaussian Markov posterior of each series given its encoded data."""

    @abstractmethod
    def infer(
        self, padded: Padded, context: Tensor, rows: Rows | None, *, nodes: int, generator: torch.Generator | None
    ) -> Inferred:
        """Marginals at the data and at quadrature nodes: ``nodes`` random times, or exact without a generator."""

    @abstractmethod
    def sample(
        self,
        padded: Padded,
        context: Tensor,
        rows: Rows | None,
        query: Tensor,
        *,
        draws: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Joint draws ``[n, S, K, d]`` at ``query [S, K]`` (any order)."""


def _nodes(time: Tensor, nodes: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    return gap_nodes(time, GAUSS) if generator is None else random_nodes(time, nodes, generator)


class BridgePosterior(PathPosterior):
    """Exact conditioning of a linear process on potentials: the known rows plus diagonal ones from the encoder.

    When prior, decoder and noise are linear-Gaussian this is the exact posterior; the encoder corrects it otherwise.
    """

    def __init__(self, prior: AnchoredSDE, width: int, *, known_rows: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.tilted = TiltedLinear(prior)
        self.head = linear(width, 2 * prior.dim, generator=generator)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            # potentials start weak where the likelihood already gives its own, informative where it cannot
            self.head.bias[prior.dim :] = -6.0 if known_rows else 0.0

    def bridge(self, padded: Padded, context: Tensor, rows: Rows | None, query: Tensor) -> Bridge:
        """Posterior on the merged grid."""
        centre, log_precision = self.head(context).chunk(2, dim=-1)
        root = (0.5 * log_precision.clamp(max=20.0)).exp() * padded.rows[..., None]
        H, y = torch.diag_embed(root), root * centre
        if rows is not None:
            H, y = torch.cat([rows.H, H], dim=-2), torch.cat([rows.y, y], dim=-1)
        return build_bridge(self.tilted, padded.time, H, y, query)

    def infer(
        self, padded: Padded, context: Tensor, rows: Rows | None, *, nodes: int, generator: torch.Generator | None
    ) -> Inferred:
        """See :class:`PathPosterior`."""
        time, weights = _nodes(padded.time, nodes, generator)
        bridge = self.bridge(padded, context, rows, time)
        marginals = bridge_marginals(bridge, time, bridge.at_query, self.tilted.matrix, self.tilted.spread)
        return Inferred(bridge.mean(bridge.at_data), bridge.cov(bridge.at_data), marginals, weights)

    def sample(
        self,
        padded: Padded,
        context: Tensor,
        rows: Rows | None,
        query: Tensor,
        *,
        draws: int,
        generator: torch.Generator,
    ) -> Tensor:
        """See :class:`PathPosterior`."""
        bridge = self.bridge(padded, context, rows, query)
        path = bridge.sample(draws, generator)
        where = bridge.at_query[None, ..., None].expand(draws, *query.shape, path.shape[-1])
        return path.gather(2, where)


class HermitePosterior(PathPosterior):
    """Diagonal marginals from cubic Hermite pieces that the encoder emits: cheapest per step, no linear algebra."""

    def __init__(self, prior: NeuralSDE, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = prior.dim
        self._prior = [prior]
        self.head = linear(width, 6 * prior.dim, generator=generator)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def knots(self, padded: Padded, context: Tensor) -> HermiteKnots:
        """Values and one-sided slopes at the data."""
        value, left, right = self.head(context).chunk(3, dim=-1)
        mean, log_sd = value.chunk(2, dim=-1)
        value = torch.cat([mean, log_sd.clamp(-6.0, 2.0) - 0.5], dim=-1)
        prior = self._prior[0]
        empty = ~padded.rows.any(dim=1)[:, None, None]
        value = torch.where(empty, torch.cat([prior.start_mean, prior.log_start]), value)
        # rows of one time are one state (a jump between them would be free), and padding repeats the last row
        time = padded.time.contiguous()
        first = torch.searchsorted(time, time)
        value = value.gather(1, first[..., None].expand_as(value))
        return HermiteKnots(padded.time, value, left, right)

    def infer(
        self, padded: Padded, context: Tensor, rows: Rows | None, *, nodes: int, generator: torch.Generator | None
    ) -> Inferred:
        """See :class:`PathPosterior`."""
        time, weights = _nodes(padded.time, nodes, generator)
        knots = self.knots(padded, context)
        mean, log_sd = knots.value.chunk(2, dim=-1)
        marginals = hermite_marginals(knots, gaps_of(knots.time, time), time)
        return Inferred(mean, torch.diag_embed((2 * log_sd).exp()), marginals, weights)

    def sample(
        self,
        padded: Padded,
        context: Tensor,
        rows: Rows | None,
        query: Tensor,
        *,
        draws: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Markov draws: ``z_t = m_t + sigma_t x_t`` with ``x`` correlated as ``exp(-1/2 int g^2 / sigma^2)``."""
        knots = self.knots(padded, context)
        ordered, order = torch.sort(query, dim=1)
        mean, sd = self._marginal(knots, ordered)
        keep = self._correlation(knots, ordered)
        noise = torch.randn((draws, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        x = [noise[:, :, 0]]
        for k in range(1, query.shape[1]):
            rho = keep[:, k - 1]
            x.append(rho * x[-1] + (1 - rho.square()).clamp(min=0.0).sqrt() * noise[:, :, k])
        path = mean + sd * torch.stack(x, dim=2)
        back = torch.argsort(order, dim=1)[None, ..., None].expand_as(path)
        return path.gather(2, back)

    def _marginal(self, knots: HermiteKnots, time: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.minimum(torch.maximum(time, knots.time[:, :1]), knots.time[:, -1:])
        if knots.time.shape[1] == 1:
            mean, log_sd = knots.value.expand(-1, time.shape[1], -1).chunk(2, dim=-1)
            return mean, log_sd.exp()
        q = hermite_marginals(knots, gaps_of(knots.time, inside), inside)
        return q.mean, q.root.diagonal(dim1=-2, dim2=-1)

    def _correlation(self, knots: HermiteKnots, time: Tensor, nodes: int = 8) -> Tensor:
        at, weights = gap_nodes(time, nodes)
        spread = self._prior[0].linear.spread
        rate = spread / self._marginal(knots, at)[1].square()
        total = (weights[..., None] * rate).unflatten(1, (time.shape[1] - 1, nodes)).sum(2)
        return (-0.5 * total).exp()
