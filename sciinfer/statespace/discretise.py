"""From ``dx = F x dt + dW`` (covariance rate ``D``) to ``x' = A x + N(0, Q)`` over any step, without cancellation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .problem import outer_form

_TERMS = 14


def unique_steps(dt: Tensor, transition: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Evaluate ``transition`` once for each different step length and spread the result over ``dt``'s shape."""
    steps, where = torch.unique(dt, return_inverse=True)
    if len(steps) * 2 > dt.numel():
        return transition(dt)
    A, Q = transition(steps)
    return A[where], Q[where]


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
    bound = torch.linalg.matrix_norm(F.detach(), ord=1) * dt.detach().abs().amax() if dt.numel() else dt.sum()
    doublings = max(0, int(torch.ceil(torch.log2(bound.clamp(min=1e-300) / 0.5)).item())) if bound > 0 else 0
    doublings = min(doublings, 1000)
    h = (dt / 2.0**doublings)[..., None, None]
    A, Q = _taylor(F, D, h)
    for _ in range(doublings):
        Q = outer_form(A, Q) + Q
        A = A @ A
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
