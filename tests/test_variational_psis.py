"""k-hat against tails that are known, the fit's verdicts, and Pathfinder."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from sciinfer.errors import BudgetError, NumericalError
from sciinfer.random import generator
from sciinfer.variational import (
    Family,
    FullRank,
    LowRank,
    MeanField,
    fit_generalised_pareto,
    fit_variational,
    one_at_a_time,
    pathfinder,
    psis,
)


def pareto(k: float, n: int, seed: int = 0) -> np.ndarray:
    """Generalised Pareto draws of shape ``k`` and scale 1."""
    u = np.random.default_rng(seed).uniform(size=n)
    return np.expm1(-k * np.log(u)) / k if k else -np.log(u)


@pytest.mark.parametrize("k", [-0.4, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_a_generalised_pareto_is_recovered(k) -> None:
    shape, scale = fit_generalised_pareto(3.0 * pareto(k, 20_000))
    assert (
        abs(shape - k) < 4 * (1 + max(k, -0.4)) / math.sqrt(20_000) + 0.01
    )  # the asymptotic error is (1 + k) / sqrt(n)
    assert abs(scale / 3 - 1) < 0.06


@pytest.mark.parametrize("k", [0.3, 0.6, 0.9, 1.3])
def test_khat_of_weights_with_a_known_tail(k) -> None:
    found = np.mean([psis(np.log(pareto(k, 20_000, seed))).khat for seed in range(10)])
    assert abs(found - k) < 0.1


def test_khat_of_a_proposal_that_is_too_narrow() -> None:
    """``p = N(0, 1)``, ``q = N(0, s^2)``: the tail of the weights has shape ``1 - s^2``."""
    for s, bad in ((0.4, True), (0.8, False), (1.5, False)):
        z = s * np.random.default_rng(0).normal(size=50_000)
        khat = psis(-0.5 * z**2 + 0.5 * (z / s) ** 2).khat
        assert (khat > 0.7) == bad, (s, khat)


def test_smoothing_helps_the_mean_of_heavy_weights() -> None:
    raw, smooth = [], []
    for seed in range(200):
        z = np.random.default_rng(seed).exponential(size=1000)  # q = Exp(1), p = Exp(0.4): the tail has shape 0.6
        log_w = math.log(0.4) + 0.6 * z
        w = np.exp(log_w)
        raw.append((w * z).sum() / w.sum() - 2.5)
        found = psis(log_w)
        smooth.append(float((found.weights * z).sum()) - 2.5)
        assert abs(found.weights.sum() - 1) < 1e-12
        assert (np.diff(found.weights[np.argsort(w)]) >= 0).all()
    assert np.square(smooth).mean() < np.square(raw).mean()


def test_weights_at_the_edge() -> None:
    assert psis(np.zeros(100)).khat == -math.inf
    assert psis(np.zeros(10)).khat == math.inf
    one = np.full(1000, -800.0)
    one[3] = 0.0
    assert psis(one).khat == math.inf
    assert psis(np.where(np.arange(1000) == 3, np.inf, 0.0)).khat == math.inf
    half = np.where(np.arange(1000) % 2, -np.inf, 0.0)
    assert abs(psis(half).ess - 500) < 1e-6
    big = psis(1e5 + np.random.default_rng(0).normal(size=1000))
    assert np.isfinite(big.log_weights).all()
    for bad in (np.full(50, -np.inf), np.array([0.0, np.nan])):
        with pytest.raises(NumericalError):
            psis(bad)


def test_no_convergence_without_a_good_khat() -> None:
    cauchy = lambda z: -torch.log1p(z.square()).sum(-1)  # noqa: E731
    fit = fit_variational(cauchy, MeanField(10), generator=generator(0))
    assert fit.search.settled
    assert fit.khat > 0.7
    assert not fit.converged
    assert f"k-hat {fit.khat:.2f}" in fit.label


def test_no_convergence_without_enough_steps() -> None:
    fit = fit_variational(
        lambda z: -0.5 * (z - 50).square().sum(-1), MeanField(2), generator=generator(0), optimiser="adam", steps=40
    )
    assert not fit.converged


def test_a_fit_is_reproducible_and_leaves_the_global_state_alone() -> None:
    def once() -> torch.Tensor:
        q = FullRank(2)
        fit = fit_variational(lambda z: -z.pow(4).sum(-1), q, generator=generator(5), check_draws=200)
        return torch.cat([q.mean.detach(), fit.points[0], fit.resample(3, generator(1))[0]])

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = once()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(1)
    assert torch.equal(first, once())


def test_weights_correct_what_the_family_cannot() -> None:
    """A Gamma(3, 1) in its logarithm is skewed: ``q`` misses its mean of 3, the weighted points do not."""
    q = FullRank(1)
    fit = fit_variational(lambda u: (3 * u - u.exp()).sum(-1), q, generator=generator(0))
    mean, error = fit.expect(lambda u: u.exp()[:, 0])
    assert abs(float(mean) - 3) < 4 * float(error)
    assert float(error) < 0.1
    wanted = math.lgamma(3)  # the log evidence; the ELBO stays below it
    assert fit.elbo < wanted + 3 * fit.elbo_error
    assert fit.elbo > wanted - 0.1


def test_nan_far_out_is_stepped_back_from() -> None:
    def walled(z: torch.Tensor) -> torch.Tensor:
        return torch.where(z.abs().amax(-1) > 8, torch.nan, -0.5 * (z - 1).square().sum(-1))

    q = MeanField(2, scale=0.1, mean=torch.tensor([5.0, 5.0]))
    fit = fit_variational(walled, q, generator=generator(0))
    assert torch.allclose(q.mean, torch.ones(2, dtype=torch.float64), atol=1e-3)
    assert fit.converged, fit.label


def test_out_of_time_hands_over_the_family() -> None:
    def slow(z: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return -z.square().sum(-1)

    with pytest.raises(BudgetError) as caught:
        fit_variational(slow, MeanField(1), generator=generator(0), optimiser="adam", steps=10_000, time_limit=0.1)
    assert isinstance(caught.value.details["partial"], Family)


def test_low_rank_finds_the_leading_direction() -> None:
    d = 12
    direction = torch.linspace(-1, 1, d, dtype=torch.float64)
    covariance = 0.1 * torch.eye(d, dtype=torch.float64) + torch.outer(direction, direction)
    precision = torch.linalg.inv(covariance)
    q = LowRank(d, 1, scale=0.3)
    fit = fit_variational(
        lambda z: -0.5 * (z @ precision * z).sum(-1), q, generator=generator(0), draws=256, check_draws=1000
    )
    assert torch.allclose(q.covariance(), covariance, atol=1e-3)
    assert fit.converged, fit.label


def test_pathfinder_finds_a_correlated_gaussian() -> None:
    root = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0], [0.0, 0.3, 0.1]], dtype=torch.float64)
    precision = torch.linalg.inv(root @ root.mT)

    def target(z: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((z - 2) @ precision * (z - 2)).sum(-1)

    starts = torch.randn(2, 3, generator=generator(0), dtype=torch.float64)
    found = pathfinder(target, starts, generator=generator(0), draws=2000)
    assert found.reliable, found.khat
    ratio = torch.linalg.eigvals(precision @ found.covariance).real
    assert bool(((ratio > 0.5) & (ratio < 2)).all()), ratio
    assert torch.allclose(found.draws.mean(0), torch.full((3,), 2.0, dtype=torch.float64), atol=0.2)
    again = pathfinder(target, starts, generator=generator(0), draws=2000)
    assert torch.equal(found.draws, again.draws)


def test_pathfinder_takes_the_better_of_two_modes() -> None:
    def modes(z: torch.Tensor) -> torch.Tensor:
        left, right = -0.5 * (z + 4).square().sum(-1), -0.5 * (z - 4).square().sum(-1) + math.log(9.0)
        return torch.logaddexp(left, right)

    starts = torch.tensor([[-3.0], [3.0]], dtype=torch.float64)
    found = pathfinder(modes, starts, generator=generator(0), draws=4000)
    assert abs(float((found.draws > 0).double().mean()) - 0.9) < 0.05
    assert abs(float(found.mean) - 4) < 0.1


def test_pathfinder_says_where_it_cannot_start() -> None:
    with pytest.raises(NumericalError, match="not finite at the start"):
        pathfinder(lambda z: torch.log(z).sum(-1), -torch.ones(1, 2, dtype=torch.float64), generator=generator(0))


def test_one_point_functions_are_batched() -> None:
    single = one_at_a_time(lambda z: -(z @ z))
    z = torch.randn(4, 3, generator=generator(0), dtype=torch.float64)
    assert torch.allclose(single(z), -z.square().sum(-1))
