"""Square-root filter: covariances as ``L L^T``, for single precision.

Orthogonal transformations of the factors return what is positive semi-definite by construction, also where a
covariance of many states has lost its smallest eigenvalues to round-off.

References:
    Kaminski, Bryson, Schmidt (1971), Discrete square root filtering: a survey of current techniques.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import Blocks, Trace
from .linalg import psd_root
from .problem import Filtered, LinearGaussian, matvec


class _Step(NamedTuple):
    """Predicted and filtered mean and factor, the factor of ``S``, and the gain times it."""

    m_pred: Tensor
    L_pred: Tensor
    m: Tensor
    L: Tensor
    S: Tensor
    KS: Tensor
    white: Tensor


class _Parts(NamedTuple):
    """The problem step by step, with roots of ``Q``."""

    A: Sequence[Tensor]
    root: Sequence[Tensor]
    H: Sequence[Tensor]
    y: Sequence[Tensor]
    b: Sequence[Tensor] | None


def _unbind(problem: LinearGaussian | Blocks, dim: int) -> _Parts:
    b = None if problem.b is None else problem.b.unbind(dim)
    A, Q, H, y = (x.unbind(dim) for x in (problem.A, scaled_root(problem.Q), problem.H, problem.y))
    return _Parts(A, Q, H, y, b)


def triangular(*parts: Tensor) -> Tensor:
    """Lower triangular ``L`` with ``L L^T = sum_i R_i R_i^T`` for parts ``R_i [..., d, k_i]`` of any rank.

    Example:
        >>> L = triangular(torch.tensor([[3.0]]), torch.tensor([[4.0]]))
        >>> round(float((L @ L.mT)[0, 0]), 4)
        25.0
    """
    return torch.linalg.qr(torch.cat(parts, dim=-1).mT, mode="r").R.mT


def scaled_root(P: Tensor) -> Tensor:
    """A square root of a positive semi-definite matrix whose entries may differ by orders of magnitude."""
    scale = P.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt()
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return psd_root(P / safe[..., :, None] / safe[..., None, :]) * scale[..., None]


def filter_sqrt(problem: LinearGaussian) -> Filtered:
    """Kalman filter on square roots, which exist for any rank; no gradient (``log_likelihood`` has it, float32 too)."""
    with torch.no_grad():
        steps = list(_steps(_unbind(problem, 1), problem.m0, scaled_root(problem.P0), skip=True))
        stack = lambda parts: torch.stack(list(parts), dim=1)  # noqa: E731
        return Filtered(
            stack(s.m for s in steps),
            stack(s.L @ s.L.mT for s in steps),
            stack(s.m_pred for s in steps),
            stack(s.L_pred @ s.L_pred.mT for s in steps),
            _loglik(steps),
        )


def run(parts: Blocks, m: Tensor, P: Tensor) -> tuple[Tensor, Trace]:
    """``blocks.run`` on square roots."""
    steps = list(_steps(_unbind(parts, 0), m, scaled_root(P), skip=False))
    states = [torch.cat([m.unsqueeze(-1), P], -1)]
    states += [torch.cat([s.m.unsqueeze(-1), s.L @ s.L.mT], -1) for s in steps]
    solved = [
        torch.cat([torch.linalg.solve_triangular(s.S.mT, s.white, upper=True), torch.cholesky_solve(h, s.S)], -1)
        for s, h in zip(steps, parts.H.unbind(0), strict=True)
    ]
    gains = [torch.linalg.solve_triangular(s.S, s.KS, upper=False, left=False) for s in steps]
    return _loglik(steps), Trace(torch.stack(states), torch.stack(gains), torch.stack(solved))


def _loglik(steps: list[_Step]) -> Tensor:
    """Summed in double precision: ten thousand terms would cost float32 three digits."""
    white = torch.stack([s.white.double().square().sum((-2, -1)) for s in steps], dim=-1)
    factor = torch.stack([s.S.diagonal(dim1=-2, dim2=-1).double().abs().log().sum(-1) for s in steps], dim=-1)
    return (-0.5 * white - factor).sum(-1).to(steps[0].m.dtype)


def _steps(parts: _Parts, m: Tensor, L: Tensor, *, skip: bool) -> Iterator[_Step]:
    """All steps; ``skip``: the first one does not predict."""
    A, root, H, y, b = parts
    d, rows = m.shape[-1], H[0].shape[-2]
    eye = torch.eye(rows, dtype=m.dtype, device=m.device).expand(len(m), rows, rows)
    blank = m.new_zeros(len(m), d, rows)
    for k in range(len(A)):
        if k or not skip:
            m = matvec(A[k], m) if b is None else matvec(A[k], m) + b[k]
            L = triangular(A[k] @ L, root[k])
        # large rows first: Householder's reflections then keep the digits of the small ones
        joint = triangular(torch.cat([H[k] @ L, L], -2), torch.cat([eye, blank], -2))
        S, KS, after = joint[:, :rows, :rows], joint[:, rows:, :rows], joint[:, rows:, rows:]
        white = torch.linalg.solve_triangular(S, (y[k] - matvec(H[k], m)).unsqueeze(-1), upper=False)
        moved = m + (KS @ white).squeeze(-1)
        yield _Step(m, L, moved, after, S, KS, white)
        m, L = moved, after
