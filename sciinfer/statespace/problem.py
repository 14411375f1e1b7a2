"""The linear-Gaussian problem that every exact path of the package reduces to."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class LinearGaussian(NamedTuple):
    """``x_0 ~ N(m0, P0)``, ``x_k = A_k x_{k-1} + b_k + N(0, Q_k)``, ``y_k = H_k x_k + N(0, I)``.

    Observation rows are whitened (unit noise, see :func:`whiten`), so a missing entry is a row of zeros and costs
    nothing but its place. ``B`` series, ``T`` times, state ``d``, ``m`` rows:
    ``A, Q [B, T, d, d]`` (step ``k`` leads from ``k-1`` to ``k``; step 0 is unused), ``H [B, T, m, d]``,
    ``y [B, T, m]``, ``m0 [B, d]``, ``P0 [B, d, d]``, ``b [B, T, d]`` or None. Controls ``u_k`` enter as known offsets
    ``b_k = B_k u_k``; the gradient of ``b`` gives that of ``B`` and ``u``.
    """

    A: Tensor
    Q: Tensor
    H: Tensor
    y: Tensor
    m0: Tensor
    P0: Tensor
    b: Tensor | None = None


class Filtered(NamedTuple):
    """``mean, cov``: filtered moments; ``mean_pred, cov_pred``: one-step predictions; ``loglik [B]`` (whitened)."""

    mean: Tensor
    cov: Tensor
    mean_pred: Tensor
    cov_pred: Tensor
    loglik: Tensor


class Smoothed(NamedTuple):
    """``mean [B, T, d]``, ``cov [B, T, d, d]``: moments given all data; ``gain [B, T, d, d]``: smoother gains."""

    mean: Tensor
    cov: Tensor
    gain: Tensor


def whiten(H: Tensor, y: Tensor, precision: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale rows to unit noise and zero the missing ones.

    Args:
        H: ``[..., m, d]``; y: ``[..., m]``; precision: ``[..., m]`` inverse noise variances; mask: ``[..., m]`` bool.

    Returns:
        whitened ``H``, whitened ``y``, and ``log_jacobian [...]``: what to add to the whitened log-likelihood,
        ``sum over observed rows of 1/2 log(precision / 2 pi)``.
    """
    # what is missing may be anything, NaN included: replaced before it can reach a value or a gradient
    safe = torch.where(mask, precision, torch.ones_like(precision))
    root = safe.sqrt() * mask
    return H * root[..., None], torch.where(mask, y, torch.zeros_like(y)) * root, log_jacobian(safe, mask)


def log_jacobian(precision: Tensor, mask: Tensor) -> Tensor:
    """``sum over observed rows of 1/2 log(precision / 2 pi)``, ``[...]``."""
    return (0.5 * (precision.log() - math.log(2 * math.pi)) * mask).sum(-1)


def symmetrise(P: Tensor) -> Tensor:
    """``(P + P^T) / 2``."""
    return 0.5 * (P + P.mT)


def outer_form(A: Tensor, P: Tensor) -> Tensor:
    """``A P A^T``, symmetrised."""
    return symmetrise(A @ P @ A.mT)


def matvec(A: Tensor, x: Tensor) -> Tensor:
    """``A x`` for batched matrices and vectors."""
    return (A @ x.unsqueeze(-1)).squeeze(-1)
