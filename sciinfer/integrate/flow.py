"""The solution map of an equation: from a state at one time to the states at any others, before or after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetError, NumericalError
from .adaptive import Control, Search
from .depends import dependencies
from .equation import Equation
from .plan import StepPlan, uniform_plan
from .replay import default_segment, replay
from .rk43 import RK43
from .tableau import EmbeddedRK, Weights


class Flow(NamedTuple):
    """``z [S, K, d]``; ``error [S]``: sum of the error estimates E h; ``local [S]``: E at the probes."""

    z: Tensor
    error: Tensor
    local: Tensor


def flow(
    drift: Callable[[Tensor, Tensor], Tensor],
    z0: Tensor,
    start: Tensor,
    times: Tensor,
    *,
    solver: EmbeddedRK = RK43,
    step: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 20_000,
    probe: Tensor | None = None,
    checkpoint: bool = False,
    known: Sequence[Tensor] = (),
) -> Flow:
    """States at ``times [S, K]``, in any order, of the series that are in ``z0 [S, d]`` at ``start [S]``.

    Steps are laid out from ``start``, whatever the times: equal ones of size ``step``, or, without it, those of the
    adaptive solver. What is asked for at one time does not change the answer at another one.

    Args:
        drift: ``f(t [A], z [A, d])`` of any subset of the series.
        probe: ``[S]``, times after the start, for ``local``.
        checkpoint: recompute the steps in the backward pass; ``known`` then are the parameters of the drift.

    Raises:
        NumericalError: a state is not finite. BudgetError: more than ``max_steps`` steps.

    Example:
        >>> z0, start = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> times = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
        >>> [round(v, 4) for v in flow(lambda t, z: -z, z0, start, times, step=0.1).z.flatten().tolist()]
        [0.3679, 2.7183, 1.0]
    """
    weights = Weights.of(solver.table, z0)
    control = Control(rtol, atol, max_steps)
    segments = None if not checkpoint else 0
    if checkpoint and torch.is_grad_enabled():
        known = dependencies(lambda: [drift(start.detach(), z0.detach())], known, name="known")
    after = torch.maximum(times, start[:, None])
    if probe is not None:
        after = torch.cat([after, torch.maximum(probe, start)[:, None]], 1)
    made = _one_way(drift, z0, start, after, 1.0, weights, step, control, probe, segments, known)
    z = made.z[:, : times.shape[1]]
    before = times < start[:, None]
    if bool(before.any()):
        way_back = -torch.minimum(times, start[:, None])
        back = _one_way(drift, z0, -start, way_back, -1.0, weights, step, control, None, segments, known)
        z = torch.where(before[..., None], back.z, z)
    return Flow(z, made.error, made.local)


def _one_way(
    drift: Callable[[Tensor, Tensor], Tensor],
    z0: Tensor,
    start: Tensor,
    times: Tensor,
    sign: float,
    weights: Weights,
    step: float | None,
    control: Control,
    probe: Tensor | None,
    segments: int | None,
    known: Sequence[Tensor],
) -> Flow:
    equation = Equation.of(drift, z0.shape[:1], torch.full_like(start, sign), None, compact=True)
    plan = _plan(equation, z0, start, times, weights, step, control)
    segment = None if segments is None else default_segment(plan)
    made = replay(equation, z0, plan, times, weights, probe=probe, segment=segment, known=known)
    _check(made.outputs, sign * times)
    return Flow(made.outputs, made.error, made.local)


@torch.no_grad()
def _plan(
    equation: Equation, z0: Tensor, start: Tensor, times: Tensor, weights: Weights, step: float | None, control: Control
) -> StepPlan:
    end = times.amax(dim=1)
    if step is not None:
        far = (end - start).max()
        if float(far) > control.max_steps * step:
            raise BudgetError(
                f"the asked time lies {float(far):.3g} model times away, more than {control.max_steps} steps",
                dim="time",
                fix="ask for times nearer to the data",
            )
        return uniform_plan(start, end, step)
    found = Search(equation, z0.detach(), torch.stack([start, end], 1), weights, control, record=True).run()
    return found.plan if found.plan is not None else uniform_plan(start, start, 1.0)


def _check(z: Tensor, times: Tensor) -> None:
    bad = ~torch.isfinite(z.detach()).all(-1)
    if not bool(bad.any()):
        return
    series, place = bad.nonzero()[0].tolist()
    raise NumericalError(
        f"the path left the finite numbers before model time {float(times[series, place].detach()):.6g}",
        variable="drift",
        dim="series",
        index=series,
        fix="lower the learning rate or the step, or ask for times nearer to the data",
    )
