"""Factor analysis of spike trains in continuous time: no bins, smooth latents, ragged trials."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..gp.kernels import Kernel, parse_kernel
from ..gp.spatial.optimise import FitReport, maximise
from ..nets.parameters import value_and_slopes
from ..processes.bridge import Bridge, build_bridge, take_paths
from ..processes.latent_gps import LatentGPs
from ..random import generator
from ..statespace import matvec, symmetrise
from ..statespace.site_inference import SiteFit, infer_sites, site_objective
from ..statespace.site_rules import Data, target
from ..statespace.sites import SitePrior, Sites, predictor_moments, site_rows
from .point_process_gpfa_rows import (
    Intensity,
    SpikeRows,
    SpikeTrial,
    event_rows,
    moment_start,
    node_rows,
    read_trials,
)

Where = Literal["nodes", "events"]
#: distance of the nodes as a share of the lag at which the kernel has fallen to a half
_FINE = 8
#: rows of a window of the starting moments
_WINDOW = 4


class PointProcessGPFA(nn.Module):
    """``log rate_c(t) = sum_k W_ck z_k(t) + b_c``, ``z_k ~ GP(0, k_k)`` independent, spikes a Poisson process.

    ``ELBO = sum_i E eta_{c_i}(t_i) - sum_c int E exp(eta_c) dt - KL(q || p)`` with ``q(z) = p(z) prod t(z)``, Gaussian
    potentials ``t`` at chosen times: the exact engine gives ``q`` and its divergence in time linear in the rows, with
    the latents correlated as the data ask for, and no inducing points.

    Args:
        neurons: ``C``. latents: ``K``, at most ``C``.
        kernel: starting kernel of every latent, text or object, of variance one (the loadings carry the scale);
            copies start with length-scales spread around it.
        step: longest distance of the nodes, in the times' unit; default an eighth of the lag at which the kernel
            has fallen to a half.
        tolerance: relative change of the bound at which the potentials rest while fitting.

    Raises:
        ConfigError: more latents than neurons, a step that is not positive, a kernel of several outputs.

    References:
        Duncker, Sahani (2018), Temporal alignment and latent Gaussian process factor inference in population spike
        trains. Khan, Lin (2017), Conjugate-computation variational inference.

    Example:
        >>> trials = [([0.1, 0.4, 0.45], [0, 1, 0], 0.0, 1.0), ([2.2, 2.3], [1, 1], 2.0, 2.7)]
        >>> model = PointProcessGPFA(2, 1, "matern32(lengthscale=0.3)").fit(trials, iterations=2)
        >>> mean, variance = model.posterior(trials).log_rate([0.2, 0.5])
        >>> tuple(mean.shape)
        (2, 2, 2)
    """

    def __init__(
        self,
        neurons: int,
        latents: int,
        kernel: Kernel | str = "matern32(lengthscale=0.2)",
        *,
        step: float | None = None,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        made = parse_kernel(kernel) if isinstance(kernel, str) else kernel
        if not 1 <= latents <= neurons or made.outputs != 1:
            raise ConfigError(
                f"{latents} latents for {neurons} neurons, kernel of {made.outputs} outputs",
                variable="latents",
                fix="from one latent to as many as neurons, a kernel of one output",
            )
        self.step = half_width(made) / _FINE if step is None else float(step)
        if not (math.isfinite(self.step) and self.step > 0):
            raise ConfigError(f"step must be positive, got {step}", variable="step", fix="a fraction of a length-scale")
        self.process = LatentGPs(_spread(made, latents))
        self.loading = nn.Parameter(0.1 * torch.eye(neurons, latents, dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(neurons, dtype=torch.float64))
        self.tolerance = tolerance
        self.report: FitReport | None = None

    @property
    def neurons(self) -> int:
        """``C``."""
        return len(self.loading)

    def fit(self, trials: Sequence[Any], *, iterations: int = 40) -> PointProcessGPFA:
        """A fitted copy: loadings, offsets and kernels by L-BFGS on the exact gradient of the ELBO on nodes.

        Args:
            trials: ``(events [n], neuron [n], start, stop)`` of each. iterations: of the search; ``report`` says how
                it ended.
        """
        model = copy.deepcopy(self)
        rows = node_rows(model._read(trials), model.neurons, model.step)
        loading, offset = moment_start(rows, model.loading.shape[1], _WINDOW)
        with torch.no_grad():
            model.loading.copy_(loading)
            model.offset.copy_(offset)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        last: list[Sites | None] = [None]

        def evaluate() -> tuple[float, Sequence[Tensor]]:
            value, last[0] = model._objective(rows, last[0])
            return value_and_slopes(value.sum(), [p for _, p in named])

        model.report = maximise(named, evaluate, iterations=iterations, tolerance=1e-8)
        return model

    def elbo(self, trials: Sequence[Any], *, sites: Where = "nodes", quadrature: int = 4) -> Tensor:
        """The bound of all trials in continuous time, nats, see :meth:`PointProcessPosterior.bound`."""
        return self.posterior(trials, sites=sites).bound(quadrature=quadrature).sum()

    @torch.no_grad()
    def posterior(self, trials: Sequence[Any], *, sites: Where = "nodes") -> PointProcessPosterior:
        """The posterior of the latents given spikes.

        Args:
            sites: where the potentials stand: ``"nodes"`` equidistant ones (quick), ``"events"`` every spike and
                four Gauss-Legendre nodes a step (the optimum over all Gaussian processes, slower).

        Raises:
            ConfigError: no such place.
        """
        if sites not in ("nodes", "events"):
            raise ConfigError(f"unknown sites {sites!r}", variable="sites", fix='"nodes" or "events"')
        frozen = copy.deepcopy(self)
        read = frozen._read(trials)
        found = frozen._infer(read, node_rows(read, self.neurons, self.step), None)
        if sites == "nodes":
            return found
        rows = event_rows(read, self.neurons, self.step, 4)
        mean, variance = found._log_rate(rows.time)
        nothing = Sites(torch.zeros_like(mean), torch.zeros_like(mean))
        # an event says nothing of how far to go: without a good start the first steps run away
        start = target("cvi", frozen._data(rows), mean - self.offset, variance, nothing, 1.0)
        return frozen._infer(read, rows, start)

    def _infer(self, trials: list[SpikeTrial], rows: SpikeRows, start: Sites | None) -> PointProcessPosterior:
        fit = infer_sites(self._prior(rows.time), self._data(rows), start=start, tolerance=min(self.tolerance, 1e-9))
        return PointProcessPosterior(self, trials, rows, fit)

    def _read(self, trials: Sequence[Any]) -> list[SpikeTrial]:
        return read_trials(trials, self.neurons, self.loading.device)

    def _objective(self, rows: SpikeRows, start: Sites | None) -> tuple[Tensor, Sites]:
        prior, data = self._prior(rows.time), self._data(rows)
        fit = infer_sites(prior, data, start=start, tolerance=self.tolerance)
        return site_objective(prior, data, fit), fit.sites

    def _prior(self, time: Tensor) -> SitePrior:
        A, Q = self.process.transition(torch.cat([torch.zeros_like(time[:, :1]), time.diff(dim=1)], dim=1))
        P0 = self.process.initial()[1].expand(len(time), *A.shape[-2:])
        return SitePrior(A, Q, P0, self.process.readout(), self.loading)

    def _data(self, rows: SpikeRows) -> Data:
        return Data(Intensity(rows.weight[..., None]), rows.counts, rows.mask, self.offset)


class PointProcessPosterior:
    """Posterior of latents and log-rates of ``R`` trials; made by :meth:`PointProcessGPFA.posterior`.

    Times are ``[m]`` for all trials, or ``[R, m]``, in the clock of the trials.
    """

    def __init__(self, model: PointProcessGPFA, trials: list[SpikeTrial], rows: SpikeRows, fit: SiteFit) -> None:
        self.model, self.trials, self.rows, self.fit = model, trials, rows, fit

    @property
    def converged(self) -> bool:
        """Whether the potentials of all trials came to rest."""
        return bool(self.fit.converged.all())

    def latent(self, at: Any) -> tuple[Tensor, Tensor]:
        """Means ``[R, m, K]`` and covariances ``[R, m, K, K]`` of the latents."""
        return self._latent(self._times(at))

    def log_rate(self, at: Any) -> tuple[Tensor, Tensor]:
        """Means and variances ``[R, m, C]`` of the log-rates."""
        return self._log_rate(self._times(at))

    def rate(self, at: Any) -> Tensor:
        """Posterior means of the rates, ``[R, m, C]``, events per unit of time."""
        mean, variance = self.log_rate(at)
        return (mean + 0.5 * variance).exp()

    @torch.no_grad()
    def sample(self, at: Any, n: int, *, seed: int = 0) -> Tensor:
        """``n`` joint draws of the log-rates, ``[n, R, m, C]``."""
        bridge = self._bridge(self._times(at))
        stream = generator(seed, "point process", device=bridge.at_query.device)
        z = take_paths(bridge.sample(n, stream), bridge.at_query) @ self.model.process.readout().mT
        return z @ self.model.loading.mT + self.model.offset

    @torch.no_grad()
    def bound(self, *, quadrature: int = 4, panel: float | None = None) -> Tensor:
        """The ELBO of each trial in continuous time, ``[R]``: events where they are, integrals by Gauss-Legendre rules.

        A lower bound of the log-likelihood of the point process, up to the error of the quadrature.

        Args:
            quadrature: nodes of the rule in a panel. panel: longest panel, default the distance of the nodes.
        """
        step = self.model.step if panel is None else panel
        rows = event_rows(self.trials, self.model.neurons, step, quadrature)
        mean, variance = self._log_rate(rows.time)
        law = Intensity(rows.weight[..., None])
        return law.expected_log_prob(rows.counts, mean, variance, rows.mask).sum(1) - self.divergence()

    def divergence(self) -> Tensor:
        """``KL(q || p)`` of the latents' whole paths, ``[R]``: ``E_q log prod t - log Z``."""
        sites, found = self.fit.sites, self.fit.marginals
        log_site = sites.shift * found.mean - 0.5 * sites.precision * (found.mean.square() + found.variance)
        return log_site.sum((1, 2)) - found.log_normaliser

    @torch.no_grad()
    def rescaled_intervals(self, *, seed: int = 0) -> list[Tensor]:
        """Integrals of each neuron's rate between its spikes, trials laid end to end, under one draw of the latents.

        Where the model holds they are independent and exponential with mean one, drawn latents included; under the
        posterior mean of the rates they would only nearly be.

        References:
            Brown, Barbieri, Ventura, Kass, Frank (2002), The time-rescaling theorem and its application to neural
            spike train data analysis.
        """
        grid = self._grid(self.model.step / 8)
        rate = self.sample(grid, 1, seed=seed)[0].exp()
        step = grid.diff(dim=1)[..., None]
        total = torch.cat([torch.zeros_like(rate[:, :1]), (0.5 * step * (rate[:, 1:] + rate[:, :-1])).cumsum(1)], 1)
        found: list[list[Tensor]] = [[] for _ in range(self.model.neurons)]
        before = torch.zeros_like(total[0, 0])
        for trial, time, area in zip(self.trials, grid, total, strict=True):
            at = before + _between(trial.events, time, area)
            for c in range(self.model.neurons):
                mine = trial.neuron == c
                found[c].append(at[mine, c])
            before = before + area[-1]
        joined = [torch.cat(parts) for parts in found]
        return [torch.cat([part[:1], part.diff()]) for part in joined]

    def _times(self, at: Any) -> Tensor:
        times = torch.as_tensor(at, dtype=self.rows.time.dtype, device=self.rows.time.device)
        return times.expand(len(self.trials), -1) if times.ndim < 2 else times

    def _grid(self, step: float) -> Tensor:
        """As many equidistant times in every trial, ``[R, m]``, at most ``step`` apart."""
        longest = max(trial.stop - trial.start for trial in self.trials)
        share = torch.linspace(0.0, 1.0, math.ceil(longest / step) + 1, dtype=torch.float64).to(self.rows.time)
        ends = share.new_tensor([[trial.start, trial.stop] for trial in self.trials])
        return ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * share

    def _bridge(self, query: Tensor) -> Bridge:
        prior = self.model._prior(self.rows.time)
        H, y = site_rows(prior, self.fit.sites)
        return build_bridge(self.model.process, self.rows.time, H, y, query)

    @torch.no_grad()
    def _latent(self, query: Tensor) -> tuple[Tensor, Tensor]:
        bridge, G = self._bridge(query), self.model.process.readout()
        return matvec(G, bridge.mean(bridge.at_query)), symmetrise(G @ bridge.cov(bridge.at_query) @ G.mT)

    @torch.no_grad()
    def _log_rate(self, query: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = predictor_moments(self.model.loading, *self._latent(query))
        return mean + self.model.offset, variance


@torch.no_grad()
def half_width(kernel: Kernel) -> float:
    """The first lag (on a grid of a twentieth) at which a kernel has fallen to half its variance.

    Raises:
        ConfigError: it never does.

    Example:
        >>> from sciinfer.gp.kernels import Matern12
        >>> round(half_width(Matern12(lengthscale=1.0)), 1)
        0.7
    """
    lags = torch.logspace(-8, 8, 800, dtype=torch.float64, device=kernel.initial().device)
    low = torch.nonzero(kernel.covariance(lags) < 0.5 * kernel.covariance(torch.zeros_like(lags[:1])))
    if not len(low):
        raise ConfigError("the kernel does not fall with the lag", variable="kernel", fix="give a step")
    return float(lags[low[0]])


@torch.no_grad()
def _spread(kernel: Kernel, latents: int) -> list[Kernel]:
    """Copies of variance one that differ in their length-scales: equal ones could not be told apart."""
    kernels = [copy.deepcopy(kernel) for _ in range(latents)]
    for k, one in enumerate(kernels):
        for name, parameter in one.named_parameters():
            if name.endswith("log_variance"):
                parameter.requires_grad_(False)
            if name.endswith("log_lengthscale") and latents > 1:
                parameter.add_(0.5 - k / (latents - 1))
    return kernels


def _between(at: Tensor, time: Tensor, values: Tensor) -> Tensor:
    """``values [T, C]`` on ascending ``time [T]``, straight between them, at ``at [n]``."""
    right = torch.searchsorted(time, at).clamp(1, len(time) - 1)
    gap = time[right] - time[right - 1]
    share = torch.where(gap > 0, (at - time[right - 1]) / torch.where(gap > 0, gap, 1.0), 1.0)[:, None]
    return values[right - 1] * (1 - share) + values[right] * share
