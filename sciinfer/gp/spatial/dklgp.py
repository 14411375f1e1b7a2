"""Latent Gaussian processes by two sparse inverse Cholesky factors, of the prior and of the posterior (DKLGP).

References:
    Cao, Kang, Jimenez, Sang, Schäfer, Katzfuss (2023), Variational sparse inverse Cholesky approximation for latent
    Gaussian processes via double Kullback-Leibler minimization.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ConfigError, DataError, NumericalError
from ...likelihoods import Likelihood
from ...nets.parameters import value_and_slopes
from ..kernels import Kernel
from .conditionals import blocks, condition_last
from .covariances import Covariance
from .dklgp_fit import blocked_bound, centre, pulled
from .dklgp_posterior import DKLPosterior
from .inputs import Observed, Values, expected, observed
from .latent import LatentGP
from .neighbours import nearest_among
from .optimise import FitReport, maximise
from .pattern import Pattern, dense_factor, local_factor, make_pattern, place_in

#: up to this many latent values every term is exact; above, terms are local
DENSE = 1000
#: latent values in one chunk of local terms
_CHUNK = 512


class Setting(NamedTuple):
    """Different points in maximin order ``X [n, d]``; ``y [N]`` and the latent value ``owner [N]`` that each sees;
    the nearest points of each point ``near [n, 2 s]``."""

    X: Tensor
    y: Tensor
    owner: Tensor
    pattern: Pattern
    near: Tensor


class Posterior(NamedTuple):
    """``q(f) = N(nu, (V V^T)^-1)``: ``nu [n]`` about the mean, entries of V ``[n, s]``."""

    nu: Tensor
    V: Tensor


class DKLGP(LatentGP):
    """Prior ``N(0, (L L^T)^-1)`` and posterior ``N(nu, (V V^T)^-1)`` with sparse upper triangular L and V.

    Column i holds the predecessors in maximin order within ``rho`` times the distance at which point i was chosen, and
    at least the nearest ``5 rho``. L
    is the Kullback-Leibler optimum in closed form. V conditions in addition on Gaussian sites at the nearest points;
    the sites match the likelihood (natural-gradient steps). Larger ``rho``: closer to the exact posterior.
    The ELBO bounds the evidence under the sparse prior.

    Args:
        kernel: a covariance of ``sciinfer.gp.spatial``, or a kernel of time (Matérn kernels then act on distances).
        noise: variance of Gaussian observations (default 1), learnable. likelihood: instead of noise, one channel.
        mean: a number added to ``f``. rho: radius, at least 1.

    Example:
        >>> from sciinfer.gp.spatial import Matern
        >>> x = torch.linspace(0, 1, 30, dtype=torch.float64)
        >>> post = DKLGP(Matern(2.5, 0.3), noise=0.01).condition(x, x.sin())
        >>> bool((post.mean(x) - x.sin()).abs().max() < 0.05)
        True
    """

    def __init__(
        self,
        kernel: Covariance | Kernel,
        noise: float | None = None,
        mean: float = 0.0,
        *,
        likelihood: Likelihood | None = None,
        rho: float = 2.0,
    ) -> None:
        super().__init__(kernel, noise, mean, likelihood)
        if not rho >= 1.0:
            raise ConfigError(f"rho must be at least 1, got {rho!r}", fix="rho=2.0")
        self.rho = float(rho)
        #: largest relative jitter that any block has needed so far
        self.jitter = 0.0

    def elbo(self, X: Values, y: Values) -> Tensor:
        """``E_q[log p(y | f)] - KL(q || p)`` in nats at the q of :meth:`condition`; no gradient."""
        at = self._setting(observed(X, y))
        with torch.no_grad():
            return self._elbo(at, self._infer(at))

    def fit(self, X: Values, y: Values, *, iterations: int = 100, rounds: int = 3) -> DKLGP:
        """A fitted copy: L-BFGS on kernel and likelihood, q following in closed form; sites and order anew in each
        round, until one gains less than 0.01 nats. Above 1000 points the terms are local (the bound is then one up to
        what lies outside the ancestors of a point), and value and gradient are found block by block.

        Raises:
            DataError: no value at all.
        """
        gp, data = copy.deepcopy(self), observed(X, y)
        if not len(data.y):
            raise DataError("every value is missing: nothing to fit", variable="y", fix="pass some values")
        for _ in range(rounds):
            at = gp._setting(data)
            before = gp.report
            gp.report = gp._climb(at, iterations)
            if before is not None and gp.report.objective - before.objective < 0.01:
                break
        return gp

    def condition(self, X: Values, y: Values) -> DKLPosterior:
        """The posterior of ``f``: ``mean``, ``variance``, ``covariance``, ``sample`` at any points."""
        at = self._setting(observed(X, y))
        with torch.no_grad():
            q = self._infer(at)
        return DKLPosterior(self.covariance, at.X, at.pattern, q.nu, q.V, self.mean, dense=len(at.X) <= DENSE)

    def explain(self) -> str:
        """What was computed, in words."""
        said = [
            f"double-KL sparse inverse Cholesky, rho {self.rho:g}; the ELBO bounds the evidence of the sparse prior"
        ]
        if self.jitter:
            said.append(f"jitter of {self.jitter:.0e} of the variance was needed")
        return "; ".join(said + self._ended())

    def _setting(self, data: Observed) -> Setting:
        """Points given twice are one latent value that is seen twice."""
        X, owner = torch.unique(data.X, dim=0, return_inverse=True)
        with torch.no_grad():
            scaled = self.covariance.scaled(X).cpu().numpy()
        pattern = make_pattern(scaled, self.rho)
        rank = torch.empty_like(pattern.order)
        rank[pattern.order] = torch.arange(len(X))
        ordered = scaled[pattern.order.numpy()]
        near = torch.as_tensor(nearest_among(ordered, ordered, 2 * pattern.columns.shape[1]))
        return Setting(X[pattern.order].detach(), data.y.detach(), rank[owner], pattern, near)

    # ---- the two factors

    def _prior(self, at: Setting, rows: Tensor | None = None) -> Tensor:
        """Entries of L (of the columns ``rows``): column i is ``(-weights, 1) / sd`` of f_i given its other rows."""
        columns = at.pattern.columns if rows is None else at.pattern.columns[rows]
        return self._column(at.X, torch.zeros(len(at.X), dtype=torch.float64), columns)

    def _posterior(self, at: Setting, sites: Tensor) -> Posterior:
        """V given the sites, and ``nu`` from ``(L L^T + P) nu = shift``."""
        nu = centre(at.pattern.columns, self._prior(at), sites, exact=len(at.X) <= DENSE)
        return Posterior(nu, self._given_sites(at, sites, torch.arange(len(at.X))))

    def _given_sites(self, at: Setting, sites: Tensor, rows: Tensor) -> Tensor:
        """Entries of V in the columns ``rows``: as L, given also the sites at the nearest points."""
        columns, near = at.pattern.columns[rows], at.near[rows]
        shifted = torch.where(columns >= 0, columns + len(at.X), -1)
        noise = torch.cat([1 / sites[0], torch.zeros_like(sites[0])])
        return self._column(torch.cat([at.X, at.X]), noise, torch.cat([near, shifted], 1))[:, near.shape[1] :]

    def _column(self, X: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        parts = []
        for part in index.split(_CHUNK):
            given = condition_last(blocks(self.covariance, X, noise, part))
            self.jitter = max(self.jitter, given.jitter)
            own = torch.ones_like(given.variance)[:, None]
            parts.append(torch.cat([-given.weights, own], 1) / given.variance.sqrt()[:, None])
        return torch.cat(parts) if parts else torch.zeros(0, index.shape[1], dtype=torch.float64)

    # ---- the bound

    def _elbo(self, at: Setting, q: Posterior) -> Tensor:
        rows, L = torch.arange(len(at.X)), self._prior(at)
        return self._terms(at, q, L, self._solves(at, q, L, rows), rows)

    def _solves(self, at: Setting, q: Posterior, L: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``|V^-1 e_i|^2`` (marginal variances) and ``|V^-1 L_i|^2`` of ``rows``, whose columns are ``L``.

        All rows of few points: exact. Otherwise within the ancestors of each row.
        """
        if len(rows) == len(at.X) <= DENSE:
            V, eye = dense_factor(at.pattern.columns, q.V), torch.eye(len(at.X), dtype=torch.float64)
            both = torch.cat([eye, dense_factor(at.pattern.columns, L)], 1)
            norms = torch.linalg.solve_triangular(V, both, upper=True).square().sum(0)
            return norms[: len(rows)], norms[len(rows) :]
        parts = [torch.zeros(0, 2, dtype=torch.float64)]
        for part, own in zip(rows.split(_CHUNK), L.split(_CHUNK), strict=True):
            sets = at.pattern.ancestors[part]
            unit = place_in(sets, part[:, None], torch.ones(len(part), 1, dtype=torch.float64))
            column = place_in(sets, at.pattern.columns[part], own)
            factor = local_factor(at.pattern.columns, q.V, sets)
            solved = torch.linalg.solve_triangular(factor, torch.stack([unit, column], -1), upper=True)
            parts.append(solved.square().sum(1))
        return torch.cat(parts)[:, 0], torch.cat(parts)[:, 1]

    def _terms(self, at: Setting, q: Posterior, L: Tensor, solves: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
        """The sum of the ELBO's terms of the latent values ``rows``, whose columns are ``L``."""
        variance, trace = solves
        position = torch.full((len(at.X),), -1).index_put((rows,), torch.arange(len(rows)))
        seen = position[at.owner] >= 0
        where = position[at.owner[seen]]
        fit = expected(self.likelihood, at.y[seen], q.nu[rows][where] + self.mean, variance[where]).sum()
        moved = pulled(L, at.pattern.columns[rows], q.nu)
        divergence = 0.5 * (moved.square() + trace - 1) + (q.V[rows, -1] / L[:, -1]).log()
        return fit - divergence.sum()

    # ---- inference

    def _infer(self, at: Setting, steps: int = 30, tolerance: float = 1e-8) -> Posterior:
        return self._posterior(at, self._sites(at, *self._moments(at, steps, tolerance)))

    @torch.no_grad()
    def _moments(self, at: Setting, steps: int = 30, tolerance: float = 1e-8) -> tuple[Tensor, Tensor]:
        """Means and variances at which the sites of the best q are taken; a step that lowers the ELBO is halved."""
        rows, L = torch.arange(len(at.X)), self._prior(at)
        moments = torch.zeros(len(at.X), dtype=torch.float64), self.covariance.variance_at(at.X)
        sites, best, rate = self._sites(at, *moments), None, 1.0
        for _ in range(steps):
            q = self._posterior(at, sites)
            solves = self._solves(at, q, L, rows)
            value = float(self._terms(at, q, L, solves, rows))
            if best is not None and not value >= best[0]:
                rate /= 2
            elif best is not None and value - best[0] < tolerance * (1 + abs(value)):
                return q.nu, solves[0]
            else:
                best, rate = (value, sites, (q.nu, solves[0])), min(1.0, 2 * rate)
            if best is None or rate < 1e-3:
                break
            sites = best[1] + rate * (self._sites(at, *best[2]) - best[1])
        if best is None:
            raise NumericalError("the ELBO is not finite", fix="bring values and kernel to a common scale")
        return best[2]

    def _sites(self, at: Setting, mean: Tensor, variance: Tensor) -> Tensor:
        """Precisions and shifts ``[2, n]`` with the slopes of the expected log-density; differentiable in the
        likelihood's parameters."""
        building = torch.is_grad_enabled()
        with torch.enable_grad():
            mean, variance = (part.detach().requires_grad_() for part in (mean, variance))
            value = expected(self.likelihood, at.y, mean[at.owner] + self.mean, variance[at.owner]).sum()
            slope, curvature = torch.autograd.grad(value, (mean, variance), create_graph=building)
        precision = (-2 * curvature).clamp(min=1e-8)
        return torch.stack([precision, slope + precision * mean.detach()])

    # ---- fitting

    def _climb(self, at: Setting, iterations: int) -> FitReport:
        moments, named = self._moments(at), self.learned()
        parameters = [parameter for _, parameter in named]

        def objective() -> tuple[float, list[Tensor]]:
            if len(at.X) > DENSE:
                return blocked_bound(self, at, moments, parameters)
            value = self._elbo(at, self._posterior(at, self._sites(at, *moments)))
            return value_and_slopes(value, parameters)

        return maximise(named, objective, iterations=iterations, tolerance=1e-9)
