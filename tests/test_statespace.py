"""The exact linear-Gaussian engine against dense linear algebra and published closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from sciinfer.errors import NumericalError
from sciinfer.gp.kernels import Matern12, Matern32, Matern52
from sciinfer.processes import KernelProcess, build_bridge
from sciinfer.random import generator
from sciinfer.statespace import (
    LinearGaussian,
    associative_scan,
    cholesky,
    choose_backend,
    discretise,
    kalman_filter,
    kalman_smoother,
    linear_recurrence,
    psd_root,
    sample_paths,
    solve_spd,
    unique_steps,
    whiten,
)

F64 = torch.float64
BACKENDS = ("sequential", "scan")


# -- closed forms: an Ornstein-Uhlenbeck and a Matérn process seen with noise ----------------------------------------


def _data():
    i = torch.arange(1, 51, dtype=F64)
    t = 10 * (i / 50) ** 1.3
    return t, torch.sin(1.7 * t) + 0.3 * torch.cos(5.1 * t)


def _bridge(kernel, t, y, query, backend, noise=0.09):
    mask = torch.ones(1, len(t), 1, dtype=torch.bool)
    H, yw, log_jacobian = whiten(
        kernel.readout().expand(1, len(t), 1, -1), y[None, :, None], (y * 0 + 1 / noise)[None, :, None], mask
    )
    bridge = build_bridge(KernelProcess(kernel), t[None], H, yw, query[None], backend=backend)
    return bridge, bridge.loglik + log_jacobian.sum(1)


def _dense_gp(kernel, t, y, query, noise=0.09):
    K = kernel.covariance(t[:, None] - t[None])
    S = K + noise * torch.eye(len(t), dtype=F64)
    cross = kernel.covariance(query[:, None] - t[None])
    solved = torch.linalg.solve(S, torch.cat([y[:, None], cross.mT], 1))
    loglik = -0.5 * (y @ solved[:, 0] + torch.logdet(S) + len(t) * math.log(2 * math.pi))
    variance = kernel.covariance(query * 0) - (cross * solved[:, 1:].mT).sum(1)
    return loglik, cross @ solved[:, 0], variance


OU = {
    "kernel": lambda: Matern12(lengthscale=1 / 0.8, variance=0.9),
    "loglik": -30.80470637763028,
    "posterior": {
        0.05: (0.3997242400474485, 0.0751478658345418),
        3.3333: (-0.600210805405964, 0.1079744529061124),
        7.5: (0.3530196476117435, 0.0796261687150066),
        12.0: (-0.1345075167343204, 0.8662370807626948),
    },
}
MATERN = {
    "kernel": lambda: Matern32(lengthscale=0.7, variance=1.0),
    "loglik": -24.251573114382502,
    "posterior": {
        3.3333: (-0.6277103982114807, 0.04720629697137225),
        12.0: (-0.029244236144289743, 0.9981594321531333),
    },
}


@pytest.mark.parametrize("case", [OU, MATERN], ids=["ornstein-uhlenbeck", "matern32"])
@pytest.mark.parametrize("backend", [*BACKENDS, "dense"])
def test_reference_likelihood_and_posterior(case, backend):
    kernel, (t, y) = case["kernel"](), _data()
    query = torch.tensor(list(case["posterior"]), dtype=F64)
    with torch.no_grad():
        if backend == "dense":
            loglik, mean, variance = _dense_gp(kernel, t, y, query)
        else:
            bridge, loglik = _bridge(kernel, t, y, query, backend)
            mean, variance = bridge.mean(bridge.at_query)[0, :, 0], bridge.cov(bridge.at_query)[0, :, 0, 0]
    assert float(loglik) == pytest.approx(case["loglik"], rel=1e-10)
    expected = torch.tensor(list(case["posterior"].values()), dtype=F64)
    # the reference's Matérn variances carry a jitter of 1e-10
    torch.testing.assert_close(torch.stack([mean, variance], 1), expected, rtol=1e-9, atol=1.1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reference_final_filtered_moments(backend):
    t, y = _data()
    bridge, _ = _bridge(OU["kernel"](), t, y, t[:0], backend)
    assert float(bridge.filtered.mean[0, -1, 0].detach()) == pytest.approx(-0.6662200917099576, rel=1e-10)
    assert float(bridge.filtered.cov[0, -1, 0, 0].detach()) == pytest.approx(0.071710164268249, rel=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reference_gradient_in_log_theta_sigma_and_noise(backend):
    """With ``theta = 1 / l`` and ``sigma^2 = 2 theta s2``."""
    t, y = _data()
    logs = torch.tensor([math.log(0.8), math.log(1.2), math.log(0.09)], dtype=F64, requires_grad=True)
    kernel = Matern12()
    values = {"log_lengthscale": -logs[0], "log_variance": 2 * logs[1] - logs[0] - math.log(2.0)}
    precision = (-logs[2]).exp().expand(1, 50, 1)
    mask = torch.ones(1, 50, 1, dtype=torch.bool)
    H, yw, log_jacobian = whiten(torch.ones(1, 50, 1, 1, dtype=F64), y[None, :, None], precision, mask)
    step = torch.cat([t[:1] * 0, t.diff()])[None]
    A, Q = torch.func.functional_call(_Method(kernel, "transition"), {f"k.{n}": v for n, v in values.items()}, step)
    P0 = values["log_variance"].exp().reshape(1, 1, 1)
    loglik = kalman_filter(LinearGaussian(A, Q, H, yw, P0[..., 0] * 0, P0), backend=backend).loglik + log_jacobian.sum()
    (gradient,) = torch.autograd.grad(loglik.sum(), logs)
    expected = torch.tensor([1.856831113, -18.5307594414, -7.4849714209], dtype=F64)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


class _Method(torch.nn.Module):
    """A module whose forward is one method of another."""

    def __init__(self, module, name):
        super().__init__()
        self.k, self.name = module, name

    def forward(self, *args):
        return getattr(self.k, self.name)(*args)


# -- random problems against dense conditioning ----------------------------------------------------------------------


def _random(seed, B=2, T=7, d=3, m=2, missing=0.3, still=True, shift=True):
    """A problem with missing rows, a duplicate time (``A = I, Q = 0``) and known inputs."""
    g = generator(seed, "problem")
    draw = lambda *shape: torch.randn(shape, generator=g, dtype=F64)  # noqa: E731
    A = 0.6 * torch.eye(d, dtype=F64) + 0.3 * draw(B, T, d, d)
    G, P = draw(B, T, d, d), draw(B, d, d)
    Q = G @ G.mT
    b = draw(B, T, d) if shift else None
    if still and T > 2:
        A[:, 2], Q[:, 2] = torch.eye(d, dtype=F64), 0.0
        if b is not None:
            b[:, 2] = 0.0
    seen = torch.rand((B, T, m), generator=g, dtype=F64) >= missing
    return LinearGaussian(A, Q, draw(B, T, m, d) * seen[..., None], draw(B, T, m) * seen, draw(B, d), P @ P.mT, b)


def _dense(problem, s=0):
    """Mean and covariance of the whole path given the data, and the whitened log-likelihood, of series ``s``."""
    A, Q, H, y, m0, P0, b = (None if part is None else part[s] for part in problem)
    T, d = A.shape[:2]
    means, root = [m0], torch.zeros(T, d, T * d, dtype=F64)
    root[0, :, :d] = psd_root(P0)
    for k in range(1, T):
        means.append(A[k] @ means[-1] + (0 if b is None else b[k]))
        root[k] = A[k] @ root[k - 1]
        root[k, :, k * d : (k + 1) * d] = psd_root(Q[k])
    mean, J = torch.cat(means), root.reshape(T * d, T * d)
    C = J @ J.mT
    rows = torch.block_diag(*H)
    S = torch.eye(len(rows), dtype=F64) + rows @ C @ rows.mT
    v = y.reshape(-1) - rows @ mean
    gain = torch.linalg.solve(S, rows @ C).mT
    loglik = -0.5 * (v @ torch.linalg.solve(S, v) + torch.logdet(S))
    return mean + gain @ v, C - gain @ rows @ C, loglik


def _run(problem, backend):
    filtered = kalman_filter(problem, backend=backend)
    return filtered, kalman_smoother(problem, filtered, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("T", "d", "m"), [(1, 1, 1), (2, 2, 1), (7, 3, 2), (8, 2, 5), (9, 1, 3)])
def test_smoother_is_dense_conditioning(backend, T, d, m):
    problem = _random(T, T=T, d=d, m=m)
    filtered, smoothed = _run(problem, backend)
    for s in range(2):
        mean, cov, loglik = _dense(problem, s)
        torch.testing.assert_close(filtered.loglik[s], loglik, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(smoothed.mean[s].reshape(-1), mean, rtol=1e-9, atol=1e-9)
        blocks = torch.stack([cov[k * d : (k + 1) * d, k * d : (k + 1) * d] for k in range(T)])
        torch.testing.assert_close(smoothed.cov[s], blocks, rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 4), st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0])
)
def test_scan_equals_sequential(seed, T, d, m, missing):
    problem = _random(seed, T=T, d=d, m=m, missing=missing)
    one, two = _run(problem, "sequential"), _run(problem, "scan")
    for a, b in zip([*one[0], *one[1]], [*two[0], *two[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_series_does_not_know_its_batch(backend):
    problem = _random(5, B=4)
    whole = _run(problem, backend)
    for s in range(4):
        part = _run(LinearGaussian(*(x[s : s + 1] for x in problem if x is not None)), backend)
        for a, b in zip([*whole[0], *whole[1]], [*part[0], *part[1]], strict=True):
            torch.testing.assert_close(a[s : s + 1], b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", [Matern12(1.3), Matern32(0.7), Matern52(2.0)], ids=lambda k: type(k).__name__)
def test_gaps_from_a_billionth_to_a_billion(backend, kernel):
    gaps = torch.logspace(-9, 9, 19, dtype=F64)
    t = torch.cat([gaps.cumsum(0)[:10], gaps.cumsum(0)[9:10], gaps.cumsum(0)[10:]])  # one time twice
    y = torch.sin(torch.arange(len(t), dtype=F64))
    query = t[:-1] + 0.5 * t.diff()
    with torch.no_grad():
        bridge, loglik = _bridge(kernel, t, y, query, backend)
        expected, mean, variance = _dense_gp(kernel, t, y, query)
    assert float(loglik) == pytest.approx(float(expected), rel=1e-9)
    h = kernel.readout()
    cov = bridge.cov(bridge.at_query)[0]
    torch.testing.assert_close(bridge.mean(bridge.at_query)[0] @ h, mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(cov @ h @ h, variance, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_series_without_data_keeps_its_prior(backend):
    problem = _random(3, missing=1.1)
    filtered, smoothed = _run(problem, backend)
    assert not problem.H.any()
    torch.testing.assert_close(filtered.loglik, torch.zeros(2, dtype=F64), rtol=0, atol=1e-14)
    m, P = problem.m0, problem.P0
    for k in range(7):
        if k:
            m = (problem.A[:, k] @ m[..., None])[..., 0] + problem.b[:, k]
            P = problem.A[:, k] @ P @ problem.A[:, k].mT + problem.Q[:, k]
        torch.testing.assert_close(smoothed.mean[:, k], m, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(smoothed.cov[:, k], P, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sampled_paths_have_the_joint_covariance(backend):
    """Paths are affine in the noise: one-hot noise shows the covariance exactly, with no statistics."""
    problem = _random(11, B=2, T=5, d=2, m=1)
    filtered, smoothed = _run(problem, backend)
    basis = torch.eye(10, dtype=F64).reshape(10, 1, 5, 2).expand(10, 2, 5, 2)
    centre = sample_paths(problem, filtered, smoothed.gain, draws=1, noise=basis[:1] * 0)
    torch.testing.assert_close(centre[0], smoothed.mean, rtol=1e-9, atol=1e-9)
    spread = sample_paths(problem, filtered, smoothed.gain, draws=10, noise=basis) - centre
    for s in range(2):
        J = spread[:, s].reshape(10, 10)
        torch.testing.assert_close(J.mT @ J, _dense(problem, s)[1], rtol=1e-7, atol=1e-8)


def test_draws_are_distributed_as_they_should():
    """Whitened by the dense posterior, mean and second moments are chi-squared (level 1e-6 each)."""
    problem, n = _random(4, B=1, T=3, d=2, m=1, still=False), 20_000
    filtered, smoothed = _run(problem, "sequential")
    noise = torch.randn((n, 1, 3, 2), generator=generator(1, "paths"), dtype=F64)
    paths = sample_paths(problem, filtered, smoothed.gain, draws=n, noise=noise).reshape(n, 6)
    mean, cov, _ = _dense(problem)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (paths - mean).mT, upper=False).mT
    assert n * float(white.mean(0).square().sum()) < chi2.isf(1e-6, 6)
    excess = white.mT @ white / n - torch.eye(6, dtype=F64)
    statistic = n * (excess.triu(1).square().sum() + excess.diagonal().square().sum() / 2)
    assert chi2.isf(1 - 1e-6, 21) < float(statistic) < chi2.isf(1e-6, 21)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_equal_finite_differences(backend):
    p = _random(2, B=1, T=4, d=2, m=2)

    def loglik(A, root, H, y, m0, start, b):
        problem = LinearGaussian(A, root @ root.mT, H, y, m0, start @ start.mT, b)
        filtered, smoothed = _run(problem, backend)
        return filtered.loglik, smoothed.mean[:, 1].sum(), smoothed.cov[:, 1].sum()

    inputs = (p.A, psd_root(p.Q), p.H, p.y, p.m0, psd_root(p.P0), p.b)
    assert torch.autograd.gradcheck(loglik, [x.clone().requires_grad_() for x in inputs], rtol=1e-5, atol=1e-5)


def test_back_end_is_chosen_by_shape():
    long, short, wide = _random(0, B=1, T=70, d=2), _random(0, T=8), _random(0, B=100, T=70, d=2)
    assert [choose_backend(p) for p in (long, short, wide)] == ["scan", "sequential", "sequential"]
    assert choose_backend(short, "scan") == "scan"


# -- whitening -------------------------------------------------------------------------------------------------------


def test_whitening_scales_rows_and_knows_the_jacobian():
    H, y = torch.ones(1, 2, 3, dtype=F64), torch.tensor([[2.0, 5.0]], dtype=F64)
    precision, mask = torch.tensor([[4.0, 9.0]], dtype=F64), torch.tensor([[True, False]])
    Hw, yw, log_jacobian = whiten(H, y, precision, mask)
    assert Hw.tolist() == [[[2.0] * 3, [0.0] * 3]]
    assert yw.tolist() == [[4.0, 0.0]]
    assert float(log_jacobian) == pytest.approx(0.5 * math.log(4 / (2 * math.pi)), rel=1e-14)


def test_missing_entries_that_are_nan_never_reach_values_or_gradients():
    H = torch.ones(1, 2, 1, dtype=F64, requires_grad=True)
    y = torch.tensor([[1.0, math.nan]], dtype=F64)
    precision = torch.tensor([[4.0, 0.0]], dtype=F64, requires_grad=True)
    mask = torch.tensor([[True, False]])
    Hw, yw, log_jacobian = whiten(H, y, precision, mask)
    eye = torch.eye(1, dtype=F64).expand(1, 1, 1, 1)
    problem = LinearGaussian(eye, eye, Hw[:, None], yw[:, None], torch.zeros(1, 1, dtype=F64), eye[0])
    total = kalman_filter(problem).loglik.sum() + log_jacobian.sum()
    total.backward()
    assert bool(torch.isfinite(total.detach()))
    assert bool(torch.isfinite(H.grad).all())
    assert bool(torch.isfinite(precision.grad).all())


# -- discretisation --------------------------------------------------------------------------------------------------


def _van_loan(F, D, h):
    d = len(F)
    block = np.block([[-F, D], [np.zeros((d, d)), F.T]]) * h
    E = scipy.linalg.expm(block)
    A = E[d:, d:].T
    return A, A @ E[:d, d:]


def _system():
    rng = np.random.default_rng(3)
    F, G = rng.normal(size=(3, 3)) - 3.0 * np.eye(3), rng.normal(size=(3, 2))
    return F, G @ G.T


@pytest.mark.parametrize("h", [0.0, 1e-9, 1e-4, 0.3, 2.0])
def test_discretisation_is_van_loans(h):
    F, D = _system()
    A, Q = discretise(torch.tensor(F), torch.tensor(D), torch.tensor([h], dtype=F64))
    expected_A, expected_Q = _van_loan(F, D, h)
    np.testing.assert_allclose(A[0], expected_A, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(Q[0], expected_Q, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("h", [0.1, 1.0, 10.0, 1e3, 1e9])
def test_discretisation_keeps_the_stationary_covariance(h):
    """``A P A^T + Q = P`` with ``P`` of the Lyapunov equation, also where van Loan's block overflows."""
    F, D = _system()
    P = scipy.linalg.solve_continuous_lyapunov(F, -D)
    A, Q = discretise(torch.tensor(F), torch.tensor(D), torch.tensor(h, dtype=F64))
    np.testing.assert_allclose(A.numpy(), scipy.linalg.expm(F * min(h, 1e3)), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose((A @ torch.tensor(P) @ A.mT + Q).numpy(), P, rtol=1e-12, atol=1e-13)


def test_discretisation_of_many_steps_at_once_and_of_none():
    F, D = torch.tensor([[0.0, 1.0], [-2.0, -0.3]], dtype=F64), torch.diag(torch.tensor([0.0, 1.0], dtype=F64))
    steps = torch.tensor([[1e-9, 0.1], [3.0, 1e9]], dtype=F64)
    A, Q = discretise(F, D, steps)
    for index in np.ndindex(2, 2):
        one = discretise(F, D, steps[index])
        torch.testing.assert_close(A[index], one[0], rtol=1e-15, atol=0)
        torch.testing.assert_close(Q[index], one[1], rtol=1e-15, atol=0)
    assert discretise(F, D, steps[:0])[0].shape == (0, 2, 2, 2)


def test_tiny_steps_keep_relative_accuracy():
    """``Q`` of a double integrator: ``[[h^3/3, h^2/2], [h^2/2, h]]``, each entry to full precision."""
    F = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=F64)
    D = torch.diag(torch.tensor([0.0, 1.0], dtype=F64))
    for h in (1e-9, 1e-3, 1.0, 1e3):
        _, Q = discretise(F, D, torch.tensor(h, dtype=F64))
        expected = torch.tensor([[h**3 / 3, h**2 / 2], [h**2 / 2, h]], dtype=F64)
        torch.testing.assert_close(Q, expected, rtol=1e-12, atol=0)


