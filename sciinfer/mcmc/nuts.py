"""The No-U-Turn sampler: chains in step with one another, warmed up in windows, within a time limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..random import numpy_generator
from ..variational.optimise import Clock
from ..variational.target import Evaluator, LogDensity, not_finite
from .mass import DualAveraging, Mass, Metric, Moments, starting_mass, windows
from .result import Draws, Record, collect
from .tree import Point, Tree, first_step, transition

Array = np.ndarray
#: yields a position, receives ``(log p, gradient)``, ends when the chain is long enough
Chain = Generator[Array, tuple[float, Array], None]


@dataclass(frozen=True)
class _Plan:
    draws: int
    warmup: int
    target: float
    depth: int
    mass: Mass


def nuts(
    log_density: LogDensity,
    starts: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 1000,
    warmup: int = 1000,
    metric: Metric = "diagonal",
    covariance: Tensor | None = None,
    target_accept: float = 0.8,
    max_depth: int = 10,
    time_limit: float | None = None,
) -> Draws:
    """Draw from ``exp(log_density)`` by Hamiltonian trajectories that stop when they turn.

    All chains ask for their next gradient together, so a batched log-density is evaluated once for all of them. The
    step size is set by dual averaging, the metric from windows of the warm-up. NaN, or a failed factorisation, far
    out is no density: the transition counts as diverged.

    Args:
        log_density: ``[n, d] -> [n]``, unnormalised, differentiable (see ``one_at_a_time`` for ``[d] -> []``).
        starts: ``[chains, d]``, inside the support, best spread wider than the posterior.
        generator: all randomness; the same seed gives the same bits.
        draws, warmup: per chain.
        metric: ``"diagonal"``, or ``"dense"`` for strongly correlated parameters (up to some hundred).
        covariance: a first guess of the posterior's, ``[d, d]``, for instance Pathfinder's.
        target_accept: mean acceptance to aim at. max_depth: trajectories have at most ``2^max_depth - 1`` steps.
        time_limit: seconds.

    Raises:
        NumericalError: a start is outside the support.
        BudgetError: out of time; ``details["partial"]`` is a :class:`Draws` of what there was, perhaps of length 0.

    References:
        Hoffman, Gelman (2014), The No-U-Turn sampler; Betancourt (2017), A conceptual introduction to Hamiltonian
        Monte Carlo; Carpenter et al. (2017), Stan.

    Example:
        >>> from sciinfer.random import generator
        >>> start = torch.zeros(2, 1, dtype=torch.float64)
        >>> target = lambda z: -0.5 * (z - 5).square().sum(-1)
        >>> found = nuts(target, start, generator=generator(0), draws=200, warmup=200)
        >>> round(found.summary().mean.item()), found.divergences
        (5, 0)
    """
    _check(starts, draws, warmup, target_accept, max_depth)
    guess = None if covariance is None else covariance.detach().cpu().double().numpy()
    plan = _Plan(draws, warmup, target_accept, max_depth, starting_mass(metric, starts.shape[1], guess))
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return _run(starts, plan, seed, Evaluator(log_density, device=starts.device), Clock(time_limit))


def _run(starts: Tensor, plan: _Plan, seed: int, evaluate: Evaluator, clock: Clock) -> Draws:
    points = starts.detach().cpu().double().numpy()
    records = [Record() for _ in points]
    walks = [
        _chain(start, plan, numpy_generator(seed, "nuts", index), records[index]) for index, start in enumerate(points)
    ]

    def found() -> Draws:
        return collect(records, points.shape[1], plan.depth, evaluate.evaluations, clock.elapsed)

    _walk_together(walks, evaluate, lambda: clock.check(found, "the sampler"))
    return found()


def _check(starts: Tensor, draws: int, warmup: int, target: float, depth: int) -> None:
    if starts.dim() != 2 or 0 in starts.shape:
        raise ShapeError(f"starts must be [chains, d], got {tuple(starts.shape)}", fix="start.expand(chains, -1)")
    if draws < 1 or warmup < 0:
        raise ConfigError(f"draws must be at least 1 and warmup at least 0, got {draws}, {warmup}")
    if not (0 < target < 1 and 1 <= depth <= 15):
        raise ConfigError(f"target_accept must be in (0, 1), max_depth in 1..15; got {target}, {depth}")


def _walk_together(walks: list[Chain], evaluate: Evaluator, check: Callable[[], None]) -> None:
    """Answer every chain's next question in one batch until all have ended."""
    asked = {index: next(walk) for index, walk in enumerate(walks)}
    while asked:
        check()
        value, slope = evaluate(np.stack(list(asked.values())))
        answers = list(zip(asked, value, slope, strict=True))
        asked = {}
        for index, v, g in answers:
            try:
                asked[index] = walks[index].send((float(v), g))
            except StopIteration:
                continue


def _chain(start: Array, plan: _Plan, rng: np.random.Generator, record: Record) -> Chain:
    log_p, slope = yield start
    if not math.isfinite(log_p):
        raise not_finite(f"the start {np.array2string(start, precision=4)}")
    point = Point(start, np.zeros_like(start), log_p, slope)
    step = yield from first_step(point, plan.mass, rng, 1.0)
    point, mass, step = yield from _warm_up(point, step, plan, rng, record)
    record.step = step
    for _ in range(plan.draws):
        tree = yield from transition(point, mass, step, plan.depth, rng)
        point = tree.chosen
        energy = mass.kinetic(point.p) - point.log_p
        record.rows.append((point.q, point.log_p, _acceptance(tree), energy, tree.steps, tree.diverged))


def _warm_up(
    point: Point, step: float, plan: _Plan, rng: np.random.Generator, record: Record
) -> Generator[Array, tuple[float, Array], tuple[Point, Mass, float]]:
    """Step size all along; the metric at the end of each window."""
    mass, averaging = plan.mass, DualAveraging(step, plan.target)
    first, ends = windows(plan.warmup)
    moments = Moments(mass)
    for i in range(plan.warmup):
        tree = yield from transition(point, mass, averaging.step, plan.depth, rng)
        point = tree.chosen
        record.warmup_divergences += tree.diverged
        averaging.update(_acceptance(tree))
        if ends and first <= i < ends[-1]:
            moments.add(point.q)
        if i + 1 in ends:
            mass = moments.mass()
            moments = Moments(mass)
            step = yield from first_step(point, mass, rng, averaging.step)
            averaging.restart(step)
    return point, mass, averaging.final()


def _acceptance(tree: Tree) -> float:
    return tree.accept / max(tree.steps, 1)
