"""Adaptive integration as ``odeint`` offers it: shapes and directions in and out, the choice of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError, TimeError
from .adaptive import Control, Found, Search
from .dense import DenseOutput
from .depends import dependencies
from .equation import Equation
from .events import attach
from .ode_adjoint import adjoint_solution
from .plan import StepPlan
from .replay import Replayed, default_segment, replay
from .sde import check_drift
from .solver import OdeReport, Trajectory
from .tableau import EmbeddedRK, Weights

#: how gradients are made
GRADIENTS = ("backprop", "checkpoint", "adjoint")


class Wishes(NamedTuple):
    """Options of ``odeint`` that concern adaptive solvers."""

    gradient: str = "backprop"
    parameters: Sequence[Tensor] = ()
    context: Tensor | None = None
    compact: bool = False
    dense: bool = False
    error: bool = False
    probe: Tensor | None = None


def adaptive_odeint(
    drift: Callable[..., Tensor], z0: Tensor, times: Tensor, solver: EmbeddedRK, control: Control, wishes: Wishes
) -> Trajectory:
    """See :func:`sciinfer.integrate.odeint`."""
    _check(control, wishes)
    batch = z0.shape[:-1]
    flat = z0.reshape(batch.numel(), z0.shape[-1])
    given, sign = directed(times, batch, flat)
    equation = Equation.of(drift, batch, sign, wishes.context, wishes.compact)
    slope = _first_slope(equation, given[:, 0].detach(), flat.detach())
    weights = Weights.of(solver.table, flat)
    graph = torch.is_grad_enabled() and (slope.requires_grad or flat.requires_grad or given.requires_grad)
    known = _known(drift, wishes, equation, given, flat) if graph and wishes.gradient != "backprop" else ()
    adjoint = graph and wishes.gradient == "adjoint"
    if adjoint and given.requires_grad:
        raise ConfigError("the adjoint gives no gradient of times", variable="times", fix='gradient="checkpoint"')
    again = wishes.dense or wishes.error or wishes.probe is not None or (graph and not adjoint)
    with torch.no_grad():
        found = Search(equation, flat.detach(), given.detach(), weights, control, again).run()
    parts = _Parts(equation, flat, given, weights, control, wishes, found, known)
    return _adjoint(parts) if adjoint else _replayed(parts) if again else _plain(parts)


def _known(
    drift: Callable[..., Tensor], wishes: Wishes, equation: Equation, times: Tensor, z0: Tensor
) -> tuple[Tensor, ...]:
    """What the drift depends on and wants a gradient; an error where a trial evaluation finds more than was named."""
    own = tuple(drift.parameters()) if isinstance(drift, torch.nn.Module) else ()
    context = () if wishes.context is None else (wishes.context,)
    named = (*own, *wishes.parameters, *context)
    seen = () if equation.context is None else (equation.context,)
    dependencies(lambda: [equation.at()(times[:, 0].detach(), z0.detach())], [*named, *seen], name="parameters")
    return tuple(p for p in named if p.requires_grad)


def _first_slope(equation: Equation, t: Tensor, z: Tensor) -> Tensor:
    try:
        slope = equation.at()(t, z)
    except RuntimeError as err:
        # a wrong number of values cannot be put into the shape of the batch; other errors are the drift's own
        if "is invalid for input of size" not in str(err):
            raise
        raise ShapeError("the drift does not return the shape of the state", variable="drift") from err
    check_drift(slope, z)
    return slope


def directed(times: Tensor, batch: torch.Size, flat: Tensor) -> tuple[Tensor, Tensor]:
    """Times ``[S, T]`` that run upward, and the ``sign [S]`` that turns them back.

    Raises:
        TimeError: the times of a series are not monotone. ShapeError: neither ``[T]`` nor ``[..., T]``.
    """
    if times.dim() != 1 and times.shape[:-1] != batch:
        raise ShapeError(
            f"times have shape {tuple(times.shape)}, the batch is {tuple(batch)}",
            variable="times",
            fix="pass [T], or [..., T] with the batch dims of z0",
        )
    rows = times.to(flat).expand(*batch, times.shape[-1]).reshape(len(flat), times.shape[-1])
    one = torch.ones_like(rows[:, 0])
    sign = torch.where(rows[:, -1] < rows[:, 0], -one, one).detach()
    rows = rows * sign[:, None]
    gaps = rows.detach().diff(dim=1)
    bad = ~(gaps >= 0) | ~torch.isfinite(gaps)
    if times.shape[-1] == 0 or bool(bad.any()) or not bool(torch.isfinite(rows).all()):
        index = tuple(bad.nonzero()[0].tolist()) if bool(bad.any()) else None
        raise TimeError(
            "the times of each series must be finite and monotone", variable="times", index=index, fix="sort the times"
        )
    return rows, sign


class _Parts(NamedTuple):
    equation: Equation
    z0: Tensor
    times: Tensor
    weights: Weights
    control: Control
    wishes: Wishes
    found: Found
    known: tuple[Tensor, ...]


def _plain(parts: _Parts) -> Trajectory:
    found = parts.found
    return _trajectory(parts, found.outputs, _report(parts, event=(found.event_time, found.last)))


def _replayed(parts: _Parts) -> Trajectory:
    found, wishes, equation = parts.found, parts.wishes, parts.equation
    plan, probe = _plan(found), _probe(parts)
    when = torch.minimum(parts.times, found.reached[:, None])
    if parts.control.event is not None:
        when = torch.cat([when, torch.minimum(found.event_time, found.reached)[:, None]], 1)
    segment = default_segment(plan) if wishes.gradient == "checkpoint" else None
    made = replay(
        equation,
        parts.z0,
        plan,
        when,
        parts.weights,
        probe=probe,
        segment=segment,
        keep=wishes.dense,
        known=parts.known,
    )
    outputs, event = made.outputs, (found.event_time, found.last)
    if parts.control.event is not None:
        outputs, event = _with_event(parts, outputs)
    lost = parts.times.detach() > found.reached[:, None]
    lost = lost & ~torch.isfinite(found.event_time)[:, None]
    outputs = (
        torch.where(lost[..., None], torch.full_like(outputs, torch.nan), outputs) if bool(lost.any()) else outputs
    )
    return _trajectory(parts, outputs, _report(parts, event=event, made=made, plan=plan))


def _with_event(parts: _Parts, outputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Outputs after the event hold its state; event time and state carry their gradients."""
    time, event = parts.found.event_time, parts.control.event
    outputs, last = outputs[:, :-1], outputs[:, -1]
    some = torch.isfinite(time)
    if event is None or not bool(some.any()):
        return outputs, (time, last)
    at, equation = torch.where(some, time, parts.found.reached), parts.equation
    when, state = attach(equation.event_at(event), equation.at(), at, last)
    when, state = torch.where(some, when, time), torch.where(some[:, None], state, last)
    after = some[:, None] & (parts.times.detach() > time[:, None])
    return torch.where(after[..., None], state[:, None], outputs), (when, state)


