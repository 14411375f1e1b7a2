"""A nonlinear state-space model of series with amortised low-rank information updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood, channel_supports
from ..nets import LinearDecoder, MLPDecoder
from ..processes.bridge import take
from ..processes.matching import cubature
from ..statespace import cholesky, matvec
from .base import Draws, Loss, Model
from .grids import pad_for
from .xfads_encoder import BackwardEncoder, LocalEncoder, add
from .xfads_steps import Moments, Potentials, ResidualFlow, draw, smooth

#: weights of the running mean from which a decoder starts
_WINDOW = (1.0, 2.0, 3.0, 2.0, 1.0)


class XFADS(Model):
    """``z_k = flow(z_{k-1}, gap) + N(0, Q(gap))``, ``y_k ~ likelihood(decoder(z_k))``.

    ``q(z_k | z_{k-1}) prop. to p(z_k | z_{k-1}) t_k(z_k)``, ``t_k`` the product of ``alpha(y_k)`` and
    ``beta(alpha_{k+1:T})``: Gaussian potentials of low rank. ``ELBO = sum_k E log p(y_k | z_k) - KL(q || p)``.

    Args:
        process, local, backward, decoder, likelihood: the parts.
        mask_local, mask_backward: in training, the share of rows whose ``alpha`` or ``beta`` is left out.
        warmup: fraction of training over which the divergence fades in.
    """

    def __init__(
        self,
        process: ResidualFlow,
        local: LocalEncoder,
        backward: BackwardEncoder,
        decoder: LinearDecoder | MLPDecoder,
        likelihood: Likelihood,
        *,
        mask_local: float = 0.0,
        mask_backward: float = 0.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        self.process, self.local, self.backward_encoder = process, local, backward
        self.decoder, self.likelihood = decoder, likelihood
        self.mask_local, self.mask_backward, self.warmup = mask_local, mask_backward, warmup

    # -- training ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """Noise levels; the decoder's leading directions from running means through the inverse link."""
        self.likelihood.initialise(batch.values, batch.mask)
        linear = self.decoder if isinstance(self.decoder, LinearDecoder) else self.decoder.linear
        start_decoder(linear, batch, channel_supports(self.likelihood, batch.n_channels))

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        fit, divergence = self.elbo_terms(batch, generator=generator if self.training else None)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        count = max(batch.observed, 1)
        terms = {"fit": fit.detach().sum() / count, "divergence": divergence.detach().sum() / count}
        return Loss(-(fit - beta * divergence).sum() / count, terms)

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and divergence of each series, ``[S]``; a generator leaves out random updates."""
        padded = pad_for(batch)
        found = smooth(self.process, padded.time, self.potentials(padded, padded.rows, generator))
        return self._expected_log_prob(padded, found).sum(1), found.divergence

    def potentials(self, padded: Padded, kept: Tensor, generator: torch.Generator | None = None) -> Potentials:
        """``t_k`` of every row; rows that are not ``kept [S, T]`` hold no data.

        With a generator, random ``alpha`` and ``beta`` are left out as the model's options say.
        """
        told = kept if generator is None else kept & _spared(kept, self.mask_local, generator)
        alpha = self.local(padded.values, padded.mask, told)
        beta = self.backward_encoder(padded.time, alpha, told)
        if generator is not None and self.mask_backward > 0:
            left = _spared(kept, self.mask_backward, generator)
            beta = Potentials(beta.shift * left[..., None], beta.factor * left[..., None, None])
        return add(alpha, beta)

    def _expected_log_prob(self, padded: Padded, found: Moments) -> Tensor:
        if isinstance(self.decoder, LinearDecoder):
            mean, variance = self.decoder.moments(found.mean, found.cov)
            return self.likelihood.expected_log_prob(padded.values, mean, variance, padded.mask)
        root = cholesky(found.cov, what="posterior covariance")
        eta = self.decoder(found.mean + matvec(root, cubature(found.mean.shape[-1], found.mean)))
        return self.likelihood.log_prob(padded.values.expand_as(eta), eta, padded.mask).mean(0)

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Posterior paths, step by step through all times of data and question; after the data, the prior's."""
        padded = pad_for(batch, times)
        grid, where, asked = _merged(padded, times)
        z = draw(self.process, grid.time, self.potentials(grid, where), draws, generator)
        return self._answer(torch.stack([take(path, asked) for path in z]), generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the prior."""
        blank = times.new_zeros(1, len(times), self.process.dim)
        nothing = Potentials(blank, blank[..., None])
        return self._answer(draw(self.process, times[None], nothing, draws, generator), generator)

    def _answer(self, z: Tensor, generator: torch.Generator) -> Draws:
        eta = self.decoder(z)
        return Draws(self.likelihood.mean(eta), self.likelihood.sample(eta, generator), z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series, early stop on the last tenth of each series."""
        return {"optimiser": "adam", "steps": 500, "learning_rate": 1e-2, "validation": 0.1, "batch_size": 32}

    def summary(self) -> dict[str, float]:
        """Diffusion of each latent dimension, and noise where there is one."""
        found = {f"diffusion[{k}]": float(q) for k, q in enumerate(self.process.log_diffusion.detach().exp())}
        if isinstance(self.likelihood, Gaussian):
            found |= {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}
        return found


def start_decoder(decoder: LinearDecoder, batch: SeriesBatch, supports: Sequence[str]) -> None:
    """Bias: what the means of the channels ask for; weights: principal directions of running means, in place."""
    padded = batch.drop_empty().padded()
    weight = torch.tensor(_WINDOW).to(padded.values)
    rows = padded.mask.to(padded.values.dtype)
    total, count = (_running(part, weight) for part in (padded.values * rows, rows))
    level = _link(total / count.clamp(min=1e-9), supports)
    seen = (count > 0) & padded.rows[..., None]
    many = seen.sum((0, 1)).clamp(min=1)
    centre = torch.where(seen, level, 0.0).sum((0, 1)) / many
    flat = torch.where(seen, level - centre, 0.0)[padded.rows]
    decoder.bias.copy_(centre)
    if len(flat) < 2:
        return
    values, vectors = torch.linalg.eigh(flat.mT @ flat / len(flat))
    size = min(decoder.weight.shape)
    decoder.weight[:, :size] = vectors[:, -size:].flip(1) * values[-size:].flip(0).clamp(min=1e-4).sqrt()


def _link(mean: Tensor, supports: Sequence[str]) -> Tensor:
    """Of counts the logarithm, of zeros and ones the logit, channel by channel; anything else stays."""
    count, binary = (torch.tensor([s == kind for s in supports], device=mean.device) for kind in ("count", "binary"))
    logits, logs = mean.clamp(0.05, 0.95).logit(), mean.clamp(min=0.05).log()
    return torch.where(binary, logits, torch.where(count, logs, mean))


def _running(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums over neighbouring rows, ``[S, T, C]``."""
    half, T = len(weight) // 2, values.shape[1]
    padding = values.new_zeros(len(values), half, values.shape[2])
    wide = torch.cat([padding, values, padding], 1)
    return torch.stack([w * wide[:, k : k + T] for k, w in enumerate(weight)]).sum(0)


def _spared(kept: Tensor, share: float, generator: torch.Generator) -> Tensor:
    if share <= 0:
        return torch.ones_like(kept)
    return torch.rand(kept.shape, generator=generator, device=kept.device, dtype=torch.float64) >= share


def _merged(padded: Padded, query: Tensor) -> tuple[Padded, Tensor, Tensor]:
    """Data and question on one ascending grid, which of its rows hold data ``[S, N]``, and where the question lies."""
    time, order = torch.sort(torch.cat([padded.time, query], dim=1), dim=1, stable=True)
    blank = padded.values.new_zeros(len(query), query.shape[1], padded.values.shape[2])
    values = take(torch.cat([padded.values, blank], 1), order)
    mask = take(torch.cat([padded.mask, blank.bool()], 1), order)
    rows = take(torch.cat([padded.rows, torch.zeros_like(query, dtype=torch.bool)], 1), order)
    asked = torch.argsort(order, dim=1)[:, padded.time.shape[1] :]
    return Padded(time, values, mask, rows), rows, asked
