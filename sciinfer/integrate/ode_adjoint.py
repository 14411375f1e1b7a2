"""The continuous adjoint: gradients by an equation that runs backward, in memory that does not grow with the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .adaptive import Control, Search
from .equation import Equation
from .plan import StepPlan
from .stages import stages
from .tableau import Weights


class _Task(NamedTuple):
    """What both directions share. ``parameters`` are those that the drift uses and that want a gradient."""

    equation: Equation
    times: Tensor
    weights: Weights
    control: Control
    parameters: tuple[Tensor, ...]


def adjoint_solution(
    equation: Equation,
    z0: Tensor,
    times: Tensor,
    weights: Weights,
    control: Control,
    parameters: Sequence[Tensor],
    outputs: Tensor,
) -> Tensor:
    """``outputs [S, T, d]``, found before, with the gradient of the adjoint equation attached.

    ``da/dt = -a^T df/dz`` from the last output to the first, restarted at every output, where ``a`` takes up the
    gradient of the loss and the state is set to what was found; ``dL/dp = int a^T df/dp dt`` by the quadrature of the
    method itself. Each series has steps of its own on the way back as well.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud (2018), Neural ordinary differential equations.
        Kidger, Chen, Lyons (2021), Hey, that's not an ODE: faster ODE adjoints via seminorms.
    """
    wanted = tuple(p for p in parameters if p.requires_grad)
    context = equation.context
    task = _Task(equation, times, weights, control, wanted)
    given = context if context is not None else z0.new_zeros(len(z0), 0)
    return _Adjoint.apply(task, outputs.detach(), z0, given, *wanted)  # pyright: ignore[reportReturnType] - untyped


class _Adjoint(torch.autograd.Function):
    """Keeps the outputs, nothing else."""

    @staticmethod
    def forward(ctx: Any, task: _Task, outputs: Tensor, z0: Tensor, context: Tensor, *parameters: Tensor) -> Tensor:
        """The outputs themselves."""
        ctx.task = task
        ctx.save_for_backward(outputs, context)
        return outputs.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the start, the context and the parameters."""
        task: _Task = ctx.task
        outputs, context = ctx.saved_tensors
        (grad,) = grads
        total = [torch.zeros_like(p) for p in task.parameters]
        by_context = torch.zeros_like(context)
        a = grad[:, -1]
        for k in range(task.times.shape[1] - 1, 0, -1):
            a = _interval(task, outputs[:, k], a, k, total, by_context)
            a = a + grad[:, k - 1]
        return (None, None, a, by_context, *total)


def _interval(task: _Task, z: Tensor, a: Tensor, k: int, total: list[Tensor], by_context: Tensor) -> Tensor:
    """From output k back to output k - 1: the adjoint there; gradients of context and parameters are added up."""
    back = task.times[:, [k, k - 1]].neg()
    both = Equation(_augmented(task.equation), z.shape[:1], task.equation.sign, True, None, compact=False)
    start = torch.cat([z, a], dim=1)
    found = Search(both, start, back, task.weights, task.control._replace(event=None), record=True).run()
    if found.plan is not None and (task.parameters or by_context.shape[1]):
        _quadrature(task, both, start, found.plan, total, by_context)
    return found.outputs[:, -1, z.shape[1] :]


def _augmented(equation: Equation) -> Callable[[Tensor, Tensor], Tensor]:
    """``(-f, a^T df/dz)`` as a drift in time that runs backward."""
    field = equation.at()

    def drift(t: Tensor, state: Tensor) -> Tensor:
        z, a = state.chunk(2, dim=1)
        slope, pull = torch.func.vjp(lambda x: field(-t, x), z)[:2]
        return torch.cat([-slope, pull(a)[0]], dim=1)

    return drift


def _quadrature(
    task: _Task, both: Equation, start: Tensor, plan: StepPlan, total: list[Tensor], by_context: Tensor
) -> None:
    """Add ``h sum_i b_i a_i^T df/dp (t_i, z_i)`` of all steps."""
    weights, field = task.weights, both.at()
    b = (*weights.a[-1], start.new_tensor(weights.gamma))
    state, slope = start, field(plan.t[:, 0], start)
    for k in range(plan.t.shape[1]):
        t, h = plan.t[:, k], plan.h[:, k]
        taken = stages(field, t, state, h, slope, weights)
        for i, share in enumerate(b):
            if not float(share):
                continue
            inner = state + sum((w * m for w, m in zip(weights.a[i], taken.moves, strict=False)), 0.0 * state)
            inner = inner + weights.gamma * taken.moves[i] if i else inner
            _pull(task, t + weights.c[i] * h, inner, share * h, total, by_context)
        moved = (h > 0)[:, None]
        state, slope = torch.where(moved, taken.state, state), torch.where(moved, taken.slope, slope)


def _pull(task: _Task, t: Tensor, state: Tensor, share: Tensor, total: list[Tensor], by_context: Tensor) -> None:
    z, a = state.chunk(2, dim=1)
    with torch.enable_grad():
        equation, wanted = task.equation, list(task.parameters)
        if equation.context is not None:
            context = equation.context.detach().requires_grad_()
            equation = equation._replace(context=context)
            wanted.append(context)
        slope = equation.at()(-t, z.detach())
        if not slope.requires_grad:
            return
        found = torch.autograd.grad(slope, wanted, share[:, None] * a, allow_unused=True)
    targets = [*total, by_context] if equation.context is not None else total
    for target, part in zip(targets, found, strict=True):
        if part is not None:
            target += part.reshape(target.shape)
