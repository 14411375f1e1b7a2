"""The same filter and smoother as associative scans: logarithmic depth in the number of times.

References:
    Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers.
    Corenflos, Zhao, Särkkä (2022), Temporal Gaussian process regression in logarithmic time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .linalg import cholesky
from .problem import Filtered, LinearGaussian, Smoothed, matvec, outer_form, symmetrise
from .sequential import smoother_gains, update

Elements = tuple[Tensor, ...]
Combine = Callable[[Elements, Elements], Elements]


def associative_scan(combine: Combine, elements: Elements) -> Elements:
    """All prefixes ``e_0, e_0 * e_1, ...`` along dim 1 (odd-even recursion, ``2 T`` combinations)."""
    length = elements[0].shape[1]
    if length == 1:
        return elements
    pairs = combine(tuple(e[:, :-1:2] for e in elements), tuple(e[:, 1::2] for e in elements))
    odd = associative_scan(combine, pairs)
    later = tuple(e[:, 2::2] for e in elements)
    even = combine(tuple(o[:, : later[0].shape[1]] for o in odd), later)
    return tuple(_interleave(torch.cat([e[:, :1], v], 1), o) for e, v, o in zip(elements, even, odd, strict=True))


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    if even.shape[1] == odd.shape[1]:
        return torch.stack([even, odd], dim=2).flatten(1, 2)
    joined = torch.stack([even[:, :-1], odd], dim=2).flatten(1, 2)
    return torch.cat([joined, even[:, -1:]], dim=1)


def filter_scan(problem: LinearGaussian) -> Filtered:
    """Kalman filter by an associative scan; equal to the sequential one up to round-off."""
    _, _, _, mean, cov = (part for part in _scan_filter_elements(problem))
    A, Q, H, y, m0, P0, b = problem
    moved = matvec(A[:, 1:], mean[:, :-1])
    mean_pred = torch.cat([m0[:, None], moved if b is None else moved + b[:, 1:]], dim=1)
    cov_pred = torch.cat([P0[:, None], outer_form(A[:, 1:], cov[:, :-1]) + Q[:, 1:]], dim=1)
    mean, cov, loglik = update(mean_pred, cov_pred, H, y)
    return Filtered(mean, cov, mean_pred, cov_pred, loglik.sum(1))


def _scan_filter_elements(problem: LinearGaussian) -> Elements:
    """Elements ``(A, eta, J, b, C)`` of the filtering scan, combined; ``b, C`` are the filtered moments."""
    A, Q, H, y, m0, P0, b = problem
    first = torch.arange(A.shape[1], device=A.device) == 0
    A = torch.where(first[:, None, None], torch.zeros_like(A), A)
    Q = torch.cat([P0[:, None], Q[:, 1:]], dim=1)
    shift = torch.zeros_like(A[..., 0]) if b is None else b
    shift = torch.cat([m0[:, None], shift[:, 1:]], dim=1)
    eye_m = torch.eye(H.shape[-2], dtype=A.dtype, device=A.device)
    factor = cholesky(eye_m + symmetrise(H @ Q @ H.mT), what="innovation covariance")
    HA = H @ A
    residual = (y - matvec(H, shift)).unsqueeze(-1)
    K = torch.cholesky_solve(H @ Q, factor).mT
    left = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) - K @ H
    weighted = torch.cholesky_solve(HA, factor).mT
    elements = (
        left @ A,
        (weighted @ residual).squeeze(-1),
        symmetrise(weighted @ HA),
        shift + (K @ residual).squeeze(-1),
        outer_form(left, Q) + K @ K.mT,
    )
    return associative_scan(combine_filter, elements)


def combine_filter(i: Elements, j: Elements) -> Elements:
    """First ``i`` then ``j``, of elements ``(A, eta, J, b, C)``."""
    Ai, eta_i, Ji, bi, Ci = i
    Aj, eta_j, Jj, bj, Cj = j
    eye = torch.eye(Ai.shape[-1], dtype=Ai.dtype, device=Ai.device)
    # one factorisation of I + C_i J_j serves all products; its transpose is I + J_j C_i
    right = torch.cat([Ai, Ci @ Aj.mT, (bi + matvec(Ci, eta_j)).unsqueeze(-1)], dim=-1)
    solved = torch.linalg.solve(eye + Ci @ Jj, right)
    d = Ai.shape[-1]
    MA, MC, Mb = solved[..., :d], solved[..., d : 2 * d], solved[..., 2 * d]
    A = Aj @ MA
    C = symmetrise(Aj @ MC) + Cj
    b = matvec(Aj, Mb) + bj
    eta = matvec(MA.mT, eta_j - matvec(Jj, bi)) + eta_i
    J = symmetrise(Ai.mT @ Jj @ MA) + Ji
    return A, eta, J, b, C


def smooth_scan(problem: LinearGaussian, filtered: Filtered) -> Smoothed:
    """Rauch-Tung-Striebel smoother by an associative scan (run backwards in time)."""
    gains = smoother_gains(problem, filtered)
    mean_next = torch.cat([filtered.mean_pred[:, 1:], filtered.mean_pred[:, -1:]], dim=1)
    cov_next = torch.cat([filtered.cov_pred[:, 1:], filtered.cov_pred[:, -1:]], dim=1)
    g = filtered.mean - matvec(gains, mean_next)
    L = symmetrise(filtered.cov - gains @ cov_next @ gains.mT)
    flipped = tuple(part.flip(1) for part in (gains, g, L))
    _, mean, cov = associative_scan(combine_smoother, flipped)
    return Smoothed(mean.flip(1), cov.flip(1), gains)


def combine_smoother(later: Elements, earlier: Elements) -> Elements:
    """Of elements ``(E, g, L)``: ``x -> E x + g`` for means, ``X -> E X E^T + L`` for covariances."""
    E2, g2, L2 = later
    E1, g1, L1 = earlier
    return E1 @ E2, matvec(E1, g2) + g1, outer_form(E1, L2) + L1
