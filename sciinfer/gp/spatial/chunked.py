"""A long sum and its gradient in the memory of one chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import NumericalError

Part = Callable[[Tensor, Tensor, Tensor], Tensor]


class _Summed(torch.autograd.Function):
    """Values and slopes of all chunks are found together going forward: the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, part: Part, chunks: Sequence[Tensor], X: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        wanted = [bool(needs) for needs in ctx.needs_input_grad[2:]]
        X, y = (tensor.detach().requires_grad_(needs) for tensor, needs in zip((X, y), wanted, strict=False))
        inputs = [t for t, needs in zip((X, y, *parameters), wanted, strict=True) if needs]
        total, slopes = torch.zeros((), dtype=y.dtype), [torch.zeros_like(tensor) for tensor in inputs]
        for chunk in chunks:
            with torch.set_grad_enabled(bool(inputs)):
                value = part(X, y, chunk)
            total = total + value.detach()
            found = torch.autograd.grad(value, inputs, allow_unused=True) if inputs else ()
            slopes = [a if b is None else a + b for a, b in zip(slopes, found, strict=True)]
        ctx.wanted = wanted
        ctx.save_for_backward(*slopes)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        slopes = iter(ctx.saved_tensors)
        return (None, None, *(outer[0] * next(slopes) if needs else None for needs in ctx.wanted))


def summed(part: Part, chunks: Sequence[Tensor], X: Tensor, y: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``sum_c part(X, y, chunk_c)``, differentiable once in ``X``, ``y`` and ``parameters``.

    Args:
        part: the scalar of one chunk; it may use ``parameters`` freely. chunks: index tensors.
    """
    result = _Summed.apply(part, chunks, X, y, *parameters)
    if not isinstance(result, Tensor):
        raise NumericalError("the sum gave no tensor")
    return result
