"""Walk a plan of steps again with a graph: exact gradients of the discrete solution, stored or recomputed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dense import fraction, interpolate
from .equation import Equation
from .plan import StepPlan
from .stages import combine, stages
from .tableau import Weights


class Replayed(NamedTuple):
    """``outputs [S, T, d]``; ``error [S]`` sum of E h; ``local [S]`` E of the step that holds the probe; ``states
    [S, K, d]`` and ``moves [s, S, K, d]`` of all steps, where they were to be kept."""

    outputs: Tensor
    error: Tensor
    local: Tensor
    states: Tensor | None
    moves: Tensor | None


class _Picks(NamedTuple):
    """Outputs sorted by the step that makes them: series and column, and where each step's part begins."""

    series: Tensor
    column: Tensor
    bounds: list[int]

    @classmethod
    def of(cls, plan: StepPlan, times: Tensor) -> _Picks:
        step = plan.place(times).reshape(-1)
        order = torch.argsort(step, stable=True)
        counts = torch.bincount(step, minlength=plan.t.shape[1])
        bounds = [0, *counts.cumsum(0).tolist()]
        return cls(order // times.shape[1], order % times.shape[1], bounds)


class _Walk(NamedTuple):
    """All that does not change from step to step."""

    equation: Equation
    plan: StepPlan
    weights: Weights
    times: Tensor
    picks: _Picks
    probe: Tensor | None
    keep: bool


def replay(
    equation: Equation,
    z0: Tensor,
    plan: StepPlan,
    times: Tensor,
    weights: Weights,
    *,
    probe: Tensor | None = None,
    segment: int | None = None,
    keep: bool = False,
    known: Sequence[Tensor] = (),
) -> Replayed:
    """The solution at ``times [S, T]`` (inside the plan) from ``z0 [S, d]``; differentiable, also in ``times``.

    Args:
        probe: ``[S]``, a time of each series, for ``local``.
        segment: steps that are recomputed together in the backward pass (None: all are stored). Memory is least
            with the square root of their number.
        keep: also return states and moves of all steps.
        known: what the drift depends on (only for segments; otherwise the graph knows).
    """
    where = None if probe is None else plan.place(probe[:, None])[:, 0]
    walk = _Walk(equation, plan, weights, times, _Picks.of(plan, times), where, keep)
    length = plan.t.shape[1]
    z, slope = z0, equation.at()(plan.t[:, 0], z0)
    parts: list[tuple[Tensor, ...]] = []
    size = max(length, 1) if segment is None else segment
    wanted = (*known, times) if times.requires_grad else tuple(known)
    for first in range(0, length, size):
        last = min(first + size, length)
        if segment is None or not torch.is_grad_enabled():
            z, slope, *rest = _walk(walk, z, slope, first, last)
        else:
            z, slope, *rest = _Segment.apply(walk, first, last, z, slope, *wanted)  # pyright: ignore[reportGeneralTypeIssues]
        parts.append(tuple(rest))
    return _joined(walk, z0, parts)


def default_segment(plan: StepPlan) -> int:
    """The square root of the number of steps."""
    return max(1, math.isqrt(plan.t.shape[1]))


def _walk(walk: _Walk, z: Tensor, slope: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Steps ``first .. last``: state, slope, outputs, error, local error, and all states and moves if kept."""
    outputs, states, moves = [], [], []
    error, local = torch.zeros_like(z[:, 0]), torch.zeros_like(z[:, 0])
    for k in range(first, last):
        rows = _under_way(walk, k)
        t, h = walk.plan.t[:, k], walk.plan.h[:, k]
        here = (t, h, z, slope) if rows is None else (t[rows], h[rows], z[rows], slope[rows])
        taken = stages(walk.equation.at(rows), here[0], here[2], here[1], here[3], walk.weights)
        size = _size(combine(walk.weights.error, taken.moves))
        full, new, after = taken.moves, taken.state, taken.slope
        if rows is not None:
            full = slope.new_zeros(len(full), *z.shape).index_copy(1, rows, full)
            new, after = z.index_copy(0, rows, new), slope.index_copy(0, rows, after)
            size = torch.zeros_like(error).index_copy(0, rows, size)
        error = error + size * h
        if walk.probe is not None:
            local = local + size * (walk.probe == k)
        outputs.append(_outputs(walk, k, z, full))
        if walk.keep:
            states.append(z)
            moves.append(full)
        moved = h > 0
        # a series that has arrived stays where it is, whatever its drift says there
        z = torch.where(moved[:, None], new, z)
        slope = torch.where(moved[:, None], after, slope)
    kept = (torch.stack(states, 1), torch.stack(moves, 2)) if walk.keep else ()
    return z, slope, torch.cat(outputs), error, local, *kept


class _Segment(torch.autograd.Function):
    """Steps that are forgotten and walked again in the backward pass. (The checkpoints of torch load its compiler, and
    allow no reverse passes inside, which the implicit methods need.)"""

    @staticmethod
    def forward(ctx: Any, walk: _Walk, first: int, last: int, z: Tensor, slope: Tensor, *wanted: Tensor) -> Any:
        """The parts of :func:`_walk`."""
        ctx.span = (walk, first, last)
        ctx.save_for_backward(z, slope, *wanted)
        return _walk(walk, z, slope, first, last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of state, slope and parameters."""
        z, slope, *wanted = ctx.saved_tensors
        with torch.enable_grad():
            given = (z.detach().requires_grad_(), slope.detach().requires_grad_())
            walk, first, last = ctx.span
            made = _walk(walk, *given, first, last)
        pairs = [(part, grad) for part, grad in zip(made, grads, strict=True) if part.requires_grad]
        outputs, slopes = zip(*pairs, strict=True)
        found = torch.autograd.grad(outputs, (*given, *wanted), slopes, allow_unused=True)
        return None, None, None, *found


def _under_way(walk: _Walk, k: int) -> Tensor | None:
    live = walk.plan.h[:, k] > 0
    if not walk.equation.compact or bool(live.all()):
        return None
    return live.nonzero()[:, 0]


def _outputs(walk: _Walk, k: int, z: Tensor, moves: Tensor) -> Tensor:
    part = slice(walk.picks.bounds[k], walk.picks.bounds[k + 1])
    series, column = walk.picks.series[part], walk.picks.column[part]
    t, h = walk.plan.t[series, k], walk.plan.h[series, k]
    theta = fraction(walk.times[series, column], t, h)
    return interpolate(walk.weights.dense, theta, z[series], moves[:, series])


def _size(error: Tensor) -> Tensor:
    # the least positive number, not zero, where the root has no gradient
    return (error.square().mean(1) + torch.finfo(error.dtype).tiny).sqrt()


def _joined(walk: _Walk, z0: Tensor, parts: list[tuple[Tensor, ...]]) -> Replayed:
    S, T = walk.times.shape
    flat = torch.cat([part[0] for part in parts])
    place = walk.picks.series * T + walk.picks.column
    outputs = torch.zeros(S * T, z0.shape[1], dtype=z0.dtype, device=z0.device).index_copy(0, place, flat)
    error = torch.stack([part[1] for part in parts]).sum(0)
    local = torch.stack([part[2] for part in parts]).sum(0)
    states = torch.cat([part[3] for part in parts], 1) if walk.keep else None
    moves = torch.cat([part[4] for part in parts], 2) if walk.keep else None
    return Replayed(outputs.reshape(S, T, z0.shape[1]), error, local, states, moves)
