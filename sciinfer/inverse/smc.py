"""The method ``smc``: several islands of guided particles, right in the limit of many."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..diffusion import EDM
from ..errors import ConfigError
from .budget import Budget, Meter
from .denoisers import as_denoiser
from .exact import Solution
from .observation import Observation
from .twisted import Particles, twisted_smc
from .whitened import whiten

__entries__ = [
    {
        "kind": "methods",
        "name": "smc",
        "class": "asymptotic",
        "target": "solve_smc",
        "summary": "Guided particles down the ladder of noise, weighed exactly; needs a prior with a known density.",
        "references": (
            "Wu et al. (2023), Practical and asymptotically exact conditional sampling in diffusion models",
            "Cardoso et al. (2024), Monte Carlo guided diffusion for Bayesian linear inverse problems",
        ),
        "options": {
            "particles": "of each island, default 1024",
            "islands": "independent runs, joined by their evidence; their spread is reported; default 4",
            "steps": "rungs of the ladder, default 32",
        },
    }
]


def solve_smc(
    prior: Any,
    observation: Observation,
    y: Any,
    *,
    draws: int = 64,
    generator: torch.Generator | None = None,
    budget: Budget | None = None,
    particles: int = 1024,
    islands: int = 4,
    steps: int = 32,
) -> Solution:
    """Draws, mean and variance of ``x | y``, and the evidence.

    Args:
        prior: a denoiser with a known density (mixtures, kernel densities), or a Gaussian. observation: linear operator
            and Gaussian noise. y: data, NaN = missing. draws: taken from the particles with replacement.
        generator: gives the seed. budget: limits of time and of evaluations of the operator.

    Returns:
        ``stats``: ``log_evidence``, ``log_evidence_spread`` (standard deviation over the islands), ``ess`` (the least
        effective share of any island), ``nfe``, ``seconds``.

    Raises:
        ConfigError: the prior has no density, a number is not positive. BudgetError: a limit was reached.

    Example:
        >>> from sciinfer.inverse import GaussianPrior
        >>> found = solve_smc(GaussianPrior(0.0, [[1.0]]), Observation([[1.0]], noise_sd=1.0), [2.0])
        >>> abs(found.mean.item() - 1.0) < 0.1
        True
    """
    for name, value in (("particles", particles), ("islands", islands), ("steps", steps)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}", variable=name, fix=f"{name}=4")
    denoiser, meter = as_denoiser(prior), Meter(budget)
    like = denoiser.prior_moments(torch.zeros((), dtype=torch.float64))[0]
    data = whiten(observation, y, torch.zeros_like(like), meter)
    rng = generator if generator is not None else torch.Generator().manual_seed(0)
    seeds = torch.randint(2**62, (islands,), generator=rng, device=rng.device).tolist()
    ratios = EDM(low=_finest(denoiser.prior_moments(like)[1]), high=300.0).ratios(steps)
    runs = [
        twisted_smc(denoiser, data.forward, data.b, ratios, particles=particles, seed=seed, meter=meter)
        for seed in seeds
    ]
    return _joined(runs, data.log_sd, draws, rng, meter, {"particles": particles, "islands": islands, "steps": steps})


def _finest(variance: Tensor) -> float:
    """The last ratio before zero: a hundredth of a typical standard deviation."""
    return max(1e-3, 1e-2 * float(variance.mean().sqrt()))


def _joined(
    runs: list[Particles], log_sd: float, draws: int, rng: torch.Generator, meter: Meter, counts: dict[str, int]
) -> Solution:
    logs = torch.tensor([run.log_evidence for run in runs], dtype=torch.float64)
    weights = logs.softmax(0)
    x = torch.stack([run.x for run in runs])
    share = weights.to(x).reshape(-1, *[1] * (x.ndim - 1)) / x.shape[1]
    mean = (share * x).sum((0, 1))
    variance = (share * (x - mean).square()).sum((0, 1))
    island = torch.multinomial(weights, max(draws, 1), replacement=True, generator=rng).to(x.device)[:draws]
    place = torch.randint(x.shape[1], (draws,), generator=rng, device=rng.device).to(x.device)
    stats = {
        "class": "asymptotic",
        "log_evidence": float(logs.logsumexp(0)) - math.log(len(runs)) - log_sd,
        "log_evidence_spread": float(logs.std()) if len(runs) > 1 else math.nan,
        "ess": min(min(run.ess) for run in runs) / x.shape[1],
        "nfe": meter.nfe,
        "seconds": meter.seconds,
        **counts,
    }
    return Solution(x[island, place], mean, variance, stats)