def test_discretisation_is_differentiable():
    F = torch.tensor([[-0.3, 1.0], [-2.0, -0.5]], dtype=F64, requires_grad=True)
    D = torch.tensor([[1.0, 0.2], [0.2, 0.5]], dtype=F64, requires_grad=True)
    h = torch.tensor([0.2, 1.7], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(discretise, (F, D, h), rtol=1e-5, atol=1e-6)


def test_equal_steps_are_evaluated_once():
    sizes = []

    def transition(dt):
        sizes.append(dt.numel())
        return dt[..., None, None] * 2, dt[..., None, None] * 3

    dt = torch.tensor([[0.5, 1.0, 0.5], [0.5, 0.5, 0.5]], dtype=F64)
    A, Q = unique_steps(dt, transition)
    assert sizes == [2]
    assert torch.equal(A[..., 0, 0], dt * 2)
    assert torch.equal(Q[..., 0, 0], dt * 3)


# -- scans and small linear algebra ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_linear_recurrence_is_the_recursion(length, dtype):
    g = generator(length, "scan")
    a, b = (torch.randn((2, length, 3), generator=g, dtype=dtype) for _ in range(2))
    h, x = linear_recurrence(a, b), torch.zeros(2, 3, dtype=dtype)
    for k in range(length):
        x = a[:, k] * x + b[:, k]
        torch.testing.assert_close(h[:, k], x)
    # what runs on other devices
    scanned = associative_scan(lambda i, j: (j[0] * i[0], j[0] * i[1] + j[1]), (a, b))
    torch.testing.assert_close(scanned[0], a.cumprod(1))
    torch.testing.assert_close(scanned[1], h)


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_linear_recurrence_has_its_own_exact_adjoint(dtype):
    g = generator(0, "adjoint")
    a, b = (torch.randn((2, 5, 3), generator=g, dtype=dtype).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(linear_recurrence, (a, b))


def test_scan_keeps_the_order_of_a_product_that_does_not_commute():
    M = torch.randn((1, 6, 2, 2), generator=generator(0, "matrices"), dtype=F64)
    (prefix,) = associative_scan(lambda first, second: (second[0] @ first[0],), (M,))
    product = torch.eye(2, dtype=F64)
    for k in range(6):
        product = M[0, k] @ product
        torch.testing.assert_close(prefix[0, k], product)


def test_cholesky_forgives_round_off_and_nothing_more():
    thin = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64)
    factor = cholesky(thin)
    torch.testing.assert_close(factor @ factor.mT, thin, rtol=1e-9, atol=1e-9)
    bad = torch.stack([torch.eye(2, dtype=F64), torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64)])
    with pytest.raises(NumericalError, match=r"innovation covariance.*smallest eigenvalue -1") as caught:
        cholesky(bad, what="innovation covariance")
    assert caught.value.index == (1,)
    with pytest.raises(NumericalError, match="nan"):
        cholesky(torch.full((2, 2), math.nan, dtype=F64))


def test_single_precision_round_off_is_forgiven_too():
    thin = torch.tensor([[1.0, 1.0], [1.0, 1.0 - 6e-8]])
    factor = cholesky(thin)
    torch.testing.assert_close(factor @ factor.mT, thin, rtol=1e-5, atol=1e-5)


def test_roots_and_solves():
    P = torch.tensor([[2.0, 2.0], [2.0, 2.0]], dtype=F64)
    root = psd_root(P)
    torch.testing.assert_close(root @ root.mT, P)
    spd, X = P + torch.eye(2, dtype=F64), torch.ones(2, 1, dtype=F64)
    torch.testing.assert_close(spd @ solve_spd(spd, X), X)
