"""Diagonal linear recurrences over time, real or complex, with their exact adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .scan import associative_scan


def linear_recurrence(a: Tensor, b: Tensor, *, reverse: bool = False) -> Tensor:
    """``h_k = a_k h_{k-1} + b_k`` with ``h_{-1} = 0``, elementwise along dim 1; ``a, b [B, T, ...]`` of equal shape.

    ``reverse``: ``h_k = a_k h_{k+1} + b_k`` from the last one backwards. The adjoint of either is the other with its
    coefficients moved by one, so no graph of the steps is kept: memory and time are those of two passes.

    Example:
        >>> a = torch.full((1, 3), 0.5)
        >>> [linear_recurrence(a, torch.ones(1, 3), reverse=r)[0].tolist() for r in (False, True)]
        [[1.0, 1.5, 1.75], [1.75, 1.5, 1.0]]
    """
    return _LinearRecurrence.apply(a, b, reverse)  # pyright: ignore[reportReturnType] - apply is untyped


class _LinearRecurrence(torch.autograd.Function):
    """Saves the coefficients and the states, nothing else."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, reverse: bool) -> Tensor:
        """States ``h``."""
        h = _run(a, b, reverse)
        ctx.save_for_backward(a, h)
        ctx.reverse = reverse
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``dL/db = G`` with ``G_k = g_k + conj(a_{k+1}) G_{k+1}``, ``dL/da_k = G_k conj(h_{k-1})``; or mirrored."""
        a, h = ctx.saved_tensors
        now, before = (slice(0, -1), slice(1, None)) if ctx.reverse else (slice(1, None), slice(0, -1))
        moved = torch.zeros_like(a)
        moved[:, before] = a[:, now].conj()
        G = _run(moved, grads[0], not ctx.reverse)
        slope = torch.zeros_like(a)
        slope[:, now] = G[:, now] * h[:, before].conj()
        return slope, G, None


def _run(a: Tensor, b: Tensor, reverse: bool) -> Tensor:
    """A loop on the CPU, where a step costs microseconds; a scan of logarithmic depth elsewhere."""
    if a.device.type == "cpu":
        h = torch.empty_like(b)
        state = torch.zeros_like(b[:, 0])
        steps = list(zip(a.unbind(1), b.unbind(1), h.unbind(1), strict=True))
        for gate, term, out in reversed(steps) if reverse else steps:
            state = torch.addcmul(term, gate, state, out=out)
        return h
    if reverse:
        return _run(a.flip(1), b.flip(1), False).flip(1)
    return associative_scan(lambda i, j: (j[0] * i[0], j[0] * i[1] + j[1]), (a, b))[1]
