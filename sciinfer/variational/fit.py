"""Fit a family to a log-density, and say by k-hat whether the answer is to be believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .family import Family
from .objectives import OBJECTIVES, Objective
from .optimise import Clock, Search, minimise_adam, minimise_lbfgs
from .psis import psis, reliable
from .target import LogDensity, checked, values

Optimiser = Literal["auto", "lbfgs", "adam"]
#: objectives whose value and gradient belong together, so that a line search may use them
_CONSISTENT = ("elbo", "iwae", "chi2")
#: iterations between two changes of units
_ROUND = 40


@dataclass(frozen=True)
class VariationalFit:
    """A fitted family with the evidence for and against it.

    Args:
        family: the fitted ``q``.
        elbo, elbo_error: on fresh draws, with its standard error.
        khat: Pareto shape of the weights ``p / q``; above 0.7 neither ``q`` nor the weights are to be believed.
        points, log_weights: the fresh draws ``[S, d]`` and their smoothed normalised log-weights ``[S]``.
        search: how the optimisation went. evaluations: points at which the log-density was asked for.
    """

    family: Family
    elbo: float
    elbo_error: float
    khat: float
    points: Tensor
    log_weights: Tensor
    search: Search
    evaluations: int
    seconds: float

    @property
    def converged(self) -> bool:
        """Has the search settled, *and* is k-hat below ``min(1 - 1/log10(S), 0.7)``."""
        return self.search.settled and reliable(self.khat, len(self.points))

    @property
    def label(self) -> str:
        """``"converged"``, or why it may not be called that."""
        if self.converged:
            return "converged"
        if not reliable(self.khat, len(self.points)):
            return f"not converged: k-hat {self.khat:.2f} is above {min(1 - 1 / math.log10(len(self.points)), 0.7):.2f}"
        return f"not converged: {self.search.message}"

    @property
    def ess(self) -> float:
        """Draws that the weighted draws are worth."""
        return float(1 / (2 * self.log_weights).exp().sum())

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of ``q``, ``[n, d]``."""
        return self.family.sample(n, generator)

    def resample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of the smoothed weighted points, with replacement, ``[n, d]``: corrected towards the posterior."""
        chosen = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        return self.points[chosen]

    def expect(self, function: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Weighted mean of ``function(points)`` (of the points without one) and its Monte Carlo standard error."""
        f = self.points if function is None else function(self.points)
        w = self.log_weights.exp().reshape(-1, *[1] * (f.dim() - 1))
        mean = (w * f).sum(0)
        return mean, (w.square() * (f - mean).square()).sum(0).sqrt()


def fit_variational(
    log_density: LogDensity,
    family: Family,
    *,
    generator: torch.Generator,
    objective: str | Objective = "elbo",
    optimiser: Optimiser = "auto",
    draws: int = 256,
    steps: int = 1000,
    rate: float = 0.02,
    check_draws: int = 4000,
    time_limit: float | None = None,
) -> VariationalFit:
    """Fit ``family`` to ``log_density``, in place.

    ``lbfgs`` fixes the noise once (scrambled Sobol points whose mean and covariance are made exactly 0 and 1, so that
    a Gaussian posterior is found exactly) and searches a deterministic function; ``adam`` draws fresh noise each
    step. ``auto`` takes the former where one value and gradient exist for it and the fixed noise is plenty.

    Args:
        log_density: ``[n, d] -> [n]``, unnormalised, differentiable; NaN counts as no density.
        family: the start, and the place of the answer.
        generator: all randomness.
        objective: ``"elbo"``, ``"landing"``, ``"iwae"``, ``"dreg"``, ``"forward-kl"``, ``"chi2"``, or a function.
        draws: noise per step. steps, rate: of the search. check_draws: fresh draws for the ELBO and k-hat.
        time_limit: seconds; then :class:`BudgetError` with the family so far as ``details["partial"]``.

    References:
        Giordano, Ingram, Broderick (2024), Black box variational inference with a deterministic objective;
        Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work?

    Example:
        >>> from sciinfer.random import generator
        >>> from sciinfer.variational import MeanField
        >>> fit = fit_variational(lambda z: -0.5 * (z - 3).square().sum(-1), MeanField(1), generator=generator(0))
        >>> fit.label, round(fit.family.mean.item(), 6)
        ('converged', 3.0)
    """
    loss_of = _objective(objective)
    clock, counted = Clock(time_limit), _Counter(log_density)
    parameters = [p for p in family.parameters() if p.requires_grad]

    def check() -> None:
        clock.check(lambda: family, "the variational fit")

    if _pick(optimiser, objective, family, draws) == "lbfgs":
        noise = fixed_noise(draws, family.noise_size, generator)
        search = _in_rounds(lambda: loss_of(counted, family, noise), family, parameters, steps, check)
    else:
        search = minimise_adam(
            lambda: loss_of(counted, family, family.noise(draws, generator)),
            parameters,
            steps=steps,
            rate=rate,
            check=check,
        )
    return _judge(counted, family, search, check_draws, generator, clock)


