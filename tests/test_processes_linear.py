"""Linear processes, bridges and simulated paths."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch
from scipy.stats import chi2

from sciinfer.errors import BudgetError, NumericalError
from sciinfer.gp.kernels import Matern32
from sciinfer.processes import KernelProcess, NeuralSDE, NonlinearProcess, StationaryLinear, build_bridge, simulate
from sciinfer.random import generator

F64 = torch.float64


def _stationary(dim=3, seed=0):
    return StationaryLinear(dim, generator=generator(seed, "process"))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_standard_normal_is_stationary_for_any_step(dim):
    steps = torch.cat([torch.zeros(1, dtype=F64), torch.logspace(-9, 3, 13, dtype=F64)])
    with torch.no_grad():
        A, Q = _stationary(dim).transition(steps)
    eye = torch.eye(dim, dtype=F64).expand_as(Q)
    torch.testing.assert_close(A @ A.mT + Q, eye, rtol=0, atol=1e-13)
    assert torch.equal(A[0], eye[0])
    assert not Q[0].any()
    assert float(torch.linalg.eigvalsh(Q).min()) > -1e-14


def test_transition_is_the_matrix_exponential_and_noise_solves_lyapunov():
    process = _stationary()
    F = process.drift_matrix.detach().numpy()
    A, _ = process.transition(torch.tensor(0.7, dtype=F64))
    torch.testing.assert_close(A.detach(), torch.tensor(scipy.linalg.expm(F * 0.7)), rtol=1e-12, atol=1e-13)
    D = torch.diag(process.spread).detach().numpy()
    assert abs(F + F.T + D).max() < 1e-14
    assert max(torch.linalg.eigvals(torch.tensor(F)).real) < 0


def test_paths_do_not_know_their_batch_nor_the_order_of_queries():
    process = KernelProcess(Matern32(0.8))
    g = generator(1, "rows")
    time = torch.rand((3, 5), generator=g, dtype=F64).sort(1).values
    H, y = torch.randn((3, 5, 2, 2), generator=g, dtype=F64), torch.randn((3, 5, 2), generator=g, dtype=F64)
    query = torch.rand((3, 4), generator=g, dtype=F64) * 2 - 0.5
    with torch.no_grad():
        whole = build_bridge(process, time, H, y, query)
        mean, cov = whole.mean(whole.at_query), whole.cov(whole.at_query)
        for s in range(3):
            one = slice(s, s + 1)
            turned = build_bridge(process, time[one], H[one], y[one], query[one].flip(1))
            torch.testing.assert_close(turned.mean(turned.at_query).flip(1), mean[one], rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(turned.cov(turned.at_query).flip(1), cov[one], rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(turned.loglik, whole.loglik[one], rtol=1e-11, atol=1e-12)


def test_neural_process_starts_linear_and_stays_bounded():
    process = NeuralSDE(2, (8,), generator=generator(0, "process"))
    z = torch.randn((6, 2), generator=generator(0, "z"), dtype=F64)
    t = torch.zeros(6, dtype=F64)
    torch.testing.assert_close(process.drift(t, z), z @ process.linear.drift_matrix.mT)
    with torch.no_grad():
        process.net.layers[-1].bias.fill_(1e6)
    excess = (process.drift(t, z) - z @ process.linear.drift_matrix.mT).abs().max().item()
    assert excess <= NeuralSDE.BOUND


class _Pull(NonlinearProcess):
    """Ornstein-Uhlenbeck."""

    dim = 1

    def drift(self, t, z):
        return -0.8 * z

    def diffusion(self, t, z):
        return torch.full_like(z, 1.2)

    def initial(self):
        return torch.zeros(1, dtype=F64), torch.ones(1, 1, dtype=F64)


def test_simulated_moments_at_ragged_times():
    """Of the Euler recursion itself, so that only chance is left (level 1e-6)."""
    n, step = 20_000, 0.1
    times = torch.tensor([[0.0, 0.5, 0.5, 2.0], [0.1, 0.2, 1.0, 1.0]], dtype=F64)
    z = torch.ones(n, 2, 1, dtype=F64)
    paths = simulate(_Pull(), z, torch.zeros(2, dtype=F64), times, step=step, generator=generator(0, "paths"))
    assert paths.shape == (n, 2, 4, 1)
    assert torch.equal(paths[:, 0, 1], paths[:, 0, 2])
    assert torch.equal(paths[:, 0, 0], z[:, 0])
    for s, k in ((0, 3), (1, 2)):
        mean, variance = _euler_moments(times, s, k, step)
        x = paths[:, s, k, 0]
        assert n * (x.mean().item() - mean) ** 2 / variance < chi2.isf(1e-6, 1)
        assert chi2.isf(1 - 1e-6, n) < (x - mean).square().sum().item() / variance < chi2.isf(1e-6, n)


def _euler_moments(times, s, k, step):
    mean, variance, now = 1.0, 0.0, torch.zeros(2, dtype=F64)
    for j in range(k + 1):
        gap = times[:, j] - now
        count = max(1, math.ceil(float(gap.max()) / step))
        h = float(gap[s]) / count
        for _ in range(count):
            mean, variance = mean * (1 - 0.8 * h), variance * (1 - 0.8 * h) ** 2 + 1.44 * h
        now = times[:, j]
    return mean, variance


class _Broken(_Pull):
    """Turns into NaN after time one, in the second series only."""

    def drift(self, t, z):
        bad = (t > 1.0)[..., None] & (z > 100.0)
        return torch.where(bad, torch.full_like(z, math.nan), 0 * z)


def test_fault_21_a_path_that_leaves_the_numbers_is_placed():
    z = torch.tensor([[[0.0], [1e6]]], dtype=F64)
    times = torch.tensor([[0.5, 3.0], [0.5, 3.0]], dtype=F64)
    with pytest.raises(NumericalError, match="model time 3") as caught:
        simulate(_Broken(), z, torch.zeros(2, dtype=F64), times, step=0.1, generator=generator(0, "x"))
    assert (caught.value.dim, caught.value.index) == ("series", 1)
    assert "norm" in caught.value.details


def test_a_time_too_far_away_is_refused_and_never_hangs():
    times = torch.tensor([[1.0, 1e9]], dtype=F64)
    z = torch.zeros(1, 1, 1, dtype=F64)
    with pytest.raises(BudgetError, match="nearer") as caught:
        simulate(_Pull(), z, torch.zeros(1, dtype=F64), times, step=0.1, generator=generator(0, "x"))
    assert caught.value.index == (0, 1)


class _Learned(NonlinearProcess):
    """``dx = -theta x dt + sigma dW``."""

    dim = 1

    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(0.7, dtype=F64))
        self.sigma = torch.nn.Parameter(torch.tensor(0.5, dtype=F64))

    def drift(self, t, z):
        return -self.theta * z

    def diffusion(self, t, z):
        return self.sigma.expand_as(z)

    def initial(self):
        return torch.zeros(1, dtype=F64), torch.ones(1, 1, dtype=F64)


def test_reference_pathwise_gradients():
    """Of ``E[X_2^2]`` from ``X_0 = 1``: within four standard errors over independent halves of the paths."""
    process, found = _Learned(), []
    for i in range(30):
        start = torch.tensor(1.0, dtype=F64, requires_grad=True)
        z = start.expand(200, 1, 1)
        times = torch.tensor([[2.0]], dtype=F64)
        x = simulate(process, z, torch.zeros(1, dtype=F64), times, step=0.01, generator=generator(i, "paths"))
        value = x.square().mean()
        gradient = torch.autograd.grad(value, [process.theta, process.sigma, start])
        found.append(torch.stack([value.detach(), *gradient]))
    found = torch.stack(found)
    expected = torch.tensor([0.22852255144214334, -0.4393937612213239, 0.6708499552677015, 0.12162012525043595])
    error = (found.mean(0) - expected).abs() / (found.std(0) / math.sqrt(30))
    assert error.max().item() < 4.0
