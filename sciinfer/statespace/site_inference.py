"""The fixed point of the sites, series by series, with backtracking on what is maximised."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import ConfigError
from .site_rules import FLOOR, METHODS, Data, Method, correction, derivatives, target
from .sites import Marginals, SitePrior, Sites, condition_sites, log_normaliser, predictor_moments, prior_variance

_Parts = TypeVar("_Parts", Sites, Marginals)
#: a step below this share of the full one is not worth another smoother
_LEAST_STEP = 1e-7
#: nats per datum above which an objective is no measure of how little may still change
_ROUGH = 100.0


class SiteFit(NamedTuple):
    """``objective [B]``: ELBO, EP evidence or Laplace evidence; ``passes``: smoothers run; ``converged [B]``."""

    sites: Sites
    marginals: Marginals
    objective: Tensor
    converged: Tensor
    passes: int


class _State(NamedTuple):
    sites: Sites
    marginals: Marginals
    objective: Tensor
    step: Tensor
    done: Tensor
    converged: Tensor


@torch.no_grad()
def infer_sites(
    prior: SitePrior,
    data: Data,
    *,
    method: Method = "cvi",
    start: Sites | None = None,
    power: float = 1.0,
    max_passes: int = 100,
    tolerance: float = 1e-9,
) -> SiteFit:
    """Iterate the sites until the objective stands still.

    Args:
        method: ``"cvi"`` full Gaussian variational inference, ``"ep"`` (power) expectation propagation with damping,
            ``"laplace"`` Newton's mode. The first and the last go back when a step does not improve.
        start: sites to begin with, default made from the data. tolerance: relative change of the objective.

    Returns:
        The sites, the posterior and the objective of each series; series do not influence each other.

    Raises:
        ConfigError: no such method, or a power outside (0, 1].

    References:
        Khan, Lin (2017), Conjugate-computation variational inference.
        Minka (2004), Power EP. Rasmussen, Williams (2006), section 3.4.
    """
    if method not in METHODS or not 0 < power <= 1:
        raise ConfigError(f"method={method!r}, power={power!r}", fix=f"one of {', '.join(METHODS)}; power in (0, 1]")
    if start is None:
        start = _mode_start(prior, data) if method != "ep" else infer_sites(
            prior, data, method="laplace", tolerance=1e-4, max_passes=20).sites  # fmt: skip
    full = 0.7 if method == "ep" else 1.0
    state = _evaluate(prior, data, method, start, power, full)
    passes = 1
    while passes < max_passes and not bool(state.done.all()):
        state = _advance(prior, data, method, state, power, full, tolerance)
        passes += 1
    return SiteFit(state.sites, state.marginals, state.objective, state.converged, passes)


def site_objective(prior: SitePrior, data: Data, fit: SiteFit, *, method: Method = "cvi", power: float = 1.0) -> Tensor:
    """The objective again, ``[B]``, with the exact gradient in the prior, loading, offset and likelihood.

    At the fixed point the sites themselves need no gradient (for Laplace, the mode's is added): the cost is that of
    the log-likelihood's score. Where a likelihood is not log-concave (Student-t far from its datum) the site is held
    at a least precision, the point is not quite stationary, and the gradient is approximate.
    """
    if method == "laplace":
        return _laplace_objective(prior, data, fit)
    held = fit.marginals
    mean, variance = predictor_moments(prior.loading, held.latent_mean, held.latent_cov)
    if method == "ep":
        mean, variance = held.mean, held.variance
    return log_normaliser(prior, fit.sites) + correction(method, data, mean, variance, fit.sites, power)


def _laplace_objective(prior: SitePrior, data: Data, fit: SiteFit) -> Tensor:
    mean, variance = fit.marginals.mean, fit.marginals.variance
    slope, bend, third = derivatives(data, mean, orders=3, graph=True)
    # the values are those of the fit; what they owe to the likelihood's parameters and the offset is added
    free = (fit.sites.precision > 1.001 * FLOOR / variance).detach()
    bend = torch.where(free, bend - bend.detach(), torch.zeros_like(bend))
    shift = fit.sites.shift + slope - slope.detach() - bend * mean
    sites = Sites(fit.sites.precision - bend, shift)
    value = log_normaliser(prior, sites) + correction("laplace", data, mean, variance, sites, 1.0)
    # the curvature at the mode moves with the mode: sum_n c_n dm_n, where sum_n c_n m_n is a difference of two
    # log-normalisers, because these are quadratic in the shift
    c = torch.where(free, 0.5 * variance * third.detach(), torch.zeros_like(third))
    up, down = (sites._replace(shift=sites.shift + sign * c) for sign in (1, -1))
    moved = 0.5 * (log_normaliser(prior, up) - log_normaliser(prior, down))
    return value + moved - moved.detach()


def _evaluate(prior: SitePrior, data: Data, method: Method, sites: Sites, power: float, step: float) -> _State:
    marginals = condition_sites(prior, sites)
    objective = _merit(data, method, sites, marginals, power)
    no = torch.zeros_like(objective, dtype=torch.bool)
    return _State(sites, marginals, objective, torch.full_like(objective, step), no, no)


def _merit(data: Data, method: Method, sites: Sites, marginals: Marginals, power: float) -> Tensor:
    mean, variance = marginals.mean, marginals.variance
    return marginals.log_normaliser + correction(method, data, mean, variance, sites, power)


def _advance(
    prior: SitePrior, data: Data, method: Method, old: _State, power: float, full: float, tolerance: float
) -> _State:
    wanted = target(method, data, old.marginals.mean, old.marginals.variance, old.sites, power)
    share = torch.where(old.done, torch.zeros_like(old.step), old.step)[:, None, None]
    sites = Sites(*(a + share * (b - a) for a, b in zip(old.sites, wanted, strict=True)))
    new = _evaluate(prior, data, method, sites, power, full)
    if method == "laplace":
        before, after = (_log_posterior(data, s.sites, s.marginals) for s in (old, new))
    else:
        before, after = old.objective, new.objective
    size = tolerance * (1 + torch.minimum(old.objective.abs(), _ROUGH * data.mask.sum((-2, -1))))
    better = after.isfinite() & ((after >= before - 0.1 * size) | (method == "ep"))
    still = (new.objective - old.objective).abs() <= size
    if method == "ep":  # its evidence may stand still while the moments do not
        moved = (new.marginals.mean - old.marginals.mean).square() / old.marginals.variance
        still &= moved.amax((-2, -1)) <= tolerance
    takes = better & ~old.done
    converged = old.converged | (takes & still & (old.step >= full))
    done = converged | (old.step < _LEAST_STEP)
    step = torch.where(better, (2 * old.step).clamp(max=full), 0.25 * old.step)
    return _State(
        _choose(takes, new.sites, old.sites),
        _choose(takes, new.marginals, old.marginals),
        torch.where(takes, new.objective, old.objective),
        step,
        done,
        converged,
    )


def _log_posterior(data: Data, sites: Sites, marginals: Marginals) -> Tensor:
    """``sum log p(y | f) - f^T K^{-1} f / 2`` at the mean, which the sites give: ``K^{-1} m = shift - precision m``."""
    m = marginals.mean
    zero = Sites(torch.zeros_like(m), torch.zeros_like(m))
    fit = correction("laplace", data, m, m, zero, 1.0)
    return fit - 0.5 * (m * (sites.shift - sites.precision * m)).sum((-2, -1))


def _mode_start(prior: SitePrior, data: Data, steps: int = 6) -> Sites:
    """Each entry alone: a few damped Newton steps from the prior mean to its own posterior mode."""
    spread = prior_variance(prior).expand_as(data.y).clamp(min=1e-6, max=1e2)
    f, curvature = torch.zeros_like(data.y), torch.zeros_like(data.y)
    for _ in range(steps):
        slope, curvature = derivatives(data, f)
        curvature = curvature.clamp(max=0.0)
        f = f + ((slope - f / spread) / (1 / spread - curvature)).clamp(-1.0, 1.0)
    variance = 1 / (1 / spread - curvature)
    nothing = Sites(torch.zeros_like(f), torch.zeros_like(f))
    return target("laplace", data, f, variance, nothing, 1.0)


def _choose(takes: Tensor, new: _Parts, old: _Parts) -> _Parts:
    parts = (torch.where(takes.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, old, strict=True))
    return type(new)(*parts)
