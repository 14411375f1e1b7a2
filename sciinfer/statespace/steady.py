"""Equal steps and complete rows: after a while the gain stands still and the filter is a constant recurrence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lanes import MAX_ROWS, MAX_STATE
from .linalg import cholesky
from .problem import LinearGaussian, matvec, outer_form, symmetrise
from .sequential import update

#: times from which looking for a steady state pays; filter steps after which it is given up
SHORTEST, LONGEST_START = 1024, 2000
#: relative change of the covariance in one step at which the gain counts as constant
STILL = 1e-14
#: relative spread of the entries of ``A, Q, H`` along time that is round-off of the times: a million of them leave
#: ten digits of a step, and ``Q`` goes with its cube; the mean step takes the first order of the error away
SPREAD = 1e-8
_BLOCK = 32


class Steady(NamedTuple):
    """``loglik [B]``, and what vouches for it.

    The gain was frozen at step ``switched``, where the covariance changed by ``change`` (relative) in one step;
    ``spread`` is the largest relative spread of an entry of ``A, Q, H`` along time.
    """

    loglik: Tensor
    switched: int
    change: float
    spread: float


class _Constant(NamedTuple):
    A: Tensor
    Q: Tensor
    H: Tensor
    spread: float


@torch.no_grad()
def steady_loglik(problem: LinearGaussian) -> Steady | None:
    """Log-likelihood with a gain that is frozen once it stands still; None where the problem is not of that kind.

    Takes problems with ``A, Q, H`` constant along time (no missing rows), small state, float64. No gradient.
    """
    found = _constant(problem)
    if found is None:
        return None
    m, P, loglik = problem.m0, problem.P0, torch.zeros_like(problem.m0[:, 0])
    for k in range(min(LONGEST_START, problem.A.shape[1] - 1)):
        m, filtered, gained = update(m, P, found.H, problem.y[:, k])
        later = outer_form(found.A, filtered) + found.Q
        m = matvec(found.A, m) if problem.b is None else matvec(found.A, m) + problem.b[:, k + 1]
        loglik = loglik + gained
        change = float(((later - P).abs().amax((1, 2)) / later.abs().amax((1, 2))).max())
        P = later
        if change < STILL:
            return Steady(loglik + _rest(problem, found, m, P, k + 1), k + 1, change, found.spread)
    return None


def _rest(problem: LinearGaussian, found: _Constant, m: Tensor, P: Tensor, start: int) -> Tensor:
    """Log-likelihood from ``start`` on, where ``N(m, P)`` is predicted and ``P`` does not change any more."""
    A, _, H, _ = found
    y = problem.y[:, start:]
    eye = torch.eye(H.shape[-2], dtype=P.dtype, device=P.device)
    factor = cholesky(eye + symmetrise(H @ P @ H.mT), what="innovation covariance")
    gain = A @ torch.cholesky_solve(H @ P, factor).mT
    push = y @ gain.mT
    if problem.b is not None:
        push[:, :-1] += problem.b[:, start + 1 :]
    predicted = constant_recurrence(A - gain @ H, push, m)
    white = torch.linalg.solve_triangular(factor, (y - predicted @ H.mT).mT, upper=False)
    half_logdet = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum((1, 2)) - y.shape[1] * half_logdet


def constant_recurrence(M: Tensor, u: Tensor, start: Tensor) -> Tensor:
    """``x_{k+1} = M x_k + u_k`` from ``x_0``, by products with blocks of powers of ``M``.

    Args:
        M: ``[B, d, d]``. u: ``[B, T, d]``. start: ``[B, d]``.

    Returns:
        ``x_0 .. x_{T-1}``, ``[B, T, d]``.

    Example:
        >>> one = torch.ones(1, 3, 1, dtype=torch.float64)
        >>> constant_recurrence(0.5 * one[:, :1], one, one[:, 0]).flatten().tolist()
        [1.0, 1.5, 1.75]
    """
    batch, times, d = u.shape
    size = min(_BLOCK, times)
    count = -(-times // size)
    response, last, free, power = _responses(M, size)
    whole = torch.cat([u, u.new_zeros(batch, count * size - times, d)], 1) if count * size > times else u
    whole = whole.reshape(batch, count, size * d)
    starts = start[:, None] if count == 1 else constant_recurrence(power, whole @ last, start)
    return torch.baddbmm(starts @ free, whole, response).reshape(batch, count * size, d)[:, :times]


def _responses(M: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Transposed maps of a block: inputs to states, inputs to the next start, start to states; and ``M^size``."""
    batch, d, _ = M.shape
    powers = [torch.eye(d, dtype=M.dtype, device=M.device).expand_as(M)]
    for _ in range(size):
        powers.append(M @ powers[-1])
    stack = torch.stack(powers, 1).mT  # [B, size + 1, d (in), d (out)]
    places = torch.arange(size, device=M.device)
    lag = places[None, :] - places[:, None] - 1  # state j, input i
    response = torch.where((lag >= 0)[None, :, :, None, None], stack[:, lag.clamp(min=0)], 0.0)
    flat = response.permute(0, 1, 3, 2, 4).reshape(batch, size * d, size * d)
    last = stack[:, :size].flip(1).reshape(batch, size * d, d)
    free = stack[:, :size].permute(0, 2, 1, 3).reshape(batch, d, size * d)
    return flat, last, free, powers[-1]


def _constant(problem: LinearGaussian) -> _Constant | None:
    """Time means of ``A, Q, H`` if they do not vary beyond round-off."""
    A, H = problem.A, problem.H
    small = A.shape[-1] <= MAX_STATE and H.shape[-2] <= MAX_ROWS
    if not small or A.shape[1] < SHORTEST or A.dtype != torch.float64:
        return None
    parts = (A[:, 1:], problem.Q[:, 1:], H)
    # three places first: most series are settled there
    if any(_spread(x[:, [0, x.shape[1] // 3, -1]]) > SPREAD for x in parts):
        return None
    spread = max(_spread(x) for x in parts)
    if not spread <= SPREAD:
        return None
    A, Q, H = (x[:, 0] if x.stride(1) == 0 else x.mean(1) for x in parts)
    return _Constant(A, Q, H, spread)


def _spread(x: Tensor) -> float:
    if x.stride(1) == 0:
        return 0.0
    low, high = torch.aminmax(x, dim=1)
    size = torch.maximum(low.abs(), high.abs())
    # a pair of zeros does not spread
    return float(((high - low) / size.clamp(min=torch.finfo(x.dtype).tiny)).max())