def _adjoint(parts: _Parts) -> Trajectory:
    found, times = parts.found, parts.times.detach()
    own = [p for p in parts.known if p is not parts.wishes.context]
    outputs = adjoint_solution(parts.equation, parts.z0, times, parts.weights, parts.control, own, found.outputs)
    return _trajectory(parts, outputs, _report(parts, event=(found.event_time, found.last)))


def _plan(found: Found) -> StepPlan:
    if found.plan is None:
        raise ConfigError("the steps of this integration were not kept")
    return found.plan


def _probe(parts: _Parts) -> Tensor | None:
    probe = parts.wishes.probe
    if probe is None:
        return None
    if probe.numel() not in (1, len(parts.z0)):
        raise ShapeError(f"probe has shape {tuple(probe.shape)}", variable="probe", fix="pass one time for each series")
    return probe.to(parts.z0).reshape(-1).expand(len(parts.z0)) * parts.equation.sign


def _report(
    parts: _Parts, *, event: tuple[Tensor, Tensor], made: Replayed | None = None, plan: StepPlan | None = None
) -> OdeReport:
    found, wishes, batch = parts.found, parts.wishes, parts.equation.batch
    sign, table = parts.equation.sign, parts.weights.dense
    dense = None
    if wishes.dense and made is not None and plan is not None and made.states is not None and made.moves is not None:
        dense = DenseOutput(plan, made.states, made.moves, table, sign, batch, found.reached)
    asked = parts.control.event is not None
    return OdeReport(
        evaluations=found.evaluations.reshape(batch),
        steps=(found.tries - found.rejected).reshape(batch),
        rejected=found.rejected.reshape(batch),
        error=made.error.reshape(batch) if made is not None and wishes.error else None,
        local_error=made.local.reshape(batch) if made is not None and wishes.probe is not None else None,
        event_time=(event[0] * sign).reshape(batch) if asked else None,
        event_state=event[1].reshape(*batch, event[1].shape[-1]) if asked else None,
        dense=dense,
    )


def _trajectory(parts: _Parts, outputs: Tensor, report: OdeReport) -> Trajectory:
    z = outputs.transpose(0, 1).reshape(outputs.shape[1], *parts.equation.batch, outputs.shape[-1])
    most = int(parts.found.evaluations.max()) if parts.found.evaluations.numel() else 0
    return Trajectory(z, most, report)


def _check(control: Control, wishes: Wishes) -> None:
    for name in ("rtol", "atol"):
        value = getattr(control, name)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be positive, got {value}", variable=name, fix=f"{name}=1e-6")
    if control.max_steps < 1:
        raise ConfigError(f"max_steps must be at least 1, got {control.max_steps}", variable="max_steps")
    if wishes.gradient not in GRADIENTS:
        raise ConfigError(f"unknown gradient {wishes.gradient!r}", fix=f"one of {', '.join(GRADIENTS)}")
    extra = wishes.error or wishes.dense or wishes.probe is not None or control.event is not None
    if wishes.gradient == "adjoint" and extra:
        raise ConfigError(
            "the adjoint gives no gradients of error estimates, events or dense output", fix='gradient="checkpoint"'
        )
