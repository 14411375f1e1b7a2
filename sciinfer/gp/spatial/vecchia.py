"""Gaussian processes over general inputs by Vecchia's approximation: every value given its nearest predecessors.

References:
    Vecchia (1988), Estimation and model identification for continuous spatial processes.
    Guinness (2021), Gaussian process learning via Fisher scoring of Vecchia's approximation.
    Katzfuss, Guinness (2021), A general framework for Vecchia approximations of Gaussian processes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ConfigError, DataError, NumericalError, StateError
from ...nets.parameters import flatten, unflatten, value_and_slopes
from ...random import numpy_generator
from ..kernels import Kernel
from ..kernels.base import log_parameter
from .chunked import summed
from .conditionals import blocks, log_density
from .covariances import Covariance, as_covariance
from .dense import DensePosterior, dense_log_likelihood
from .inputs import Observed, Values, check_count, observed
from .neighbours import nearest_before
from .optimise import FitReport, maximise
from .ordering import maximin
from .predict import VecchiaPosterior

#: numbers in one chunk of blocks: bounds the memory of a likelihood and its gradient
_CHUNK = 4_000_000
#: iterations of each run that only looks for the best start
_SHORT = 15
_ORDERINGS = ("auto", "maximin", "sorted", "given")


class VecchiaGP(nn.Module):
    """``log p(y) ~ sum_i log p(y_i | y_N(i))``, ``N(i)`` the nearest predecessors; O(n m^3).

    With at least ``n - 1`` neighbours it is the exact dense process. On a line, sorted, one neighbour is exact for
    Matérn-1/2. ``certificate`` compares with twice the neighbours.

    Args:
        kernel: a covariance of ``sciinfer.gp.spatial``, or a kernel of time (Matérn kernels then act on distances).
        noise: variance of the observations, learnable; or a tensor ``[n]``, one fixed variance per point.
        mean: a number, or "constant" to learn it.
        neighbours: ``m``.
        ordering: "maximin", "sorted" (one input only), "given", or "auto": sorted for one input, else maximin.

    Example:
        >>> from sciinfer.gp.spatial import Matern
        >>> x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> gp = VecchiaGP(Matern(1.5, lengthscale=0.5), noise=0.01, neighbours=10)
        >>> gp.condition(x, x.sum(1)).mean(x[:2]).shape
        torch.Size([2])
    """

    def __init__(
        self,
        kernel: Covariance | Kernel,
        noise: float | Tensor | np.ndarray = 1.0,
        mean: float | str = 0.0,
        *,
        neighbours: int = 20,
        ordering: str = "auto",
    ) -> None:
        super().__init__()
        self.covariance = as_covariance(kernel)
        self.log_noise = log_parameter(noise, "noise") if isinstance(noise, (int, float)) else None
        self.register_buffer("fixed_noise", None if self.log_noise is not None else _variances(noise))
        self.constant = nn.Parameter(torch.tensor(_start(mean), dtype=torch.float64), requires_grad=mean == "constant")
        self.neighbours = check_count("neighbours", neighbours)
        if ordering not in _ORDERINGS:
            raise ConfigError(f"ordering must be one of {', '.join(_ORDERINGS)}, got {ordering!r}", fix='"auto"')
        self.ordering = ordering
        self.report: FitReport | None = None
        #: largest relative jitter that any block has needed so far
        self.jitter = 0.0
        self._certificate: float | None = None

    @property
    def noise(self) -> Tensor:
        """Variance of the observations: a number, or ``[n]`` where fixed per point."""
        return self.log_noise.exp() if self.log_noise is not None else self.get_buffer("fixed_noise")

    def log_likelihood(self, X: Values, y: Values) -> Tensor:
        """``log p(y)`` in nats, differentiable in all parameters.

        Args:
            X: points ``[n, d]``. y: values ``[n]``, NaN = missing.

        Raises:
            NumericalError: the result is not finite.
        """
        data = observed(X, y)
        value = self._value(data, self._plan(data, self.neighbours))
        if not bool(value.isfinite()):
            raise NumericalError(
                "the log-likelihood is not finite", variable="y", fix="bring values and kernel to a common scale"
            )
        return value

    @torch.no_grad()
    def certificate(self, X: Values, y: Values) -> float:
        """``|LL(m) - LL(2m)|`` in nats: what doubling the neighbours changes."""
        data = observed(X, y)
        values = [self._value(data, self._plan(data, m)) for m in (self.neighbours, 2 * self.neighbours)]
        self._certificate = abs(float(values[1] - values[0]))
        return self._certificate

    def fit(self, X: Values, y: Values, *, iterations: int = 200, rounds: int = 4, starts: int = 1) -> VecchiaGP:
        """A fitted copy (maximum likelihood, L-BFGS); its ``report`` says whether it converged.

        Order and neighbours depend on the length-scales: they are found anew in each of up to ``rounds`` rounds, until
        a round gains less than 0.01 nats. ``starts`` more than 1: short runs also from perturbed parameters, the best
        goes on; the likelihood of several length-scales often has several maxima.

        Raises:
            DataError: no value at all.
        """
        gp, data = copy.deepcopy(self), observed(X, y)
        if not len(data.y):
            raise DataError("every value is missing: nothing to fit", variable="y", fix="pass some values")
        if gp.constant.requires_grad:
            with torch.no_grad():
                gp.constant.copy_(data.y.mean())
        named = [(name, parameter) for name, parameter in gp.named_parameters() if parameter.requires_grad]
        _choose_start(gp, data, named, check_count("starts", starts))
        gp.report = _rounds(gp, data, named, iterations, check_count("rounds", rounds))
        return gp

    def condition(self, X: Values, y: Values) -> DensePosterior | VecchiaPosterior:
        """The posterior of ``f``: ``mean``, ``variance``, ``covariance``, ``sample`` at any points."""
        data = observed(X, y)
        noise, offset = self._noise_of(data).detach(), self.constant.detach()
        if self.neighbours >= len(data.y) - 1:
            return DensePosterior(self.covariance, data.X, data.y, noise, offset)
        return VecchiaPosterior(self.covariance, data.X, data.y, noise, offset, self.neighbours)

    def explain(self) -> str:
        """What was computed and how far it may be off, in words."""
        said = [f"Vecchia approximation, {self.neighbours} nearest predecessors, ordering {self.ordering}"]
        if self._certificate is not None:
            said.append(f"twice the neighbours change the log-likelihood by {self._certificate:.3g} nats")
        if self.jitter:
            said.append(f"jitter of {self.jitter:.0e} of the variance was needed")
        if self.report is not None:
            end = self.report
            said.append(f"fit {end.verdict} at {end.objective:.4f} nats after {end.iterations} iterations")
        return "; ".join(said)

    def _plan(self, data: Observed, neighbours: int) -> Tensor | None:
        """Blocks of rows ``[n, m + 1]``, own row last, -1 for none; None: all predecessors, the dense process."""
        n = len(data.y)
        if neighbours >= n - 1:
            return None
        with torch.no_grad():
            X = self.covariance.scaled(data.X).cpu().numpy()
        order = _order(X, self.ordering)
        before = nearest_before(X[order], neighbours)
        index = np.where(before >= 0, order[before], -1)
        return torch.as_tensor(np.concatenate([index, order[:, None]], 1), device=data.X.device)

    def _value(self, data: Observed, plan: Tensor | None) -> Tensor:
        if plan is None:
            jitter = [self.jitter]
            value = dense_log_likelihood(self.covariance, data.X, data.y - self.constant, self._noise_of(data), jitter)
            self.jitter = jitter[0]
            return value
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return summed(
            lambda X, y, index: self._part(data._replace(X=X, y=y), index),
            self._chunks(plan, data),
            data.X,
            data.y,
            parameters,
        )

    def _part(self, data: Observed, index: Tensor) -> Tensor:
        """``sum_i log p(y_i | y_N(i))`` over the blocks ``index [B, m + 1]``."""
        jitter = [self.jitter]
        K = blocks(self.covariance, data.X, self._noise_of(data), index)
        residual = data.y - self.constant
        near = torch.where(index >= 0, residual[index.clamp(min=0)], torch.zeros_like(residual[:1]))
        value = log_density(K, near, jitter).sum()
        self.jitter = jitter[0]
        return value

    def _chunks(self, plan: Tensor, data: Observed) -> Sequence[Tensor]:
        width = plan.shape[1]
        return plan.split(max(1, _CHUNK // (width * width * data.X.shape[1])))

    def _noise_of(self, data: Observed) -> Tensor:
        """Noise variance of each observed row."""
        noise = self.noise
        if noise.ndim and len(noise) != data.total:
            raise ConfigError(f"{len(noise)} noise variances for {data.total} points", fix="pass one per point")
        return noise[data.rows] if noise.ndim else noise.expand(len(data.y))


def _choose_start(gp: VecchiaGP, data: Observed, named: list[tuple[str, nn.Parameter]], starts: int) -> None:
    """Set the parameters to the end of the best of ``starts`` short runs; the first is from where they are."""
    if starts == 1:
        return
    parameters = [parameter for _, parameter in named]
    first, ends = flatten(parameters), []
    for attempt in range(starts):
        shift = 0.0 if attempt == 0 else numpy_generator(0, "vecchia", "start", attempt).normal(size=len(first))
        unflatten(first + shift, parameters)
        ends.append((_rounds(gp, data, named, _SHORT, 1).objective, flatten(parameters)))
    unflatten(max(ends, key=lambda end: end[0])[1], parameters)


def _rounds(
    gp: VecchiaGP, data: Observed, named: list[tuple[str, nn.Parameter]], iterations: int, rounds: int
) -> FitReport:
    parameters = [parameter for _, parameter in named]
    report: FitReport | None = None
    for _ in range(rounds):
        plan = gp._plan(data, gp.neighbours)
        with torch.no_grad():
            before = float(gp._value(data, plan))
        report = maximise(
            named, lambda plan=plan: value_and_slopes(gp._value(data, plan), parameters), iterations=iterations
        )
        if plan is None or report.objective - before < 0.01:
            return report
    if report is None:
        raise StateError("no round was run", fix="rounds=1 or more")
    return report


def _order(X: np.ndarray, ordering: str) -> np.ndarray:
    if ordering == "given":
        return np.arange(len(X))
    if ordering == "sorted" and X.shape[1] != 1:
        raise ConfigError(f"{X.shape[1]} inputs have no sorted order", fix='ordering="maximin"')
    if ordering == "maximin" or X.shape[1] != 1:
        return maximin(X)[0]
    return np.argsort(X[:, 0], kind="stable")


def _variances(noise: float | Tensor | np.ndarray) -> Tensor:
    values = torch.as_tensor(noise, dtype=torch.float64).detach().clone()
    if values.ndim != 1 or not bool((values >= 0).all()) or not bool(values.isfinite().all()):
        raise ConfigError("noise per point must be finite variances >= 0, one per point", fix="noise=0.1 or a vector")
    return values


def _start(mean: float | str) -> float:
    if isinstance(mean, str) and mean != "constant":
        raise ConfigError(f"mean must be a number or 'constant', got {mean!r}", fix='mean="constant"')
    return 0.0 if isinstance(mean, str) else float(mean)
