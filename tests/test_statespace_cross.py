"""Covariances between the states at different times."""

from __future__ import annotations

import pytest
import torch

from sciinfer.errors import ShapeError
from sciinfer.random import generator
from sciinfer.statespace import LinearGaussian, cross_covariance, joint_covariance, kalman_filter, kalman_smoother

F64 = torch.float64
T, D = 6, 2


def _problem():
    g = generator(3, "problem")
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=F64)  # noqa: E731
    A, G, P = 0.7 * draw(2, T, D, D), draw(2, T, D, D), draw(2, D, D)
    return LinearGaussian(A, G @ G.mT, draw(2, T, 1, D), draw(2, T, 1), draw(2, D), P @ P.mT)


def _dense(p, s):
    """Posterior covariance of the whole path from the precision matrix."""
    precision = torch.zeros(T * D, T * D, dtype=F64)
    precision[:D, :D] = torch.linalg.inv(p.P0[s])
    for k in range(1, T):
        step = torch.zeros(D, T * D, dtype=F64)
        step[:, k * D : (k + 1) * D], step[:, (k - 1) * D : k * D] = torch.eye(D, dtype=F64), -p.A[s, k]
        precision += step.mT @ torch.linalg.solve(p.Q[s, k], step)
    rows = torch.block_diag(*p.H[s])
    return torch.linalg.inv(precision + rows.mT @ rows)


def test_equal_to_the_dense_posterior():
    p = _problem()
    smoothed = kalman_smoother(p, kalman_filter(p))
    joint = joint_covariance(smoothed, [4, 0, -1, 4])
    for s in range(2):
        blocks = _dense(p, s).reshape(T, D, T, D)
        for i in range(T):
            for j in range(-T, T):
                found = cross_covariance(smoothed, i, j)[s]
                torch.testing.assert_close(found, blocks[i, :, j % T], rtol=1e-8, atol=1e-9)
        for a, i in enumerate((4, 0, 5, 4)):
            for c, j in enumerate((4, 0, 5, 4)):
                torch.testing.assert_close(joint[s, a, c], blocks[i, :, j], rtol=1e-8, atol=1e-9)


def test_a_step_that_does_not_exist():
    p = _problem()
    smoothed = kalman_smoother(p, kalman_filter(p))
    with pytest.raises(ShapeError, match="step 6 of 6"):
        cross_covariance(smoothed, 0, 6)
