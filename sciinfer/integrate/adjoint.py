"""Gradients in memory that does not grow with the steps: the path is walked back, and each step differentiated anew.

The states at the output times are kept. Between them, the state before a step is found from the state after it with the
same noise, which is a function of its counter; then the step is done again with a graph, and the gradient a of the loss
in the state goes back through it: a <- a^T dz'/dz, and a^T dz'/dp is added up for every parameter p. So the gradient is
the discrete solution's own (as backpropagation gives it), to the accuracy of the walk back.

Reversible Heun is undone by its own formula, to rounding. For any other step z' = z + D(z) the equation is solved by
z <- z' - D(z), which contracts as long as |dD/dz| < 1, i.e. for steps small enough.

References: Li, Wong, Chen, Duvenaud (2020), Scalable gradients for SDEs; Kidger, Foster, Li, Lyons (2021),
Efficient and accurate gradients for neural SDEs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import NumericalError
from .depends import dependencies
from .problem import Problem, stacked
from .reversible_heun import Carry, ReversibleHeun
from .suspect import modules

#: numbers of noise held at once
_BLOCK = 1 << 20
#: relative accuracy of a step back, and the iterations allowed for it
_CLOSE = {torch.float64: 1e-11, torch.float32: 2e-6}
_ITERATIONS = 60

#: running sums of gradients
Slopes = list[Tensor | None]


def by_adjoint(problem: Problem, z0: Tensor, params: Sequence[Tensor] | None) -> Tensor:
    """``[T, ..., d]``: the states at the output times, with a gradient of constant memory."""
    found = needed(problem, z0, params)
    return _Adjoint.apply(problem, z0, *found)


def needed(problem: Problem, z0: Tensor, params: Sequence[Tensor] | None) -> list[Tensor]:
    """The tensors that need a gradient: those named, or those found by a trial and the parameters of all modules that
    the fields refer to, some of which may be used between the times of the trial only."""
    found = dependencies(lambda: problem.trial(z0.detach()), params)
    if params is not None:
        return found
    own = [p for module in modules(problem.fields) for p in module.parameters() if p.requires_grad]
    return list({id(p): p for p in (*found, *own)}.values())


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, z0: Tensor, *params: Tensor) -> Tensor:
        carries = problem.walk(z0.detach())
        z = stacked(problem, carries)
        # reversible Heun is undone from both of its solutions
        second = torch.stack([carry[1] for carry in carries]) if isinstance(problem.scheme, ReversibleHeun) else z
        ctx.problem = problem
        ctx.save_for_backward(z, second, *params)
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        z, second, *params = ctx.saved_tensors
        walk = _reversed if isinstance(ctx.problem.scheme, ReversibleHeun) else _inverted
        slope, slopes = walk(ctx.problem, z, second, grads[0], params)
        return (None, slope, *slopes)


def _backward_steps(problem: Problem, like: Tensor) -> Iterator[tuple[Tensor, Tensor, float, Tensor, bool, bool]]:
    """From the last step to the first: time before and after, size, noise, whether it ends and starts at an output."""
    grid = problem.grid
    times, sizes, keep = grid.times.to(like.device, like.dtype), grid.sizes(), grid.keep()
    count = max(8, _BLOCK // max(1, like.numel()))
    for stop in range(grid.steps, 0, -count):
        first = max(0, stop - count)
        noise = problem.noise.window(first, stop).unbind()
        for k in range(stop - 1, first - 1, -1):
            yield times[k], times[k + 1], sizes[k], noise[k - first], keep[k], k == 0 or keep[k - 1]


def _inverted(problem: Problem, z: Tensor, _: Tensor, grad: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Slopes]:
    advance, slopes = problem.advance(), untouched(params)
    output = len(z) - 1
    a, current = torch.zeros_like(z[0]), z[output]
    for t, _later, dt, noise, ends, starts in _backward_steps(problem, z[0]):
        if ends:
            a, current = a + grad[output], z[output]
            output -= 1
        before = z[output] if starts else _undo(problem, t, current, dt, noise)
        with torch.enable_grad():
            before = before.detach().requires_grad_()
            after = advance(t, before, dt, noise)
        found = torch.autograd.grad(after, (before, *params), a, allow_unused=True)
        a, current = torch.zeros_like(a) if found[0] is None else found[0], before.detach()
        collect(slopes, found[1:])
    return a + grad[0], slopes


def _undo(problem: Problem, t: Tensor, after: Tensor, dt: float, noise: Tensor) -> Tensor:
    advance, close = problem.advance(), _CLOSE[after.dtype]
    size, z, worst = 1.0 + after.abs(), after, float("inf")
    for _ in range(_ITERATIONS):
        miss = after - advance(t, z, dt, noise)
        z, worst = z + miss, float((miss.abs() / size).max())
        if worst <= close:
            return z
    raise NumericalError(
        f"the step from t = {float(t):.6g} (dt = {dt:.3g}) cannot be undone: its inverse is still {worst:.2g} away "
        f"after {_ITERATIONS} iterations",
        variable=problem.what,
        fix="take smaller steps, or use gradient='checkpoint'",
        details={"time": float(t), "miss": worst},
    )


def _reversed(
    problem: Problem, z: Tensor, second: Tensor, grad: Tensor, params: Sequence[Tensor]
) -> tuple[Tensor, Slopes]:
    scheme, slopes = problem.scheme, untouched(params)
    if not isinstance(scheme, ReversibleHeun):
        raise TypeError("this walk is for ReversibleHeun")
    output = len(z) - 1
    # gradients in z, y, f and g of the carry after the step; f and g are leaves, their graphs hang on y
    fields = _Fields(problem, scheme, problem.grid.times[-1].to(z), z[-1], second[-1])
    az, ay = torch.zeros_like(z[0]), torch.zeros_like(z[0])
    af, ag = torch.zeros_like(z[0]), torch.zeros_like(fields.carry[3])
    for t, _later, dt, dw, ends, _starts in _backward_steps(problem, z[0]):
        if ends:
            az = az + grad[output]
            fields.move(z[output], second[output])
            output -= 1
        ay = ay + fields.pull(params, af + az * (0.5 * dt), ag + scheme.pull(ag, dw, az * 0.5), slopes)
        af, ag = (ay + 0.5 * az) * dt, scheme.pull(ag, dw, ay + 0.5 * az)
        az, ay = az + 2.0 * ay, -ay
        fields = fields.back(t, dt, dw)
    ay = ay + fields.pull(params, af, ag, slopes)
    return az + ay + grad[0], slopes


class _Fields:
    """The carry of reversible Heun at a time, with the graphs of its fields on y."""

    def __init__(self, problem: Problem, scheme: ReversibleHeun, t: Tensor, z: Tensor, y: Tensor) -> None:
        self.problem, self.scheme, self.t = problem, scheme, t
        with torch.enable_grad():
            self.y = y.detach().requires_grad_()
            self.f = problem.drift(t, self.y)
            self.g = scheme.whole(problem.diffusion(t, self.y), self.y)
        self.carry: Carry = (z, y, self.f.detach(), self.g.detach())

    def move(self, z: Tensor, y: Tensor) -> None:
        """Take the kept states instead of those that were walked back to: the same but for rounding."""
        self.carry = (z, y, *self.carry[2:])

    def pull(self, params: Sequence[Tensor], af: Tensor, ag: Tensor, slopes: Slopes) -> Tensor:
        """The gradient in y; those in the parameters are added to ``slopes``."""
        pairs = [(value, slope) for value, slope in ((self.f, af), (self.g, ag)) if value.requires_grad]
        if not pairs:
            return torch.zeros_like(self.y)
        values, given = zip(*pairs, strict=True)
        found = torch.autograd.grad(values, (self.y, *params), given, allow_unused=True)
        collect(slopes, found[1:])
        return torch.zeros_like(self.y) if found[0] is None else found[0]

    def back(self, t: Tensor, dt: float, dw: Tensor) -> _Fields:
        """The carry before the step that led here."""
        z, _, f, g = self.carry
        y = self.scheme.predict(self.carry, -dt, -dw)
        before = _Fields(self.problem, self.scheme, t, z, y)
        before.carry = (self.scheme.correct(z, f, g, before.f.detach(), before.g.detach(), -dt, -dw), *before.carry[1:])
        return before


def untouched(params: Sequence[Tensor]) -> Slopes:
    """Running sums of gradients, None as long as there is none."""
    return [None for _ in params]


def collect(slopes: Slopes, found: Sequence[Tensor | None]) -> None:
    """Add gradients to running sums."""
    for k, more in enumerate(found):
        total = slopes[k]
        if more is not None:
            slopes[k] = more.clone() if total is None else total.add_(more)
