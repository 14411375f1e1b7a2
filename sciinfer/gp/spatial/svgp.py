"""Sparse variational Gaussian processes: inducing points, through gpytorch.

References:
    Hensman, Fusi, Lawrence (2013), Gaussian processes for big data.
    Titsias (2009), Variational learning of inducing variables in sparse Gaussian processes.
    Adam, Chang, Khan, Solin (2021), Dual parameterization of sparse variational Gaussian processes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, NumericalError
from ...likelihoods import Likelihood
from ...nets.parameters import value_and_slopes
from ..kernels import Kernel
from .covariances import Covariance
from .dense import joint_draws
from .inputs import Observed, Values, check_count, expected, observed, points
from .latent import LatentGP
from .neighbours import nearest_among
from .optimise import maximise
from .ordering import maximin

#: added to the inducing points' variances by gpytorch
_JITTER = 1e-8


class SparseGP(LatentGP):
    """``q(f) = int p(f | u) N(u; m, S) du`` with ``u`` at inducing points; any likelihood; O(n M^2) per evaluation.

    Inducing points start at the centres of k-means. Smooth fields over many points suit it; for rough ones, where the
    length-scale is short against the region, Vecchia loses far less.

    Args:
        kernel: a covariance of ``sciinfer.gp.spatial``, or a kernel of time (Matérn kernels then act on distances).
        noise: variance of Gaussian observations (default 1), learnable. likelihood: instead of noise, one channel.
        mean: a number added to ``f``. inducing: ``M``.

    Example:
        >>> from sciinfer.gp.spatial import Matern
        >>> x = torch.linspace(0, 1, 30, dtype=torch.float64)
        >>> post = SparseGP(Matern(2.5), noise=0.01, inducing=8).condition(x, x.sin())
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
        inducing: int = 100,
    ) -> None:
        super().__init__(kernel, noise, mean, likelihood)
        self.inducing = check_count("inducing", inducing)
        #: said by gpytorch while it factorised: jitter that had to be added
        self.notes: tuple[str, ...] = ()
        self.process: Any = None
        #: sites of the last posterior, where the next one starts
        self._held: Tensor | None = None

    @torch.no_grad()
    def elbo(self, X: Values, y: Values) -> Tensor:
        """``E_q[log p(y | f)] - KL(q(u) || p(u))`` in nats, at the best ``q`` for these parameters; ``<= log p(y)``."""
        data = observed(X, y)
        gp = self._ready(data)
        return gp._elbo(data)

    def fit(self, X: Values, y: Values, *, iterations: int = 200) -> SparseGP:
        """A fitted copy: kernel, likelihood and inducing points by L-BFGS on the ELBO, ``q`` at its best all along.

        Raises:
            DataError: no value at all.
        """
        data = observed(X, y)
        if not len(data.y):
            raise DataError("every value is missing: nothing to fit", variable="y", fix="pass some values")
        gp = self._ready(data)
        q = {id(p) for p in gp.process.variational_strategy._variational_distribution.parameters()}
        named = [(name, p) for name, p in gp.learned() if id(p) not in q]
        parameters = [parameter for _, parameter in named]

        def objective() -> tuple[float, list[Tensor]]:
            # at the best q the slope along q is zero: the slopes at fixed q are those of the best ELBO
            gp._natural_steps(data)
            return value_and_slopes(gp._elbo(data), parameters)

        gp.report = maximise(named, objective, iterations=iterations)
        gp._natural_steps(data)
        return gp

    def condition(self, X: Values, y: Values) -> SparsePosterior:
        """The posterior of ``f``: ``mean``, ``variance``, ``covariance``, ``sample`` at any points."""
        return SparsePosterior(self._ready(observed(X, y)))

    def explain(self) -> str:
        """What was computed, in words."""
        said = [f"inducing-point approximation (gpytorch), at most {self.inducing} points, a lower bound of log p(y)"]
        return "; ".join([*said, *self.notes, *self._ended()])

    def _ready(self, data: Observed) -> SparseGP:
        """A copy with inducing points (kept, where it has been fitted) and the best ``q`` for these data."""
        gp = copy.deepcopy(self)
        gp._held = None
        with torch.no_grad():
            if gp.process is None:
                gp.process = variational_process(gp.covariance, _centres(gp.covariance, data.X, gp.inducing))
            gp._natural_steps(data)
        return gp

    def _elbo(self, data: Observed) -> Tensor:
        mean, variance = self._marginals(data.X)
        return (
            expected(self.likelihood, data.y, mean, variance).sum() - self.process.variational_strategy.kl_divergence()
        )

    def _marginals(self, X: Tensor) -> tuple[Tensor, Tensor]:
        if not len(X):
            return X.new_zeros(0), X.new_zeros(0)
        with self._factorising():
            q = self.process(X)
            return q.mean + self.mean, q.variance.clamp(min=0.0)

    @contextmanager
    def _factorising(self) -> Iterator[None]:
        """Warnings of gpytorch about added jitter become notes, its failure a named error."""
        from linear_operator.utils.errors import NanError, NotPSDError

        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                yield
            except (NotPSDError, NanError) as err:
                raise NumericalError(
                    "the covariance of the inducing points is not positive definite", fix="take fewer inducing points"
                ) from err
        self.notes = tuple(dict.fromkeys([*self.notes, *(str(w.message).split("\n")[0] for w in heard)]))

    @torch.no_grad()
    def _natural_steps(self, data: Observed, steps: int = 30, tolerance: float = 1e-9) -> None:
        """Natural-gradient steps of ``q``; one is exact for Gaussian noise, a step that lowers the ELBO is halved."""
        if not len(data.y):
            return
        q, projected = self.process.variational_strategy._variational_distribution, self._projected(data.X)
        held = self._held if self._held is not None and self._held.shape[1] == len(data.y) else None
        sites, rate = torch.zeros(2, len(data.y), dtype=torch.float64) if held is None else held, 1.0
        _write(q, projected, sites)
        value = float(self._elbo(data))
        for _ in range(steps):
            target = self._sites(data)
            trial, fresh = sites, -math.inf
            while not fresh >= value and rate > 1e-3:
                trial = sites + rate * (target - sites)
                _write(q, projected, trial)
                fresh = float(self._elbo(data))
                rate = min(1.0, 2 * rate) if fresh >= value else rate / 2
            gain = fresh - value
            if not gain > 0:
                _write(q, projected, sites)
            else:
                sites, value = trial, fresh
            if not gain > tolerance * (1 + abs(value)):
                break
        self._held = sites

    def _sites(self, data: Observed) -> Tensor:
        """Precisions and shifts ``[2, n]`` of Gaussian sites with the slopes of ``E[log p(y_i | f_i)]``."""
        mean, variance = (part.detach().requires_grad_() for part in self._marginals(data.X))
        with torch.enable_grad():
            value = expected(self.likelihood, data.y, mean, variance).sum()
        slope, curvature = torch.autograd.grad(value, (mean, variance))
        precision = (-2 * curvature).clamp(min=1e-10)
        return torch.stack([precision, slope + precision * (mean.detach() - self.mean)])

    def _projected(self, X: Tensor) -> Tensor:
        """``L^-1 K_uf [M, n]``, ``L`` the factor of the inducing points' covariance."""
        Z = self.process.variational_strategy.inducing_points.detach()
        with self._factorising():
            from linear_operator.utils.cholesky import psd_safe_cholesky

            eye = torch.eye(len(Z), dtype=torch.float64)
            factor = psd_safe_cholesky(self.covariance(Z, Z) + _JITTER * eye)
        return torch.linalg.solve_triangular(factor, self.covariance(Z, X), upper=False)


