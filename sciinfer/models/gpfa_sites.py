"""Factor models with any likelihood, by Gaussian sites on the exact engine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Likelihood, Poisson
from ..nets import LinearDecoder
from ..processes.bridge import grid_problem
from ..statespace.site_inference import SiteFit, infer_sites, site_objective
from ..statespace.site_rules import Data, make_data
from ..statespace.sites import SitePrior, Sites, site_rows
from .gpfa_latents import UnitGPs
from .gpfa_model import FactorModel, Settings
from .grids import pad_for

#: change of the objective at which the sites rest: in training, and where the number itself is wanted
_ROUGH, _FINE, _SINGLE = 1e-9, 1e-11, 1e-5


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
