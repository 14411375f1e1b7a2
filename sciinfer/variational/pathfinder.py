"""Pathfinder: Gaussians along the way of an optimiser to the mode; the best of them, corrected by weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import NumericalError
from ..random import numpy_generator
from .optimise import Clock
from .psis import psis, reliable
from .target import Evaluator, LogDensity, not_finite, values

Array = np.ndarray
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class PathfinderFit:
    """Draws near the posterior, for their own sake or to start a sampler.

    Args:
        draws: ``[n, d]``, importance-resampled over the paths.
        mean, covariance: of the best path's Gaussian, ``[d]``, ``[d, d]``.
        elbo: of that Gaussian. khat: of the pooled weights. evaluations: values and gradients asked for.
    """

    draws: Tensor
    mean: Tensor
    covariance: Tensor
    elbo: float
    khat: float
    evaluations: int

    @property
    def reliable(self) -> bool:
        """May the draws stand for the posterior; if not, they are still a start."""
        return reliable(self.khat, len(self.draws))


class _Gaussian(NamedTuple):
    mean: Array
    root: Array
    elbo: float

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Points ``[n, d]`` and their log-density ``[n]``."""
        e = rng.normal(size=(n, len(self.mean)))
        log_q = -0.5 * np.square(e).sum(1) - np.log(np.diag(self.root)).sum() - 0.5 * len(self.mean) * _LOG_2PI
        return self.mean + e @ self.root.T, log_q


def pathfinder(
    log_density: LogDensity,
    starts: Tensor,
    *,
    generator: torch.Generator,
    draws: int = 1000,
    history: int = 6,
    steps: int = 200,
    elbo_draws: int = 25,
    time_limit: float | None = None,
) -> PathfinderFit:
    """L-BFGS from each start; at each iterate a Gaussian from the curvature seen so far; the best ELBO of each path.

    The curvature is kept as a ``d x d`` matrix, so this is for up to about a thousand dimensions.

    Args:
        log_density: ``[n, d] -> [n]``. starts: ``[paths, d]``, inside the support.
        generator: all randomness. draws: returned. history: pairs of steps and gradients that make the curvature.
        steps: iterations of the search. elbo_draws: per iterate.
        time_limit: seconds, for all paths.

    Raises:
        NumericalError: no path gave a usable Gaussian.

    References:
        Zhang, Carpenter, Gelman, Vehtari (2022), Pathfinder: parallel quasi-Newton variational inference.

    Example:
        >>> from sciinfer.random import generator
        >>> scale = torch.tensor([1.0, 10.0], dtype=torch.float64)
        >>> target = lambda z: -0.5 * (z / scale).square().sum(-1)
        >>> found = pathfinder(target, torch.full((1, 2), 3.0, dtype=torch.float64), generator=generator(0))
        >>> found.reliable
        True
    """
    rng = numpy_generator(int(torch.randint(2**62, (), generator=generator)), "pathfinder")
    evaluate, clock = Evaluator(log_density, device=starts.device), Clock(time_limit)
    found: list[_Gaussian] = []
    for start in starts.detach().cpu().double().numpy():
        clock.check(lambda: [g.mean for g in found], "pathfinder")
        best = _one_path(evaluate, start, rng, steps, history, elbo_draws, clock)
        if best is not None:
            found.append(best)
    if not found:
        raise NumericalError("no path found a usable Gaussian", code="numerical/pathfinder", fix="start elsewhere")
    return _pool(log_density, evaluate, found, rng, draws, starts)


def _one_path(
    evaluate: Evaluator, start: Array, rng: np.random.Generator, steps: int, history: int, elbo_draws: int, clock: Clock
) -> _Gaussian | None:
    points, slopes = _trajectory(evaluate, start, steps, clock)
    best: _Gaussian | None = None
    diagonal, pairs = np.ones(len(start)), []
    for k in range(1, len(points)):
        s, y = points[k] - points[k - 1], slopes[k] - slopes[k - 1]
        if s @ y > 1e-12 * (y @ y):  # convex along this step
            diagonal = _diagonal(diagonal, s, y)
            pairs = [*pairs, (s, y)][-history:]
        candidate = _candidate(evaluate, points[k], slopes[k], diagonal, pairs, rng, elbo_draws)
        if candidate is not None and (best is None or candidate.elbo > best.elbo):
            best = candidate
    return best


