"""Diagonal linear recurrences over time, real or complex, with their exact adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .scan import associative_scan


def linear_recurrence(a: Tensor, b: Tensor) -> Tensor:
    """``h_k = a_k h_{k-1} + b_k`` with ``h_{-1} = 0``, elementwise along dim 1; ``a, b [B, T, ...]`` of equal shape.

    The adjoint is the same recurrence backwards, ``G_k = g_k + conj(a_{k+1}) G_{k+1}``, so no graph of the steps is
    kept: memory and time are those of two passes.

    Example:
        >>> a = torch.full((1, 3), 0.5); linear_recurrence(a, torch.ones(1, 3)).tolist()
        [[1.0, 1.5, 1.75]]
    """
    return _LinearRecurrence.apply(a, b)  # pyright: ignore[reportReturnType] - apply is untyped


class _LinearRecurrence(torch.autograd.Function):
    """Saves the coefficients and the states, nothing else."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """States ``h``."""
        h = _run(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``dL/da_k = G_k conj(h_{k-1})``, ``dL/db = G``."""
        a, h = ctx.saved_tensors
        # step k of the backward recurrence multiplies by the coefficient of step k + 1
        later = torch.cat([a[:, 1:], torch.ones_like(a[:, :1])], dim=1).conj()
        G = _run(later.flip(1), grads[0].flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1)
        return G * before.conj(), G


def _run(a: Tensor, b: Tensor) -> Tensor:
    """A loop on the CPU, where a step costs microseconds; a scan of logarithmic depth elsewhere."""
    if a.device.type == "cpu":
        h = torch.empty_like(b)
        state = torch.zeros_like(b[:, 0])
        for k, (gate, term) in enumerate(zip(a.unbind(1), b.unbind(1), strict=True)):
            state = torch.addcmul(term, gate, state)
            h[:, k] = state
        return h
    return associative_scan(lambda i, j: (j[0] * i[0], j[0] * i[1] + j[1]), (a, b))[1]
