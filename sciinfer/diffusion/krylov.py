"""Functions of a symmetric matrix known by its products, sample by sample, in Krylov spaces."""

from __future__ import annotations

from collections.abc import Callable

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
    size = z.norm(dim=1)
    q = [z / size.clamp(min=1e-300)[:, None]]
    T = z.new_zeros(len(z), rank, rank)
    for k in range(rank):
        w = product(q[k].reshape(shape)).flatten(1)
        T[:, k, k] = (w * q[k]).sum(1)
        for _ in range(2):  # once is not enough to stay orthogonal
            Q = torch.stack(q, dim=2)
            w = w - (Q @ (Q.mT @ w[..., None]))[..., 0]
        left = w.norm(dim=1)
        if k + 1 < rank:
            alive = left > _NOTHING * T[:, 0, 0].abs().clamp(min=1e-300)
            beta = torch.where(alive, left, torch.zeros_like(left))
            T[:, k, k + 1] = T[:, k + 1, k] = beta
            q.append(torch.where(alive[:, None], w / left.clamp(min=1e-300)[:, None], torch.zeros_like(w)))
    return torch.stack(q, dim=2), T, size