def _trajectory(evaluate: Evaluator, start: Array, steps: int, clock: Clock) -> tuple[list[Array], list[Array]]:
    """Iterates of L-BFGS and the gradients of ``-log p`` there."""
    from scipy.optimize import minimize

    seen: dict[bytes, Array] = {}
    worst = [0.0]

    def objective(x: Array) -> tuple[float, Array]:
        clock.check(lambda: x, "pathfinder")
        value, slope = evaluate(x[None])
        if not math.isfinite(value[0]):
            return worst[0] + 10 * (1 + abs(worst[0])), np.zeros_like(x)
        worst[0] = max(worst[0], -float(value[0]))
        seen[x.tobytes()] = -slope[0]
        return -float(value[0]), -slope[0]

    points, value = [start], evaluate(start[None])
    if not math.isfinite(value[0][0]):
        raise not_finite(f"the start {np.array2string(start, precision=3)}")
    slopes = [-value[1][0]]
    worst[0] = -float(value[0][0])

    def keep(x: Array) -> None:
        if x.tobytes() in seen:
            points.append(x.copy())
            slopes.append(seen[x.tobytes()])

    minimize(objective, start, jac=True, method="L-BFGS-B", callback=keep, options={"maxiter": steps, "maxcor": 10})
    return points, slopes


def _diagonal(old: Array, s: Array, y: Array) -> Array:
    """The diagonal of the inverse curvature after one more pair (Gilbert and Lemaréchal's formula)."""
    a, b, c = y @ (old * y), y @ s, s @ (s / old)
    return 1 / (a / (b * old) + y**2 / b - a * s**2 / (b * c * old**2))


def _candidate(
    evaluate: Evaluator,
    point: Array,
    slope: Array,
    diagonal: Array,
    pairs: list[tuple[Array, Array]],
    rng: np.random.Generator,
    draws: int,
) -> _Gaussian | None:
    """The Gaussian at one iterate, with its ELBO; ``None`` where it is not one."""
    inverse = np.diag(diagonal)
    for s, y in pairs:
        r = 1 / (s @ y)
        left = np.eye(len(s)) - r * np.outer(s, y)
        inverse = left @ inverse @ left.T + r * np.outer(s, s)
    try:
        root = np.linalg.cholesky((inverse + inverse.T) / 2)
    except np.linalg.LinAlgError:
        return None
    q = _Gaussian(point - inverse @ slope, root, -math.inf)
    z, log_q = q.draw(draws, rng)
    elbo = float((evaluate(z)[0] - log_q).mean())
    return q._replace(elbo=elbo) if math.isfinite(elbo) else None


def _pool(
    log_density: LogDensity, evaluate: Evaluator, found: list[_Gaussian], rng: np.random.Generator, n: int, like: Tensor
) -> PathfinderFit:
    """Importance resampling of equally many draws of every path's Gaussian."""
    per_path = max(math.ceil(n / len(found)), 25)
    drawn = [q.draw(per_path, rng) for q in found]
    z, log_q = np.concatenate([d[0] for d in drawn]), np.concatenate([d[1] for d in drawn])
    log_p = values(log_density, torch.as_tensor(z).to(like.device)).cpu().numpy()
    smoothed = psis(log_p - log_q)
    chosen = rng.choice(len(z), size=n, p=smoothed.weights / smoothed.weights.sum())
    best = max(found, key=lambda q: q.elbo)
    return PathfinderFit(
        draws=torch.as_tensor(z[chosen]).to(like.device),
        mean=torch.as_tensor(best.mean),
        covariance=torch.as_tensor(best.root @ best.root.T),
        elbo=best.elbo,
        khat=smoothed.khat,
        evaluations=evaluate.evaluations + len(z),
    )
