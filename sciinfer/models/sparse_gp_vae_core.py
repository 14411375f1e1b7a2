"""What autoencoders with a Gaussian-process prior over general inputs share: potentials, a decoder, a start."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..gp.spatial import Covariance
from ..likelihoods import Gaussian, Likelihood, channel_supports
from ..nets import Decoder, LinearDecoder, MLPDecoder
from ..nets.potentials import PotentialEncoder
from ..processes import cubature
from ..processes.matching import antithetic
from ..statespace.linalg import cholesky
from ..statespace.sites import Sites
from ..training.adam import Adam
from .base import Draws, Loss

#: least share of the variance that the principal components of a start leave to each latent
_SMALLEST = 1e-3


class RowBatch(NamedTuple):
    """``x [S, T, D]`` inputs, ``values, mask [S, T, C]``; rows without an observed entry say nothing."""

    x: Tensor
    values: Tensor
    mask: Tensor

    @property
    def rows(self) -> Tensor:
        """``[S, T]``: does the row hold a value?"""
        return self.mask.any(-1)


class Latents(NamedTuple):
    """Draws ``[n, S, Q, K]`` of the latent values; moments ``[S, Q, K]`` where they are known in closed form."""

    draws: Tensor
    mean: Tensor | None = None
    variance: Tensor | None = None


class Whitened(NamedTuple):
    """``q(e) prop N(e; 0, I) prod_t exp(shift_t z_t - precision_t z_t^2 / 2)``, ``z = A^T e``, exactly.

    ``A [S, K, M, T]``; ``mean [S, K, M]`` and ``root [S, K, M, M]``, the lower factor of the precision.
    """

    mean: Tensor
    root: Tensor

    def divergence(self) -> Tensor:
        """``KL(q(e) || N(0, I))``, summed over the latents, ``[S]``."""
        eye = torch.eye(self.root.shape[-1], dtype=self.root.dtype, device=self.root.device)
        spread = torch.linalg.solve_triangular(self.root, eye, upper=False).square().sum((-2, -1))
        logdet = 2 * self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 0.5 * (spread + self.mean.square().sum(-1) - self.mean.shape[-1] + logdet).sum(-1)

    def moments(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``A^T e``, ``[S, T, K]``, for ``A [S, K, M, T]``."""
        half = torch.linalg.solve_triangular(self.root, A, upper=False)
        mean = (A.mT @ self.mean.unsqueeze(-1)).squeeze(-1)
        return mean.mT, half.square().sum(-2).mT

    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """``[n, S, K, M]``."""
        shape = (draws, *self.mean.shape)
        return self.at(torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device))

    def at(self, noise: Tensor) -> Tensor:
        """``mean + root^-T noise`` for standard normal ``noise [..., S, K, M]``."""
        back = torch.linalg.solve_triangular(self.root.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
        return self.mean + back


def condition_whitened(A: Tensor, sites: Sites) -> Whitened:
    """Multiply ``N(e; 0, I)`` by potentials of ``z = A^T e``.

    Args:
        A: ``[S, K, M, T]``. sites: ``[S, T, K]`` each.
    """
    precision, shift = (part.mT.to(A.dtype) for part in sites)
    eye = torch.eye(A.shape[-2], dtype=A.dtype, device=A.device)
    root = cholesky(eye + (A * precision.unsqueeze(-2)) @ A.mT, what="precision of the inducing variables")
    mean = torch.cholesky_solve(A @ shift.unsqueeze(-1), root).squeeze(-1)
    return Whitened(mean, root)


def gram(covariances: Sequence[Covariance], a: Tensor, b: Tensor) -> Tensor:
    """``[..., K, n, m]`` of ``a [..., n, D]`` and ``b [..., m, D]``, in double precision whatever the inputs are."""
    return torch.stack([in_double(covariance)(a.double(), b.double()) for covariance in covariances], dim=-3)


def variances(covariances: Sequence[Covariance], x: Tensor) -> Tensor:
    """``k(x, x) [..., n, K]``, in double precision."""
    x = x.double()
    origin = x.new_zeros(1, x.shape[-1])
    each = torch.stack([in_double(covariance)(origin, origin)[0, 0] for covariance in covariances])
    return each.expand(*x.shape[:-1], len(each))


def in_double(covariance: Covariance) -> Covariance:
    """The same covariance with all its numbers in double precision; gradients reach the originals."""
    single = any(part.is_floating_point() and part.dtype != torch.float64 for part in covariance.state_dict().values())
    return _Double(covariance) if single else covariance


class _Double(Covariance):
    """See :func:`in_double`."""

    def __init__(self, inner: Covariance) -> None:
        super().__init__()
        self._inner = (inner,)  # not a part of its own

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        inner = self._inner[0]
        known = dict(inner.named_parameters()) | dict(inner.named_buffers())
        doubled = {name: part.double() if part.is_floating_point() else part for name, part in known.items()}
        return torch.func.functional_call(inner, doubled, (a, b))

    def scaled(self, X: Tensor) -> Tensor:
        return self._inner[0].scaled(X)

    def profile(self, squared: Tensor) -> Tensor:
        return self._inner[0].profile(squared)


class Ordered(NamedTuple):
    """``x [S, Q, D]`` in one order whatever the caller's; ``first [S, Q]``: where each point occurs first in it;
    ``back [S, Q]``: the caller's rows in it."""

    x: Tensor
    first: Tensor
    back: Tensor

    def restore(self, values: Tensor) -> Tensor:
        """``[..., S, Q, K]`` in the caller's order; equal points take the value of the first of them."""
        where = self.first.gather(1, self.back)[..., None]
        return values.gather(-2, where.expand(*values.shape[:-3], *self.back.shape, values.shape[-1]))


def ordered(x: Tensor) -> Ordered:
    """Points ``[S, Q, D]`` sorted by their first coordinate, then the second, and so on."""
    order = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    for column in reversed(range(x.shape[2])):
        found = torch.sort(x[..., column].gather(1, order), dim=1, stable=True)
        order = order.gather(1, found.indices)
    sorted_x = x.gather(1, order[..., None].expand(x.shape))
    fresh = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    fresh[:, 1:] = (sorted_x.diff(dim=1) != 0).any(-1)
    position = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    first = torch.where(fresh, position, torch.zeros_like(position)).cummax(1).values
    return Ordered(sorted_x, first, torch.argsort(order, dim=1))


class RowGPVAE(nn.Module, ABC):
    """``z_k ~ GP(0, k_k)`` over inputs, ``y ~ likelihood(decoder(z(x)))``, Gaussian potentials from an encoder.

    ``ELBO = sum_i E_q log p(y_i | z(x_i)) - KL``; a subclass says what ``q`` and the divergence are.

    Args:
        covariances: one for each latent. channels: ``C``. likelihood: of ``C`` channels.
        hidden: widths of encoder and decoder nets; empty: a linear decoder. pairs: antithetic pairs of draws per row.
        generator: starting weights.
    """

    def __init__(
        self,
        covariances: Sequence[Covariance],
        channels: int,
        *,
        likelihood: Likelihood | None = None,
        hidden: tuple[int, ...] = (),
        pairs: int = 1,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if not covariances:
            raise ConfigError("at least one latent process is needed", fix="pass one covariance for each latent")
        K = len(covariances)
        self._covariances, self.channels, self.pairs = nn.ModuleList(covariances), channels, pairs
        self.likelihood = Gaussian(channels) if likelihood is None else likelihood
        self.supports = channel_supports(self.likelihood, channels)
        counts = [support == "count" for support in self.supports]
        self.encoder = PotentialEncoder(channels, K, hidden or (16,), generator=generator, counts=counts)
        self.decoder: Decoder = (
            MLPDecoder(K, channels, hidden, generator=generator)
            if hidden
            else LinearDecoder(K, channels, generator=generator)
        )

    @property
    def covariances(self) -> list[Covariance]:
        """One for each latent."""
        return [c for c in self._covariances if isinstance(c, Covariance)]

    # -- what a subclass provides --------------------------------------------------------------------------------

    @abstractmethod
    def posterior(self, data: RowBatch, sites: Sites) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance ``[S, T, K]`` of the latents at the rows, and the divergence ``[S]``."""

    @abstractmethod
    def latent(self, data: RowBatch, query: Tensor, draws: int, generator: torch.Generator) -> Latents:
        """Joint draws given ``data`` at ``query [S, Q, D]``, the same whatever the order of the query."""

    @abstractmethod
    def prior(self, query: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Draws of the latents before any data, ``[n, S, Q, K]``."""

    def place(self, data: RowBatch) -> None:
        """Set what depends on where the inputs lie; default: nothing."""

    # -- the bound -----------------------------------------------------------------------------------------------

    def sites(self, data: RowBatch) -> Sites:
        """Potentials ``[S, T, K]``; zero where nothing was observed."""
        return self.encoder(data.values, data.mask)

    def elbo(self, data: RowBatch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and divergence, ``[S]``; without a generator by fixed points."""
        mean, variance, divergence = self.posterior(data, self.sites(data))
        return self.expected(data, mean, variance, generator).sum(1), divergence

    def expected(self, data: RowBatch, mean: Tensor, variance: Tensor, generator: torch.Generator | None) -> Tensor:
        """``E log p(y_i | z_i)`` of each row ``[S, T]`` for independent ``z_ik ~ N(mean, variance)``."""
        if isinstance(self.decoder, LinearDecoder):
            moments = self.decoder.moments(mean, torch.diag_embed(variance))
            return self.likelihood.expected_log_prob(data.values, *moments, data.mask)
        if generator is None:
            points = cubature(mean.shape[-1], mean)
        else:
            points = antithetic(self.pairs, tuple(mean.shape), generator, mean)
        eta = self.decoder(mean + variance.clamp(min=torch.finfo(mean.dtype).tiny).sqrt() * points)
        mask = data.mask.expand(eta.shape)
        return self.likelihood.log_prob(data.values.expand_as(eta), eta, mask).mean(0)

    def loss(
        self, x: Tensor, y: Tensor, mask: Tensor | None = None, *, generator: torch.Generator, batch: int | None = None
    ) -> Loss:
        """Negative ELBO per observed entry of ``x [n, D]``, ``y [n, C]`` (NaN, or ``mask`` False: missing).

        Args:
            batch: look at so many random rows; an unbiased estimate of the whole.

        Raises:
            ShapeError: shapes that do not fit.
        """
        data = row_batch(x, y, mask)
        fit, divergence = self._estimate(data, generator, batch)
        count = max(int(data.mask.sum()), 1)
        terms = {"fit": fit.detach() / count, "divergence": divergence.detach() / count}
        return Loss((divergence - fit) / count, terms)

    def _estimate(self, data: RowBatch, generator: torch.Generator, batch: int | None) -> tuple[Tensor, Tensor]:
        rows = data.rows[0].nonzero()[:, 0]
        if batch is None or batch >= len(rows):
            fit, divergence = self.elbo(data, generator)
            return fit.sum(), divergence.sum()
        chosen = torch.randperm(len(rows), generator=generator, device=rows.device)[:batch]
        return self.part(data, rows[chosen], generator)

    def part(self, data: RowBatch, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Estimates of both terms of one data set from the rows ``rows [b]``; over a partition they average to the
        whole."""
        mean, variance, divergence = self.posterior(data, self.sites(data))
        some = RowBatch(*(part[:, rows] for part in data))
        fit = self.expected(some, mean[:, rows], variance[:, rows], generator).sum()
        return fit * (int(data.rows.sum()) / len(rows)), divergence.sum()

    def predict(
        self,
        x_new: Tensor,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        *,
        draws: int = 200,
        generator: torch.Generator,
    ) -> Draws:
        """Joint draws at ``x_new [q, D]`` given ``x [n, D]``, ``y [n, C]``; the series axis has length one."""
        with torch.no_grad():
            found = self.latent(row_batch(x, y, mask), x_new[None], draws, generator)
            return self.observe(found, generator)

    def observe(self, found: Latents, generator: torch.Generator) -> Draws:
        """Through decoder and likelihood; moments where they are known in closed form."""
        eta = self.decoder(found.draws)
        answer = Draws(self.likelihood.mean(eta), self.likelihood.sample(eta, generator), found.draws)
        if found.mean is None or found.variance is None:
            return answer
        if not isinstance(self.decoder, LinearDecoder) or not isinstance(self.likelihood, Gaussian):
            return answer
        mean, variance = self.decoder.moments(found.mean, torch.diag_embed(found.variance))
        return answer._replace(mean=mean, variance=variance + self.likelihood.noise.square())

    # -- start and fit -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(self, data: RowBatch) -> None:
        """Second moments of the data for decoder and encoder, and the places of what has places."""
        rows, seen = data.values[data.rows], data.mask[data.rows]
        self.place(data)
        self.likelihood.initialise(rows, seen)
        if not len(rows):
            return
        eta, count = _linked(rows, self.supports), seen.sum(0).clamp(min=1)
        centre = torch.where(seen, eta, 0.0).sum(0) / count
        white = torch.where(seen, eta - centre, 0.0)
        both = (white.mT @ white) / (seen.to(white.dtype).mT @ seen.to(white.dtype)).clamp(min=1)
        into, out = _frames(both, count, len(self.covariances))
        K = len(into)
        linear = self.decoder.linear if isinstance(self.decoder, MLPDecoder) else self.decoder
        if isinstance(linear, LinearDecoder):
            linear.weight[:, :K].copy_(out)
            linear.bias.copy_(centre)
        self.encoder.linear.weight[:K, : self.channels].copy_(into)
        self.encoder.linear.bias[:K].copy_(-into @ centre)

    def fit(
        self,
        x: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        *,
        steps: int = 500,
        learning_rate: float = 0.02,
        batch: int | None = None,
        generator: torch.Generator,
    ) -> list[float]:
        """Start, then Adam with a falling rate, in place; the losses of all steps."""
        self.start(row_batch(x, y, mask))
        optimiser = Adam([p for p in self.parameters() if p.requires_grad])
        losses = []
        for step in range(steps):
            self.zero_grad()
            loss = self.loss(x, y, mask, generator=generator, batch=batch).value
            loss.backward()
            optimiser.step(learning_rate * (0.01 + 0.495 * (1 + math.cos(math.pi * step / steps))))
            losses.append(float(loss.detach()))
        return losses


def row_batch(x: Tensor, y: Tensor, mask: Tensor | None = None) -> RowBatch:
    """One data set: ``x [n, D]``, ``y [n, C]``, ``mask [n, C]`` (None: what is not NaN).

    Raises:
        ShapeError: shapes that do not fit.
    """
    fits = x.ndim == 2 and y.ndim == 2 and len(x) == len(y) and (mask is None or mask.shape == y.shape)
    if not fits:
        shapes = [tuple(x.shape), tuple(y.shape), None if mask is None else tuple(mask.shape)]
        raise ShapeError(f"x, y and mask have shapes {shapes}", fix="use [n, D], [n, C] and [n, C]")
    seen = ~y.isnan() if mask is None else mask & ~y.isnan()
    return RowBatch(x[None], torch.where(seen, y, torch.zeros_like(y))[None], seen[None])


def _frames(both: Tensor, count: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    """``into [K, C]`` and ``out [C, K]`` with ``both ~ out out^T`` and ``into out = I``.

    Fewer latents than channels: principal components. Else a triangular factor, the channels that are seen most often
    first: what they say about the latents does not hang on the others being seen.
    """
    if latents < len(both):
        value, vector = torch.linalg.eigh(both)
        value, vector = value.flip(0)[:latents], vector.flip(1)[:, :latents]
        root = value.clamp(min=_SMALLEST * float(value.max().clamp(min=1e-6))).sqrt()
        return (vector / root).mT, vector * root
    order = torch.sort(count, descending=True, stable=True).indices
    eye = torch.eye(len(both), dtype=both.dtype, device=both.device)
    least = _SMALLEST * float(both.diagonal().max().clamp(min=1e-6))
    value, vector = torch.linalg.eigh(both[order][:, order])
    L = torch.linalg.cholesky((vector * value.clamp(min=least)) @ vector.mT)
    back = torch.argsort(order)
    return torch.linalg.solve_triangular(L, eye, upper=False)[:, back], L[back]


def _linked(values: Tensor, supports: Sequence[str]) -> Tensor:
    """Observations ``[n, C]`` on the scale of the predictor, roughly."""
    count, binary = (torch.tensor([s == kind for s in supports], device=values.device) for kind in ("count", "binary"))
    logs = (values.clamp(min=0.0) + 0.5).log()
    return torch.where(count, logs, torch.where(binary, 4.0 * (values - 0.5), values))
