"""Fractional Ornstein-Uhlenbeck processes observed with noise: exact up to the Markov approximation."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..gp.kernels import Constant, Kernel
from ..gp.kernels.fractional import FractionalKernel
from ..gp.kernels.sum import Sum
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from ..random import generator as stream
from .base import Draws, Loss, Model
from .fractional_posterior import NAMES, Prior, find_posterior, log_scale_of
from .fractional_start import gap_and_span, posterior_density, weak_prior
from .structural import StructuralModel


class FractionalPosterior(NamedTuple):
    """Draws ``[n, C]`` in the caller's units; ``khat [C]`` says whether to trust them (below 0.7).

    ``scale`` has the channel's units per unit of time to the power ``H``; the unit of dates is the second.
    """

    hurst: Tensor
    rate: Tensor
    scale: Tensor
    noise: Tensor
    khat: Tensor

    def interval(self, level: float = 0.9) -> Tensor:
        """Central interval of the Hurst index of every channel, ``[2, C]``."""
        edges = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=self.hurst.dtype)
        return torch.quantile(self.hurst, edges, dim=0)


class FractionalModel(Model):
    """``y_c = level + X_c + noise``, ``dX_c = -theta_c X_c dt + sigma_c dB^{H_c}``; channels are independent.

    The level is a draw from ``N(0, 1)`` (in units of the channel's own) for every series. ``initialise`` finds the
    posterior of ``H, theta, sigma`` and the noise; the weights end at its mode.

    Args:
        schema: channels and units. seed: of the posterior draws. terms: Ornstein-Uhlenbeck processes in the
            approximation. noise: starting standard deviation. draws: of the posterior.
    """

    def __init__(self, schema: Schema, *, seed: int, terms: int, noise: float, draws: int) -> None:
        super().__init__()
        C = schema.n_channels
        level = Constant(1.0)
        level.log_variance.requires_grad_(False)
        self.core = StructuralModel(Sum(FractionalKernel(0.45, terms=terms), level), C, noise=noise)
        # times that are dates are counted in nanoseconds; answers are per second
        self._seed, self._time_scale = seed, schema.time.scale * (1e-9 if schema.time.kind == "datetime" else 1.0)
        self._labels = [channel.label or channel.variable for channel in schema.channels]
        self._scales = [channel.scale for channel in schema.channels]
        nan = torch.full((draws, C, len(NAMES)), math.nan, dtype=torch.float64)
        self.register_buffer("raw_draws", nan)
        self.register_buffer("khat", nan[0, :, 0].clone())
        centre = torch.tensor([0.0, 0.0, math.log(0.1)], dtype=torch.float64)
        self.register_buffer("prior_centre", centre.repeat(C, 1))
        self.register_buffer("prior_spread", torch.full((C, 3), 1.5, dtype=torch.float64))

    # -- parameters ----------------------------------------------------------------------------------------------

    @property
    def kernels(self) -> list[FractionalKernel]:
        """The fractional part of every channel."""
        return [_fractional(kernel) for kernel in self.core.kernels]

    @property
    def prior(self) -> Prior:
        """Of the raw coordinates."""
        return Prior(self.get_buffer("prior_centre"), self.get_buffer("prior_spread"))

    def raw(self) -> Tensor:
        """Present parameters as raw coordinates ``[C, 4]``."""
        logit, rate, scale = (
            torch.stack([getattr(kernel, name) for kernel in self.kernels])
            for name in ("logit_hurst", "log_rate", "log_scale")
        )
        zero = torch.stack([logit, rate, torch.zeros_like(rate)], dim=-1)
        return torch.stack([logit, rate, scale - log_scale_of(zero), self.core.likelihood.log_noise], dim=-1)

    def _set(self, raw: Tensor) -> None:
        with torch.no_grad():
            for kernel, row, scale in zip(self.kernels, raw, log_scale_of(raw), strict=True):
                kernel.logit_hurst.copy_(row[0])
                kernel.log_rate.copy_(row[1])
                kernel.log_scale.copy_(scale)
            self.core.likelihood.log_noise.copy_(raw[:, 3])

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Choose the rates for the data, and find the posterior."""
        batch = batch.to(device="cpu", dtype=torch.float64).drop_empty()
        if batch.observed < 3:
            return
        gap, span = gap_and_span(batch)
        for kernel in self.kernels:
            kernel.resolve(span, gap)
        prior = weak_prior(batch)
        self.get_buffer("prior_centre").copy_(prior.centre)
        self.get_buffer("prior_spread").copy_(prior.spread)
        density, start = posterior_density(batch, prior, terms=len(self.kernels[0].get_buffer("rates")))
        draws = self.get_buffer("raw_draws")
        found = find_posterior(density, prior, start, len(draws), stream(self._seed, "fractional", "posterior"))
        draws.copy_(found.draws)
        self.get_buffer("khat").copy_(found.khat)
        self._set(found.mode)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """``-(log p(y) + log prior)`` per observed entry: the prior keeps the noise of a short series from zero."""
        count = max(batch.observed, 1)
        loglik = self.log_likelihood(batch).sum() / count
        prior = self.prior.log_prob(self.raw()).sum() / count
        return Loss(-(loglik + prior), {"loglik": loglik.detach(), "prior": prior.detach()})

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``log p(y)`` of each series and channel, ``[S, C]``."""
        return self.core.log_likelihood(batch)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """The mode is found before training: a few quasi-Newton steps confirm it."""
        return {"optimiser": "lbfgs", "steps": 10, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}

    # -- answers -------------------------------------------------------------------------------------------------

    def posterior(self) -> FractionalPosterior:
        """Posterior draws in the caller's units (NaN before the fit)."""
        raw = self.get_buffer("raw_draws").double().cpu()
        size = torch.tensor(self._scales, dtype=torch.float64)
        hurst = torch.sigmoid(raw[..., 0])
        scale = log_scale_of(raw).exp() * size / self._time_scale**hurst
        return FractionalPosterior(
            hurst,
            raw[..., 1].exp() / self._time_scale,
            scale,
            raw[..., 3].exp() * size,
            self.get_buffer("khat").double().cpu(),
        )

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws and exact moments at the posterior's mode."""
        return self.core.predict(batch, times, draws=draws, generator=generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the stationary process."""
        return self.core.generate(times, draws=draws, generator=generator)

    def summary(self) -> dict[str, float]:
        """Mean and 90 % interval of each Hurst index, means of the others, and k-hat; the first four channels."""
        found, summary = self.posterior(), {}
        low, high = found.interval()
        for c, label in list(enumerate(self._labels))[:4]:
            summary[f"hurst[{label}]"] = float(found.hurst[:, c].mean())
            summary[f"hurst[{label}] 5%"], summary[f"hurst[{label}] 95%"] = float(low[c]), float(high[c])
            for name in NAMES[1:]:
                summary[f"{name}[{label}]"] = float(getattr(found, name)[:, c].mean())
            summary[f"khat[{label}]"] = float(found.khat[c])
        return summary


def _fractional(kernel: Kernel) -> FractionalKernel:
    """The fractional summand of a sum."""
    parts = kernel.parts if isinstance(kernel, Sum) else [kernel]
    return next(part for part in parts if isinstance(part, FractionalKernel))
