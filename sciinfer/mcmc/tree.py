"""One No-U-Turn transition: a doubling tree of leapfrog steps, its next state drawn by its weight.

Every function that needs the log-density is a coroutine: it yields a point and is sent the value and the gradient.
So many chains are walked in step, with one batched evaluation for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from .mass import Mass

Array = np.ndarray
#: an error of the energy beyond this is a divergence
DIVERGENT = 1000.0


class Point(NamedTuple):
    """Position, momentum, log-density and its gradient."""

    q: Array
    p: Array
    log_p: float
    slope: Array


class Tree(NamedTuple):
    """A stretch of a trajectory: its ends, the state drawn from it, and its sums."""

    left: Point
    right: Point
    chosen: Point
    log_weight: float
    momenta: Array
    accept: float
    steps: int
    turned: bool
    diverged: bool

    @property
    def stopped(self) -> bool:
        """Nothing may be added to it."""
        return self.turned or self.diverged


#: yields a position, receives ``(log p, gradient)``
Ask = Generator[Array, tuple[float, Array], Tree]


class Walk(NamedTuple):
    """What does not change within one transition."""

    mass: Mass
    step: float
    energy: float
    rng: np.random.Generator


def transition(start: Point, mass: Mass, step: float, depth: int, rng: np.random.Generator) -> Ask:
    """Grow the tree, at most ``2^depth - 1`` steps, to the left or the right by a coin, until it turns.

    References:
        Hoffman, Gelman (2014), The No-U-Turn sampler; Betancourt (2017), A conceptual introduction to Hamiltonian
        Monte Carlo (multinomial weights, biased progressive choice, the criterion by summed momenta).
    """
    start = start._replace(p=mass.draw(rng))
    walk = Walk(mass, step, mass.kinetic(start.p) - start.log_p, rng)
    tree = Tree(start, start, start, 0.0, start.p, 0.0, 0, False, False)
    for level in range(depth):
        forward = rng.random() < 0.5
        new = yield from _grow(tree.right if forward else tree.left, level, 1 if forward else -1, walk)
        tree = _extend(tree, new, forward, walk)
        if tree.stopped:
            break
    return tree


def _extend(tree: Tree, new: Tree, forward: bool, walk: Walk) -> Tree:
    """Add a new half; its state replaces the chosen one with probability ``min(1, w_new / w_old)``."""
    if new.stopped:
        return tree._replace(
            accept=tree.accept + new.accept, steps=tree.steps + new.steps, turned=new.turned, diverged=new.diverged
        )
    take = math.log(1 - walk.rng.random()) < new.log_weight - tree.log_weight
    return _joined(tree, new, forward, new.chosen if take else tree.chosen, walk.mass)


def _joined(tree: Tree, new: Tree, forward: bool, chosen: Point, mass: Mass) -> Tree:
    first, second = (tree, new) if forward else (new, tree)
    momenta = first.momenta + second.momenta
    turned = (
        _turns(momenta, first.left.p, second.right.p, mass)
        # across the seam: a trajectory can turn between its halves without either of them showing it
        or _turns(first.momenta + second.left.p, first.left.p, second.left.p, mass)
        or _turns(first.right.p + second.momenta, first.right.p, second.right.p, mass)
    )
    return Tree(
        left=first.left,
        right=second.right,
        chosen=chosen,
        log_weight=float(np.logaddexp(first.log_weight, second.log_weight)),
        momenta=momenta,
        accept=tree.accept + new.accept,
        steps=tree.steps + new.steps,
        turned=turned or tree.turned or new.turned,
        diverged=tree.diverged or new.diverged,
    )


def _turns(momenta: Array, first: Array, last: Array, mass: Mass) -> bool:
    """Does either end move against the summed momenta."""
    along = mass.velocity(momenta)
    return float(first @ along) <= 0 or float(last @ along) <= 0


def _grow(edge: Point, level: int, direction: int, walk: Walk) -> Ask:
    """A subtree of ``2^level`` steps beyond ``edge``."""
    if level == 0:
        return (yield from _leaf(edge, direction, walk))
    near = yield from _grow(edge, level - 1, direction, walk)
    if near.stopped:
        return near
    forward = direction > 0
    far = yield from _grow(near.right if forward else near.left, level - 1, direction, walk)
    if far.stopped:
        return near._replace(
            accept=near.accept + far.accept, steps=near.steps + far.steps, turned=far.turned, diverged=far.diverged
        )
    total = np.logaddexp(near.log_weight, far.log_weight)
    take = math.log(1 - walk.rng.random()) < far.log_weight - total
    return _joined(near, far, forward, far.chosen if take else near.chosen, walk.mass)


def _leaf(edge: Point, direction: int, walk: Walk) -> Ask:
    point = yield from leapfrog(edge, direction * walk.step, walk.mass)
    change = walk.energy - (walk.mass.kinetic(point.p) - point.log_p)
    if not math.isfinite(change):
        change = -math.inf
    return Tree(
        left=point,
        right=point,
        chosen=point,
        log_weight=change,
        momenta=point.p,
        accept=min(1.0, math.exp(min(change, 0.0))),
        steps=1,
        turned=False,
        diverged=change < -DIVERGENT,
    )


def leapfrog(point: Point, step: float, mass: Mass) -> Generator[Array, tuple[float, Array], Point]:
    """Half a kick, a drift, half a kick."""
    with np.errstate(over="ignore", invalid="ignore"):
        p = point.p + 0.5 * step * point.slope
        q = point.q + step * mass.velocity(p)
        if not np.isfinite(q).all():
            return Point(point.q, p, -math.inf, point.slope)
        log_p, slope = yield q
        return Point(q, p + 0.5 * step * slope, log_p, slope)


def first_step(
    start: Point, mass: Mass, rng: np.random.Generator, guess: float
) -> Generator[Array, tuple[float, Array], float]:
    """A step whose acceptance crosses 0.8, by doubling or halving; at most 60 times."""
    step, direction = guess, 0
    for _ in range(60):
        trial = start._replace(p=mass.draw(rng))
        end = yield from leapfrog(trial, step, mass)
        change = mass.kinetic(trial.p) - trial.log_p - (mass.kinetic(end.p) - end.log_p)
        good = math.isfinite(change) and change > math.log(0.8)
        if direction == 0:
            direction = 1 if good else -1
        if good != (direction > 0):
            break
        step *= 2.0**direction
    return step
