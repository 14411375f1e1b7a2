"""Which earlier points each point is conditioned on: a fixed number, or all within a radius."""

from __future__ import annotations

import numpy as np

#: rows of distances held at once
_BLOCK = 512


def nearest_before(X: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` nearest predecessors of each point, nearest first.

    Args:
        X: ordered points ``[n, d]``, in units of the length-scales. count: at most this many.

    Returns:
        indices ``[n, min(count, n - 1)]``; -1 where there are fewer predecessors.

    Example:
        >>> nearest_before(np.array([[0.0], [5.0], [1.0]]), 2).tolist()
        [[-1, -1], [0, -1], [0, 1]]
    """
    n = len(X)
    found = np.full((n, max(0, min(count, n - 1))), -1, dtype=np.int64)
    if found.shape[1] == 0:
        return found
    head = min(n, 2 * _BLOCK)
    _by_distances(X, found, np.arange(head))
    start = head
    while start < n:  # the predecessors of each block are at least half of the tree
        stop = min(n, 2 * start)
        _by_tree(X, found, start, stop)
        start = stop
    return found


def nearest_among(X: np.ndarray, at: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` nearest of ``X [n, d]`` to each of ``at [m, d]``: indices ``[m, min(count, n)]``."""
    from scipy.spatial import KDTree

    count = min(count, len(X))
    if count == 0 or len(at) == 0:
        return np.empty((len(at), count), dtype=np.int64)
    found = KDTree(X).query(at, k=count)[1]
    return np.asarray(found, dtype=np.int64).reshape(len(at), count)


def within_before(X: np.ndarray, radius: np.ndarray) -> list[np.ndarray]:
    """Ascending indices of the predecessors of point ``i`` within ``radius[i]``."""
    from scipy.spatial import KDTree

    found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * min(1, len(X))
    start = 1
    while start < len(X):
        stop = min(len(X), 2 * start)
        tree = KDTree(X[:stop])
        for i, near in enumerate(tree.query_ball_point(X[start:stop], radius[start:stop]), start):
            kept = np.sort(np.asarray(near, dtype=np.int64))
            found.append(kept[kept < i])
        start = stop
    return found


def _by_distances(X: np.ndarray, found: np.ndarray, rows: np.ndarray) -> None:
    """All distances of ``rows`` (ascending) to everything before the last of them."""
    count = found.shape[1]
    for block in np.array_split(rows, max(1, len(rows) // _BLOCK)):
        before = X[: block[-1]]
        squared = np.zeros((len(block), len(before)))
        for axis in range(X.shape[1]):
            squared += (X[block, axis, None] - before[:, axis]) ** 2
        squared[np.arange(len(before)) >= block[:, None]] = np.inf
        keep = min(count, len(before))
        chosen = np.argsort(squared, axis=1, kind="stable")[:, :keep]
        chosen[np.isinf(np.take_along_axis(squared, chosen, 1))] = -1
        found[block[:, None], np.arange(keep)] = chosen


def _by_tree(X: np.ndarray, found: np.ndarray, start: int, stop: int) -> None:
    """Ask a tree of the first ``stop`` points for more than needed, keep the earlier ones, ask again where too few."""
    from scipy.spatial import KDTree

    tree, count = KDTree(X[:stop]), found.shape[1]
    rows, asked = np.arange(start, stop), min(stop, 3 * count + 1)
    while len(rows) and asked < stop and asked <= 64 * count:
        short = []
        for block in np.array_split(rows, max(1, len(rows) // 4096)):
            near = tree.query(X[block], k=asked)[1]
            earlier = near < block[:, None]
            place = np.argsort(~earlier, axis=1, kind="stable")[:, :count]
            enough = earlier.sum(1) >= count
            found[block[enough]] = np.take_along_axis(near, place, 1)[enough]
            short.append(block[~enough])
        rows, asked = np.concatenate(short), 2 * asked
    if len(rows):
        _by_distances(X, found, rows)
