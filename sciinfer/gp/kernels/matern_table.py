"""Matérn transitions of very many steps, in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import matrix

#: steps from which this is faster than the plain expressions; steps of a block
MANY, _BLOCK, _BLOCK_ELSEWHERE = 4096, 8192, 1 << 20
_TERMS = 21


def _block(x: Tensor) -> int:
    """Steps of a block: what the cache of a processor holds; many on devices that hide latency by width."""
    return _BLOCK if x.device.type == "cpu" else _BLOCK_ELSEWHERE


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
        flat = zip(*(x.split(_block(dt)) for x in (dt.reshape(-1), A.view(-1, 2, 2), Q.view(-1, 2, 2))), strict=True)
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
        wide = (x.reshape(-1, 4).split(_block(dt)) for x in (grads[0], grads[1], Q))
        for step, ga, gq, q in zip(dt.reshape(-1).split(_block(dt)), *wide, strict=True):
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


# -- Matérn-5/2 --------------------------------------------------------------------------------------------------------


def gamma5(u: Tensor) -> Tensor:
    """``P(5, u) = 1 - exp(-u) sum_{k < 5} u^k / k!``, by its series below 3."""
    small, large = u.clamp(max=3.0), u.clamp(min=3.0)
    one = torch.ones((), dtype=u.dtype, device=u.device)
    total = one.expand_as(u)
    for k in range(34, 5, -1):
        total = torch.addcmul(one, small, total, value=1 / k)
    near = total * small**5 * (-small).exp() / 120
    head = 1 + large * (1 + large / 2 * (1 + large / 3 * (1 + large / 4)))
    return torch.where(u < 3.0, near, 1 - (-large).exp() * head)


def matern52_plain(dt: Tensor, rate: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    """``A, Q [..., 3, 3]`` of Matérn-5/2 in closed form, ``rate = sqrt(5) / l``.

    In scaled time ``x = rate dt``: ``A = exp(-x)(I + x N + x^2 N^2 / 2)``, ``N`` nilpotent; with the response
    ``u = x^2 exp(-x) / 2`` and its derivatives ``u', u''``, ``Q = 16/3 int [u, u', u''] [u, u', u'']^T``, of which the
    mixed entries are boundary terms and the others ``P(5, 2x)`` and elementary terms.
    """
    x = rate * dt
    decay, half = (-x).exp(), x.square() / 2
    u, v = half * decay, (x - half) * decay
    A = matrix(
        [
            [(1 + x + half) * decay, (x + 2 * half) * decay / rate, u / rate.square()],
            [-u * rate, (1 + x - 2 * half) * decay, v / rate],
            [(half - x) * decay * rate.square(), (2 * half - 3 * x) * decay * rate, (1 - 2 * x + half) * decay],
        ]
    )
    t1 = 2 * x * decay.square()
    t2, g = t1 * x, gamma5(2 * x)
    t3 = t2 * x * (2 / 3)
    q22 = g / 3 + t3 * (4 - x) / 3
    q13, q23 = (16 / 3) * u * v - q22, (8 / 3) * v.square()
    q12, q33 = (8 / 3) * u.square(), g + (16 / 3) * (t1 / 2 - t2 / 2 + t3 * 0.75)
    a, b, c, d, e = (s2 * rate**k for k in range(5))
    return A, matrix(
        [
            [a * g, b * q12, c * q13],
            [b * q12, c * q22, d * q23],
            [c * q13, d * q23, e * q33],
        ]
    )


def in_blocks(
    table: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], dt: Tensor, rate: Tensor, s2: Tensor
) -> tuple[Tensor, Tensor]:
    """``table(dt, rate, s2)`` block by block, computed again for the derivative: memory is that of the result."""
    return _InBlocks.apply(table, dt, rate, s2)  # pyright: ignore[reportReturnType] - apply is untyped


class _InBlocks(torch.autograd.Function):
    """Saves the steps and the parameters, nothing else."""

    @staticmethod
    def forward(ctx: Any, table: Any, dt: Tensor, rate: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """Results of the blocks, joined."""
        ctx.table = table
        ctx.save_for_backward(dt, rate, s2)
        A, Q = zip(*(table(step, rate, s2) for step in dt.reshape(-1).split(_block(dt))), strict=True)
        shape = (*dt.shape, *A[0].shape[1:])
        return torch.cat(A).reshape(shape), torch.cat(Q).reshape(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``d/d rate`` and ``d/d s2``."""
        dt, rate, s2 = ctx.saved_tensors
        total = [torch.zeros_like(rate), torch.zeros_like(s2)]
        flat = (g.reshape(-1, *g.shape[dt.ndim :]).split(_block(dt)) for g in grads)
        for step, *given in zip(dt.reshape(-1).split(_block(dt)), *flat, strict=True):
            with torch.enable_grad():
                inputs = [rate.detach().requires_grad_(), s2.detach().requires_grad_()]
                found = ctx.table(step, *inputs)
            for sum_, part in zip(total, torch.autograd.grad(found, inputs, given), strict=True):
                sum_ += part
        return None, None, total[0], total[1]
