"""Many small Gaussian conditionals at once: the last of each block given the rest."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import NumericalError
from ...statespace.linalg import jittered_cholesky
from .covariances import Covariance

#: added to a block that has lost definiteness, in units of its mean variance, one after the other
LADDER = (1e-12, 1e-10, 1e-8, 1e-6)


class Conditional(NamedTuple):
    """``f_s | f_1..f_{s-1} ~ N(weights . f, variance)``: ``weights [B, s-1]``, ``variance [B]``; the jitter."""

    weights: Tensor
    variance: Tensor
    factor: Tensor
    jitter: float


def blocks(covariance: Covariance, X: Tensor, noise: Tensor, index: Tensor) -> Tensor:
    """Covariances ``[B, s, s]`` of the rows ``index [B, s]``; a row of -1 is independent of all and has variance one.

    Args:
        X: points ``[n, d]``. noise: added variances ``[n]``. index: rows of X, or -1.
    """
    valid = index >= 0
    rows = index.clamp(min=0)
    near = X[rows]
    K = covariance(near, near) + torch.diag_embed(noise[rows])
    eye = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
    return torch.where(valid[:, :, None] & valid[:, None, :], K, eye)


def condition_last(K: Tensor) -> Conditional:
    """Weights and variance of the last of each block given the others.

    Raises:
        NumericalError: a block is not positive definite even with the largest jitter.
    """
    factor, jitter = safe_cholesky(K[:, :-1, :-1])
    half = torch.linalg.solve_triangular(factor, K[:, :-1, -1:], upper=False)
    weights = torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0]
    full = K[:, -1, -1]
    variance = full - half[..., 0].square().sum(-1)
    floor = LADDER[0] * full
    if bool((variance < floor).any()):
        jitter = max(jitter, LADDER[0])
    return Conditional(weights, torch.maximum(variance, floor), factor, jitter)


def safe_cholesky(K: Tensor) -> tuple[Tensor, float]:
    """Lower factors of ``K [B, s, s]`` and the largest relative jitter that any of them took.

    Raises:
        NumericalError: some block is not finite, or not positive definite even with the largest jitter.
    """
    found = jittered_cholesky(K, LADDER, lambda diagonal: diagonal.mean(-1))
    if not bool(found.info.any()):
        return found.lower, found.jitter
    raise NumericalError(
        "a covariance between neighbours is not positive definite",
        fix="raise the noise, or shorten the length-scales: points lie too close for this kernel",
        details={"jitter": LADDER[-1], "blocks": int((found.info != 0).sum())},
    )


class _LogDensity(torch.autograd.Function):
    """``log p(y_s | y_1..y_{s-1})`` of each block; the gradient in closed form, nothing of the factor is kept."""

    @staticmethod
    def forward(ctx: Any, K: Tensor, y: Tensor, jitter: list[float]) -> Tensor:
        given = condition_last(K)
        jitter[0] = max(jitter[0], given.jitter)
        solved = torch.cholesky_solve(y[:, :-1, None], given.factor)[..., 0]
        error = y[:, -1] - (given.weights * y[:, :-1]).sum(-1)
        ctx.save_for_backward(given.weights, given.variance, solved, error)
        return -0.5 * (error.square() / given.variance + given.variance.log() + math.log(2 * math.pi))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        """With ``w = (-weights, 1)``, ``a = (K_NN^-1 y_N, 0)``: ``dv = w^T dK w``, ``d error = -w^T dK a``."""
        weights, variance, solved, error = ctx.saved_tensors
        slope = slopes[0]
        w = torch.cat([-weights, torch.ones_like(error)[:, None]], -1)
        a = torch.cat([solved, torch.zeros_like(error)[:, None]], -1)
        scaled = (slope * error / variance)[:, None]
        spread = (0.5 * slope * ((error / variance).square() - 1 / variance))[:, None]
        half = 0.5 * scaled * a
        dK = w[:, :, None] * (half + spread * w)[:, None, :] + half[:, :, None] * w[:, None, :]
        return dK, -scaled * w, None


def log_density(K: Tensor, y: Tensor, jitter: list[float]) -> Tensor:
    """``log p(y_s | y_1..y_{s-1}) [B]`` of blocks ``K [B, s, s]``, ``y [B, s]``; ``jitter[0]`` notes the largest."""
    result = _LogDensity.apply(K, y, jitter)
    if not isinstance(result, Tensor):
        raise NumericalError("the conditional gave no tensor")
    return result
