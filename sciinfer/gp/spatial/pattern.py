"""Sparse upper triangular factors in maximin order: which entries, and solves with them, whole or local.

References:
    Schäfer, Katzfuss, Owhadi (2021), Sparse Cholesky factorization by Kullback-Leibler minimization.
    Cao, Kang, Jimenez, Sang, Schäfer, Katzfuss (2023), Variational sparse inverse Cholesky approximation for latent
    Gaussian processes via double Kullback-Leibler minimization.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .neighbours import nearest_before, within_before
from .ordering import maximin


class Pattern(NamedTuple):
    """Points in maximin order and the nonzero entries of a factor's columns.

    Args:
        order: rows of the unordered points ``[n]``.
        columns: rows of column i ``[n, s]``: predecessors within ``rho l_i`` and at least the nearest ``5 rho``,
            ascending, then i itself; -1 before them.
        ancestors: ``[n, a]``: predecessors j of i within ``rho l_j`` or in its column, ascending, then i itself; n
            after them.
    """

    order: Tensor
    columns: Tensor
    ancestors: Tensor


def make_pattern(X: np.ndarray, rho: float) -> Pattern:
    """The pattern of points ``[n, d]`` (in units of the length-scales, all different) for a radius ``rho``."""
    order, lengths = maximin(X)
    X = X[order]
    reach = np.where(np.isfinite(lengths), lengths, 0.0) * rho
    # of two points that lie close together the second has a tiny length: it would be left with the first alone
    near = nearest_before(X, math.ceil(5 * rho))
    within = within_before(X, reach)
    columns = [np.union1d(found, near[i][near[i] >= 0]) for i, found in enumerate(within)]
    ancestors = [np.union1d(found, columns[i]) for i, found in enumerate(_ancestors(X, lengths * rho))]
    return Pattern(
        torch.as_tensor(order),
        _padded([np.append(found, i) for i, found in enumerate(columns)], -1, front=True),
        _padded([np.append(found, i) for i, found in enumerate(ancestors)], len(X), front=False),
    )


def _ancestors(X: np.ndarray, reach: np.ndarray) -> list[np.ndarray]:
    from scipy.spatial import KDTree

    span = float(np.linalg.norm(np.ptp(X, axis=0))) + 1.0 if len(X) else 1.0
    found: list[list[int]] = [[] for _ in range(len(X))]
    tree = KDTree(X) if len(X) else None
    for j, radius in enumerate(reach):
        near = [] if tree is None else tree.query_ball_point(X[j], min(float(radius), span))
        for i in near:
            if i > j:
                found[i].append(j)
    return [np.array(before, dtype=np.int64) for before in found]


def _padded(rows: list[np.ndarray], fill: int, *, front: bool) -> Tensor:
    width = max((len(row) for row in rows), default=1)
    table = np.full((len(rows), width), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, slice(width - len(row), width) if front else slice(len(row))] = row
    return torch.as_tensor(table)


def dense_factor(columns: Tensor, values: Tensor) -> Tensor:
    """The factor ``[n, n]`` of entries ``values [n, s]`` at ``columns [n, s]``."""
    n = len(columns)
    kept = columns >= 0
    place = torch.arange(n)[:, None].expand_as(columns)[kept]
    return torch.zeros(n, n, dtype=values.dtype).index_put((columns[kept], place), values[kept])


def local_factor(columns: Tensor, values: Tensor, sets: Tensor) -> Tensor:
    """Blocks ``V[A, A] [B, a, a]`` on index sets ``A [B, a]`` (ascending; n and more: padding, an identity)."""
    n, (batch, width) = len(columns), sets.shape
    real = sets < n
    own = sets.clamp(max=n - 1)
    rows, entries = columns[own].flatten(1), values[own].flatten(1)
    place = torch.searchsorted(sets, rows.clamp(min=0)).clamp(max=width - 1)
    kept = (rows >= 0) & (sets.gather(1, place) == rows) & real.repeat_interleave(columns.shape[1], 1)
    which = torch.arange(batch)[:, None].expand_as(rows)
    column = torch.arange(width).repeat_interleave(columns.shape[1]).expand_as(rows)
    block = torch.zeros(batch, width, width, dtype=values.dtype)
    block = block.index_put((which[kept], place[kept], column[kept]), entries[kept])
    return block + torch.diag_embed((~real).to(values.dtype))


def place_in(sets: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Vectors ``[B, a]`` on ``sets [B, a]`` with ``values [B, s]`` at ``rows [B, s]`` (-1: none; all others are in)."""
    place = torch.searchsorted(sets, rows.clamp(min=0)).clamp(max=sets.shape[1] - 1)
    kept = (rows >= 0) & (sets.gather(1, place) == rows)
    vector = torch.zeros(sets.shape, dtype=values.dtype)
    which = torch.arange(len(sets))[:, None].expand_as(rows)
    return vector.index_put((which[kept], place[kept]), values[kept])
