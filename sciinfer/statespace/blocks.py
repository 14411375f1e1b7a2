"""Larger states: the same three sweeps as ``lanes.py`` on batched matrices, lanes first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lanes import Gradients, Layout, Totals
from .linalg import cholesky
from .problem import LinearGaussian, symmetrise


class Blocks(NamedTuple):
    """``A, Q [L, n, d, d]``, ``H [L, n, m, d]``, ``y [L, n, m]``, ``b [L, n, d]``; first steps as in ``Lanes``."""

    A: Tensor
    Q: Tensor
    H: Tensor
    y: Tensor
    b: Tensor | None


class Trace(NamedTuple):
    """Filtered ``[mean | cov] [L + 1, n, d, 1 + d]``; ``gain [L, n, d, m]``; ``S^{-1} [v | H] [L, n, m, 1 + d]``."""

    state: Tensor
    gain: Tensor
    solved: Tensor


def lay_out(problem: LinearGaussian, layout: Layout) -> Blocks:
    """Rearrange a problem; a stretch's empty end keeps the state."""
    A, Q, H, y, _, _, b = (None if part is None else part.detach() for part in problem)
    found = Blocks(*(None if x is None else _to(x, layout) for x in (A, Q, H, y, b)))  # pyright: ignore[reportArgumentType]
    view = found.A.unflatten(1, (layout.batch, layout.chunks))
    eye = torch.eye(view.shape[-1], dtype=view.dtype, device=view.device)
    whole, rest = divmod(layout.times, layout.length)
    if whole < layout.chunks:
        view[rest:, :, whole] = eye
        view[:, :, whole + 1 :] = eye
    first = slice(None, None, layout.chunks)
    found.A[0, first], found.Q[0, first] = eye, 0.0
    if found.b is not None:
        found.b[0, first] = 0.0
    return found


def _to(x: Tensor, layout: Layout) -> Tensor:
    batch, times, chunks, length = layout
    out = x.new_zeros(batch, chunks * length, *x.shape[2:])
    out[:, :times] = x
    return out.unflatten(1, (chunks, length)).flatten(0, 1).transpose(0, 1).contiguous()


def from_lanes(x: Tensor, layout: Layout) -> Tensor:
    """Back to ``[B, T, ...]``."""
    back = x.transpose(0, 1).unflatten(0, (layout.batch, layout.chunks))
    return back.flatten(1, 2)[:, : layout.times]


def _predict(parts: Blocks, k: int, M: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    A = parts.A[k]
    M, P = A @ M, A @ P @ A.mT + parts.Q[k]
    if parts.b is not None:
        M[..., 0] += parts.b[k]
    return M, symmetrise(P)


def _condition(M: Tensor, P: Tensor, H: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """``M = [mean | ...]``; returns ``M``, ``P``, the gain, the factor of ``S`` and the white ``[v | -H M..]``."""
    HP = H @ P
    factor = cholesky(torch.eye(H.shape[-2], dtype=P.dtype, device=P.device) + symmetrise(HP @ H.mT), what=_WHAT)
    seen = -(H @ M)
    seen[..., 0] += y
    white = torch.linalg.solve_triangular(factor, torch.cat([HP, seen], -1), upper=False)
    d = P.shape[-1]
    Up, Us = white[..., :d], white[..., d:]
    gain = torch.linalg.solve_triangular(factor.mT, Up, upper=True).mT
    P = P - Up.mT @ Up
    # Joseph's form, see lanes.py
    P = symmetrise(P + (gain - P @ H.mT) @ gain.mT)
    return M + Up.mT @ Us, P, gain, factor, Us


_WHAT = "innovation covariance"


def totals(parts: Blocks) -> Totals:
    """What each stretch does to any start."""
    length, n, d, _ = parts.A.shape
    M = torch.cat(
        [parts.A.new_zeros(n, d, 1), torch.eye(d, dtype=parts.A.dtype, device=parts.A.device).expand(n, d, d)], -1
    )
    P, info = parts.A.new_zeros(n, d, d), parts.A.new_zeros(n, d, 1 + d)
    for k in range(length):
        M, P = _predict(parts, k, M, P)
        M, P, _, _, seen = _condition(M, P, parts.H[k], parts.y[k])
        info = info - seen[..., 1:].mT @ seen
    return Totals(M[..., 1:], info[..., 0], -info[..., 1:], M[..., 0], P)


def run(parts: Blocks, m: Tensor, P: Tensor, predicted: Tensor | None = None) -> tuple[Tensor, Trace]:
    """Filter every lane from ``m [n, d], P [n, d, d]``; ``predicted [L, n, d, 1 + d]`` as in ``lanes.run``."""
    M, loglik = m.unsqueeze(-1), torch.zeros_like(m[:, 0])
    states, gains, solved = [torch.cat([M, P], -1)], [], []
    for k in range(len(parts.A)):
        M, P = _predict(parts, k, M, P)
        if predicted is not None:
            torch.cat([M, P], -1, out=predicted[k])
        M, P, gain, factor, seen = _condition(M, P, parts.H[k], parts.y[k])
        loglik = loglik - 0.5 * seen.square().sum((1, 2)) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        states.append(torch.cat([M, P], -1))
        gains.append(gain)
        v = torch.linalg.solve_triangular(factor.mT, seen, upper=True)
        solved.append(torch.cat([v, torch.cholesky_solve(parts.H[k], factor)], -1))
    return loglik, Trace(torch.stack(states), torch.stack(gains), torch.stack(solved))


def back(parts: Blocks, trace: Trace, r: Tensor, N: Tensor, scale: Tensor) -> Gradients:
    """Disturbance smoother, as ``lanes.back``."""
    A, Q, H, y = (torch.empty_like(x) for x in (parts.A, parts.Q, parts.H, parts.y))
    out = Gradients(A, Q, H, y, torch.empty_like(parts.A[..., 0]), r, N)
    by = scale[:, None]
    for k in range(len(parts.A) - 1, -1, -1):
        A, H, K = parts.A[k], parts.H[k], trace.gain[k]
        m, P = trace.state[k + 1][..., :1], trace.state[k + 1][..., 1:]
        x = (m + P @ r.unsqueeze(-1)).mT
        error = (x @ H.mT)[:, 0] - parts.y[k]
        V = symmetrise(P - P @ N @ P)
        out.y[k] = error * by
        out.H[k] = -(error.unsqueeze(-1) * x + H @ V) * by.unsqueeze(-1)
        v, Hs = trace.solved[k][..., :1], trace.solved[k][..., 1:]
        L = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - K @ H
        r = (L.mT @ r.unsqueeze(-1) + H.mT @ v)[..., 0]
        N = symmetrise(L.mT @ N @ L + H.mT @ Hs)
        before = trace.state[k]
        W = (r.unsqueeze(-1) * r.unsqueeze(-2) - N) * by.unsqueeze(-1)
        out.b[k], out.Q[k] = r * by, 0.5 * W
        out.A[k] = out.b[k].unsqueeze(-1) * before[..., :1].mT + W @ (A @ before[..., 1:])
        r, N = (A.mT @ r.unsqueeze(-1))[..., 0], symmetrise(A.mT @ N @ A)
    return out._replace(r=r, N=N)