class SparsePosterior:
    """``f`` under the variational posterior."""

    def __init__(self, gp: SparseGP) -> None:
        self._gp, self._dims = gp, gp.process.variational_strategy.inducing_points.shape[1]

    @torch.no_grad()
    def mean(self, at: Values) -> Tensor:
        """``E[f] [k]`` at ``at [k, d]``."""
        return self._gp._marginals(points(at, "at", self._dims))[0]

    @torch.no_grad()
    def variance(self, at: Values) -> Tensor:
        """``Var[f] [k]``."""
        return self._gp._marginals(points(at, "at", self._dims))[1]

    @torch.no_grad()
    def covariance(self, at: Values) -> Tensor:
        """``Cov[f] [k, k]``."""
        with self._gp._factorising():
            return self._gp.process(points(at, "at", self._dims), diag=False).covariance_matrix

    @torch.no_grad()
    def sample(self, at: Values, n: int = 1, *, seed: int = 0) -> Tensor:
        """Joint draws of ``f``, ``[n, k]``."""
        return joint_draws(self.mean(at), self.covariance(at), n, seed)


def _centres(covariance: Covariance, X: Tensor, count: int, sweeps: int = 20) -> Tensor:
    """k-means in scaled inputs, started from the best-spread points; never the first of the data."""
    unique = torch.unique(X, dim=0)
    if len(unique) <= count:
        return unique if len(unique) else X.new_zeros(1, X.shape[1])
    scaled = covariance.scaled(X).detach().numpy()
    centres = covariance.scaled(unique).detach().numpy()
    factor = covariance.scaled(torch.ones_like(X[:1])).detach().numpy()
    centres = centres[maximin(centres)[0][:count]]
    for _ in range(sweeps):
        owner = nearest_among(centres, scaled, 1)[:, 0]
        size = np.bincount(owner, minlength=len(centres))
        total = np.zeros_like(centres)
        np.add.at(total, owner, scaled)
        centres = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centres)
    return torch.as_tensor(centres / factor, dtype=torch.float64)


def _write(q: Any, projected: Tensor, sites: Tensor) -> None:
    """``q(u) prop p(u) prod_i N-site_i`` in whitened coordinates: ``S = (I + A P A^T)^-1``, ``m = S A shift``."""
    eye = torch.eye(len(projected), dtype=torch.float64)
    S = torch.linalg.inv(eye + (projected * sites[0]) @ projected.mT)
    S = 0.5 * (S + S.mT)
    q.variational_mean.copy_(S @ (projected @ sites[1]))
    q.chol_variational_covar.copy_(torch.linalg.cholesky(S))


def variational_process(covariance: Covariance, Z: Tensor) -> Any:
    """gpytorch's whitened strategy over our covariance; it stays in training mode, where it caches nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of gpytorch itself, while it is imported
        import gpytorch

    class Adapter(gpytorch.kernels.Kernel):
        def __init__(self) -> None:
            super().__init__()
            self.covariance = covariance

        def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return self.covariance.variance_at(x1) if diag else self.covariance(x1, x2)

    class Process(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            q = gpytorch.variational.CholeskyVariationalDistribution(len(Z), mean_init_std=0.0).double()
            strategy = gpytorch.variational.VariationalStrategy(self, Z, q, jitter_val=_JITTER)
            strategy.get_buffer("variational_params_initialized").fill_(1)
            super().__init__(strategy)
            self.kernel = Adapter()

        def forward(self, x: Tensor) -> Any:
            covariance_of = cast(Any, self.kernel)
            return gpytorch.distributions.MultivariateNormal(x.new_zeros(x.shape[:-1]), covariance_of(x))

    return Process()
