"""The search for steps: an embedded Runge-Kutta method in which every series has its own time, step and verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetError, NumericalError
from .dense import fraction, interpolate
from .equation import Equation
from .events import crossing
from .plan import StepPlan, pack
from .stages import Stages, combine, stages
from .suspect import suspect
from .tableau import Weights

#: of the next step to the last one
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0
#: share of the previous error in the next step (proportional-integral control)
_MEMORY = 0.04
#: series still under way, as a share of those carried along, below which the others are dropped
_CROWDED = 0.75


class Control(NamedTuple):
    """Tolerances, and what to do when they cannot be met."""

    rtol: float
    atol: float
    max_steps: int
    check: bool = True
    event: Callable[..., Tensor] | None = None


class Found(NamedTuple):
    """``outputs [S, T, d]``; ``plan``: the accepted steps, or None; counts ``[S]``; ``reached``: ends of the series,
    ``event_time [S]`` (infinite: none) in upward time."""

    outputs: Tensor
    plan: StepPlan | None
    evaluations: Tensor
    tries: Tensor
    rejected: Tensor
    reached: Tensor
    event_time: Tensor
    last: Tensor


@dataclass(slots=True)
class _Front:
    """The series under way: all fields are ``[A]`` or ``[A, d]``."""

    rows: Tensor
    t: Tensor
    z: Tensor
    slope: Tensor
    h: Tensor
    before: Tensor
    end: Tensor
    next: Tensor
    due: Tensor
    tries: Tensor
    cost: Tensor
    refused: Tensor
    least: Tensor

    def keep(self, live: Tensor) -> None:
        """Only these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[live])