def _in_rounds(
    loss: Callable[[], Tensor], family: Family, parameters: list[nn.Parameter], steps: int, check: Callable[[], None]
) -> Search:
    """Rounds of the search, each in the units that the one before has found, until a round gains nothing."""
    losses: tuple[float, ...] = ()
    while True:
        search = minimise_lbfgs(loss, parameters, steps=min(_ROUND, steps), check=check)
        family.rebase()
        steps -= _ROUND
        gain = search.losses[0] - min(search.losses)
        losses += search.losses
        if search.settled and gain < 1e-6 * (1 + abs(search.losses[0])) ** 0.5:
            return search._replace(losses=losses)
        if steps <= 0:
            return Search(False, f"still gaining {gain:.3g} a round", losses)


def _objective(objective: str | Objective) -> Objective:
    if not isinstance(objective, str):
        return objective
    if objective not in OBJECTIVES:
        raise ConfigError(f"there is no objective {objective!r}", fix=f"one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[objective]


def _pick(optimiser: str, objective: str | Objective, family: Family, draws: int) -> str:
    if optimiser not in ("auto", "lbfgs", "adam"):
        raise ConfigError(f"there is no optimiser {optimiser!r}", fix="one of auto, lbfgs, adam")
    consistent = objective in _CONSISTENT
    if optimiser == "lbfgs" and isinstance(objective, str) and not consistent:
        raise ConfigError(f"a line search cannot follow the surrogate {objective!r}", fix="use optimiser='adam'")
    if optimiser != "auto":
        return optimiser
    size = sum(p.numel() for p in family.parameters())
    return "lbfgs" if consistent and draws >= 8 * family.noise_size and size <= 4 * draws else "adam"


def fixed_noise(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Quasi-random standard normal ``[n, size]`` with mean exactly zero and (for ``n > 2 size``) covariance one."""
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    u = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    noise = torch.special.ndtri(u.clamp(1e-10, 1 - 1e-10))
    noise = noise - noise.mean(0)
    if n <= 2 * size:
        return noise
    root = torch.linalg.cholesky(noise.mT @ noise / n)
    return torch.linalg.solve_triangular(root, noise.mT, upper=False).mT.contiguous()


class _Counter:
    def __init__(self, log_density: LogDensity) -> None:
        self._log_density, self.evaluations = log_density, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.evaluations += len(z)
        return checked(self._log_density(z), len(z))


def _judge(
    counted: _Counter, family: Family, search: Search, draws: int, generator: torch.Generator, clock: Clock
) -> VariationalFit:
    """Fresh draws: the ELBO, its error, and k-hat."""
    with torch.no_grad():
        z, log_q = family.transport(family.noise(draws, generator))
    log_w = (values(counted, z) - log_q).cpu().numpy().astype(float)
    smoothed = psis(log_w)
    finite = bool(np.isfinite(log_w).all())
    return VariationalFit(
        family=family,
        elbo=float(log_w.mean()) if finite else -math.inf,
        elbo_error=float(log_w.std(ddof=1) / math.sqrt(draws)) if finite else math.nan,
        khat=smoothed.khat,
        points=z,
        log_weights=torch.as_tensor(smoothed.log_weights),
        search=search,
        evaluations=counted.evaluations,
        seconds=clock.elapsed,
    )
