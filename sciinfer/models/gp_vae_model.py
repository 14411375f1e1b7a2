"""Gaussian-process latents seen through decoders, with potentials from encoders and an exact posterior under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import Decoder, LinearDecoder, PotentialEncoder
from ..processes import GaussianPath, LatentGPs, build_bridge, cubature
from ..processes.matching import antithetic
from .base import Draws, Loss, Model
from .exact import whitened_rows
from .gp_vae_encoder import ModalityPotentials
from .gp_vae_prior import IndependentLatents, LatentPosterior
from .gp_vae_start import COMPONENTS, components, levels, means, slopes, start_decoders, start_encoder
from .grids import pad_for
from .modalities import Modality


class BlockDecoder(Decoder):
    """One decoder for each block of channels, all of the same latents.

    Args:
        parts: decoders, in the order of the channels.
    """

    def __init__(self, parts: Sequence[Decoder]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, z: Tensor) -> Tensor:
        """``[..., C]``."""
        return torch.cat([part(z) for part in self.parts], dim=-1)


class JointPosterior(NamedTuple):
    """``q(z)`` of latents that the data join."""

    path: GaussianPath

    @property
    def divergence(self) -> Tensor:
        """``KL(q || p)``, ``[S]``."""
        return self.path.divergence

    def at_data(self) -> tuple[Tensor, Tensor]:
        """Means ``[S, T, K]`` and covariances ``[S, T, K, K]`` at the data's times."""
        return self.path.mean(self.path.bridge.at_data), self.path.cov(self.path.bridge.at_data)

    def at_query(self) -> tuple[Tensor, Tensor]:
        """Means ``[S, Q, K]`` and covariances ``[S, Q, K, K]`` at the further times."""
        return self.path.mean(self.path.bridge.at_query), self.path.cov(self.path.bridge.at_query)

    def sample(self, draws: int, generator: torch.Generator) -> Tensor:
        """Joint draws ``[n, S, Q, K]`` of the paths at the further times."""
        return self.path.sample(draws, generator, self.path.bridge.at_query)


