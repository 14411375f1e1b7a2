"""The square-root filter, for single precision."""

from __future__ import annotations

import math

import pytest
import torch

from sciinfer.gp.kernels import Matern32
from sciinfer.gp.kernels.rbf import RBF
from sciinfer.random import generator
from sciinfer.statespace import LinearGaussian, choose_backend, kalman_filter, log_likelihood, psd_root
from sciinfer.statespace.sqrt import filter_sqrt, scaled_root, triangular

F64, F32 = torch.float64, torch.float32


def _random(seed, B, T, d, m):
    """Missing rows, a tied time, a singular start, known inputs."""
    g = generator(seed, "problem")
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=F64)  # noqa: E731
    A = 0.6 * torch.eye(d, dtype=F64) + 0.3 / d * draw(B, T, d, d)
    G, P = draw(B, T, d, d), draw(B, d, 1)
    Q = G @ G.mT
    A[:, 2], Q[:, 2] = torch.eye(d, dtype=F64), 0.0
    seen = torch.rand((B, T, m), generator=g, dtype=F64) >= 0.3
    return LinearGaussian(
        A, Q, draw(B, T, m, d) * seen[..., None], draw(B, T, m) * seen, draw(B, d), P @ P.mT, draw(B, T, d)
    )


def _matern(T, noise, seed=0):
    g = generator(seed, "times")
    t = (0.05 * T * torch.rand(T, generator=g, dtype=F64)).sort().values
    y = torch.sin(t) + math.sqrt(noise) * torch.randn(T, generator=g, dtype=F64)
    kernel = Matern32(0.8, 1.2)
    with torch.no_grad():
        A, Q = kernel.transition(torch.cat([t[:1] * 0, t.diff()])[None])
        P0 = kernel.initial()[None]
    H = (kernel.readout() / math.sqrt(noise)).expand(1, T, 1, 2)
    return LinearGaussian(A, Q, H, y[None, :, None] / math.sqrt(noise), P0[..., 0] * 0, P0)


def _single(problem):
    return LinearGaussian(*(None if x is None else x.to(F32) for x in problem))


@pytest.mark.parametrize(("B", "T", "d", "m"), [(2, 7, 2, 1), (1, 30, 3, 2), (3, 9, 1, 4)])
def test_equal_to_the_sequential_filter_in_double_precision(B, T, d, m):
    p = _random(1, B, T, d, m)
    for found, expected in zip(filter_sqrt(p), kalman_filter(p, backend="sequential"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_single_precision_stays_close_and_positive():
    p = _matern(10_000, 0.12)
    assert choose_backend(_single(p)) == "sqrt"
    found, expected = kalman_filter(_single(p)), kalman_filter(p, backend="scan")
    scale = expected.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    error = (found.mean - expected.mean).abs() / scale
    assert float(error.max()) < 1e-4
    cov_error = (found.cov - expected.cov).abs() / (scale[..., None] * scale[..., None, :])
    assert float(cov_error.max()) < 1e-4
    assert float(found.loglik) == pytest.approx(float(expected.loglik), rel=1e-4)
    assert float(torch.linalg.eigvalsh(found.cov.double()).min()) > 0


@pytest.mark.parametrize("noise", [1e-3, 1e-7])
def test_precise_observations_in_single_precision(noise):
    """The covariance after an observation is that of its noise, not of the round-off before it."""
    p = _matern(300, noise)
    expected = kalman_filter(p, backend="sequential").cov
    found = filter_sqrt(_single(p)).cov
    scale = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    assert float(((found - expected) / (scale[..., None] * scale[..., None, :])).abs().max()) < 1e-5


def test_the_smallest_eigenvalue_of_many_states_survives():
    """Eight states of a smooth kernel, seen precisely: condition numbers near 1e3 after scaling."""
    kernel, T = RBF(1.0, 1.0), 300
    with torch.no_grad():
        A, Q = kernel.transition(torch.full((1, T), 0.05, dtype=F64))
        P0, h = kernel.initial()[None], kernel.readout()
    y = torch.sin(0.05 * torch.arange(T, dtype=F64))[None, :, None]
    p = LinearGaussian(A, Q, (h / 0.03).expand(1, T, 1, -1), y / 0.03, P0[..., 0] * 0, P0)
    expected, found = kalman_filter(p, backend="sequential").cov, filter_sqrt(_single(p)).cov.double()
    scale = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    lowest = [torch.linalg.eigvalsh(c / scale[..., None] / scale[..., None, :])[..., 0] for c in (expected, found)]
    torch.testing.assert_close(lowest[1], lowest[0], rtol=5e-4, atol=0)


def test_the_score_of_single_precision_problems():
    p = _matern(500, 0.12)
    gradients = []
    for problem in (p, _single(p)):
        y, Q, A = (x.clone().requires_grad_() for x in (problem.y, problem.Q, problem.A))
        value = log_likelihood(problem._replace(y=y, Q=Q, A=A))
        assert value.dtype == problem.y.dtype
        gradients.append([value, *torch.autograd.grad(value.sum(), [y, Q, A])])
    for exact, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.detach().abs().max()))


def test_roots_of_any_rank_and_scale():
    thin = torch.tensor([[4.0, 2.0], [2.0, 1.0]], dtype=F64)
    for P in (thin, 0 * thin, torch.diag(torch.tensor([1e-30, 1e20], dtype=F64))):
        root = scaled_root(P)
        torch.testing.assert_close(root @ root.mT, P, rtol=1e-12, atol=0)
    L = triangular(psd_root(thin), torch.eye(2, dtype=F64))
    assert float(L[0, 1]) == 0.0
    torch.testing.assert_close(L @ L.mT, thin + torch.eye(2, dtype=F64))
