"""The exact score: values and gradients of the log-likelihood without a graph of the steps."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinfer.errors import NumericalError
from sciinfer.gp.kernels import Matern32, Matern52
from sciinfer.random import generator
from sciinfer.statespace import (
    LinearGaussian,
    discretise,
    kalman_filter,
    log_likelihood,
    psd_root,
    unique_steps,
    whiten,
)
from sciinfer.statespace.score import choose_layout, exact_loglik

F64 = torch.float64


def _problem(seed, B, T, d, m, missing=0.3, shift=True):
    """Missing rows, a tied time (``A = I, Q = 0``), known inputs."""
    g = generator(seed, "problem")
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=F64)  # noqa: E731
    A = 0.6 * torch.eye(d, dtype=F64) + 0.3 / d * draw(B, T, d, d)
    G, P = draw(B, T, d, d), draw(B, d, d)
    Q, b = G @ G.mT, draw(B, T, d) if shift else None
    if T > 2:
        A[:, 2], Q[:, 2] = torch.eye(d, dtype=F64), 0.0
    seen = torch.rand((B, T, m), generator=g, dtype=F64) >= missing
    return LinearGaussian(A, Q, draw(B, T, m, d) * seen[..., None], draw(B, T, m) * seen, draw(B, d), P @ P.mT, b)


SHAPES = [(1, 40, 1, 1), (2, 7, 2, 1), (3, 50, 2, 2), (1, 200, 3, 1), (2, 33, 4, 3), (2, 33, 5, 2), (1, 100, 2, 5)]


@pytest.mark.parametrize(("B", "T", "d", "m"), SHAPES)
@pytest.mark.parametrize("shift", [True, False], ids=["inputs", "no-inputs"])
def test_value_and_gradient_equal_autograd_through_the_sequential_filter(B, T, d, m, shift):
    weight = torch.arange(1, B + 1, dtype=F64)
    inputs = [None if x is None else x.requires_grad_() for x in _problem(3, B, T, d, m, shift=shift)]
    given = [x for x in inputs if x is not None]
    found = []
    for value in (
        kalman_filter(LinearGaussian(*inputs), backend="sequential").loglik,
        exact_loglik(LinearGaussian(*inputs)),
    ):
        found.append([value, *torch.autograd.grad((weight * value).sum(), given)])
    for index, (expected, got) in enumerate(zip(*found, strict=True)):
        # the covariances' derivatives are those for symmetric perturbations
        expected = 0.5 * (expected + expected.mT) if index in (2, 6) else expected
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(("T", "d", "m"), [(17, 2, 1), (16, 1, 1), (17, 5, 2)])
def test_gradients_equal_finite_differences(T, d, m):
    p = _problem(2, 1, T, d, m)
    assert choose_layout(p).chunks == 2

    def loglik(A, root, H, y, m0, start, b):
        return exact_loglik(LinearGaussian(A, root @ root.mT, H, y, m0, start @ start.mT, b))

    inputs = (p.A, psd_root(p.Q), p.H, p.y, p.m0, psd_root(p.P0), p.b)
    given = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(loglik, given, rtol=1e-5, atol=1e-6, fast_mode=T == 17)


@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 63, 64, 65, 1000])
@pytest.mark.parametrize("d", [2, 5])
def test_any_length_is_cut_without_loss(T, d):
    p = _problem(T, 1, T, d, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            exact_loglik(p), kalman_filter(p, backend="sequential").loglik, rtol=1e-11, atol=1e-11
        )


@pytest.mark.parametrize(
    ("B", "T", "d", "m"), [(1, 1, 2, 1), (3, 50, 2, 2), (1, 200, 4, 1), (2, 65, 5, 2), (300, 9, 2, 1)]
)
def test_filtered_and_predicted_moments_of_stretches_are_the_sequential_ones(B, T, d, m):
    p = _problem(4, B, T, d, m)
    found, expected = kalman_filter(p), kalman_filter(p, backend="sequential")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    wanted = p._replace(y=p.y.clone().requires_grad_())
    assert kalman_filter(wanted).mean.requires_grad


def test_wide_batches_are_not_cut_and_long_series_are():
    assert choose_layout(_problem(0, 300, 20, 1, 1)).chunks == 1
    layout = choose_layout(_problem(0, 1, 5000, 1, 1))
    assert layout.chunks * layout.length >= 5000 > (layout.chunks - 1) * layout.length
    assert layout.chunks > layout.length


def test_a_series_without_data_has_value_and_gradient_zero():
    p = _problem(3, 2, 40, 2, 1, missing=1.1)
    y = p.y.clone().requires_grad_()
    A = p.A.clone().requires_grad_()
    value = exact_loglik(p._replace(y=y, A=A))
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0]
    assert not A.grad.any()


def test_nan_data_that_are_masked_reach_no_gradient():
    T = 40
    y = torch.sin(torch.arange(T, dtype=F64))
    y[::3] = math.nan
    precision = torch.full((1, T, 1), 4.0, dtype=F64).requires_grad_()
    kernel = Matern32(2.0, 1.0)
    h = kernel.readout().expand(1, T, 1, 2)
    H, white, log_jacobian = whiten(h, y[None, :, None], precision, torch.isfinite(y)[None, :, None])
    A, Q = kernel.transition(torch.ones(1, T, dtype=F64))
    P0 = kernel.initial()[None]
    total = (log_likelihood(LinearGaussian(A, Q, H, white, P0[..., 0] * 0, P0)) + log_jacobian.sum(1)).sum()
    total.backward()
    assert bool(torch.isfinite(total.detach()))
    for gradient in (precision.grad, *(p.grad for p in kernel.parameters())):
        assert bool(torch.isfinite(gradient).all())
    assert not precision.grad[0, ::3].any()


@pytest.mark.parametrize("noise", [1e-6, 1e-10, 1e-13])
def test_almost_noise_free_observations(noise):
    """``s`` up to 1e13: the covariance must not lose its sign; against dense linear algebra."""
    t = torch.linspace(0, 30, 60, dtype=F64)
    y, kernel = torch.sin(t), Matern32(1.0, 1.0)
    with torch.no_grad():
        S = kernel.covariance(t[:, None] - t) + noise * torch.eye(60, dtype=F64)
        expected = -0.5 * (y @ torch.linalg.solve(S, y) + torch.logdet(S) + 60 * math.log(2 * math.pi))
        assert float(_matern_value(kernel, t, y, noise)) == pytest.approx(float(expected), rel=1e-10)


def _matern_value(kernel, t, y, noise):
    mask = torch.ones(1, len(t), 1, dtype=torch.bool)
    step = torch.cat([t[:1] * 0, t.diff()])[None]
    precision = (1 / torch.as_tensor(noise, dtype=F64)).expand(1, len(t), 1)
    H, yw, log_jacobian = whiten(kernel.readout().expand(1, len(t), 1, 2), y[None, :, None], precision, mask)
    A, Q = kernel.transition(step)
    P0 = kernel.initial()[None]
    return (log_likelihood(LinearGaussian(A, Q, H, yw, P0[..., 0] * 0, P0)) + log_jacobian.sum(1))[0]


def test_a_value_that_is_not_finite_is_an_error_with_its_series():
    p = _problem(1, 3, 20, 2, 1)
    p.y[1, 4] = math.inf
    with pytest.raises(NumericalError, match="not finite") as caught:
        log_likelihood(p)
    assert caught.value.index == (1,)


def test_the_caller_keeps_its_tensors():
    p = _problem(1, 2, 40, 2, 1)
    before = [x.clone() for x in p]
    A = p.A.requires_grad_()
    log_likelihood(p).sum().backward()
    for x, kept in zip(p, before, strict=True):
        assert torch.equal(x.detach(), kept)
    assert A.grad is not None


# -- stored values -----------------------------------------------------------------------------------------------------

_REFS = Path(os.environ.get("SCIINFER_DATA", "")) / "gp" / "refs_dev"
stored = pytest.mark.skipif(
    "SCIINFER_DATA" not in os.environ or not _REFS.is_dir(), reason="needs SCIINFER_DATA with gp/refs_dev"
)


def _stored_value_and_gradient(t, y, ell, s2, noise):
    kernel = Matern32(ell, s2)
    log_noise = torch.tensor(math.log(noise), dtype=F64, requires_grad=True)
    value = _matern_value(kernel, torch.as_tensor(t), torch.as_tensor(y), log_noise.exp())
    gradient = torch.autograd.grad(value, [kernel.log_lengthscale, kernel.log_variance, log_noise])
    return float(value.detach()), [float(g) for g in gradient]


@stored
@pytest.mark.parametrize("N", [500, 2000, 10000, 102400])
def test_stored_matern_values_and_gradients(N):
    stored_entry = json.loads((_REFS / "refs.json").read_text())[f"gen{N}_m32"]
    data = np.load(_REFS / f"m32_irregular_N{N}.npz")
    value, gradient = _stored_value_and_gradient(data["t"], data["y"], 0.8, 1.2, 0.12)
    assert value == pytest.approx(stored_entry["lml"], rel=1e-8)
    if "grad_log" in stored_entry:
        assert gradient == pytest.approx(stored_entry["grad_log"], rel=1e-4)


# -- transitions of many steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Matern32, Matern52])
def test_the_matern_table_equals_the_plain_expressions(kind, monkeypatch):
    """From ties to a billion length-scales, and one gradient for both parameters."""
    g = generator(0, "steps")
    dt = 20 * torch.rand((2, 3000), generator=g, dtype=F64).pow(4)
    dt[0, ::7], dt[1, 5], dt[1, 6] = 0.0, 1e9, 1e-12
    weights = torch.randn((2, *dt.shape, kind.state_dim, kind.state_dim), generator=g, dtype=F64)
    found = []
    for many in (1, dt.numel() + 1):
        monkeypatch.setattr("sciinfer.gp.kernels.matern.MANY", many)
        kernel = kind(0.8, 1.2)
        A, Q = kernel.transition(dt)
        gradient = torch.autograd.grad((weights[0] * A + weights[1] * Q).sum(), list(kernel.parameters()))
        found.append([A, Q, *gradient])
    for table, plain in zip(*found, strict=True):
        torch.testing.assert_close(table, plain, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("lengthscale", [1e-3, 1.0, 1e4])
def test_the_closed_form_of_matern52_is_the_series_of_its_equation(lengthscale):
    """Steps of 1e-9 to 300 length-scales; covariances relative to their standard deviations."""
    kernel = Matern52(lengthscale, 1.3)
    dt = lengthscale * torch.logspace(-9, 2.5, 60, dtype=F64)
    with torch.no_grad():
        A, Q = kernel.transition(dt)
        rate = math.sqrt(5) / kernel.lengthscale
        F = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, -3.0, -3.0]], dtype=F64)
        D = torch.zeros(3, 3, dtype=F64)
        D[2, 2] = 16 / 3
        expected_A, expected_Q = discretise(F, D, rate * dt)
        scale = torch.stack([rate**0, rate, rate.square()])
        torch.testing.assert_close(A / scale[:, None] * scale, expected_A, rtol=0, atol=1e-14)
        sd = expected_Q.diagonal(dim1=-2, dim2=-1).sqrt()
        found = Q / (1.3 * scale[:, None] * scale) / (sd[:, :, None] * sd[:, None, :])
        torch.testing.assert_close(found, expected_Q / (sd[:, :, None] * sd[:, None, :]), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("repeats", "evaluated"), [(1, 20_000), (20, 1_000)])
def test_distinct_steps_are_not_sorted_and_repeated_ones_are_evaluated_once(repeats, evaluated, monkeypatch):
    g = generator(0, "steps")
    dt = torch.rand(20_000 // repeats, generator=g, dtype=F64).repeat(repeats)
    sizes = []

    def transition(step):
        sizes.append(step.numel())
        return step[..., None, None], 2 * step[..., None, None]

    sort, sorted_sizes = torch.unique, []

    def unique(x, *args, **kwargs):
        sorted_sizes.append(x.numel())
        return sort(x, *args, **kwargs)

    monkeypatch.setattr("torch.unique", unique)
    A, Q = unique_steps(dt, transition)
    assert sizes == [evaluated]
    assert (len(dt) in sorted_sizes) == (repeats > 1)
    assert torch.equal(A[:, 0, 0], dt)
    assert torch.equal(Q[:, 0, 0], 2 * dt)


@pytest.mark.parametrize(("prior", "noise"), [(1e10, 1.0), (1.0, 1e-10), (1e10, 1e-10)])
def test_diffuse_starts_and_precise_data_keep_value_and_gradient(prior, noise):
    """An integrated Wiener process: nothing contracts but the data."""
    T = 400
    g = generator(5, "walk")
    h = 0.1 + torch.rand(1, T, generator=g, dtype=F64)
    A = torch.eye(2, dtype=F64).expand(1, T, 2, 2).clone()
    A[..., 0, 1] = h
    Q = torch.stack([h**3 / 3, h**2 / 2, h**2 / 2, h], -1).reshape(1, T, 2, 2)
    H = (torch.tensor([[1.0, 0.0]], dtype=F64) / math.sqrt(noise)).expand(1, T, 1, 2).clone()
    y = torch.randn((1, T, 1), generator=g, dtype=F64).cumsum(1) / math.sqrt(noise)
    problem = LinearGaussian(A, Q, H, y, torch.zeros(1, 2, dtype=F64), prior * torch.eye(2, dtype=F64)[None])
    assert choose_layout(problem).chunks > 10
    found = []
    for backend in ("sequential", "auto"):
        scale = torch.ones(3, dtype=F64, requires_grad=True)  # of Q, of the data's precision, of the start
        p = problem._replace(Q=Q * scale[0], H=H * scale[1].sqrt(), y=y * scale[1].sqrt(), P0=problem.P0 * scale[2])
        value = log_likelihood(p, backend=backend).sum()
        found.append([value, *torch.autograd.grad(value, [scale])])
    for exact, got in zip(*found, strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-8, atol=1e-8 * float(exact.detach().abs().max()))
