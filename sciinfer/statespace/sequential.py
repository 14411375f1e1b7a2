"""Kalman filter and Rauch-Tung-Striebel smoother, one step after the other, all series at once."""

from __future__ import annotations

import torch
from torch import Tensor

from .linalg import cholesky, solve_spd
from .problem import Filtered, LinearGaussian, Smoothed, matvec, outer_form, symmetrise


def update(m: Tensor, P: Tensor, H: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Condition ``N(m, P)`` on whitened rows: ``S = I + H P H^T``, ``K = P H^T S^{-1}``, Joseph form.

    Returns the mean, the covariance and the log-likelihood ``-1/2 (v^T S^{-1} v + log|S|)`` (the constants are in
    the whitening's Jacobian). Shapes ``[..., d]``, ``[..., d, d]``, ``[..., m, d]``, ``[..., m]``.
    """
    eye = torch.eye(H.shape[-2], dtype=P.dtype, device=P.device)
    HP = H @ P
    factor = cholesky(eye + symmetrise(HP @ H.mT), what="innovation covariance")
    residual = y - matvec(H, m)
    white = torch.linalg.solve_triangular(factor, residual.unsqueeze(-1), upper=False)
    K = torch.cholesky_solve(HP, factor).mT
    left = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - K @ H
    loglik = -0.5 * white.square().sum((-2, -1)) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return m + matvec(K, residual), outer_form(left, P) + K @ K.mT, loglik


def filter_sequential(problem: LinearGaussian) -> Filtered:
    """Kalman filter.

    References:
        Kalman (1960), A new approach to linear filtering and prediction problems.
    """
    _, _, _, _, m, P, _ = problem
    # unbound once: indexing inside the loop would make the backward pass quadratic in the number of times
    A, Q, H, y = (part.unbind(1) for part in problem[:4])
    b = None if problem.b is None else problem.b.unbind(1)
    means, covs, means_pred, covs_pred, loglik = [], [], [], [], torch.zeros_like(m[..., 0])
    for k in range(len(A)):
        if k:
            m = matvec(A[k], m) if b is None else matvec(A[k], m) + b[k]
            P = outer_form(A[k], P) + Q[k]
        means_pred.append(m)
        covs_pred.append(P)
        m, P, gained = update(m, P, H[k], y[k])
        loglik = loglik + gained
        means.append(m)
        covs.append(P)
    mean, cov, mean_pred, cov_pred = (torch.stack(part, dim=1) for part in (means, covs, means_pred, covs_pred))
    return Filtered(mean, cov, mean_pred, cov_pred, loglik)


def smoother_gains(problem: LinearGaussian, filtered: Filtered) -> Tensor:
    """``G_k = P_k A_{k+1}^T (P^-_{k+1})^{-1}``, ``[B, T, d, d]``; the last one is zero."""
    crossed = problem.A[:, 1:] @ filtered.cov[:, :-1]
    gains = solve_spd(filtered.cov_pred[:, 1:], crossed).mT
    return torch.cat([gains, torch.zeros_like(filtered.cov[:, -1:])], dim=1)


def smooth_sequential(problem: LinearGaussian, filtered: Filtered) -> Smoothed:
    """Rauch-Tung-Striebel smoother.

    References:
        Rauch, Tung, Striebel (1965), Maximum likelihood estimates of linear dynamic systems.
    """
    gains = smoother_gains(problem, filtered)
    G, mean, cov, mean_pred, cov_pred = (part.unbind(1) for part in (gains, *filtered[:4]))
    m, P = mean[-1], cov[-1]
    means, covs = [m], [P]
    for k in range(len(G) - 2, -1, -1):
        m = mean[k] + matvec(G[k], m - mean_pred[k + 1])
        P = symmetrise(cov[k] + G[k] @ (P - cov_pred[k + 1]) @ G[k].mT)
        means.append(m)
        covs.append(P)
    return Smoothed(torch.stack(means[::-1], 1), torch.stack(covs[::-1], 1), gains)
