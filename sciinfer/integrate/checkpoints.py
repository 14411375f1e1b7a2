"""Backpropagation in memory that grows with the root of the steps: pieces are forgotten and done again.

Only the carries at the starts of the pieces are kept. Going back, each piece is walked once more with a graph, on the
same noise, and differentiated: the gradient is that of backpropagation, for one more walk.

References: Griewank, Walther (2000), Revolve: an implementation of checkpointing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .adjoint import Slopes, collect, needed, untouched
from .loop import diverged, steps
from .problem import Problem, stacked
from .solver import Carry


def by_checkpoints(
    problem: Problem, z0: Tensor, every: int, params: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    """``[T, ..., d]`` at the output times and the summed error, with pieces of ``every`` steps."""
    found = needed(problem, z0, params)
    z, total = _Checkpoints.apply(problem, every, z0, *found)
    return z, total if problem.error else None


class _Pieces(NamedTuple):
    """A problem cut into pieces of ``every`` steps, with its step sizes and output flags."""

    problem: Problem
    every: int
    sizes: list[float]
    keep: list[bool]

    def bounds(self) -> list[tuple[int, int]]:
        """First step of each piece, and the one after its last."""
        n = len(self.sizes)
        return [(first, min(first + self.every, n)) for first in range(0, n, self.every)]

    def walk(self, carry: Carry, first: int, stop: int, *, check: bool) -> tuple[Carry, list[Carry]]:
        """The carry after a piece, and the carries at the outputs inside."""
        problem, here, z = self.problem, slice(first, stop), self.problem.state(carry)
        times, noise = problem.grid.times[here].to(z.device, z.dtype), problem.noise.window(first, stop)
        advance = problem.advance()
        after, ends = steps(advance, carry, times, self.sizes[here], noise, self.keep[here])
        if check and not bool(torch.isfinite(problem.state(after)).all()):
            raise diverged(advance, carry, problem.state, problem.grid, noise, first, problem.what, problem.fields)
        return after, ends


class _Checkpoints(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, every: int, z0: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        pieces = _Pieces(problem, every, problem.grid.sizes(), problem.grid.keep())
        carry = problem.begin(z0)
        starts, kept = [], [carry]
        for first, stop in pieces.bounds():
            starts += [] if first == 0 else parts(carry)
            carry, ends = pieces.walk(carry, first, stop, check=problem.check)
            kept += ends
        ctx.pieces, ctx.count = pieces, len(params)
        ctx.save_for_backward(z0, *params, *starts)
        return stacked(problem, kept), kept[-1][1].clone() if problem.error else z0.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pieces, (z0, *saved) = ctx.pieces, ctx.saved_tensors
        params, starts = saved[: ctx.count], saved[ctx.count :]
        like = pieces.problem.begin(z0)
        size = len(parts(like))
        slopes, a = untouched(params), [torch.zeros_like(part) for part in parts(like)]
        if pieces.problem.error:
            a[-1] = grads[1]
        output = len(grads[0])
        for index, (first, stop) in reversed(list(enumerate(pieces.bounds()))):
            leaves = [z0] if index == 0 else starts[(index - 1) * size : index * size]
            ends = output - sum(pieces.keep[first:stop])
            a = _back(pieces, (first, stop), like, leaves, a, grads[0][ends:output], params, slopes)
            output = ends
        return (None, None, a[0] + grads[0][0], *slopes)


def _back(
    pieces: _Pieces,
    bounds: tuple[int, int],
    like: Carry,
    leaves: Sequence[Tensor],
    a: Sequence[Tensor],
    grads: Tensor,
    params: Sequence[Tensor],
    slopes: Slopes,
) -> list[Tensor]:
    """The gradient in ``leaves``, from ``a`` in the carry after the piece and ``grads`` in its output states."""
    problem = pieces.problem
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        carry = problem.begin(leaves[0]) if bounds[0] == 0 else rebuilt(like, leaves)
        after, ends = pieces.walk(carry, *bounds, check=False)
    values = [*parts(after), *(problem.state(end) for end in ends)]
    pairs = [pair for pair in zip(values, [*a, *grads.unbind()], strict=True) if pair[0].requires_grad]
    outputs, given = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, (*leaves, *params), given, allow_unused=True)
    collect(slopes, found[len(leaves) :])
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=False)]


def parts(carry: Carry) -> list[Tensor]:
    """The tensors of a carry, nested tuples laid flat."""
    return [carry] if isinstance(carry, Tensor) else [part for each in carry for part in parts(each)]


def rebuilt(like: Carry, flat: Sequence[Tensor]) -> Carry:
    """A carry of the shape of ``like`` from its tensors."""
    remaining = iter(flat)

    def build(carry: Carry) -> Carry:
        return next(remaining) if isinstance(carry, Tensor) else tuple(build(each) for each in carry)

    return build(like)
