"""A stable linear process behind a decoder, its posterior by recognition potentials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import Decoder, LinearDecoder
from ..processes import StationaryLinear
from ..processes.potential_chain import ChainPath, Potentials, condition_process
from .base import Draws, Loss, Model
from .exact import sample_linear
from .grids import pad_for
from .svae_recognition import (
    GaussianReader,
    bound_loss,
    conjugate_potentials,
    expected_fit,
    fade,
    hide_rows,
    linear_part,
    principal_components,
)


class LinearSVAE(Model):
    """``z`` a stationary linear SDE, ``y ~ likelihood(decoder(z))``, ``q(z) = p(z) prod_t t_t(z_t) / Z``.

    ``ELBO = sum_t E_q log p(y_t | z_t) - KL(q || p)`` with ``KL = E_q sum log t_t - log Z``, exact. The potentials are
    emitted by ``reader`` from each row, or, without one, are the likelihood itself: then the bound is the evidence.

    Args:
        process, decoder, likelihood: the parts. reader: of the potentials; None where they are conjugate.
        hide: share of the rows whose potentials are left out in a training step, while they are still decoded.
        warmup: fraction of training over which the divergence fades in.
    """

    def __init__(
        self,
        process: StationaryLinear,
        decoder: Decoder,
        likelihood: Likelihood,
        reader: GaussianReader | None,
        *,
        hide: float = 0.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__()
        self.process, self.decoder, self.likelihood, self.reader = process, decoder, likelihood, reader
        self.hide, self.warmup = hide, warmup

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Principal components: the decoder's linear part, and the reader as their inverse."""
        self.likelihood.initialise(batch.values, batch.mask)
        straight = linear_part(self.decoder)
        if straight is None or self.likelihood.support != "real":
            return
        W, b, noise = principal_components(batch, self.process.dim)
        with torch.no_grad():
            seen = W.square().sum(0) > 0
            straight.weight[:, seen] = W[:, seen]
            straight.bias.copy_(b)
            if isinstance(self.likelihood, Gaussian) and self.process.dim < len(b):
                self.likelihood.log_noise.copy_(noise.clamp(min=0.05).log())
        if self.reader is not None:
            precision = noise.square().mean().reciprocal()
            size = W.square().sum(0)
            inverse = W.mT / size.clamp(min=1e-6)[:, None] * seen[:, None]
            self.reader.start(inverse, b, torch.where(seen, size * precision, 1.0))

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        terms = self.elbo_terms(batch, generator=generator)
        return bound_loss(terms, ("fit", "divergence"), batch, fade(progress, self.warmup))

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and path divergence ``[S]``; nothing is hidden without a generator."""
        padded = pad_for(batch)
        hidden = hide_rows(padded, self.hide if self.reader is not None else 0.0, generator)
        path = self._condition(hidden, padded.time[:, :0])
        mean, cov = path.mean(path.at_data), path.cov(path.at_data)
        return expected_fit(self.decoder, self.likelihood, padded, mean, cov, generator), path.divergence

    def potentials(self, padded: Padded) -> Potentials:
        """Of each row, ``[S, T, d, d]`` and ``[S, T, d]``."""
        if self.reader is not None:
            return self.reader(padded)
        if not isinstance(self.decoder, LinearDecoder) or not isinstance(self.likelihood, Gaussian):
            raise ConfigError("conjugate potentials need a linear decoder and Gaussian noise", fix="give a reader")
        return conjugate_potentials(self.decoder, self.likelihood, padded)

    def _condition(self, padded: Padded, query: Tensor) -> ChainPath:
        return condition_process(self.process, padded.time, self.potentials(padded), query)

    # -- answers -------------------------------------------------------------------------------------------------

    def posterior(self, batch: SeriesBatch, times: Tensor) -> ChainPath:
        """The posterior of the state; its moments at ``times [S, K]`` are those at ``at_query``."""
        return self._condition(pad_for(batch, times), times)

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of the path, before, between and after the data."""
        path = self.posterior(batch, times)
        z = path.sample(draws, generator, path.at_query)
        eta = self.decoder(z)
        mean = variance = None
        if isinstance(self.decoder, LinearDecoder) and isinstance(self.likelihood, Gaussian):
            mean, variance = self.decoder.moments(path.mean(path.at_query), path.cov(path.at_query))
            variance = variance + self.likelihood.noise.square()
        return Draws(self.likelihood.mean(eta), self.likelihood.sample(eta, generator), z, mean, variance)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Exact draws from the prior."""
        z = sample_linear(self.process, times, draws, generator)[:, None]
        eta = self.decoder(z)
        return Draws(self.likelihood.mean(eta), self.likelihood.sample(eta, generator), z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series."""
        return {"optimiser": "adam", "steps": 600, "learning_rate": 1e-2, "validation": 0.0, "batch_size": 32}

    def summary(self) -> dict[str, float]:
        """Damping rates of the process, and the noise."""
        found = {f"rate[{k}]": float(rate) for k, rate in enumerate(0.5 * self.process.spread.detach())}
        if isinstance(self.likelihood, Gaussian):
            found |= {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach()[:8])}
        return found