class Search:
    """One integration from ``z0 [S, d]`` through ``times [S, T]`` (ascending); ``record``: keep the plan.

    Series are taken step by step together, but time, step size and acceptance are each series' own: what happens to
    one has no influence on the others.
    """

    def __init__(
        self, equation: Equation, z0: Tensor, times: Tensor, weights: Weights, control: Control, record: bool
    ) -> None:
        self.equation, self.weights, self.control, self.record = equation, weights, control, record
        self.times = times
        self.later = torch.cat([times, torch.full_like(times[:, :1], torch.inf)], 1)
        zero = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
        self.evaluations, self.tries, self.rejected = zero.clone(), zero.clone(), zero.clone()
        started = (times <= times[:, :1])[..., None]
        self.outputs = torch.where(started, z0[:, None], torch.full_like(z0[:, None], torch.nan))
        self.reached, self.last, self.event_time = (
            times[:, 0].clone(),
            z0.clone(),
            torch.full_like(times[:, 0], torch.inf),
        )
        self.steps: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        self.front = self._start(z0)

    def run(self) -> Found:
        """All series to their ends, or to the error that stops them."""
        for count in range(self.control.max_steps + 1):
            left = self.front.end - self.front.t
            live = left > 0
            alive = int(live.sum())
            if not alive:
                break
            if self.equation.compact and alive <= _CROWDED * len(live):
                self._settle()
                self.front.keep(live)
                left, live = left[live], live[live]
            if count == self.control.max_steps:
                self._out_of_budget(live)
            self._advance(left, live, alive == len(live))
        self._settle()
        plan = pack(*self.steps, self.reached) if self.steps[0] else None
        if plan is None and self.record:
            plan = StepPlan(self.reached[:, None], torch.zeros_like(self.reached)[:, None], self.tries * 0)
        return Found(
            self.outputs, plan, self.evaluations, self.tries, self.rejected, self.reached, self.event_time, self.last
        )

    def _start(self, z0: Tensor) -> _Front:
        start, end = self.times[:, 0], self.times[:, -1]
        rows = torch.arange(len(z0), device=z0.device)
        field = self.equation.at()
        slope = field(start, z0)
        moving = end > start
        h = first_step(field, start, z0, slope, self._allowed(z0, z0), self.weights.order, end - start)
        bad = moving & ~(torch.isfinite(slope).all(1) & (h > 0))
        place = torch.searchsorted(self.times, start[:, None].contiguous(), right=True)
        due = self.later.gather(1, place)[:, 0]
        before, cost, none = torch.full_like(h, 1e-4), (2 * moving).to(h), torch.zeros_like(rows)
        least = 4e-6 * torch.finfo(h.dtype).eps * (end - start)
        front = _Front(
            rows, start, z0, slope, h, before, end.clone(), place[:, 0], due, none, cost, none.clone(), least
        )
        if bool(bad.any()):
            self.front = front
            self._stuck(bad, torch.zeros_like(h))
        return front

    def _allowed(self, z: Tensor, after: Tensor) -> Tensor:
        return torch.maximum(z.abs(), after.abs()).mul_(self.control.rtol).add_(self.control.atol)

    def _advance(self, left: Tensor, live: Tensor, everyone: bool) -> None:
        now, weights = self.front, self.weights
        h = torch.minimum(now.h, left)
        allowed = self._allowed(now.z, now.z) if weights.gamma else None
        taken = stages(self.equation.at(now.rows), now.t, now.z, h, now.slope, weights, allowed)
        ratio = _norm(combine(weights.error, taken.moves) / self._allowed(now.z, taken.state))
        good = ratio <= 1.0
        if taken.solved is not None:
            good, ratio = good & taken.solved, torch.where(taken.solved, ratio, torch.full_like(ratio, 1e9))
        now.tries += live
        if isinstance(taken.cost, Tensor):
            now.cost += taken.cost * live
        fine = bool(good.all())
        self._resize(h, ratio, good, live, fine)
        commit, whole = good if everyone else good & live, everyone and fine
        arrived = torch.where(h >= left, now.end, now.t + h)
        self._commit(taken, h, arrived if whole else torch.where(commit, arrived, now.t), commit, whole)

    def _resize(self, h: Tensor, ratio: Tensor, good: Tensor, live: Tensor, fine: bool) -> None:
        """``h <- h clamp(0.9 ratio^(-1/p + 0.75 b) before^b)``, never longer after a refusal."""
        now, power = self.front, 1.0 / self.weights.order
        ratio = ratio.clamp(min=1e-4) if fine else ratio.nan_to_num(nan=1e9, posinf=1e9).clamp(min=1e-4)
        factor = ratio ** (0.75 * _MEMORY - power) * now.before**_MEMORY
        factor = factor.mul_(_SAFETY).clamp_(_LEAST, _MOST)
        if fine:
            now.h, now.before = h * factor, ratio
            return
        now.h = h * torch.where(good, factor, factor.clamp(max=_SAFETY))
        now.before = torch.where(good, ratio, now.before)
        now.refused += ~good & live
        least = torch.maximum(now.t.abs() * (4 * torch.finfo(h.dtype).eps), now.least)
        stuck = live & ~(good | (now.h > least))
        if bool(stuck.any()):
            self._stuck(stuck, h)

    def _commit(self, taken: Stages, h: Tensor, arrived: Tensor, commit: Tensor, whole: bool) -> None:
        now = self.front
        state, end = taken.state, now.end
        if self.record:
            chosen = (now.rows, now.t, h) if whole else (now.rows[commit], now.t[commit], h[commit])
            for store, part in zip(self.steps, chosen, strict=True):
                store.append(part)
        if self.control.event is not None:
            state, arrived = self._look_for_event(taken, h, arrived, commit)
        hit = commit & (arrived >= now.due)
        if bool(hit.any()):
            self._write(hit.nonzero()[:, 0], arrived, h, taken.moves)
        if whole:
            now.t, now.z, now.slope = arrived, state, taken.slope
        else:
            now.t = arrived
            now.z = torch.where(commit[:, None], state, now.z)
            now.slope = torch.where(commit[:, None], taken.slope, now.slope)
        if self.control.event is not None:
            now.end = torch.where(torch.isfinite(self.event_time[now.rows]), now.t, end)

    def _look_for_event(self, taken: Stages, h: Tensor, arrived: Tensor, commit: Tensor) -> tuple[Tensor, Tensor]:
        now, dense = self.front, self.weights.dense
        if self.control.event is None:
            return taken.state, arrived
        event = self.equation.event_at(self.control.event, now.rows)
        theta = crossing(event, dense, now.t, now.z, h, taken.moves)
        theta = torch.where(commit, theta, torch.full_like(theta, torch.inf))
        some = torch.isfinite(theta)
        if not bool(some.any()):
            return taken.state, arrived
        part = theta.clamp(max=1.0)
        self.event_time[now.rows[some]] = (now.t + part * h)[some]
        there = interpolate(dense, part, now.z, taken.moves)
        return torch.where(some[:, None], there, taken.state), torch.where(some, now.t + part * h, arrived)

    def _write(self, picked: Tensor, arrived: Tensor, h: Tensor, moves: Tensor) -> None:
        """The outputs that lie in the step just taken by the series ``picked``."""
        now = self.front
        rows, first = now.rows[picked], now.next[picked]
        upto = torch.searchsorted(self.times[rows], arrived[picked, None], right=True)[:, 0]
        counts = upto - first
        series = torch.repeat_interleave(picked, counts)
        inside = torch.arange(len(series), device=series.device)
        column = inside + torch.repeat_interleave(first - (counts.cumsum(0) - counts), counts)
        at = now.rows[series]
        theta = fraction(self.times[at, column], now.t[series], h[series])
        self.outputs[at, column] = interpolate(self.weights.dense, theta, now.z[series], moves[:, series])
        now.next[picked], now.due[picked] = upto, self.later[rows, upto]

    def _settle(self) -> None:
        now = self.front
        self.reached[now.rows], self.last[now.rows], self.tries[now.rows] = now.t, now.z, now.tries
        # an explicit method costs the same at every try
        each = 0 if self.weights.gamma else len(self.weights.a) - 1
        self.evaluations[now.rows] = now.cost.to(torch.int64) + each * now.tries
        self.rejected[now.rows] = now.refused
        ended = torch.isfinite(self.event_time[now.rows])
        if bool(ended.any()):
            rows = now.rows[ended]
            after = self.times[rows] > self.event_time[rows, None]
            self.outputs[rows] = torch.where(after[..., None], now.z[ended][:, None], self.outputs[rows])

    def _stuck(self, stuck: Tensor, h: Tensor) -> None:
        """Stop with an error, or, without ``check``, let these series end where they are."""
        now = self.front
        if not self.control.check:
            now.end = torch.where(stuck, now.t, now.end)
            return
        self._settle()
        place = int(stuck.nonzero()[0])
        series, time = int(now.rows[place]), float((self.equation.sign * 1.0)[now.rows[place]] * now.t[place])
        norm, size = float(now.z[place].norm()), float(h[place])
        component = int(now.slope[place].abs().nan_to_num(nan=torch.inf).argmax())
        blamed = suspect([self.equation.drift])
        said = f"; {blamed.sentence}" if blamed else ""
        raise NumericalError(
            f"underflow in dt: the step shrinks to nothing at t = {time:.6g} (dt = {size:.3g}), where the norm of the "
            f"state is {norm:.6g} and component {component} of the drift is the largest{said}",
            variable="drift",
            dim="series",
            index=series,
            fix="check the drift for NaN or a blow-up at this state; for a stiff equation use solver='kvaerno5'; with "
            "check=False the others go on",
            details={
                "time": time,
                "series": series,
                "norm": norm,
                "dt": size,
                "component": component,
                "parameter": blamed.name if blamed else None,
                "state": now.z[place].clone(),
                "partial": self.outputs,
            },
        )

    def _out_of_budget(self, live: Tensor) -> None:
        self._settle()
        place = int(live.nonzero()[0])
        series = int(self.front.rows[place])
        time = float(self.equation.sign[series] * self.front.t[place])
        raise BudgetError(
            f"{self.control.max_steps} steps are used up; {int(live.sum())} series have not arrived, the first of them "
            f"is at t = {time:.6g}",
            dim="series",
            index=series,
            fix="for a stiff equation use solver='kvaerno5'; or raise rtol, or max_steps",
            details={
                "partial": self.outputs,
                "time": self.equation.sign * self.reached,
                "series": self.front.rows[live].clone(),
                "nfe": self.evaluations.clone(),
            },
        )


