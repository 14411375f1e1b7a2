"""Matérn-3/2 transitions of very many steps: in blocks that stay in the cache, with a derivative written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: steps from which this is faster than the plain expressions; steps of a block
MANY, BLOCK = 4096, 8192
_TERMS = 21


def gamma3(u: Tensor) -> Tensor:
    """``P(3, u) = 1 - exp(-u)(1 + u + u^2/2)``, by its series below 1: no cancellation."""
    large = u.clamp(min=1.0)
    far = 1 - (-large).exp() * (1 + large + large.square() / 2)
    return torch.where(u < 1.0, _series(u.clamp(max=1.0)), far)


def _series(u: Tensor) -> Tensor:
    one = torch.ones((), dtype=u.dtype, device=u.device)
    total = one.expand_as(u)
    for k in range(_TERMS, 3, -1):
        total = torch.addcmul(one, u, total, value=1 / k)
    return total * u**3 * (-u).exp() / 6


def matern32_table(dt: Tensor, rate: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    """``A, Q [..., 2, 2]`` for ``dt [...]`` (which gets no gradient), scalars ``rate = sqrt(3) / l`` and ``s2``."""
    return _Table.apply(dt, rate, s2)  # pyright: ignore[reportReturnType] - apply is untyped


class _Table(torch.autograd.Function):
    """Saves the steps and the result, nothing else."""

    @staticmethod
    def forward(ctx: Any, dt: Tensor, rate: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """Entries written block by block."""
        A, Q = dt.new_empty(*dt.shape, 2, 2), dt.new_empty(*dt.shape, 2, 2)
        flat = zip(*(x.split(BLOCK) for x in (dt.reshape(-1), A.view(-1, 2, 2), Q.view(-1, 2, 2))), strict=True)
        for step, a, q in flat:
            x = rate * step
            decay = (-x).exp()
            xd = x * decay
            g, tail = gamma3(2 * x), xd.square()
            a[:, 0, 0], a[:, 0, 1], a[:, 1, 0], a[:, 1, 1] = decay + xd, step * decay, xd * -rate, decay - xd
            q[:, 0, 0], q[:, 0, 1] = g * s2, tail * (2 * s2 * rate)
            q[:, 1, 0] = q[:, 0, 1]
            q[:, 1, 1] = (g + 4 * xd * decay) * (s2 * rate.square())
        ctx.save_for_backward(dt, rate, s2, Q)
        return A, Q

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``d/d rate`` and ``d/d s2``."""
        dt, rate, s2, Q = ctx.saved_tensors
        by_rate, by_s2 = torch.zeros_like(rate), torch.zeros_like(s2)
        wide = (x.reshape(-1, 4).split(BLOCK) for x in (grads[0], grads[1], Q))
        for step, ga, gq, q in zip(dt.reshape(-1).split(BLOCK), *wide, strict=True):
            x = rate * step
            decay = (-x).exp()
            a00, a01, a10, a11 = ga.unbind(1)
            q00, q01, q10, q11 = gq.unbind(1)
            late = step * decay
            # derivatives of A = [[1 + x, dt], [-rate x, 1 - x]] exp(-x)
            by_rate += late @ -(a00 * x + a01 * step + (a10 * rate + a11) * (2 - x))
            square = x * decay.square()
            tail = square * x
            cross = 2 * tail * (3 - 2 * x) * (q01 + q10)
            far = q[:, 3] * (2 / (s2 * rate)) + square * (1 - x).square() * (4 * rate)
            by_rate += s2 * ((4 * tail * step) @ q00 + cross.sum() + far @ q11)
            by_s2 += torch.dot(gq.reshape(-1), q.reshape(-1)) / s2
        return None, by_rate, by_s2
