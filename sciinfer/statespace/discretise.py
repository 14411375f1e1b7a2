"""From ``dx = F x dt + dW`` (covariance rate ``D``) to ``x' = A x + N(0, Q)`` over any step, without cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..random import generator
from .problem import outer_form

_TERMS = 14


def unique_steps(dt: Tensor, transition: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Evaluate ``transition`` once for each different step length and spread the result over ``dt``'s shape."""
    if _seem_distinct(dt):
        return transition(dt)
    steps, where = torch.unique(dt, return_inverse=True)
    if len(steps) * 2 > dt.numel():
        return transition(dt)
    A, Q = transition(steps)
    return A[where], Q[where]


def _seem_distinct(dt: Tensor) -> bool:
    """Is sorting all steps pointless: a sample that would hold many pairs if half the steps were repeats holds few."""
    count = dt.numel()
    size = 8 * math.isqrt(count)
    if size < 8 * 100:
        return False
    where = torch.randint(count, (size,), generator=generator(0, "unique steps")).unique().to(dt.device)
    sample = dt.detach().reshape(-1)[where]
    # 32 pairs are expected from all-distinct places with every value twice; 16 decide
    return len(where) - len(sample.unique()) < 16


def discretise(F: Tensor, D: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """``A = exp(F h)`` and ``Q = int_0^h exp(F s) D exp(F s)^T ds``.

    A Taylor series on ``h / 2^n`` followed by ``n`` doublings ``Q(2h) = A Q A^T + Q``: only sums of positive
    semi-definite terms, so tiny and huge steps are equally accurate.

    Args:
        F: ``[d, d]`` drift matrix, per unit of time. D: ``[d, d]`` covariance rate ``G G^T``.
        dt: ``[...]`` steps, >= 0.

    Returns:
        ``A, Q [..., d, d]``.
    """
    # each step has its own number of halvings: one shared number would round ``I + F h`` to ``I`` for the short ones
    size = torch.linalg.matrix_norm(F.detach(), ord=1) * dt.detach().abs()
    halvings = torch.ceil(torch.log2(size.clamp(min=0.5) / 0.5)).clamp(max=1000.0)
    A, Q = _taylor(F, D, (dt * 2.0**-halvings)[..., None, None])
    for done in range(int(halvings.max()) if dt.numel() else 0):
        again = (halvings > done)[..., None, None]
        Q = torch.where(again, outer_form(A, Q) + Q, Q)
        A = torch.where(again, A @ A, A)
    return A, Q


def _taylor(F: Tensor, D: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    # Q = sum_k h^{k+1}/(k+1)! L^k[D] with L[X] = F X + X F^T
    power = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device)
    lie, step = D, h
    A, Q = power + 0 * h, D * h
    for k in range(1, _TERMS):
        power = power @ F
        A = A + power * step
        lie = F @ lie + lie @ F.mT
        step = step * h / (k + 1)
        Q = Q + lie * step
    return A, Q
