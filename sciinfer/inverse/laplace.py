"""The method ``laplace``: the most likely signal under a Gaussian prior, and the normal approximation around it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, NumericalError
from .budget import Budget, Meter
from .exact import Solution
from .linalg import cholesky
from .observation import Observation
from .prior import Gaussian
from .whitened import Residual, residual

__entries__ = [
    {
        "kind": "methods",
        "name": "laplace",
        "class": "biased",
        "target": "solve_laplace",
        "summary": "Gauss-Newton to the mode of a Gaussian prior and any differentiable operator; exact if linear.",
        "references": ("Tarantola (2005), Inverse problem theory and methods for model parameter estimation",),
        "options": {"iterations": "Gauss-Newton steps at most", "tolerance": "decrease of the objective, nats"},
    }
]
#: data up to which the Jacobian is written out
DENSE_LIMIT = 3000


class _Point(NamedTuple):
    """``xi [r]``, misfit ``b [m]``, Jacobian ``J [m, r]`` of what is measured, objective."""

    xi: Tensor
    b: Tensor
    J: Tensor
    objective: float


def solve_laplace(
    prior: Gaussian,
    observation: Observation,
    y: Any,
    *,
    draws: int = 0,
    generator: torch.Generator | None = None,
    budget: Budget | None = None,
    iterations: int = 100,
    tolerance: float = 1e-10,
) -> Solution:
    r"""``x = mu + L xi``: minimise :math:`\frac12 |\xi|^2 + \frac12 |b(\xi)|^2`, then
    :math:`\xi \sim N(\hat\xi, (I + J^T J)^{-1})`.

    Steps are halved until the objective falls. The approximation is exact for a linear operator and says nothing of
    further modes.

    Args:
        prior: Gaussian. observation: any differentiable operator, Gaussian noise. y: data, NaN = missing.
        draws: of the normal approximation. generator: needed for draws. budget: limits of time and evaluations.
        iterations, tolerance: of the search.

    Returns:
        ``mean`` is the mode; ``stats["log_evidence"]`` is Laplace's; ``stats["iterations"]``.

    Raises:
        ConfigError: the prior is not Gaussian, or too many data. NumericalError: the search did not come to rest.

    References:
        Tarantola (2005), Inverse problem theory and methods for model parameter estimation.

    Example:
        >>> from sciinfer.inverse import GaussianPrior
        >>> s = solve_laplace(GaussianPrior(0.0, [[1.0]]), Observation([[1.0]], noise_sd=1.0), [2.0])
        >>> round(s.mean.item(), 9), round(s.variance.item(), 9)
        (1.0, 0.5)
    """
    if not isinstance(prior, Gaussian):
        raise ConfigError(
            f"method 'laplace' needs a Gaussian prior, got {type(prior).__name__}",
            variable="prior",
            fix="GaussianPrior",
        )
    if draws and generator is None:
        raise ConfigError("draws need a generator", variable="generator", fix="pass sciinfer.random.generator(seed)")
    meter = Meter(budget)
    misfit = residual(observation, y, prior.mean, meter)
    if misfit.size > DENSE_LIMIT:
        raise ConfigError(f"{misfit.size} data, {DENSE_LIMIT} at most", variable="y", fix="average neighbouring data")
    point, taken = _search(prior, misfit, iterations, tolerance)
    lower = cholesky(point.J @ point.J.T + torch.eye(len(point.b)).to(point.J), name="J J^T + I").lower
    half = torch.linalg.solve_triangular(lower, point.J, upper=False)  # [m, r]
    rows = prior.root(half).flatten(1)
    variance = (prior.variance().flatten() - rows.square().sum(0)).clamp(min=0.0).reshape(prior.shape)
    stats = {
        "class": "biased", "nfe": meter.nfe, "seconds": meter.seconds, "iterations": taken, "missing": misfit.missing,
        "log_evidence": _evidence(point, lower, misfit),
    }  # fmt: skip
    drawn = _draws(prior, point, lower, draws, generator)
    return Solution(drawn, prior.mean + prior.root(point.xi), variance, stats)


def _search(prior: Gaussian, misfit: Residual, iterations: int, tolerance: float) -> tuple[_Point, int]:
    like = prior.mean
    point = _linearise(prior, misfit, torch.zeros(prior.rank, dtype=like.dtype, device=like.device))
    for taken in range(iterations):
        step = _newton(point)
        size, ahead = 1.0, None
        while size > 1e-10:
            trial = point.xi + size * step
            b = misfit.of((prior.mean + prior.root(trial))[None])[0]
            value = 0.5 * float(trial.square().sum() + b.square().sum())
            if value < point.objective:
                ahead = trial
                break
            size *= 0.5
        if ahead is None:
            return point, taken
        found = _linearise(prior, misfit, ahead)
        done = point.objective - found.objective <= tolerance
        point = found
        if done:
            return point, taken + 1
    raise NumericalError(
        f"the mode was not found in {iterations} steps", fix="raise iterations, or scale the operator", index=iterations
    )


def _newton(point: _Point) -> Tensor:
    """``(I + J^T J)^{-1} (J^T b - xi)``, by the smaller of the two sides."""
    gradient = point.J.T @ point.b - point.xi
    m, r = point.J.shape
    if r <= m:
        return torch.linalg.solve(point.J.T @ point.J + torch.eye(r).to(point.J), gradient)
    inner = torch.linalg.solve(point.J @ point.J.T + torch.eye(m).to(point.J), point.J @ gradient)
    return gradient - point.J.T @ inner


def _linearise(prior: Gaussian, misfit: Residual, xi: Tensor) -> _Point:
    """One row of the Jacobian for each datum: the signal is repeated, each copy pulled back from its own datum."""
    with torch.enable_grad():
        copies = xi.detach().expand(max(misfit.size, 1), -1).clone().requires_grad_()
        b = misfit.of(prior.mean + prior.root(copies))
        (rows,) = torch.autograd.grad(-b.diagonal().sum(), copies, materialize_grads=True)
    own = b.detach()[0]
    value = 0.5 * float(xi.square().sum() + own.square().sum())
    if not math.isfinite(value):
        raise NumericalError("the operator gave no finite numbers", fix="check the prior's mean and scale")
    return _Point(xi.detach(), own, rows[: misfit.size], value)


def _evidence(point: _Point, lower: Tensor, misfit: Residual) -> float:
    log_det = float(lower.diagonal().log().sum())
    return -point.objective - log_det - misfit.log_sd - 0.5 * misfit.size * math.log(2 * math.pi)


def _draws(prior: Gaussian, point: _Point, lower: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
    if not draws or generator is None:
        return prior.mean.new_zeros(0, *prior.shape)
    shape = (draws, len(point.xi) + len(point.b))
    noise = torch.randn(shape, generator=generator, dtype=point.xi.dtype, device=generator.device).to(point.xi.device)
    z, e = noise.split([len(point.xi), len(point.b)], dim=1)
    # Matheron's rule: a prior draw, corrected by what it would have measured
    inner = torch.cholesky_solve((z @ point.J.T + e).T, lower).T
    return prior.mean + prior.root(point.xi + z - inner @ point.J)
