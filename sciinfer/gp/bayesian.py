"""Fully Bayesian hyper-parameters: Pathfinder for a start, then NUTS on the collapsed likelihood."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, NumericalError
from ..mcmc import Draws, Summary, nuts, summarise
from ..nets.parameters import flatten, unflatten
from ..variational import pathfinder
from ..variational.target import FAILURES, LogDensity, values

_LOG_2PI = math.log(2 * math.pi)
Parameters = tuple[nn.Parameter, ...]
#: parameters up to which the sampler's metric is a full matrix
_DENSE_METRIC = 50


class Prior(ABC):
    """A density of one parameter as it is stored; positive ones are stored as logarithms."""

    @abstractmethod
    def log_prob(self, raw: Tensor) -> Tensor:
        """Log-density of the stored numbers (with the Jacobian of the logarithm), elementwise."""

    @abstractmethod
    def constrain(self, raw: Tensor) -> Tensor:
        """The quantity itself."""


@dataclass(frozen=True)
class LogNormal(Prior):
    """``log x ~ N(log median, spread^2)`` for a positive ``x``.

    Args:
        median: of ``x``, in its units. spread: standard deviation of ``log x``; 1 is a factor of 2.7 either way.

    Example:
        >>> round(LogNormal(2.0, 1.0).log_prob(torch.tensor(2.0).log()).item(), 4)
        -0.9189
    """

    median: float
    spread: float = 1.0

    def __post_init__(self) -> None:
        _positive(median=self.median, spread=self.spread)

    def log_prob(self, raw: Tensor) -> Tensor:
        """Normal in the logarithm."""
        return -0.5 * ((raw - math.log(self.median)) / self.spread).square() - math.log(self.spread) - 0.5 * _LOG_2PI

    def constrain(self, raw: Tensor) -> Tensor:
        """``exp(raw)``."""
        return raw.exp()


@dataclass(frozen=True)
class HalfNormal(Prior):
    """``x ~ |N(0, scale^2)|`` for a positive ``x``: does not exclude zero.

    Args:
        scale: in the units of ``x``.
    """

    scale: float

    def __post_init__(self) -> None:
        _positive(scale=self.scale)

    def log_prob(self, raw: Tensor) -> Tensor:
        """Half normal in ``x = exp(raw)``, plus ``raw`` for the volume."""
        return -0.5 * (raw.exp() / self.scale).square() - math.log(self.scale) + 0.5 * math.log(2 / math.pi) + raw

    def constrain(self, raw: Tensor) -> Tensor:
        """``exp(raw)``."""
        return raw.exp()


@dataclass(frozen=True)
class Normal(Prior):
    """``x ~ N(mean, sd^2)`` for a parameter that may have either sign."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        _positive(sd=self.sd)

    def log_prob(self, raw: Tensor) -> Tensor:
        """Normal."""
        return -0.5 * ((raw - self.mean) / self.sd).square() - math.log(self.sd) - 0.5 * _LOG_2PI

    def constrain(self, raw: Tensor) -> Tensor:
        """``raw``."""
        return raw


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} of a prior must be a positive number, got {value!r}", fix=f"pass {name}=1.0")


@dataclass(frozen=True)
class HyperPosterior:
    """Draws of the hyper-parameters.

    Args:
        chains: of the stored (raw) numbers, flattened, with all that a sampler reports.
        khat: of Pathfinder, which started it. parameters, priors: what was sampled.
    """

    chains: Draws
    khat: float
    parameters: tuple[nn.Parameter, ...]
    priors: tuple[Prior, ...]

    @property
    def values(self) -> Tensor:
        """The quantities themselves (positive ones are not logarithms), ``[chain, draw, d]``."""
        parts = self.chains.draws.split([p.numel() for p in self.parameters], dim=-1)
        return torch.cat([prior.constrain(part) for prior, part in zip(self.priors, parts, strict=True)], dim=-1)

    def summary(self) -> Summary:
        """Means, standard deviations, errors and R-hat of :attr:`values`."""
        return summarise(self.values)

    @property
    def converged(self) -> bool:
        """Nothing speaks against the chains (see ``chains.problems()``)."""
        return self.chains.converged

    def visit(self, n: int, generator: torch.Generator) -> Iterator[int]:
        """Put ``n`` of the draws into the parameters, one after another; at the end they are as before.

        Example:
            Averages a prediction over the hyper-posterior: ``for _ in posterior.visit(50, g): total += model.mean(x)``.
        """
        flat, before = self.chains.flat, flatten(self.parameters)
        chosen = torch.randint(len(flat), (n,), generator=generator)
        try:
            for i, row in enumerate(chosen.tolist()):
                unflatten(flat[row].numpy(), self.parameters)
                yield i
        finally:
            unflatten(before, self.parameters)


