"""Gauss-Newton: exact for linear operators, the right mode and curvature for others."""

from __future__ import annotations

import math

import pytest
import torch

import sciinfer as si
from sciinfer.errors import BudgetError, ConfigError, NumericalError
from sciinfer.inverse import Budget, GaussianPrior, Observation, choose_method, solve_exact, solve_laplace
from sciinfer.operators import Operator, Spec
from sciinfer.random import generator

F64 = torch.float64


class Bent(Operator):
    """``A(x) = M x + bend (M x)^2 / 2``."""

    linear = False

    def __init__(self, matrix: torch.Tensor, bend: float) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.bend = bend
        self.domain, self.range = Spec(("x",), (matrix.shape[1],)), Spec(("y",), (matrix.shape[0],))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x @ self.get_buffer("matrix").T
        return image + 0.5 * self.bend * image.square()


def case(m: int, n: int = 4) -> tuple[GaussianPrior, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(m)
    L = torch.randn(n, n, generator=g, dtype=F64)
    prior = GaussianPrior(torch.arange(n, dtype=F64) / n, L @ L.T + 0.1 * torch.eye(n, dtype=F64))
    return prior, torch.randn(m, n, generator=g, dtype=F64), torch.randn(m, generator=g, dtype=F64)


@pytest.mark.parametrize("m", [2, 6])
def test_a_linear_operator_gives_the_exact_answer(m: int) -> None:
    prior, A, y = case(m)
    y[0] = math.nan
    observation = Observation(A, noise_sd=0.3)
    exact, found = solve_exact(prior, observation, y), solve_laplace(prior, observation, y)
    torch.testing.assert_close(found.mean, exact.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.variance, exact.variance, rtol=1e-8, atol=1e-9)
    assert found.stats["log_evidence"] == pytest.approx(exact.stats["log_evidence"], abs=1e-8)
    assert found.stats["missing"] == 1


def test_the_mode_and_the_curvature_of_a_bent_operator() -> None:
    prior, A, y = case(3)
    operator = Bent(A, 0.2)
    observation = Observation(operator, noise_sd=0.5)
    found = solve_laplace(prior, observation, y)
    C = prior.factor @ prior.factor.T
    x = found.mean.clone().requires_grad_()
    away = x - prior.mean
    value = observation.log_prob(y, x) - 0.5 * away @ torch.linalg.solve(C, away)
    (slope,) = torch.autograd.grad(value, x)
    assert float(slope.abs().max()) < 1e-4
    J = torch.autograd.functional.jacobian(operator.forward, found.mean)
    cov = torch.linalg.inv(torch.linalg.inv(C) + J.T @ J / 0.25)
    torch.testing.assert_close(found.variance, cov.diagonal(), rtol=1e-6, atol=1e-9)
    draws = solve_laplace(prior, observation, y, draws=20_000, generator=generator(0, "laplace")).draws
    torch.testing.assert_close(draws.T.cov(), cov, rtol=0, atol=5e-2 * float(cov.diagonal().max()))


def test_the_facade_picks_it_and_says_why() -> None:
    prior, A, y = case(3)
    operator = Bent(A, 0.2)
    assert choose_method(prior, Observation(operator, noise_sd=0.5))[0] == "laplace"
    tree = si.solve(y, operator=operator, noise=0.5, prior=prior, draws=3)
    assert tree.attrs["class"] == "biased"
    assert "normal approximation" in tree.attrs["reason"]


def test_nothing_measured_gives_the_prior() -> None:
    prior, A, y = case(2)
    found = solve_laplace(prior, Observation(Bent(A, 0.1), noise_sd=0.5), torch.full_like(y, math.nan))
    torch.testing.assert_close(found.mean, prior.mean)
    torch.testing.assert_close(found.variance, prior.variance())


def test_errors() -> None:
    prior, A, y = case(2)
    observation = Observation(Bent(A, 0.1), noise_sd=0.5)
    with pytest.raises(ConfigError, match="Gaussian prior"):
        solve_laplace(object(), observation, y)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="generator"):
        solve_laplace(prior, observation, y, draws=2)
    with pytest.raises(NumericalError, match="mode"):
        solve_laplace(prior, observation, y, iterations=0)
    with pytest.raises(BudgetError):
        solve_laplace(prior, observation, y, budget=Budget(evaluations=1))
