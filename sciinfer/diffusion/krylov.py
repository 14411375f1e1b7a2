"""Functions of a symmetric matrix known by its products, sample by sample, in Krylov spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: a residual below this share of the start ends the recursion for a sample
_NOTHING = 1e-12


def root_times(product: Callable[[Tensor], Tensor], z: Tensor, rank: int) -> Tensor:
    """``C^{1/2} z`` for a positive semi-definite ``C [n x n]`` of each sample, by Lanczos; exact at full rank.

    Args:
        product: ``v -> C v`` on ``[n, *shape]``. z: ``[n, *shape]``. rank: products taken at most.

    References:
        Chow, Saad (2014), Preconditioned Krylov subspace methods for sampling multivariate Gaussian distributions.

    Example:
        >>> C = torch.tensor([[4.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
        >>> root_times(lambda v: v @ C, torch.ones(1, 2, dtype=torch.float64), 2).round(decimals=9).tolist()
        [[2.0, 3.0]]
    """
    basis, tridiagonal, size = _lanczos(product, z.flatten(1), z.shape, min(rank, z[0].numel()))
    values, vectors = torch.linalg.eigh(tridiagonal)
    first = (vectors * values.clamp(min=0.0).sqrt()[:, None]) @ vectors[:, 0, :, None]
    return (size[:, None] * (basis @ first)[..., 0]).reshape(z.shape)


def _lanczos(
    product: Callable[[Tensor], Tensor], z: Tensor, shape: torch.Size, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal basis ``[n, size, rank]``, tridiagonal ``[n, rank, rank]`` and the norm of the start ``[n]``."""
    size, tiny = z.norm(dim=1), torch.finfo(z.dtype).tiny
    q = [z / size.clamp(min=tiny)[:, None]]
    T = z.new_zeros(len(z), rank, rank)
    for k in range(rank):
        w = product(q[k].reshape(shape)).flatten(1)
        T[:, k, k] = (w * q[k]).sum(1)
        for _ in range(2):  # once is not enough to stay orthogonal
            Q = torch.stack(q, dim=2)
            w = w - (Q @ (Q.mT @ w[..., None]))[..., 0]
        left = w.norm(dim=1)
        if k + 1 < rank:
            alive = left > _NOTHING * T[:, 0, 0].abs().clamp(min=tiny)
            beta = torch.where(alive, left, torch.zeros_like(left))
            T[:, k, k + 1] = T[:, k + 1, k] = beta
            q.append(torch.where(alive[:, None], w / left.clamp(min=tiny)[:, None], torch.zeros_like(w)))
    return torch.stack(q, dim=2), T, size


class Solved(NamedTuple):
    """``x`` as the right-hand side; ``residual [n]``, relative; ``iterations``: products taken."""

    x: Tensor
    residual: Tensor
    iterations: int


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, limit: int) -> Solved:
    """Solve ``K x = b [n, m]`` for each row by its own symmetric positive definite ``K``; each row stops on its own.

    Args:
        product: ``[n, m] -> [n, m]``. tolerance: relative residual. limit: products at most.

    References:
        Hestenes, Stiefel (1952), Methods of conjugate gradients for solving linear systems.
    """
    tiny = torch.finfo(b.dtype).tiny
    x, r, p, taken = torch.zeros_like(b), b, b, 0
    squared = r.square().sum(1, keepdim=True)
    goal = tolerance**2 * squared
    while taken < limit and bool((going := squared > goal).any()):
        ahead, taken = product(p), taken + 1
        step = torch.where(going, squared / (p * ahead).sum(1, keepdim=True).clamp(min=tiny), torch.zeros_like(squared))
        x, r = x + step * p, r - step * ahead
        fresh = torch.where(going, r.square().sum(1, keepdim=True), squared)
        p = r + fresh / squared.clamp(min=tiny) * p
        squared = fresh
    return Solved(x, (squared / b.square().sum(1, keepdim=True).clamp(min=tiny)).sqrt()[:, 0], taken)


def gmres(product: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, limit: int) -> Solved:
    """Solve ``K x = b [n, m]`` for each row by its own, not necessarily symmetric ``K``; each row stops on its own.

    Args:
        product: ``[n, m] -> [n, m]``. tolerance: relative residual. limit: products at most.

    References:
        Saad, Schultz (1986), GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear systems.

    Example:
        >>> K = torch.tensor([[2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
        >>> b = torch.tensor([[3.0, 3.0]], dtype=torch.float64)
        >>> gmres(lambda v: v @ K.T, b, tolerance=1e-12, limit=5).x.round(decimals=9).tolist()
        [[1.0, 1.0]]
    """
    size, tiny = b.norm(dim=1), torch.finfo(b.dtype).tiny
    q = [b / size.clamp(min=tiny)[:, None]]
    limit = min(limit, b.shape[1])
    H = b.new_zeros(len(b), limit + 1, limit)
    x, residual = torch.zeros_like(b), torch.ones_like(size) * (size > 0)
    taken = 0
    for k in range(limit):
        going = residual > tolerance
        if not bool(going.any()):
            break
        w, Q = product(q[k]), torch.stack(q, dim=2)
        taken += 1
        for _ in range(2):  # once is not enough to stay orthogonal
            part = (Q.mT @ w[..., None])[..., 0]
            H[:, : k + 1, k] += part
            w = w - (Q @ part[..., None])[..., 0]
        left = w.norm(dim=1)
        H[:, k + 1, k] = left
        q.append(w / left.clamp(min=tiny)[:, None])
        weights, away = _least(H[:, : k + 2, : k + 1])
        x = torch.where(going[:, None], size[:, None] * (Q @ weights[..., None])[..., 0], x)
        residual = torch.where(going, away, residual)
    return Solved(x, residual, taken)


def _least(H: Tensor) -> tuple[Tensor, Tensor]:
    """``argmin |e_1 - H c|`` and the distance left, for each sample."""
    first = torch.zeros_like(H[..., 0])
    first[:, 0] = 1.0
    Q, R = torch.linalg.qr(H)
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    # a direction in which nothing is left gets no weight
    small = diagonal.abs() <= _NOTHING * diagonal.abs().amax(1, keepdim=True).clamp(min=torch.finfo(H.dtype).tiny)
    R = R + torch.diag_embed(small.to(R.dtype))
    right = (Q.mT @ first[..., None])[..., 0].masked_fill(small, 0.0)
    c = torch.linalg.solve_triangular(R, right[..., None], upper=True)[..., 0]
    return c, (first - (H @ c[..., None])[..., 0]).norm(dim=1)