def sample_hyperparameters(
    log_likelihood: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    priors: Sequence[Prior],
    *,
    draws: int = 500,
    chains: int = 4,
    generator: torch.Generator,
    warmup: int = 300,
    paths: int = 2,
    target_accept: float = 0.8,
    time_limit: float | None = None,
) -> HyperPosterior:
    """Draw hyper-parameters from their posterior.

    ``log_likelihood()`` reads ``parameters`` where they are and is called once for each gradient; the parameters are
    moved meanwhile and put back at the end.

    Args:
        log_likelihood: the collapsed log-likelihood, a scalar with gradients; NaN or a numerical error is no density.
        parameters: what to sample; their present values are the first start.
        priors: one for each parameter, of the numbers it stores (:class:`LogNormal`, :class:`HalfNormal`,
            :class:`Normal`). draws, warmup: per chain. paths: starts of Pathfinder, spread by 0.5 around the first.
        time_limit: seconds for the sampler.

    Raises:
        ConfigError: not one prior for each parameter.
        BudgetError: out of time; ``details["partial"]`` holds the chains so far.

    References:
        Lalchand, Rasmussen (2020), Approximate inference for fully Bayesian Gaussian process regression;
        Zhang et al. (2022), Pathfinder.

    Example:
        >>> from sciinfer.random import generator
        >>> p = nn.Parameter(torch.zeros((), dtype=torch.float64))
        >>> found = sample_hyperparameters(lambda: p * 0, [p], [LogNormal(1.0, 0.5)], draws=100, generator=generator(0))
        >>> found.values.shape, bool((found.values > 0).all()), p.item()
        (torch.Size([4, 100, 1]), True, 0.0)
    """
    parameters, priors = tuple(parameters), tuple(priors)
    if not parameters or len(parameters) != len(priors):
        raise ConfigError(f"{len(parameters)} parameters need as many priors, got {len(priors)}")
    before = flatten(parameters)
    density = _density(log_likelihood, parameters, priors)
    sampler = {"draws": draws, "warmup": warmup, "target_accept": target_accept, "time_limit": time_limit}
    try:
        found = pathfinder(
            density, _starts(density, before, paths, generator), generator=generator, draws=200, elbo_draws=10
        )
        metric = "dense" if len(before) <= _DENSE_METRIC else "diagonal"
        starts, covariance = found.draws[:chains], found.covariance
        drawn = nuts(density, starts, generator=generator, metric=metric, covariance=covariance, **sampler)
    finally:
        unflatten(before, parameters)
    return HyperPosterior(drawn, found.khat, parameters, priors)


def default_priors(model: nn.Module) -> list[Prior]:
    """Weak priors around where the parameters are: a factor of about 2.7 either way, or one standard deviation of 1.

    Parameters whose last name starts with ``log_`` are logarithms of positive quantities.
    """
    found: list[Prior] = []
    for name, parameter in _trainable(model):
        centre = float(parameter.detach().mean())
        logarithm = name.rpartition(".")[2].startswith("log_")
        found.append(LogNormal(math.exp(centre), 1.0) if logarithm else Normal(centre, max(1.0, abs(centre))))
    return found


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _starts(density: LogDensity, centre: np.ndarray, paths: int, generator: torch.Generator) -> Tensor:
    """The present values, and points around them where there is density."""
    spread = 0.5 * torch.randn(max(paths, 1) - 1, len(centre), generator=generator, dtype=torch.float64)
    starts = torch.as_tensor(centre) + torch.cat([torch.zeros(1, len(centre), dtype=torch.float64), spread])
    usable = values(density, starts).isfinite()
    if not bool(usable.any()):
        raise NumericalError("the likelihood is not finite near the present values", fix="set other starting values")
    return starts[usable]


def _density(
    log_likelihood: Callable[[], Tensor], parameters: tuple[nn.Parameter, ...], priors: tuple[Prior, ...]
) -> LogDensity:
    """Likelihood times prior of flat vectors, one row after another."""

    def value() -> Tensor:
        prior = sum((q.log_prob(p).sum() for q, p in zip(priors, parameters, strict=True)), torch.zeros(()))
        return log_likelihood().sum() + prior

    def rows(z: Tensor) -> Tensor:
        return _InPlace.apply(z, value, parameters)

    return rows


class _InPlace(torch.autograd.Function):
    """Values at rows that are written into the parameters; the gradient is taken along, so no graph outlives a row."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Callable[[], Tensor], parameters: tuple[nn.Parameter, ...]) -> Tensor:
        found, slopes = [], []
        for row in z.detach().cpu().double().numpy():
            unflatten(row, parameters)
            number, slope = _one(value, parameters, wanted=ctx.needs_input_grad[0])
            found.append(number)
            slopes.append(slope)
        ctx.save_for_backward(torch.stack(slopes).to(z))
        return z.new_tensor(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return grads[0][:, None] * slopes, None, None


def _one(value: Callable[[], Tensor], parameters: Parameters, *, wanted: bool) -> tuple[float, Tensor]:
    nothing = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    try:
        with torch.set_grad_enabled(wanted):
            number = value()
        if not wanted or not bool(number.isfinite()):
            return float(number), nothing
        slopes = torch.autograd.grad(number, parameters, allow_unused=True)
    except FAILURES:
        return -math.inf, nothing
    flat = [torch.zeros_like(p) if s is None else s for p, s in zip(parameters, slopes, strict=True)]
    return float(number.detach()), torch.as_tensor(flatten(flat))
