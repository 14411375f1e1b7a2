"""Many channels, few Gaussian-process latents: exact with Gaussian noise, by Gaussian sites with any likelihood."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood, NegativeBinomial, Poisson
from ..nets import LinearDecoder
from ..processes.bridge import grid_problem
from ..statespace import log_likelihood
from ..statespace.site_inference import SiteFit, infer_sites, site_objective
from ..statespace.site_rules import Data, make_data
from ..statespace.sites import SitePrior, Sites, site_rows
from .base import Draws, Loss, Model
from .exact import sample_linear, whitened_rows
from .gpfa_latents import Frame, LatentPath, UnitGPs, condition_rows, orthogonal_frame
from .gpfa_start import factor_start, start_timescales
from .grids import pad_for

#: where the log of a shrunk column stops falling
_SMALLEST = 1e-6
#: mean square by which a latent must move the predictors to count as active
_ACTIVE = 1e-3
#: nats, by which the bound of all data should still rise from step to step
_GAIN = 0.05
#: change of the objective at which the sites rest: in training, and where the number itself is wanted
_ROUGH, _FINE, _SINGLE = 1e-9, 1e-11, 1e-5


class Settings(NamedTuple):
    """``ard``: shrink columns; ``prior``: sd of the loadings (0 = none); ``frame``: report turned latents;
    ``warm``: take starting time scales from the data; ``links``: of each channel."""

    ard: bool = False
    prior: float = 3.0
    frame: bool = True
    warm: bool = True
    links: tuple[str, ...] = ()


class FactorModel(Model):
    """``eta_c(t) = d_c + sum_k W_ck z_k(t)``, ``z_k ~ GP(0, k_k)`` of variance one, ``y ~ p(y | eta)``.

    Args:
        process: the latents. decoder: ``W`` and ``d``. likelihood: of all channels.

    With ``ard`` columns are shrunk by ``C/2 sum_k log |w_k|^2`` (automatic relevance determination, see
    :class:`~sciinfer.models.path_model.PathModel`). Neither it nor the prior of the loadings is part of the bound.
    """

    def __init__(self, process: UnitGPs, decoder: LinearDecoder, likelihood: Likelihood, settings: Settings) -> None:
        super().__init__()
        self.process, self.decoder, self.settings = process, decoder, settings
        self.likelihood = likelihood

    # -- what the two kinds of inference differ in -----------------------------------------------------------------

    @abstractmethod
    def bound(self, batch: SeriesBatch) -> Tensor:
        """Log-likelihood, or its lower bound, of each series, ``[S]``; as training sees it."""

    @abstractmethod
    def _rows(self, padded: Padded) -> tuple[Tensor, Tensor]:
        """Whitened rows on the state that carry all that the data say."""

    # -- training ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """Loadings and offsets by moments, time scales by the debiased Whittle likelihood."""
        padded = self._prepare(batch.drop_empty().padded())
        if not bool(padded.mask.any()):
            return
        links = self.settings.links or ("real",) * padded.values.shape[-1]
        start = factor_start(padded, links, self.process.latents)
        self.decoder.weight.copy_(start.weight)
        self.decoder.bias.copy_(start.bias)
        if isinstance(self.likelihood, Gaussian):
            self.likelihood.log_noise.copy_(0.5 * start.noise.log())
        if isinstance(self.likelihood, Poisson):
            self.decoder.bias.sub_(self.likelihood.get_buffer("exposure").log())
        if self.settings.warm:
            with torch.enable_grad():
                found = start_timescales(self.process.kernels, padded, start, links)
            if found and self.process.latents > 1:
                self._maybe_share(batch)

    def _maybe_share(self, batch: SeriesBatch) -> None:
        """All latents begin with the time scales of the strongest, unless their own give the better bound: where a
        latent is weak, what its periodogram shows is noise."""
        own = [copy.deepcopy(kernel.state_dict()) for kernel in self.process.kernels]
        first = float(self.bound(batch).sum())
        for kernel in self.process.kernels:
            kernel.load_state_dict(own[0])
        if not float(self.bound(batch).sum()) > first:
            for kernel, state in zip(self.process.kernels, own, strict=True):
                kernel.load_state_dict(state)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Minus the bound per observed entry, plus what the loadings' prior and shrinkage ask."""
        total, count = self.bound(batch).sum(), max(batch.observed, 1)
        return Loss((self.penalty() - total) / count, {"bound": total.detach() / count})

    def penalty(self) -> Tensor:
        """``-log p(W)`` up to a constant."""
        weight = self.decoder.weight
        found = weight.new_zeros(())
        if self.settings.prior > 0:
            found = found + 0.5 * weight.square().sum() / self.settings.prior**2
        if self.settings.ard:
            found = found + 0.5 * weight.shape[0] * (weight.square().sum(0) + _SMALLEST).log().sum()
        return found

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Quasi-Newton on all data with the exact gradient, until the whole bound gains less than a tenth of a nat."""
        found = {"optimiser": "lbfgs", "steps": 60, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}
        return {**found, "tolerance": min(1e-6, _GAIN / max(batch.observed, 1))}

    # -- answers -----------------------------------------------------------------------------------------------------

    def condition(self, batch: SeriesBatch, times: Tensor) -> LatentPath:
        """The posterior of the latents at ``times [S, n]``, any order."""
        padded = self._prepare(pad_for(batch, times))
        return condition_rows(self.process, padded.time, *self._rows(padded), times)

    @torch.no_grad()
    def latent_moments(
        self, batch: SeriesBatch, times: Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Posterior means ``[S, n, K]`` and covariances ``[S, n, K, K]`` of the reported latents.

        Args:
            times: ``[S, n]``, default the batch's own, as ``batch.padded()`` lays them out.
            channels: those that are looked at (held in); default all. The others are treated as missing.
        """
        mean, cov = self._looking(batch, times, channels)
        V = self.frame().rotation
        return mean @ V, V.mT @ cov @ V

    @torch.no_grad()
    def predictor_moments(
        self, batch: SeriesBatch, times: Tensor | None = None, *, channels: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Posterior means and variances ``[S, n, C]`` of the predictors (log-rates) of all channels, held out or not.

        Args:
            times, channels: see :meth:`latent_moments`.
        """
        return self.decoder.moments(*self._looking(batch, times, channels))

    def _looking(
        self, batch: SeriesBatch, times: Tensor | None, channels: Sequence[int] | None
    ) -> tuple[Tensor, Tensor]:
        times = batch.padded().time if times is None else times
        if channels is not None:
            held_in = torch.zeros_like(batch.mask)
            held_in[:, list(channels)] = batch.mask[:, list(channels)]
            batch = batch._replace(mask=held_in)
        return self._latents(self._prepare(pad_for(batch, times)), times)

    def _latents(self, padded: Padded, times: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean ``[S, n, K]`` and covariance ``[S, n, K, K]`` of the model's own latents."""
        path = condition_rows(self.process, padded.time, *self._rows(padded), times)
        return path.mean(), path.cov()

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of the latents (in the frame of :meth:`frame`), what they predict, and new observations."""
        path = self.condition(batch, times)
        answer = self._draws(path.sample(draws, generator), generator)
        mean, variance = self._moments(*self.decoder.moments(path.mean(), path.cov()))
        return answer._replace(mean=mean, variance=variance)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the learned prior."""
        path = sample_linear(self.process, times, draws, generator)[:, None]
        return self._draws(path @ self.process.readout().mT, generator)

    def frame(self) -> Frame:
        """How reported latents and loadings follow from the model's own: singular vectors, or as they are."""
        if self.settings.frame:
            return orthogonal_frame(self.decoder.weight)
        weight = self.decoder.weight
        eye = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        return Frame(eye, weight, weight.square().sum(0))

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        """Active latents, their shares of the predictors' variance, length-scales, dispersion."""
        explained = self.frame().explained
        shares = explained / explained.sum().clamp(min=1e-300)
        active = explained / len(self.decoder.weight) > _ACTIVE
        found = {"active_latents": float(active.sum())}
        found |= {f"explained[{k}]": float(share) for k, share in enumerate(shares)}
        for k, kernel in enumerate(self.process.kernels):
            for name, parameter in kernel.named_parameters():
                if parameter.requires_grad and name.rpartition(".")[2].startswith("log_"):
                    values = parameter.exp().reshape(-1).tolist()
                    found |= {f"{name.replace('log_', '')}[{k}]" + "'" * i: v for i, v in enumerate(values)}
        if isinstance(self.likelihood, NegativeBinomial):
            found["dispersion"] = float(self.likelihood.dispersion.median())
        if isinstance(self.likelihood, Gaussian):
            found["noise"] = float(self.likelihood.noise.median())
        return found

    # -- internals -----------------------------------------------------------------------------------------------------

    def _prepare(self, padded: Padded) -> Padded:
        """What the likelihood sees."""
        return padded

    def _moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Predictive moments where they have a closed form."""
        return None, None

    def _draws(self, z: Tensor, generator: torch.Generator) -> Draws:
        with torch.no_grad():
            eta = self.decoder(z)
            sample = self.likelihood.sample(eta, generator)
            return Draws(self.likelihood.mean(eta), sample, z @ self.frame().rotation)


class GaussianFactors(FactorModel):
    """Gaussian noise of each channel's own: everything is exact.

    Args:
        transform: ``"sqrt"`` takes the roots of the caller's counts first. shift, scale: ``[C]``, how the model's
            values follow from the caller's, ``(y - shift) / scale``.

    References:
        Yu, Cunningham, Santhanam, Ryu, Shenoy, Sahani (2009), Gaussian-process factor analysis.
    """

    def __init__(
        self,
        process: UnitGPs,
        decoder: LinearDecoder,
        likelihood: Gaussian,
        settings: Settings,
        *,
        transform: str = "none",
        shift: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(process, decoder, likelihood, settings)
        self.transform, self.noise_model = transform, likelihood
        zero = torch.zeros_like(decoder.bias.detach())
        self.register_buffer("shift", zero if shift is None else shift)
        self.register_buffer("scale", zero + 1 if scale is None else scale)

    def bound(self, batch: SeriesBatch) -> Tensor:
        """Exact ``log p(y)`` of each series, ``[S]``; with a transform, of the transformed values."""
        padded = self._prepare(pad_for(batch))
        H, y, log_jacobian = whitened_rows(self.decoder, self.noise_model, padded)
        problem = grid_problem(self.process, padded.time, H @ self.process.readout(), y)
        return log_likelihood(problem) + log_jacobian.sum(1)

    log_likelihood = bound

    def _rows(self, padded: Padded) -> tuple[Tensor, Tensor]:
        H, y, _ = whitened_rows(self.decoder, self.noise_model, padded)
        return H @ self.process.readout(), y

    def _prepare(self, padded: Padded) -> Padded:
        if self.transform == "none":
            return padded
        raw = padded.values * self.get_buffer("scale") + self.get_buffer("shift")
        if bool((padded.mask & (raw < -1e-6)).any()):
            raise DataError("the square root of a negative value", fix='transform="none" for what is no count')
        # round-off in the caller's zeros; no root is taken where nothing was seen
        return padded._replace(values=torch.where(padded.mask, raw.clamp(min=0.0), torch.zeros_like(raw)).sqrt())

    def _moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        total = variance + self.noise_model.noise.square()
        if self.transform == "none":
            return mean, total
        squared = mean.square() + total
        return self._back(squared), (2 * total.square() + 4 * mean.square() * total) / self.get_buffer("scale").square()

    def _draws(self, z: Tensor, generator: torch.Generator) -> Draws:
        found = super()._draws(z, generator)
        if self.transform == "none":
            return found
        noise = self.noise_model.noise.square().detach()
        return found._replace(
            signal=self._back(found.signal.square() + noise), observation=self._back(found.observation.square())
        )

    def _back(self, counts: Tensor) -> Tensor:
        return (counts - self.get_buffer("shift")) / self.get_buffer("scale")


class _Kept(NamedTuple):
    """Sites of the last evaluation, the data they belong to and the parameters they were found for."""

    values: Tensor
    mask: Tensor
    parameters: list[Tensor]
    fit: SiteFit


class SiteFactors(FactorModel):
    """Any likelihood: the best Gaussian posterior by conjugate-computation variational inference.

    ``ELBO = sum E_q log p(y | eta) - KL(q || p)``; its gradient at the sites' fixed point is that of the sites held
    fixed. Training starts the sites where the last step left them.

    References:
        Khan, Lin (2017), Conjugate-computation variational inference.
        Dowling, Zhao, Park (2023), Linear time GPs for inferring latent trajectories from neural spike trains.
        Jensen, Kao, Stone, Hennequin (2021), Scalable Bayesian GPFA with automatic relevance determination.
    """

    def __init__(self, process: UnitGPs, decoder: LinearDecoder, likelihood: Likelihood, settings: Settings) -> None:
        super().__init__(process, decoder, likelihood, settings)
        self._kept: _Kept | None = None

    def bound(self, batch: SeriesBatch) -> Tensor:
        """The ELBO of each series, ``[S]``, with its exact gradient."""
        padded = pad_for(batch)
        prior, data = self._prior(padded.time), self._data(padded)
        return site_objective(prior, data, self._warm(batch, prior, data))

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and ``KL(q || p)`` of each series, ``[S]`` each; nothing is random."""
        padded = pad_for(batch)
        prior, data = self._prior(padded.time), self._data(padded)
        fit = self._infer(prior, data, _FINE)
        mean, variance = fit.marginals.mean, fit.marginals.variance
        expected = data.likelihood.expected_log_prob(data.y, mean + data.offset, variance, data.mask).sum(-1)
        return expected, expected - fit.objective

    def infer(self, batch: SeriesBatch, *, max_passes: int = 100) -> SiteFit:
        """The sites of the rows that hold data, converged unless ``max_passes`` smoothers are not enough."""
        padded = pad_for(batch)
        return self._infer(self._prior(padded.time), self._data(padded), _FINE, max_passes=max_passes)

    @torch.no_grad()
    def _rows(self, padded: Padded) -> tuple[Tensor, Tensor]:
        prior = self._prior(padded.time)
        return site_rows(prior, self._infer(prior, self._data(padded), _ROUGH).sites)

    def _latents(self, padded: Padded, times: Tensor) -> tuple[Tensor, Tensor]:
        if times.shape != padded.time.shape or not torch.equal(times, padded.time):
            return super()._latents(padded, times)
        found = self._infer(self._prior(padded.time), self._data(padded), _ROUGH).marginals
        return found.latent_mean, found.latent_cov

    def _moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if not isinstance(self.likelihood, Poisson):
            return None, None
        rate = self.likelihood.mean(mean + 0.5 * variance)
        return rate, rate + rate.square() * variance.expm1()

    def _prior(self, time: Tensor) -> SitePrior:
        blank = time.new_zeros(*time.shape, 1, self.process.dim)
        problem = grid_problem(self.process, time, blank, blank[..., 0])
        return SitePrior(problem.A, problem.Q, problem.P0, self.process.readout(), self.decoder.weight)

    def _data(self, padded: Padded) -> Data:
        return make_data(self.likelihood, padded.values, padded.mask, self.decoder.bias)

    def _infer(
        self, prior: SitePrior, data: Data, tolerance: float, start: Sites | None = None, max_passes: int = 100
    ) -> SiteFit:
        tolerance = tolerance if data.y.dtype == torch.float64 else _SINGLE
        return infer_sites(prior, data, start=start, tolerance=tolerance, max_passes=max_passes)

    def _warm(self, batch: SeriesBatch, prior: SitePrior, data: Data) -> SiteFit:
        now, kept = [p.detach().clone() for p in self.parameters()], self._kept
        start = None
        if kept is not None and kept.values is batch.values and kept.mask is batch.mask:
            if all(torch.equal(a, b) for a, b in zip(now, kept.parameters, strict=True)):
                return kept.fit
            start = kept.fit.sites
        fit = self._infer(prior, data, _ROUGH, start)
        if start is not None and not bool(fit.converged.all() & fit.objective.isfinite().all()):
            fit = self._infer(prior, data, _ROUGH)
        self._kept = _Kept(batch.values, batch.mask, now, fit)
        return fit
