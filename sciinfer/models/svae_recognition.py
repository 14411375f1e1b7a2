"""What structured autoencoders share: recognition nets that emit potentials, expected fits, hidden rows, the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import ENCODERS, MLP, Decoder, LinearDecoder, MLPDecoder, linear
from ..processes import cubature
from ..processes.matching import antithetic
from ..processes.potential_chain import Potentials
from ..statespace import cholesky, matvec, symmetrise
from .base import Loss

#: logarithms of an emitted precision stay within this
_LOG_PRECISION = 6.0


class RowReader(nn.Module):
    """A vector for each row: ``"local"``, a perceptron of the row alone, or a registered encoder of the whole series.

    A row without a visible entry has no features of its own; whoever reads the vector leaves such rows out.

    Args:
        channels, outputs, hidden: sizes. encoder: "local" | "scan" | "attention" | "s5". generator: starting weights.
    """

    def __init__(self, channels: int, outputs: int, hidden: int, encoder: str, *, generator: torch.Generator) -> None:
        super().__init__()
        self.direct = linear(channels, outputs, generator=generator)
        if encoder == "local":
            self.net = MLP(2 * channels, outputs, (hidden, hidden), generator=generator)
        else:
            self.context = ENCODERS[encoder](channels, hidden, generator=generator)
            self.net = linear(hidden, outputs, generator=generator)
        self.local = encoder == "local"

    def forward(self, padded: Padded) -> Tensor:
        """``[S, T, outputs]``: a linear map of the values and a net."""
        values = padded.values * padded.mask
        if self.local:
            found = self.net(torch.cat([values, padded.mask.to(values.dtype)], dim=-1))
        else:
            found = self.net(self.context(padded))
        return self.direct(values) + found


class GaussianReader(nn.Module):
    """Potentials ``J = diag(p) + U U^T``, ``j = J m`` of each row: ``p, m [d]``, ``U [d, rank]`` from a net.

    Args:
        channels, dim, hidden: sizes. rank: 0 for diagonal precisions. encoder: see :class:`RowReader`.
    """

    def __init__(
        self, channels: int, dim: int, hidden: int, encoder: str, rank: int = 0, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.dim, self.rank = dim, rank
        self.rows = RowReader(channels, dim * (2 + rank), hidden, encoder, generator=generator)

    def forward(self, padded: Padded) -> Potentials:
        """Zero where nothing is visible."""
        d = self.dim
        mean, log_p, factor = self.rows(padded).split([d, d, d * self.rank], dim=-1)
        log_p = _LOG_PRECISION * torch.tanh(log_p / _LOG_PRECISION)
        J = torch.diag_embed(log_p.exp())
        if self.rank:
            U = factor.unflatten(-1, (d, self.rank))
            J = J + symmetrise(U @ U.mT)
        seen = padded.mask.any(-1)
        return Potentials(J * seen[..., None, None], matvec(J, mean) * seen[..., None])

    @torch.no_grad()
    def start(self, inverse: Tensor, bias: Tensor, precision: Tensor) -> None:
        """Means ``inverse (y - bias)`` and precisions ``[d]`` to begin with; ``inverse [d, C]``."""
        d = self.dim
        for module in (self.rows.direct, self.rows.net):
            last = module if isinstance(module, nn.Linear) else module.layers[-1]
            last.weight[: 2 * d] = 0  # pyright: ignore[reportIndexIssue]
            last.bias[: 2 * d] = 0  # pyright: ignore[reportIndexIssue]
        self.rows.direct.weight[:d] = inverse
        self.rows.direct.bias[:d] = -inverse @ bias
        self.rows.direct.bias[d : 2 * d] = precision.log().clamp(-3.0, 3.0)


def conjugate_potentials(decoder: LinearDecoder, likelihood: Gaussian, padded: Padded) -> Potentials:
    """The likelihood itself: ``J = W^T R^-1 W``, ``j = W^T R^-1 (y - b)`` over the observed channels.

    A natural-gradient step of size one on any Gaussian potentials lands here.
    """
    weight = padded.mask * likelihood.noise.square().reciprocal()
    W = decoder.weight
    J = (weight @ (W[:, :, None] * W[:, None, :]).flatten(1)).unflatten(-1, (W.shape[1], W.shape[1]))
    return Potentials(J, (weight * torch.where(padded.mask, padded.values - decoder.bias, 0.0)) @ W)


def expected_fit(
    decoder: Decoder,
    likelihood: Likelihood,
    padded: Padded,
    mean: Tensor,
    cov: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """``E log p(y | z)`` of each series ``[S]``: exact for linear decoders, else one antithetic pair, or cubature."""
    if isinstance(decoder, LinearDecoder):
        return likelihood.expected_log_prob(padded.values, *decoder.moments(mean, cov), padded.mask).sum(1)
    if generator is None:
        points = cubature(mean.shape[-1], mean)
    else:
        points = antithetic(1, tuple(mean.shape), generator, mean)
    eta = decoder(mean + matvec(cholesky(cov, what="posterior covariance"), points))
    return likelihood.log_prob(padded.values.expand_as(eta), eta, padded.mask).mean(0).sum(1)


def hide_rows(padded: Padded, share: float, generator: torch.Generator | None) -> Padded:
    """Rows that the recognition net does not get to see: each with probability ``share``; none without a generator.

    References:
        Zhao, Linderman (2023), Revisiting structured variational autoencoders.
    """
    if generator is None or share == 0:
        return padded
    uniform = torch.rand(padded.rows.shape, generator=generator, dtype=padded.time.dtype, device=padded.time.device)
    return padded._replace(mask=padded.mask & (uniform >= share)[..., None])


def bound_loss(terms: tuple[Tensor, ...], names: tuple[str, ...], batch: SeriesBatch, beta: float) -> Loss:
    """Negative ELBO per observed entry, the divergences times ``beta``; the first term is the fit."""
    count = max(batch.observed, 1)
    value = -(terms[0] - beta * sum(terms[1:])).sum() / count
    return Loss(value, {name: term.detach().sum() / count for name, term in zip(names, terms, strict=True)})


def fade(progress: float, warmup: float) -> float:
    """What the divergences count at this point of training."""
    return min(1.0, progress / warmup) if warmup > 0 else 1.0


def linear_part(decoder: Decoder) -> LinearDecoder | None:
    """The linear map inside a decoder."""
    if isinstance(decoder, LinearDecoder):
        return decoder
    return decoder.linear if isinstance(decoder, MLPDecoder) else None


@torch.no_grad()
def principal_components(batch: SeriesBatch, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """``W [C, d]``, ``b [C]`` and the scatter ``[C]`` that is left, so that ``W z + b`` with ``z ~ N(0, I)`` has the
    largest components of the data; further columns, beyond the channels, are zero."""
    count = batch.mask.sum(0).clamp(min=1)
    mean = (batch.values * batch.mask).sum(0) / count
    centred = torch.where(batch.mask, batch.values - mean, 0.0)
    together = (batch.mask.to(centred.dtype).mT @ batch.mask.to(centred.dtype)).clamp(min=1.0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / together)
    d = min(dim, len(mean))
    W = torch.zeros(len(mean), dim, dtype=mean.dtype, device=mean.device)
    W[:, :d] = vectors.flip(1)[:, :d] * values.flip(0)[:d].clamp(min=1e-6).sqrt()
    left = centred.square().sum(0) / count - W.square().sum(1)
    return W, mean, left.clamp(min=1e-4).sqrt()