class GPVAE(Model):
    """``z_k ~ GP(0, k_k)``, ``eta = decoder(z)``, ``y ~ likelihood(eta)``; ``q(z) ~ p(z) prod exp(j z - J z^2 / 2)``.

    ``ELBO = sum_i E_q log p(y_i | z_i) - KL(q || p)``, the divergence exact from the normaliser of ``q``.

    Args:
        latents: the prior. encoder: of potentials; None: the exact ones (linear decoder, Gaussian noise).
        decoder, likelihood: what is seen of the latents. modalities: blocks of channels.
        free: latents whose length-scales start where the data suggest. beta: weight of the divergence.
        self_masking: share of the observed entries that each training step hides from the encoder.
        warmup: fraction of training over which the divergence fades in. pairs: antithetic pairs of draws.
    """

    def __init__(
        self,
        latents: IndependentLatents,
        encoder: ModalityPotentials | None,
        decoder: Decoder,
        likelihood: Likelihood,
        modalities: Sequence[Modality],
        *,
        free: Sequence[bool] = (),
        beta: float = 1.0,
        self_masking: float = 0.0,
        warmup: float = 0.0,
        pairs: int = 1,
    ) -> None:
        super().__init__()
        self.latents, self.encoder, self.decoder, self.likelihood = latents, encoder, decoder, likelihood
        self.modalities, self.free = list(modalities), tuple(free)
        self.beta, self.self_masking, self.warmup, self.pairs = beta, self_masking, warmup, pairs

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Length-scales over the data's range, levels at the channels' means, principal components if known."""
        self.likelihood.initialise(batch.values, batch.mask)
        self.latents.spread(batch.time, batch.lengths, self.free)
        mean = means(batch)
        level = torch.cat([levels(mean, modality) for modality in self.modalities])
        known = all(modality.likelihood in COMPONENTS for modality in self.modalities)
        found = components(batch, mean, len(self.latents.kernels)) if known else None
        slope = torch.cat([slopes(mean, modality) for modality in self.modalities])[:, None]
        decoders = list(self.decoder.parts) if isinstance(self.decoder, BlockDecoder) else [self.decoder]
        start_decoders(decoders, level, None if found is None else found.weight * slope)
        if found is None:
            return
        if isinstance(self.likelihood, Gaussian):
            with torch.no_grad():
                self.likelihood.log_noise.copy_(found.noise.log())
        if self.encoder is not None:
            for modality, part in self.encoder.experts:
                if isinstance(part, PotentialEncoder):
                    start_encoder(part, slice(modality.start, modality.stop), mean, found)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms are what it is made of."""
        padded = pad_for(batch)
        seen = padded
        if self.training and self.self_masking > 0:
            seen = _hide(padded, self.self_masking, generator)
        fit, divergence = self._terms(padded, seen, generator)
        weight = self.beta * (min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0)
        count = max(batch.observed, 1)
        terms = {"fit": fit.detach().sum() / count, "divergence": divergence.detach().sum() / count}
        return Loss((weight * divergence - fit).sum() / count, terms)

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and divergence of each series, ``[S]`` each.

        Without a generator the expectation is by cubature (a linear decoder's is by quadrature or exact in any case).
        """
        padded = pad_for(batch)
        return self._terms(padded, padded, generator)

    def _terms(self, padded: Padded, seen: Padded, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        q = self.posterior(seen, padded.time[:, :0])
        return self._expected_log_prob(padded, *q.at_data(), generator).sum(1), q.divergence

    def _expected_log_prob(
        self, padded: Padded, mean: Tensor, cov: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        if isinstance(self.decoder, LinearDecoder):
            return self.likelihood.expected_log_prob(padded.values, *self.decoder.moments(mean, cov), padded.mask)
        variance = cov.diagonal(dim1=-2, dim2=-1)
        sd = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
        if generator is None:
            points = cubature(mean.shape[-1], mean)
        else:
            points = antithetic(self.pairs, tuple(mean.shape), generator, mean)
        eta = self.decoder(mean + sd * points)
        return self.likelihood.log_prob(padded.values.expand_as(eta), eta, padded.mask).mean(0)

    # -- the posterior -------------------------------------------------------------------------------------------

    def posterior(self, padded: Padded, query: Tensor) -> LatentPosterior | JointPosterior:
        """``q(z)`` given what is not masked, with further times ``query [S, Q]`` in any order."""
        if self.encoder is not None:
            return self.latents.condition(padded.time, self.encoder(padded), query)
        return self._exact(padded, query)

    def _exact(self, padded: Padded, query: Tensor) -> JointPosterior:
        if not (isinstance(self.decoder, LinearDecoder) and isinstance(self.likelihood, Gaussian)):
            raise ConfigError("exact potentials need a linear decoder and Gaussian noise", variable="encoder")
        process = LatentGPs(self.latents.kernels)
        rows, y, _ = whitened_rows(self.decoder, self.likelihood, padded)
        bridge = build_bridge(process, padded.time, rows @ process.readout(), y, query)
        log_z = bridge.loglik + 0.5 * y.square().sum((-2, -1))
        q = JointPosterior(GaussianPath(bridge, process.readout(), log_z, log_z))
        mean, cov = q.at_data()
        ahead = (rows @ mean.unsqueeze(-1)).squeeze(-1)
        spread = ahead.square() + ((rows @ cov) * rows).sum(-1)
        divergence = (y * ahead - 0.5 * spread).sum((-2, -1)) - log_z
        return JointPosterior(q.path._replace(divergence=divergence))

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint posterior draws through the decoder; exact moments too where decoder and noise are linear-Gaussian."""
        q = self.posterior(pad_for(batch, times), times)
        found = self._draws(q.sample(draws, generator), generator)
        if not (isinstance(self.decoder, LinearDecoder) and isinstance(self.likelihood, Gaussian)):
            return found
        mean, variance = self.decoder.moments(*q.at_query())
        return found._replace(mean=mean, variance=variance + self.likelihood.noise.square())

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the learned prior."""
        return self._draws(self.latents.sample(times, draws, generator), generator)

    def _draws(self, z: Tensor, generator: torch.Generator) -> Draws:
        eta = self.decoder(z)
        return Draws(self.likelihood.mean(eta), self.likelihood.sample(eta, generator), z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series; quasi-Newton on all data where everything is exact."""
        if self.encoder is None:
            return {"optimiser": "lbfgs", "steps": 100, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}
        return {"optimiser": "adam", "steps": 600, "learning_rate": 5e-3, "validation": 0.0, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Length-scales of the latents, and the noise where there is one."""
        found: dict[str, float] = {}
        for k, kernel in enumerate(self.latents.kernels):
            for name, parameter in kernel.named_parameters():
                if name.rsplit(".", 1)[-1] == "log_lengthscale":
                    found[f"lengthscale[{k}]"] = float(parameter.detach().exp())
        if isinstance(self.likelihood, Gaussian):
            found |= {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}
        return found


def _hide(padded: Padded, share: float, generator: torch.Generator) -> Padded:
    """Each observed entry hidden with this probability."""
    draw = torch.rand(padded.mask.shape, generator=generator, dtype=padded.values.dtype, device=padded.values.device)
    mask = padded.mask & (draw >= share)
    return padded._replace(mask=mask, values=torch.where(mask, padded.values, torch.zeros_like(padded.values)))
