"""The exact posterior of a linear measurement of a Gaussian signal under Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..diffusion import MixtureDenoiser
from ..errors import ConfigError, ShapeError
from .budget import Budget, Meter
from .mixture import condition_mixture
from .observation import Observation
from .prior import Gaussian
from .whitened import whiten

__entries__ = [
    {
        "kind": "methods",
        "name": "exact",
        "class": "exact",
        "target": "solve_exact",
        "summary": "Closed form for a linear operator, Gaussian noise and a Gaussian prior or a mixture of Gaussians.",
        "references": ("Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, appendix A",),
    }
]

Form = Literal["auto", "data", "signal", "cg"]
DENSE_LIMIT = 3000


class Solution(NamedTuple):
    """A posterior over signals.

    ``draws [n, *shape]``, ``mean [*shape]``, ``variance [*shape]``; ``stats``: nfe, seconds, class, form, log_evidence,
    residual, jitter, data, missing.
    """

    draws: Tensor
    mean: Tensor
    variance: Tensor
    stats: dict[str, Any]


class Whitened(NamedTuple):
    """The problem in units of the noise: ``b = A_w(x - mean) + N(0, I)``, only measured data kept.

    ``forward``: ``[k, *shape]`` to ``[k, m]``; ``adjoint``: ``[k, m]`` to ``[k, *shape]``; ``log_sd``: sum of log sd.
    """

    prior: Gaussian
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    b: Tensor
    log_sd: float
    meter: Meter


def solve_exact(
    prior: Gaussian | MixtureDenoiser,
    observation: Observation,
    y: Any,
    *,
    draws: int = 0,
    generator: torch.Generator | None = None,
    budget: Budget | None = None,
    form: Form = "auto",
    tolerance: float = 1e-10,
) -> Solution:
    r"""Mean, variance, draws and evidence of ``x | y``.

    :math:`K = ACA^T + R`, mean :math:`\mu + CA^TK^{-1}(y - A\mu)`, covariance :math:`C - CA^TK^{-1}AC`. Everything is
    computed in units of the noise; a datum that is NaN or masked is deleted.

    Args:
        prior: Gaussian over ``[*shape]``, the operator's domain, or a mixture of Gaussians.
        observation: linear operator and noise.
        y: ``[*range]``, NaN = missing.
        draws: how many exact draws.
        generator: needed for draws.
        budget: limits of time and operator evaluations.
        form: ``data`` (m x m Cholesky), ``signal`` (rank x rank Cholesky), ``cg`` (matrix-free; the variance is then
            estimated from the draws, the evidence not given), or ``auto``: the smaller Cholesky up to 3000, else cg.
        tolerance: relative residual of ``cg``.

    Raises:
        ConfigError: the operator is not linear, or the prior not Gaussian.
        BudgetError: a limit was reached; ``details["partial"]`` holds the best mean so far with ``cg``.

    References:
        Rasmussen and Williams (2006). Matheron's rule: Wilson et al. (2021), Pathwise conditioning.

    Example:
        >>> from sciinfer.inverse import GaussianPrior
        >>> s = solve_exact(GaussianPrior(0.0, [[1.0]]), Observation([[1.0]], noise_sd=1.0), [2.0])
        >>> round(s.mean.item(), 9), round(s.variance.item(), 9)
        (1.0, 0.5)
    """
    from . import forms

    _check_structure(prior, observation)
    if draws and generator is None:
        raise ConfigError("draws need a generator", variable="generator", fix="pass sciinfer.random.generator(seed)")
    meter = Meter(budget)
    if isinstance(prior, MixtureDenoiser):
        return _solve_mixture(prior, observation, y, draws, generator, meter)
    data = whiten(observation, y, prior.mean, meter)
    problem = Whitened(prior, data.forward, data.adjoint, data.b, data.log_sd, meter)
    chosen = _form(form, len(data.b), prior.rank)
    rng = generator if generator is not None else torch.Generator()
    if chosen == "cg":
        answer = forms.by_cg(problem, draws, rng, tolerance)
    else:
        answer = (forms.by_data if chosen == "data" else forms.by_signal)(problem, draws, rng)
    head = {"class": "exact", "form": chosen, "nfe": meter.nfe, "seconds": meter.seconds}
    counts = {"data": len(data.b), "missing": data.missing, "jitter": prior.jitter}
    return answer._replace(stats={**head, **counts, **answer.stats})


def _solve_mixture(
    prior: MixtureDenoiser, observation: Observation, y: Any, draws: int, generator: torch.Generator | None,
    meter: Meter,
) -> Solution:  # fmt: skip
    found = condition_mixture(prior, observation, y, meter)
    posterior, like = found.posterior, prior.means
    mean, variance = posterior.prior_moments(like)
    drawn = posterior.sample(draws, generator) if generator is not None else like.new_zeros(0, *prior.shape)
    stats = {
        "class": "exact", "form": "mixture", "nfe": meter.nfe, "seconds": meter.seconds, "missing": found.missing,
        "log_evidence": found.log_evidence, "components": len(like),
    }  # fmt: skip
    return Solution(drawn, mean, variance, stats)


def _check_structure(prior: Any, observation: Observation) -> None:
    if not isinstance(prior, Gaussian | MixtureDenoiser):
        raise ConfigError(
            f"method 'exact' needs a Gaussian prior or a mixture, got {type(prior).__name__}",
            variable="prior",
            fix="pass a GaussianPrior, a GaussianField or a MixtureDenoiser, or another method",
        )
    domain = observation.operator.domain
    fits = domain.ndim == len(prior.shape)
    pairs = zip(domain.shape, prior.shape, strict=False)
    if not fits or any(want is not None and want != got for want, got in pairs):
        raise ShapeError(
            f"the prior is over signals {prior.shape}, the operator takes {domain.shape} with dims {domain.dims}",
            variable="prior",
            fix="build both on the same grid",
        )


def _form(form: Form, data: int, rank: int) -> Form:
    if form not in ("auto", "data", "signal", "cg"):
        raise ConfigError(f"form {form!r} is unknown", variable="form", fix="auto, data, signal or cg")
    if form != "auto":
        return form
    if min(data, rank) > DENSE_LIMIT:
        return "cg"
    return "data" if data <= rank else "signal"
