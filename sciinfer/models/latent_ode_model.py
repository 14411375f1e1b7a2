"""A latent path that its start determines: encoder -> q(z0), an ordinary equation, decoder, likelihood."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..integrate.flow import Flow, flow
from ..integrate.tableau import EmbeddedRK
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import Decoder, Encoder, LinearDecoder
from ..nets.mlp import linear
from ..nets.prefix import PrefixEncoder
from ..processes import cubature, gaussian_divergence
from ..processes.matching import antithetic
from .base import Draws, Loss, Model
from .grids import pad_for
from .latent_ode_field import FirstOrder, LatentField
from .linear_start import fit_linear_start
from .oscillator_field import Oscillators

#: penalties on the solver's own error estimate
REGULARISERS = ("none", "global", "local")


class Integration(NamedTuple):
    """How the equation is solved: ``step`` None means adaptively."""

    solver: EmbeddedRK
    step: float | None
    rtol: float = 1e-5
    checkpoint: bool = False


class LatentODE(Model):
    """``z(t_0) ~ N(m0, S0)``, ``z' = f(z)``, ``y ~ likelihood(decoder(z))``; ``q(z_0 | y)`` is diagonal Gaussian.

    ``ELBO = sum_i E log p(y_i | z(t_i)) - KL(q(z_0 | y) || p(z_0))``; ``t_0`` is the first time of a series.

    Args:
        field, encoder, decoder, likelihood: the parts. integration: how the equation is solved.
        pairs: antithetic pairs of starts per series and step. warmup: fraction of training over which the divergence
            fades in. curriculum: fraction over which the fitted span grows from a tenth to the whole.
        regularise, penalty: of the solver's error, and its weight.
        generator: starting weights of the head. seed_start: seed of the random starts of the linear part.
        history: rows of a series from which its start is inferred, None = all.
        crop: in training, begin each series at a random row of its first half.
    """

    def __init__(
        self,
        field: LatentField,
        encoder: Encoder,
        decoder: Decoder,
        likelihood: Likelihood,
        integration: Integration,
        *,
        pairs: int = 1,
        warmup: float = 0.0,
        curriculum: float = 0.0,
        regularise: str = "none",
        penalty: float = 1.0,
        generator: torch.Generator,
        seed_start: int = 0,
        history: int | None = None,
        crop: bool = False,
    ) -> None:
        super().__init__()
        self.history, self.crop = history, crop
        self.process, self.encoder, self.decoder, self.likelihood = field, encoder, decoder, likelihood
        self.integration, self.pairs, self.warmup, self.curriculum = integration, pairs, warmup, curriculum
        self.regularise, self.penalty, self.seed_start = regularise, penalty, seed_start
        self.head = linear(2 * encoder.width, 2 * field.dim, generator=generator)
        with torch.no_grad():
            # a start that the data inform, though not to the last digit
            self.head.bias[field.dim :] = -2.0

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Noise from the data; the linear part of a first-order equation from the best linear process."""
        self.likelihood.initialise(batch.values, batch.mask)
        field, decoder = self.process, self.decoder
        if isinstance(self.encoder, PrefixEncoder):
            self.encoder.initialise(batch, self.history or int(batch.lengths.max()))
        if isinstance(field, Oscillators):
            field.initialise(batch)
        if not (isinstance(field, FirstOrder) and isinstance(decoder, LinearDecoder)):
            return
        if not isinstance(self.likelihood, Gaussian):
            return
        fit_linear_start(field.linear, decoder, self.likelihood, batch, seed=self.seed_start)
        with torch.no_grad():
            # what that process explains by its own noise is at first beyond an equation without any
            self.likelihood.log_noise.clamp_(min=math.log(0.3))

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry, plus the penalty on the solver's error."""
        horizon = min(1.0, 0.1 + 0.9 * progress / self.curriculum) if self.curriculum > 0 else 1.0
        fit, start, rough, used = self._terms(self._cropped(batch, generator), generator, horizon)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        count = max(int(used), 1)
        value = -(fit - beta * start).sum() / count
        terms = {"fit": fit.detach().sum() / count, "start": start.detach().sum() / count}
        if self.regularise != "none":
            value = value + self.penalty * rough.mean()
            terms["solver"] = rough.detach().mean()
        return Loss(value, terms)

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and ``KL(q_0 || p_0)`` of each series, ``[S]``.

        Without a generator the expectation is a cubature over the starts.
        """
        return self._terms(batch, generator, 1.0)[:2]

    def _terms(
        self, batch: SeriesBatch, generator: torch.Generator | None, horizon: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        padded = pad_for(batch)
        mean, sd = self.infer(padded)
        first = padded.time[:, 0]
        last = first + horizon * (padded.time[:, -1] - first)
        mask = padded.mask & (padded.time <= last[:, None])[..., None]
        points = cubature(self.process.dim, mean)[:, 0] if generator is None else self._points(mean, generator)
        probe = None
        if self.regularise == "local" and generator is not None:
            unit = torch.rand(len(mean), generator=generator, dtype=mean.dtype, device=mean.device)
            probe = first + unit * (last - first)
        path = self._solve(mean + sd * points, first, torch.minimum(padded.time, last[:, None]), probe)
        eta = self.decoder(path.z[..., : self.process.seen])
        fit = self.likelihood.log_prob(padded.values.expand_as(eta), eta, mask).mean(0).sum(1)
        start = gaussian_divergence(mean, torch.diag_embed(sd.square()), *self._prior())
        return fit, start * padded.rows.any(dim=1), path.local if probe is not None else path.error, mask.sum()

    def _cropped(self, batch: SeriesBatch, generator: torch.Generator) -> SeriesBatch:
        if not (self.crop and self.training):
            return batch
        unit = torch.rand(batch.n_series, generator=generator, dtype=torch.float64, device=batch.offsets.device)
        first = (unit * 0.5 * batch.lengths).long()
        position = torch.arange(len(batch.time), device=batch.time.device) - batch.offsets[:-1][batch.series_of_row]
        return batch.keep(position >= first[batch.series_of_row])

    def _points(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        return antithetic(self.pairs, tuple(mean.shape), generator, mean)

    def _prior(self) -> tuple[Tensor, Tensor]:
        mean, sd = self.process.initial()
        return mean, torch.diag(sd.square())

    def infer(self, padded: Padded) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[S, d]`` of the start given the data; the prior's where there are none."""
        if self.history is not None:
            padded = Padded(*(part[:, : self.history] for part in padded))
        context = self.encoder(padded)
        rows = padded.rows.sum(1, keepdim=True).clamp(min=1)
        whole = torch.cat([context[:, 0], context.sum(1) / rows], dim=-1)
        shift, log_scale = self.head(whole).chunk(2, dim=-1)
        m0, s0 = self.process.initial()
        some = padded.rows.any(dim=1)[:, None]
        mean = torch.where(some, m0 + s0 * shift, m0)
        return mean, torch.where(some, s0 * log_scale.clamp(-8.0, 2.0).exp(), s0)

    def _solve(self, z0: Tensor, start: Tensor, times: Tensor, probe: Tensor | None = None) -> Flow:
        """From ``z0 [P, S, d]`` at ``start [S]`` to ``times [S, K]``: ``z [P, S, K, d]``."""
        P, S, d = z0.shape
        how, field = self.integration, self.process
        known = field.solution(z0, start, times)
        if known is not None:
            return Flow(known, z0.new_zeros(P * S), z0.new_zeros(P * S))
        made = flow(
            # what is forgotten must be computed again from the parameters themselves
            field.drift if how.checkpoint else field.bound_drift(),
            z0.reshape(P * S, d),
            start.repeat(P),
            times.repeat(P, 1),
            solver=how.solver,
            step=how.step,
            rtol=how.rtol,
            atol=how.rtol,
            probe=None if probe is None else probe.repeat(P),
            checkpoint=how.checkpoint,
            known=[p for p in field.parameters() if p.requires_grad],
        )
        return made._replace(z=made.z.reshape(P, S, -1, d))

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Starts from the posterior, followed to the asked times."""
        padded = pad_for(batch, times)
        mean, sd = self.infer(padded)
        noise = torch.randn((draws, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        return self._draws(mean + self.process.doubt(sd) * noise, padded.time[:, 0], times, generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Starts from the prior at the first time, followed to the others."""
        m0, s0 = self.process.initial()
        noise = torch.randn((draws, 1, self.process.dim), generator=generator, dtype=times.dtype, device=times.device)
        return self._draws(m0 + self.process.doubt(s0) * noise, times[:1], times[None], generator)

    def _draws(self, z0: Tensor, start: Tensor, times: Tensor, generator: torch.Generator) -> Draws:
        z = self._solve(z0, start, times).z
        eta = self.decoder(z[..., : self.process.seen])
        return Draws(eta, self.likelihood.sample(eta, generator), z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series, early stop on the last tenth of each series."""
        return {"optimiser": "adam", "steps": 600, "learning_rate": 5e-3, "validation": 0.1, "batch_size": 32}

    def summary(self) -> dict[str, float]:
        """Learned noise and the linear part's slowest decay and fastest turn, per model time."""
        with torch.no_grad():
            rates = torch.linalg.eigvals(self.process.matrix().double().cpu())
        found = {"decay": float(-rates.real.max()), "turn": float(rates.imag.abs().max())}
        if isinstance(self.likelihood, Gaussian):
            found |= {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}
        return found
