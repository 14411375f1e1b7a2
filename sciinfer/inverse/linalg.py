"""Cholesky with a jitter ladder, and conjugate gradients for many right-hand sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import NumericalError
from ..statespace.linalg import jittered_cholesky

#: relative to the mean of the diagonal
LADDER = (1e-14, 1e-12, 1e-10, 1e-8)


class Factor(NamedTuple):
    """Lower Cholesky factor, and the jitter that had to be added to the diagonal (0 = none)."""

    lower: Tensor
    jitter: float


def cholesky(matrix: Tensor, *, name: str) -> Factor:
    """Lower Cholesky factor of ``matrix [n, n]``, with the smallest jitter of :data:`LADDER` that works.

    Raises:
        NumericalError: it is not positive definite even so; the smallest eigenvalue is told.

    Example:
        >>> cholesky(torch.eye(2, dtype=torch.float64), name="covariance").jitter
        0.0
    """
    scale = float(matrix.diagonal().abs().mean()) if len(matrix) else 0.0
    found = jittered_cholesky(matrix, LADDER, lambda diagonal: diagonal.abs().mean(-1))
    if not bool(found.info.any()) and bool(found.lower.isfinite().all()):
        return Factor(found.lower, found.jitter * scale)
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    raise NumericalError(
        f"it is not positive definite: its smallest eigenvalue is {smallest:.6g}, "
        f"jitter up to {LADDER[-1] * scale:.3g} did not help",
        variable=name,
        fix="check the matrix, or remove duplicate rows",
        code="numerical/not-positive-definite",
        details={"eigenvalue": smallest, "ladder": [0.0, *(rung * scale for rung in LADDER)]},
    )


class CG(NamedTuple):
    """``x [k, m]``; ``residual [k]`` relative; ``iterations``."""

    x: Tensor
    residual: Tensor
    iterations: int


def conjugate_gradients(matvec: Callable[[Tensor, Any], Tensor], b: Tensor, *, tolerance: float, iterations: int) -> CG:
    r"""Solve ``K x = b`` for each row of ``b [k, m]``, ``K`` symmetric positive definite.

    The reported residual is the true one, :math:`\|b - Kx\| / \|b\|`, computed afresh at the end.

    Args:
        matvec: ``(rows [k, m], partial) -> K rows``; ``partial`` is handed on to a budget that runs out.
        b: right-hand sides.
        tolerance: relative residual at which to stop.
        iterations: at most so many.
    """
    norm = b.norm(dim=-1).clamp(min=torch.finfo(b.dtype).tiny)
    x, r = torch.zeros_like(b), b.clone()
    p, rr, step = r.clone(), (r * r).sum(-1), 0
    while step < iterations and bool((rr.sqrt() > tolerance * norm).any()):
        kp = matvec(p, x)
        alive = rr.sqrt() > 0.01 * tolerance * norm  # rows that are done stand still
        alpha = torch.where(alive, rr / (p * kp).sum(-1).clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(rr))
        x, r = x + alpha[:, None] * p, r - alpha[:, None] * kp
        fresh = (r * r).sum(-1)
        beta = torch.where(alive, fresh / rr.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(rr))
        p, rr, step = r + beta[:, None] * p, fresh, step + 1
    residual = (b - matvec(x, x)).norm(dim=-1) / norm
    return CG(x, residual, step)
