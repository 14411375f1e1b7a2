"""A latent path seen through a decoder and a likelihood: process x encoder x decoder x likelihood."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ..errors import SciInferWarning
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import Decoder, Encoder, LinearDecoder
from ..processes import StationaryLinear, cubature, gaussian_divergence, path_divergence, simulate
from ..processes.matching import Marginals, antithetic
from ..processes.mixture_posterior import MixturePosterior
from ..processes.neural import AnchoredSDE
from ..processes.particle_posterior import ParticlePosterior, Particles, Sight
from ..processes.posterior import BridgePosterior, PathPosterior, Rows
from ..statespace import cholesky, matvec
from .base import Draws, Loss, Model
from .exact import whitened_rows
from .grids import pad_for
from .linear_start import fit_linear_start
from .mixture_elbo import mixture_elbo
from .simulated import simulated_elbo

#: effective particles below which a prediction says so
FEW = 10
#: where the log of a shrunk decoder column stops falling
_SMALLEST = 1e-6
#: the two estimators of the ELBO
INFERENCE = ("simulation-free", "simulated")


class PathModel(Model):
    """``z`` a nonlinear SDE, ``eta = decoder(z)``, ``y ~ likelihood(eta)``, an amortised Gaussian Markov posterior.

    ``ELBO = sum_i E log p(y_i | z_i) - KL(q_0 || p_0) - KL(path)``; the path term by the quadrature of
    :mod:`sciinfer.processes.matching` (simulation-free) or along simulated posterior paths (simulated).

    Args:
        process, encoder, posterior, decoder, likelihood: the parts.
        inference: which of the two estimators of the ELBO trains the model.
        nodes: random times per series and step. pairs: antithetic pairs of draws per node.
        warmup: fraction of training over which the divergences fade in.
        seed_start: seed of the random starts of the linear part.
        particles: predict by a particle smoother of so many; 0: by the amortised posterior.
        ard: a linear decoder's columns are shrunk by ``C/2 sum_k log |w_k|^2``, the marginal of independent normal
            weights whose variance for each latent dimension is estimated (automatic relevance determination).
    """

    def __init__(
        self,
        process: AnchoredSDE,
        encoder: Encoder,
        posterior: PathPosterior,
        decoder: Decoder,
        likelihood: Likelihood,
        *,
        inference: str = "simulation-free",
        nodes: int = 8,
        pairs: int = 1,
        warmup: float = 0.0,
        seed_start: int = 0,
        particles: int = 0,
        ard: bool = False,
    ) -> None:
        super().__init__()
        self.particles, self.ard = particles, ard
        self.process, self.encoder, self.posterior = process, encoder, posterior
        self.decoder, self.likelihood = decoder, likelihood
        self.inference, self.nodes, self.pairs, self.warmup, self.seed_start = (
            inference,
            nodes,
            pairs,
            warmup,
            seed_start,
        )

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Fit the linear part exactly (where decoder and noise are linear-Gaussian), so that training starts there."""
        self.likelihood.initialise(batch.values, batch.mask)
        linear = self.process.linear
        if (
            isinstance(linear, StationaryLinear)
            and isinstance(self.decoder, LinearDecoder)
            and isinstance(self.likelihood, Gaussian)
        ):
            fit_linear_start(linear, self.decoder, self.likelihood, batch, seed=self.seed_start)
        if isinstance(self.posterior, BridgePosterior | MixturePosterior):
            self.posterior.tilted.follow()

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        fit, start, path = self.elbo_terms(batch, generator=generator)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        count = max(batch.observed, 1)
        value = (self._relevance() - (fit - beta * (start + path)).sum()) / count
        terms = {"fit": fit, "start": start, "path": path}
        return Loss(value, {name: term.detach().sum() / count for name, term in terms.items()})

    def _relevance(self) -> Tensor | float:
        if not self.ard or not isinstance(self.decoder, LinearDecoder):
            return 0.0
        weight = self.decoder.weight
        return 0.5 * weight.shape[0] * (weight.square().sum(0) + _SMALLEST).log().sum()

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Expected log-likelihood, ``KL(q_0 || p_0)`` and path divergence of each series, ``[S]`` each.

        Without a generator the quadratures are deterministic (Gauss-Legendre in time, cubature in space).
        """
        padded = pad_for(batch)
        context, rows = self.encoder(padded), self._rows(padded)
        if self.inference == "simulated" and generator is not None:
            return simulated_elbo(self, padded, context, rows, generator)
        if isinstance(self.posterior, MixturePosterior):
            return mixture_elbo(self, self.posterior, padded, context, rows, generator)
        q = self.posterior.infer(padded, context, rows, nodes=self.nodes, generator=generator)
        fit = self._expected_log_prob(padded, q.mean, q.cov, generator).sum(1)
        start = gaussian_divergence(q.mean[:, 0], q.cov[:, 0], *self.process.initial())
        if generator is None:
            points = cubature(self.process.dim, q.mean)
        else:
            points = antithetic(self.pairs, tuple(q.nodes.mean.shape), generator, q.mean)
        some = padded.rows.any(dim=1)
        return fit, start * some, self._path_divergence(q.nodes, q.weights, points)

    def _path_divergence(self, q: Marginals, weights: Tensor, points: Tensor) -> Tensor:
        return path_divergence(self.process, q, weights, points)

    def _expected_log_prob(
        self, padded: Padded, mean: Tensor, cov: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        if isinstance(self.decoder, LinearDecoder):
            return self.likelihood.expected_log_prob(padded.values, *self.decoder.moments(mean, cov), padded.mask)
        root = cholesky(cov, what="posterior covariance")
        if generator is None:
            points = cubature(mean.shape[-1], mean)
        else:
            points = antithetic(self.pairs, tuple(mean.shape), generator, mean)
        eta = self.decoder(mean + matvec(root, points))
        return self.likelihood.log_prob(padded.values.expand_as(eta), eta, padded.mask).mean(0)

    def _rows(self, padded: Padded) -> Rows | None:
        if isinstance(self.decoder, LinearDecoder) and isinstance(self.likelihood, Gaussian):
            H, y, _ = whitened_rows(self.decoder, self.likelihood, padded)
            return Rows(H, y)
        return None

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Posterior paths inside the data, the prior's dynamics after its end."""
        padded = pad_for(batch, times)
        context, rows = self.encoder(padded), self._rows(padded)
        last = padded.time[:, -1:]
        inside = torch.minimum(times, last)
        query = torch.cat([inside, last], dim=1)
        if self.particles:
            z = self.smooth(padded, query, draws=draws, generator=generator).path
        else:
            z = self.posterior.sample(padded, context, rows, query, draws=draws, generator=generator)
        z, z_last = z[:, :, :-1], z[:, :, -1]
        if bool((times > last).any()):
            z = torch.where((times > last)[None, ..., None], self._roll_out(z_last, last[:, 0], times, generator), z)
        eta = self.decoder(z)
        return Draws(eta, self.likelihood.sample(eta, generator), z)

    def smooth(self, padded: Padded, query: Tensor, *, draws: int, generator: torch.Generator) -> Particles:
        """Draws from the posterior of the process itself by particles, at ``query [S, K]`` inside the data."""

        def log_prob(z: Tensor, values: Tensor, mask: Tensor) -> Tensor:
            eta = self.decoder(z)
            return self.likelihood.log_prob(values.expand_as(eta), eta, mask.expand_as(eta))

        sight = Sight(log_prob)
        if isinstance(self.decoder, LinearDecoder) and isinstance(self.likelihood, Gaussian):
            sight = Sight(log_prob, self.decoder.weight, self.decoder.bias, self.likelihood.noise)
        smoother = ParticlePosterior(self.process, sight, particles=self.particles or 1000, step=self.step)
        found = smoother.sample(padded, query, draws=draws, generator=generator)
        least = float(found.ess.min())
        if least < FEW:
            warnings.warn(
                f"the particle smoother came down to {least:.1f} effective particles; take more than {self.particles}",
                SciInferWarning,
                stacklevel=2,
            )
        return found

    def _roll_out(self, z: Tensor, start: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        later = torch.maximum(times, start[:, None])
        ordered, order = torch.sort(later, dim=1)
        path = simulate(self.process, z, start, ordered, step=self.step, generator=generator)
        back = torch.argsort(order, dim=1)[None, ..., None].expand_as(path)
        return path.gather(2, back)

    @property
    def step(self) -> float:
        """Simulation step: a tenth of the fastest linear time scale, at most half a typical gap."""
        rate = float(torch.linalg.matrix_norm(self.process.linear.drift_matrix.detach(), ord=2))
        return min(0.5, 0.1 / max(rate, 1e-3))

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Simulated draws from the prior."""
        m0, P0 = self.process.initial()
        noise = torch.randn((draws, 1, self.process.dim), generator=generator, dtype=times.dtype, device=times.device)
        z0 = m0 + matvec(cholesky(P0), noise)
        z = simulate(self.process, z0, times[:1], times[None], step=self.step, generator=generator)
        eta = self.decoder(z)
        return Draws(eta, self.likelihood.sample(eta, generator), z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series, early stop on the last tenth of each series."""
        return {"optimiser": "adam", "steps": 300, "learning_rate": 3e-3, "validation": 0.1, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Learned noise, where there is one."""
        if isinstance(self.likelihood, Gaussian):
            return {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}
        return {}
