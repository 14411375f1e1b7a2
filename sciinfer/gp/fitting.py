"""How :class:`sciinfer.gp.MarkovGP` learns its parameters: by maximum likelihood, or by a sample of their posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, NumericalError
from ..random import generator
from .rows import Rows

if TYPE_CHECKING:
    from .bayesian import Prior
    from .markov import MarkovGP
    from .spatial.optimise import FitReport

#: spread of the default priors: a factor of 2.7 either way around the present value
_SPREAD = 1.0


def learned(gp: MarkovGP) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that a fit may move."""
    return [(name, p) for name, p in gp.named_parameters() if p.requires_grad and p.numel()]


def search(gp: MarkovGP, rows: Sequence[Rows], starts: int, iterations: int, seed: int) -> FitReport:
    """The best of several searches by L-BFGS, in place; all but the first begin at parameters moved at random.

    Raises:
        NumericalError: no start has a likelihood.
    """
    from ..nets.parameters import flatten, unflatten, value_and_slopes
    from .spatial.optimise import maximise

    named = learned(gp)
    parameters = [p for _, p in named]
    numbers, begin = list(range(len(rows))), flatten(parameters)
    best: tuple[FitReport, np.ndarray] | None = None
    for attempt in range(max(starts, 1)):
        moved = torch.randn(len(begin), generator=generator(seed, "gp-start", attempt), dtype=torch.float64).numpy()
        unflatten(begin + moved * (attempt > 0), parameters)
        report = maximise(
            named, lambda: value_and_slopes(gp.loglik_of(rows, numbers).sum(), parameters), iterations=iterations
        )
        usable = math.isfinite(report.objective) and report.objective > -1e9
        if usable and (best is None or report.objective > best[0].objective):
            best = report, flatten(parameters)
    if best is None:
        raise NumericalError("no start has a finite likelihood", fix="start from other parameters")
    unflatten(best[1], parameters)
    return best[0]


def sample(
    gp: MarkovGP, rows: Sequence[Rows], seed: int, priors: Mapping[str, Prior] | None = None, **sampler: Any
) -> FitReport:
    """Sample the hyper-posterior into ``gp.hyper`` and put the parameters at its mean.

    Args:
        priors: by parameter name, as in ``gp.named_parameters()``; others get :func:`default_prior`.
        sampler: options of :func:`sciinfer.gp.bayesian.sample_hyperparameters`.

    Raises:
        ConfigError: a prior for a parameter that is not learned.
    """
    from ..nets.parameters import unflatten
    from .bayesian import sample_hyperparameters
    from .short import short_likelihood
    from .spatial.optimise import FitReport

    named, given, numbers = learned(gp), dict(priors or {}), list(range(len(rows)))
    unknown = sorted(set(given) - {name for name, _ in named})
    if unknown:
        raise ConfigError(
            f"prior for {', '.join(unknown)}, which is not learned", fix=f"one of: {', '.join(n for n, _ in named)}"
        )
    quick = short_likelihood(gp, rows)
    gp.hyper = hyper = sample_hyperparameters(
        quick or (lambda: gp.loglik_of(rows, numbers).sum()),
        [p for _, p in named],
        [given.get(name) or default_prior(name, p) for name, p in named],
        generator=generator(seed, "gp-hyper"),
        **sampler,
    )
    unflatten(hyper.chains.flat.mean(0).numpy(), [p for _, p in named])
    with torch.no_grad():
        value = float(gp.loglik_of(rows, numbers).sum())
    problems, chains = hyper.chains.problems(), hyper.chains
    count = int(chains.draws.shape[0] * chains.draws.shape[1])
    said = "; ".join(problems) or f"{count} draws"
    return FitReport(value, count, chains.evaluations, not problems, said, float("nan"))


def default_prior(name: str, parameter: Tensor) -> Prior:
    """Wide and centred on the present value: log-normal for logarithms, normal for others.

    Example:
        >>> default_prior("log_noise", torch.zeros(1, dtype=torch.float64))
        LogNormal(median=1.0, spread=1.0)
    """
    from .bayesian import LogNormal, Normal

    values = parameter.detach().double()
    centre, between = float(values.mean()), float(values.var(correction=0))
    if name.rsplit(".", 1)[-1].startswith("log_"):
        return LogNormal(math.exp(centre), math.sqrt(_SPREAD**2 + between))
    return Normal(centre, math.sqrt(max(1.0, float(values.square().mean())) + between))
