"""Gaussian processes in time with any likelihood: Gaussian sites on the exact engine, linear in the data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, DataError, ShapeError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Likelihood
from ..nets.parameters import value_and_slopes
from ..random import generator
from ..statespace import (
    LinearGaussian,
    Smoothed,
    kalman_filter,
    kalman_smoother,
    matvec,
    sample_paths,
    unique_steps,
)
from ..statespace.site_inference import SiteFit, infer_sites, site_objective
from ..statespace.site_rules import Data, Method, derivatives, make_data
from ..statespace.sites import SitePrior, Sites, predictor_moments, site_rows
from .kernels import Kernel
from .kernels.multi import Coregionalised
from .posterior import joint_covariance
from .spatial.optimise import FitReport, maximise


class ApproximateMarkovGP(nn.Module):
    """``y ~ p(y | eta)``, ``eta_c = mean_c + f_c(t)``, ``f`` the outputs of a Markov kernel.

    Args:
        kernel: of one or several outputs. likelihood: one channel for each output.
        method: ``"cvi"`` (full Gaussian variational inference), ``"ep"`` or ``"laplace"``.
        mean: of the predictor, a number or ``"constant"`` (learned, one for each output).
        power: of power EP. tolerance: relative change of the objective at which the sites rest; the error of the
            value is of this order, that of its gradient of the square root.

    References:
        Chang, Wilkinson, Khan, Solin (2020), Fast variational learning in state-space Gaussian process models.

    Example:
        >>> from sciinfer.gp.kernels import Matern32
        >>> from sciinfer.likelihoods import Poisson
        >>> gp = ApproximateMarkovGP(Matern32(lengthscale=2.0), Poisson(1), mean="constant")
        >>> post = gp.condition([0.0, 1.0, 2.0], [3.0, float("nan"), 4.0])
        >>> tuple(post.mean([0.5, 9.0]).shape)
        (2,)
    """

    def __init__(
        self,
        kernel: Kernel,
        likelihood: Likelihood,
        *,
        method: Method = "cvi",
        mean: float | Literal["constant"] = 0.0,
        power: float = 1.0,
        tolerance: float = 1e-10,
    ) -> None:
        super().__init__()
        if isinstance(mean, str) and mean != "constant":
            raise ConfigError(f"unknown mean {mean!r}", fix='a number or "constant"')
        self.kernel, self.likelihood = kernel, likelihood
        self.method: Method = method
        self.power, self.tolerance = power, tolerance
        start = 0.0 if isinstance(mean, str) else float(mean)
        level = torch.full((kernel.outputs,), start, dtype=torch.float64)
        self.level = nn.Parameter(level, requires_grad=isinstance(mean, str))
        self.report: FitReport | None = None

    def elbo(self, time: Any, y: Any) -> Tensor:
        """What stands for ``log p(y)``: the ELBO (``cvi``) or the EP or Laplace evidence, summed over series.

        Args:
            time: ``[n]`` in any order, or a list of such; y: ``[n]`` or ``[n, C]``, NaN = missing, or a list.

        Returns:
            a number, differentiable in all parameters.
        """
        return self.series_objective(as_padded(time, y, self.kernel.outputs)).sum()

    def series_objective(self, padded: Padded, start: Sites | None = None) -> Tensor:
        """The same for each series, ``[S]``."""
        prior, data = self._prior(padded.time), self._data(padded)
        return site_objective(prior, data, self._infer(prior, data, start), method=self.method, power=self.power)

    def condition(self, time: Any, y: Any) -> SitePosterior:
        """The posterior given data (shapes as in :meth:`elbo`)."""
        return self.posterior(as_padded(time, y, self.kernel.outputs))

    @torch.no_grad()
    def posterior(self, padded: Padded) -> SitePosterior:
        """The posterior given a padded batch."""
        frozen = copy.deepcopy(self)
        prior = frozen._prior(padded.time)
        return SitePosterior(frozen, padded, frozen._infer(prior, frozen._data(padded)))

    def fit(self, time: Any, y: Any, *, iterations: int = 60) -> ApproximateMarkovGP:
        """A fitted copy: the parameters of largest :meth:`elbo` (L-BFGS); ``report`` says how the search ended."""
        gp = copy.deepcopy(self)
        padded = as_padded(time, y, gp.kernel.outputs)
        if not bool(padded.mask.any()):
            raise DataError("every value is missing: nothing to fit", variable="y", fix="pass some values")
        if gp.level.requires_grad:
            gp.start_level(padded)
        named = [(name, p) for name, p in gp.named_parameters() if p.requires_grad]
        last: list[Sites | None] = [None]

        def evaluate() -> tuple[float, Sequence[Tensor]]:
            value, last[0] = gp._warm(padded, last[0])
            return value_and_slopes(value, [p for _, p in named])

        gp.report = maximise(named, evaluate, iterations=iterations)
        return gp

    @torch.no_grad()
    def start_level(self, padded: Padded, steps: int = 30) -> None:
        """Set the mean to the best constant predictor (damped Newton)."""
        for _ in range(steps):
            slope, bend = derivatives(self._data(padded), torch.zeros_like(padded.values))
            move = slope.sum((0, 1)) / bend.sum((0, 1)).abs().clamp(min=1e-9)
            self.level += move.clamp(-1.0, 1.0)

    # -- internals -----------------------------------------------------------------------------------------------

    def _warm(self, padded: Padded, start: Sites | None) -> tuple[Tensor, Sites]:
        prior, data = self._prior(padded.time), self._data(padded)
        fit = self._infer(prior, data, start)
        return site_objective(prior, data, fit, method=self.method, power=self.power).sum(), fit.sites

    def _infer(self, prior: SitePrior, data: Data, start: Sites | None = None) -> SiteFit:
        return infer_sites(prior, data, method=self.method, power=self.power, start=start, tolerance=self.tolerance)

    def _data(self, padded: Padded) -> Data:
        return make_data(self.likelihood, padded.values, padded.mask, self.level)

    def _prior(self, grid: Tensor) -> SitePrior:
        """The kernel's process on ascending times ``[S, T]``."""
        step = torch.cat([torch.zeros_like(grid[:, :1]), grid.diff(dim=1)], dim=1)
        A, Q = unique_steps(step, self.kernel.transition)
        P0 = self.kernel.initial().expand(len(grid), *A.shape[-2:])
        if isinstance(self.kernel, Coregionalised):
            parts = [kernel.readout()[None] for kernel in self.kernel.kernels]
            return SitePrior(A, Q, P0, torch.block_diag(*parts), self.kernel.loadings)
        return SitePrior(A, Q, P0, self.kernel.readout().reshape(self.kernel.outputs, -1))