def first_step(
    field: Callable[..., Tensor], t: Tensor, z: Tensor, slope: Tensor, allowed: Tensor, order: int, span: Tensor
) -> Tensor:
    """A first step size ``[S]`` from the sizes of state, slope and curvature.

    References: Hairer, Norsett, Wanner (1993), Solving ordinary differential equations I, section II.4.
    """
    size, speed = _norm(z / allowed), _norm(slope / allowed)
    small = (size < 1e-5) | (speed < 1e-5)
    trial = torch.where(small, torch.full_like(span, 1e-6), 0.01 * size / speed)
    trial = torch.minimum(trial, span)
    after = field(t + trial, z + trial[:, None] * slope)
    bend = _norm((after - slope) / allowed) / torch.where(trial > 0, trial, torch.ones_like(trial))
    largest = torch.maximum(speed, bend)
    better = torch.where(
        largest <= 1e-15, (1e-3 * trial).clamp(min=1e-6), (0.01 / largest.clamp(min=1e-15)) ** (1.0 / order)
    )
    # where the trial step left the finite numbers, the trial step itself is long enough
    better = torch.where(torch.isfinite(better), better, 1e-3 * trial)
    return torch.minimum(torch.minimum(100 * trial, better), span)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1) / math.sqrt(x.shape[1])
