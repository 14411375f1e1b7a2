"""Orders in which every point is conditioned on well-spread ones before it.

References:
    Guinness (2018), Permutation and grouping methods for sharpening Gaussian process approximations.
    Schäfer, Katzfuss, Owhadi (2021), Sparse Cholesky factorization by Kullback-Leibler minimization.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

#: up to here one sweep over all points per step is the fastest
_DENSE = 1000


def maximin(X: np.ndarray, *, dense: int = _DENSE) -> tuple[np.ndarray, np.ndarray]:
    """Each next point is the one farthest from all before it; the first is nearest to the centre.

    Args:
        X: points ``[n, d]``, in units of the length-scales. dense: below this many points no tree is used (the order
            is the same).

    Returns:
        ``order [n]`` and ``lengths [n]``: distance of the k-th point to its nearest predecessor (the first: inf).

    Example:
        >>> order, lengths = maximin(np.array([[0.0], [1.0], [2.0], [5.0]]))
        >>> order.tolist(), lengths[1:].tolist()
        ([2, 3, 0, 1], [3.0, 2.0, 1.0])
    """
    n = len(X)
    order, lengths = np.empty(n, dtype=np.int64), np.full(n, math.inf)
    if n == 0:
        return order, lengths
    order[0] = int(np.argmin(_squared(X, X.mean(0))))
    distance = _squared(X, X[order[0]])
    distance[order[0]] = -1.0
    start = n if n <= dense else min(n, max(2, math.isqrt(n)))
    for k in range(1, start):
        order[k] = chosen = int(np.argmax(distance))
        lengths[k] = math.sqrt(distance[chosen])
        np.minimum(distance, _squared(X, X[chosen]), out=distance)
        distance[order[: k + 1]] = -1.0
    if start < n:
        _by_tree(X, order, lengths, distance, start)
    return order, lengths


def _by_tree(X: np.ndarray, order: np.ndarray, lengths: np.ndarray, distance: np.ndarray, start: int) -> None:
    """Go on from step ``start``: a chosen point shortens distances within its own length only, so look there."""
    from scipy.spatial import KDTree

    tree = KDTree(X)
    # stale entries stay in the heap: the true distance of a point is never more than what an old entry says
    heap = [(-distance[i], i) for i in range(len(X)) if distance[i] >= 0]
    heapq.heapify(heap)
    for k in range(start, len(X)):
        while True:
            negative, chosen = heapq.heappop(heap)
            if distance[chosen] == -negative:
                break
        order[k], lengths[k] = chosen, math.sqrt(distance[chosen])
        near = np.asarray(tree.query_ball_point(X[chosen], lengths[k] * (1 + 1e-9)), dtype=np.int64)
        distance[chosen] = -1.0
        fresh = _squared(X[near], X[chosen])
        shorter = fresh < distance[near]
        for i, value in zip(near[shorter].tolist(), fresh[shorter].tolist(), strict=True):
            distance[i] = value
            heapq.heappush(heap, (-value, i))


def _squared(X: np.ndarray, point: np.ndarray) -> np.ndarray:
    return ((X - point) ** 2).sum(-1)
