"""Covariances between the states at different times, from the smoother's gains."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..errors import ShapeError
from .problem import Smoothed


def cross_covariance(smoothed: Smoothed, i: int, j: int) -> Tensor:
    """``Cov(x_i, x_j | y) = G_i G_{i+1} ... G_{j-1} V_j`` for ``i <= j``, transposed otherwise.

    Args:
        smoothed: of any problem. i, j: steps; negative ones count from the end.

    Returns:
        ``[B, d, d]``, rows for ``x_i``.

    Raises:
        ShapeError: a step that does not exist.

    References:
        Rauch, Tung, Striebel (1965), Maximum likelihood estimates of linear dynamic systems.

    Example:
        >>> import torch
        >>> from sciinfer.statespace import LinearGaussian, kalman_filter, kalman_smoother
        >>> one = torch.ones(1, 3, 1, 1, dtype=torch.float64)
        >>> walk = LinearGaussian(one, one, 0 * one, one[..., 0], one[:, 0, :, 0], one[:, 0])
        >>> cross_covariance(kalman_smoother(walk, kalman_filter(walk)), 0, 2).item()
        1.0
    """
    return joint_covariance(smoothed, [i, j])[:, 0, 1]


def joint_covariance(smoothed: Smoothed, steps: list[int]) -> Tensor:
    """Covariances between the states at all of ``steps``, in O(T + K^2).

    Args:
        steps: ``K`` steps in any order, repeated or not; negative ones count from the end.

    Returns:
        ``[B, K, K, d, d]``: block ``[a, c]`` is ``Cov(x_{steps[a]}, x_{steps[c]} | y)``.

    Raises:
        ShapeError: a step that does not exist.
    """
    length = smoothed.cov.shape[1]
    wrong = [k for k in steps if not -length <= k < length]
    if wrong:
        raise ShapeError(f"step {wrong[0]} of {length}", fix=f"use steps from {-length} to {length - 1}")
    places, where = torch.unique(torch.tensor([k % length for k in steps]), return_inverse=True)
    links = _links(smoothed.gain, places.tolist())
    count, cov = len(places), smoothed.cov[:, places]
    rows: list[list[Tensor]] = [[cov[:, 0]] * count for _ in range(count)]
    for c in range(count):
        rows[c][c] = cov[:, c]
        for a in range(c - 1, -1, -1):
            rows[a][c] = links[a] @ rows[a + 1][c]
            rows[c][a] = rows[a][c].mT
    blocks = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    return blocks[:, where][:, :, where]


def _links(gain: Tensor, places: list[int]) -> list[Tensor]:
    """Products of the gains from each place to the next."""
    found = []
    for first, last in pairwise(places):
        link = gain[:, first]
        for k in range(first + 1, last):
            link = link @ gain[:, k]
        found.append(link)
    return found
