"""Several modalities behind shared and private Gaussian processes: encoders of potentials, decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..gp.fourier import even_step
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import JointLikelihood, Likelihood
from ..nets import Decoder, LinearDecoder, PotentialEncoder
from ..processes import LatentGPs, cubature
from ..processes.matching import antithetic
from ..statespace.sites import Sites
from .base import Draws, Loss, Model
from .grids import pad_for
from .mm_gpvae_forms import LatentPosterior, infer_latents
from .modalities import Modality


class View(NamedTuple):
    """One modality: its channels, and which latents it sees (the shared ones, then its own)."""

    modality: Modality
    latents: tuple[int, ...]


class MultiModalGPVAE(Model):
    """``z_k ~ GP(0, k_k)``, ``y_m ~ p(y | dec_m(z_shared, z_m))``, ``q(z) = p(z) prod_m t_m(z_shared, z_m) / Z``.

    ``ELBO = sum_i E_q log p(y_i | z_i) - KL(q || p)`` with the exact divergence. The potentials ``t_m`` of the
    modalities are multiplied: their precisions add, and a modality that is missing says nothing.

    Args:
        views: modalities. encoders, decoders: one for each. process: of all latents, shared ones first.
        likelihood: of all channels. form: of the posterior, ``"time"`` or ``"fourier"``.
        pairs: antithetic pairs of draws. warmup: fraction of training over which the divergence fades in.
        names: of the latents. unit: length of a unit of model time for the caller.
        keep_lengthscale: do not start the length-scales from the data.
    """

    def __init__(
        self,
        views: Sequence[View],
        encoders: Sequence[PotentialEncoder],
        decoders: Sequence[Decoder],
        process: LatentGPs,
        likelihood: Likelihood,
        *,
        names: Sequence[str],
        form: str = "time",
        pairs: int = 1,
        warmup: float = 0.0,
        alone: float = 0.0,
        unit: float = 1.0,
        keep_lengthscale: bool = False,
    ) -> None:
        super().__init__()
        self.views, self.names, self.form = list(views), list(names), form
        self._encoders, self._decoders = nn.ModuleList(encoders), nn.ModuleList(decoders)
        self.process, self.likelihood = process, likelihood
        self.alone = alone
        self.pairs, self.warmup, self.unit, self.keep_lengthscale = pairs, warmup, unit, keep_lengthscale

    @property
    def encoders(self) -> list[PotentialEncoder]:
        """One for each modality."""
        return [part for part in self._encoders if isinstance(part, PotentialEncoder)]

    @property
    def decoders(self) -> list[Decoder]:
        """One for each modality."""
        return [part for part in self._decoders if isinstance(part, Decoder)]

    @property
    def likelihoods(self) -> list[Likelihood]:
        """One for each modality."""
        return self.likelihood.parts if isinstance(self.likelihood, JointLikelihood) else [self.likelihood]

    @property
    def shared(self) -> int:
        """Number of shared latents; they come first."""
        return sum(all(k in view.latents for view in self.views) for k in range(len(self.names)))

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Linear parts by canonical correlations of the modalities, length-scales from the span of the data."""
        from .mm_gpvae_start import start_latents, start_lengthscales

        self.likelihood.initialise(batch.values, batch.mask)
        if self.form == "fourier":
            padded = pad_for(batch)
            even_step(padded.time, padded.rows)
        if not self.keep_lengthscale:
            start_lengthscales(self.process, batch)
        start_latents(self, batch)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry."""
        fit, divergence = self.elbo_terms(batch, generator=generator)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        count = max(batch.observed, 1)
        terms = {"fit": fit.detach().sum() / count, "divergence": divergence.detach().sum() / count}
        return Loss((beta * divergence - fit).sum() / count, terms)

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and divergence of each series, ``[S]`` each; deterministic without a generator."""
        padded = pad_for(batch)
        sites = self.potentials(
            padded, self._heard(padded, generator) if self.training and generator is not None else None
        )
        q = infer_latents(self.form, self.process, padded, sites, padded.time[:, :0])
        mean, variance = q.moments()
        return self._expected_log_prob(padded, mean, variance, generator).sum(1), q.divergence

    def infer(self, padded: Padded, query: Tensor) -> LatentPosterior:
        """The posterior of the latents given padded rows."""
        return infer_latents(self.form, self.process, padded, self.potentials(padded), query)

    def potentials(self, padded: Padded, heard: Tensor | None = None) -> Sites:
        """The product of the modalities' potentials, ``[S, T, K]`` each.

        Args:
            heard: ``[S, M]``, 0 where a modality's word about the shared latents is left out; default: nowhere.
        """
        blank = padded.values.new_zeros(*padded.rows.shape, len(self.names))
        precision, shift = blank, blank
        for m, (view, encoder) in enumerate(zip(self.views, self.encoders, strict=True)):
            at = slice(view.modality.start, view.modality.stop)
            found = encoder(padded.values[..., at], padded.mask[..., at])
            if heard is not None:
                own = torch.tensor([k >= self.shared for k in view.latents], device=blank.device)
                weight = torch.where(own, 1.0, heard[:, None, m : m + 1])
                found = Sites(found.precision * weight, found.shift * weight)
            columns = torch.tensor(view.latents, device=blank.device)
            precision = precision.index_add(-1, columns, found.precision)
            shift = shift.index_add(-1, columns, found.shift)
        return Sites(precision, shift)

    def _heard(self, padded: Padded, generator: torch.Generator) -> Tensor | None:
        """``[S, M]``: ones, but for some series one modality alone, among those that were observed."""
        if not self.alone or not self.shared or len(self.views) < 2:
            return None
        seen = [padded.mask[..., v.modality.start : v.modality.stop].any(-1).any(-1) for v in self.views]
        u = torch.rand((len(self.views) + 1, len(padded.time)), generator=generator, device=padded.time.device)
        pick = torch.where(torch.stack(seen), u[1:], -1.0).argmax(0)
        one = nn.functional.one_hot(pick, len(self.views)).to(padded.values.dtype)
        return torch.where((u[0] < self.alone)[:, None], one, torch.ones_like(one))

    def decode(self, z: Tensor) -> Tensor:
        """``eta [..., C]`` of all channels at ``z [..., K]``."""
        pairs = zip(self.views, self.decoders, strict=True)
        return torch.cat([decoder(z[..., list(view.latents)]) for view, decoder in pairs], dim=-1)

    def _expected_log_prob(
        self, padded: Padded, mean: Tensor, variance: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        total = torch.zeros_like(padded.time)
        for view, decoder, likelihood in zip(self.views, self.decoders, self.likelihoods, strict=True):
            at, own = slice(view.modality.start, view.modality.stop), list(view.latents)
            y, seen, m, v = padded.values[..., at], padded.mask[..., at], mean[..., own], variance[..., own]
            if isinstance(decoder, LinearDecoder):
                spread = v @ decoder.weight.square().mT
                total = total + likelihood.expected_log_prob(y, decoder(m), spread, seen)
                continue
            if generator is None:
                points = cubature(len(own), m)
            else:
                points = antithetic(self.pairs, tuple(m.shape), generator, m)
            # the least positive number, not zero, where the root has no gradient
            eta = decoder(m + v.clamp(min=torch.finfo(v.dtype).tiny).sqrt() * points)
            total = total + likelihood.log_prob(y.expand_as(eta), eta, seen.expand_as(eta)).mean(0)
        return total

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint posterior draws of the latents, decoded."""
        return self._answer(self.infer(pad_for(batch, times), times).sample(draws, generator), generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the prior."""
        blank = times.new_zeros(1, 1, len(self.names))
        padded = Padded(times[None, :1], blank, blank.bool(), blank[..., 0].bool())
        q = infer_latents(self.form, self.process, padded, Sites(blank, blank), times[None])
        return self._answer(q.sample(draws, generator), generator)

    def _answer(self, z: Tensor, generator: torch.Generator) -> Draws:
        eta = self.decode(z)
        return Draws(self.likelihood.mean(eta), self.likelihood.sample(eta, generator), z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series; all rows are trained on."""
        return {"optimiser": "adam", "steps": 500, "learning_rate": 1e-2, "validation": 0.0, "batch_size": 16}

    def summary(self) -> dict[str, float]:
        """Length-scales, in the caller's time where that is a number."""
        pairs = zip(self.names, self.process.kernels, strict=True)
        return {
            f"lengthscale[{name}]": self.unit * float(kernel.get_parameter("log_lengthscale").detach().exp())
            for name, kernel in pairs
        }