class SitePosterior:
    """Posterior of the predictor ``eta`` at any times; made by :meth:`ApproximateMarkovGP.condition`.

    Results are ``[m]`` for one series of one channel, ``[m, C]`` for several channels, with a leading ``S`` for
    several series. ``fit`` holds the sites, the objective and whether they converged.
    """

    def __init__(self, gp: ApproximateMarkovGP, padded: Padded, fit: SiteFit) -> None:
        self.gp, self.padded, self.fit = gp, padded, fit

    @property
    def converged(self) -> bool:
        """Whether the sites of all series came to rest."""
        return bool(self.fit.converged.all())

    def mean(self, at: Any) -> Tensor:
        """``E[eta(at)]``."""
        return self._squeeze(self.moments(self._times(at))[0])

    def variance(self, at: Any) -> Tensor:
        """``Var[eta(at)]``."""
        return self._squeeze(self.moments(self._times(at))[1])

    @torch.no_grad()
    def covariance(self, at: Any) -> Tensor:
        """``Cov[eta(at)]``, ``[m, m]``; ``[m, C, m, C]`` for several channels; a leading ``S`` for several series."""
        prior, problem, where = self._merged(self._times(at))
        smoothed = kalman_smoother(problem, kalman_filter(problem))
        read = prior.readout if prior.loading is None else prior.loading @ prior.readout
        series = (Smoothed(*parts) for parts in zip(*smoothed, strict=True))
        found = torch.stack([joint_covariance(one, at, read) for one, at in zip(series, where, strict=True)])
        found = found[:, :, 0, :, 0] if len(read) == 1 else found
        return found.squeeze(0) if len(found) == 1 else found

    @torch.no_grad()
    def observation_mean(self, at: Any) -> Tensor:
        """``E[y(at)]`` of a new observation: the likelihood's mean, averaged over the posterior."""
        level = self.gp.level
        x, w = (torch.as_tensor(part, device=level.device) for part in np.polynomial.hermite_e.hermegauss(20))
        mean, variance = self.moments(self._times(at))
        nodes = mean + variance.clamp(min=0.0).sqrt() * x[:, None, None, None]
        weights = (w / w.sum())[:, None, None, None]
        return self._squeeze((self.gp.likelihood.mean(nodes) * weights).sum(0))

    def sample(self, at: Any, n: int, *, seed: int = 0) -> Tensor:
        """``n`` joint draws of ``eta(at)``, with ``n`` as the leading axis."""
        return self._squeeze(self.draw(self._times(at), n, generator(seed, "sites")), leading=1)

    @torch.no_grad()
    def moments(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[S, m, C]`` at ``query [S, m]``."""
        prior, problem, where = self._merged(query)
        filtered = kalman_filter(problem)
        smoothed = kalman_smoother(problem, filtered)
        G = prior.readout
        latent = matvec(G, _rows(smoothed.mean, where)), G @ _rows(smoothed.cov, where) @ G.mT
        mean, variance = predictor_moments(prior.loading, *latent)
        return mean + self.gp.level, variance

    @torch.no_grad()
    def draw(self, query: Tensor, n: int, stream: torch.Generator) -> Tensor:
        """Joint draws ``[n, S, m, C]`` at ``query [S, m]``."""
        prior, problem, where = self._merged(query)
        filtered = kalman_filter(problem)
        gains = kalman_smoother(problem, filtered).gain
        noise = torch.randn((n, *filtered.mean.shape), generator=stream, dtype=query.dtype, device=query.device)
        path = sample_paths(problem, filtered, gains, draws=n, noise=noise)
        z = torch.stack([_rows(one, where) for one in path]) @ prior.readout.mT
        return (z if prior.loading is None else z @ prior.loading.mT) + self.gp.level

    def _merged(self, query: Tensor) -> tuple[SitePrior, LinearGaussian, Tensor]:
        """The problem on the data's and the query's times together, and where the query lies in it."""
        known = self.padded.time
        if not bool(self.padded.mask.any(dim=2).any(dim=1).all()) and query.shape[1]:
            # a series without data has no time of its own: the prior starts where it is first asked for
            empty = ~self.padded.mask.any(dim=2).any(dim=1, keepdim=True)
            known = torch.where(empty, query.amin(dim=1, keepdim=True), known)
        grid, order = torch.sort(torch.cat([known, query], dim=1), dim=1, stable=True)
        prior, data_prior = self.gp._prior(grid), self.gp._prior(known)
        H, y = site_rows(data_prior, self.fit.sites)
        H = torch.cat([H, H.new_zeros(len(H), query.shape[1], *H.shape[2:])], dim=1)
        y = torch.cat([y, y.new_zeros(len(y), query.shape[1], y.shape[2])], dim=1)
        zero = torch.zeros_like(prior.P0[..., 0])
        problem = LinearGaussian(prior.A, prior.Q, _rows(H, order), _rows(y, order), zero, prior.P0)
        return prior, problem, torch.argsort(order, dim=1)[:, known.shape[1] :]

    def _times(self, at: Any) -> Tensor:
        times = torch.as_tensor(at, dtype=self.padded.time.dtype, device=self.padded.time.device).reshape(-1)
        return times.expand(len(self.padded.time), -1)

    def _squeeze(self, values: Tensor, leading: int = 0) -> Tensor:
        values = values.squeeze(-1) if values.shape[-1] == 1 else values
        return values.squeeze(leading) if len(self.padded.time) == 1 else values


def as_padded(time: Any, y: Any, channels: int) -> Padded:
    """One series or a list of them, in any order of time, as a padded batch of float64.

    Raises:
        ShapeError: lengths or channels do not agree. DataError: an infinite value, or a time that is no number.
    """
    many = isinstance(time, (list, tuple)) and len(time) > 0 and np.ndim(time[0]) > 0
    times, values = ([_column(t) for t in time], [_column(v) for v in y]) if many else ([_column(time)], [_column(y)])
    sorted_times, sorted_values = [], []
    for index, (t, v) in enumerate(zip(times, values, strict=True)):
        v = v.reshape(len(v), -1) if v.ndim != 2 else v
        if t.ndim != 1 or len(t) != len(v) or v.shape[1] != channels:
            raise ShapeError(
                f"times {tuple(t.shape)} and values {tuple(v.shape)} for {channels} outputs",
                index=index,
                fix="times [n], values [n] or [n, outputs]",
            )
        if not bool(t.isfinite().all()) or bool(v.isinf().any()):
            raise DataError("times and values must be finite (NaN in a value = missing)", index=index)
        order = torch.argsort(t, stable=True)
        sorted_times.append(t[order])
        sorted_values.append(v[order])
    return SeriesBatch.of(sorted_times, sorted_values).padded()


def _column(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).detach()


def _rows(values: Tensor, where: Tensor) -> Tensor:
    """``values[s, where[s, k]]``."""
    index = where.reshape(*where.shape, *([1] * (values.ndim - 2))).expand(*where.shape, *values.shape[2:])
    return values.gather(1, index)
