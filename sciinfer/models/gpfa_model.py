"""Many channels, few Gaussian-process latents: what does not depend on how the channels are observed."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood, NegativeBinomial, Poisson
from ..nets import LinearDecoder
from .base import Draws, Loss, Model
from .exact import sample_linear
from .gpfa_latents import Frame, LatentPath, UnitGPs, condition_rows, orthogonal_frame
from .gpfa_start import column_noise, factor_start, start_timescales
from .grids import pad_for

#: squared length of a channel's share in a column of mere noise, before the data have said what it is
_NOISE = 1e-3
#: how many times noise a latent must be to count as active
_ACTIVE = 2.0
#: nats, by which the bound of all data should still rise from step to step
_GAIN = 0.05


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

    With ``ard`` columns are shrunk by ``C/2 sum_k log(1 + |w_k|^2 / s)`` with ``s`` the squared length of a column that
    fits noise: the cost of ``C`` loadings known to within ``s / C`` each, whose normal prior has a variance estimated
    for each latent (automatic relevance determination). Neither it nor the loadings' prior is part of the bound.

    References:
        MacKay (1992), Bayesian interpolation.
        Tipping (2001), Sparse Bayesian learning and the relevance vector machine.
    """

    def __init__(self, process: UnitGPs, decoder: LinearDecoder, likelihood: Likelihood, settings: Settings) -> None:
        super().__init__()
        self.process, self.decoder, self.settings = process, decoder, settings
        self.likelihood = likelihood
        self.register_buffer("column_noise", torch.full_like(decoder.bias[0].detach(), _NOISE * len(decoder.bias)))

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
        self.get_buffer("column_noise").copy_(column_noise(padded, start, links))
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
            lengths = weight.square().sum(0) / self.get_buffer("column_noise")
            found = found + 0.5 * weight.shape[0] * lengths.log1p().sum()
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
            if any(not 0 <= c < batch.n_channels for c in channels):
                raise ConfigError(f"channels {list(channels)} of {batch.n_channels}", variable="channels")
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
        shares = explained / explained.sum().clamp(min=torch.finfo(explained.dtype).tiny)
        active = explained > _ACTIVE * self.get_buffer("column_noise")
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
