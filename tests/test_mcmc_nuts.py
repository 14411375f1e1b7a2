"""The No-U-Turn sampler against moments that are known, and its behaviour where things go wrong."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from sciinfer.errors import BudgetError, ConfigError, NumericalError, ShapeError
from sciinfer.mcmc import Draws, mcse_mean, nuts, rhat, tail_ess
from sciinfer.mcmc.mass import DualAveraging, Mass, Moments, windows
from sciinfer.mcmc.tree import Point, leapfrog
from sciinfer.random import generator

RHO = 0.95
PRECISION = torch.linalg.inv(torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64))


def correlated(z: torch.Tensor) -> torch.Tensor:
    return -0.5 * ((z - 1) @ PRECISION * (z - 1)).sum(-1)


def run(target=correlated, dim: int = 2, seed: int = 0, **options) -> Draws:
    g = generator(seed, "test")
    starts = torch.randn(4, dim, generator=g, dtype=torch.float64)
    return nuts(target, starts, generator=g, **{"draws": 300, "warmup": 200, **options})


def within(draws: Draws, mean: float, sd: float, sizes: float = 4.0) -> None:
    s = draws.summary()
    assert (np.abs(s.mean - mean) < sizes * s.mcse).all(), (s.mean, s.mcse)
    z = draws.draws.numpy()
    squares = (z - mean) ** 2
    assert (np.abs(squares.mean((0, 1)) - sd**2) < sizes * mcse_mean(squares)).all(), squares.mean((0, 1))


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_a_correlated_gaussian(metric) -> None:
    draws = run(metric=metric, draws=150, warmup=100)
    within(draws, 1.0, 1.0)
    assert draws.divergences == 0
    z = draws.flat.numpy()
    assert abs(np.corrcoef(z.T)[0, 1] - RHO) < 0.02
    assert (draws.summary().rhat < 1.02).all()


@pytest.mark.slow
def test_the_step_follows_its_target() -> None:
    low, high = run(draws=60, warmup=100, target_accept=0.6), run(draws=60, warmup=100, target_accept=0.95)
    assert 0.55 < float(low.accept.mean()) < float(high.accept.mean())
    assert float(high.accept.mean()) > 0.9
    assert float(high.step_size.mean()) < float(low.step_size.mean())


@pytest.mark.slow
def test_scales_are_learnt() -> None:
    scale = torch.tensor([0.05, 1.0, 20.0], dtype=torch.float64)
    draws = run(lambda z: -0.5 * (z / scale).square().sum(-1), dim=3, warmup=300)
    within(draws, 0.0, scale.numpy())  # type: ignore[arg-type]
    assert float(draws.steps.double().mean()) < 16


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = run(draws=20, warmup=20)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.randn(5)
    assert torch.equal(first.draws, run(draws=20, warmup=20).draws)
    assert not torch.equal(first.draws, run(draws=20, warmup=20, seed=1).draws)


def test_leapfrog_is_reversible_and_second_order() -> None:
    mass, start = Mass(np.array([1.0, 0.5])), np.array([0.3, -0.8])

    def go(point: Point, step: float, n: int) -> Point:
        for _ in range(n):
            walk = leapfrog(point, step, mass)
            q = next(walk)
            try:
                walk.send((float(-0.5 * q @ q - 0.1 * (q**4).sum()), -q - 0.4 * q**3))
            except StopIteration as end:
                point = end.value
        return point

    def energy(point: Point) -> float:
        return mass.kinetic(point.p) - point.log_p

    first = Point(
        start, np.array([0.7, 0.2]), float(-0.5 * start @ start - 0.1 * (start**4).sum()), -start - 0.4 * start**3
    )
    there = go(first, 0.1, 10)
    back = go(there._replace(p=-there.p), 0.1, 10)
    assert np.allclose(back.q, first.q, atol=1e-13)
    coarse, fine = abs(energy(go(first, 0.1, 10)) - energy(first)), abs(energy(go(first, 0.05, 20)) - energy(first))
    assert 3 < coarse / fine < 5.5


def test_nan_is_a_divergence_and_not_the_end() -> None:
    def walled(z: torch.Tensor) -> torch.Tensor:  # NaN left of zero
        return torch.log(z[:, 0]) - z[:, 0] + 0 * z.sum(-1)

    g = generator(0, "walled")
    draws = nuts(walled, torch.ones(4, 1, dtype=torch.float64), generator=g, draws=200, warmup=100)
    assert bool((draws.draws > 0).all())
    assert draws.divergences + int(draws.warmup_divergences.sum()) > 0
    assert any("diverged" in problem for problem in draws.problems())
    assert not draws.converged
    assert abs(float(draws.draws.mean()) - 2.0) < 0.4  # Gamma(2, 1)


def test_a_log_density_that_raises_is_no_density() -> None:
    def factor(z: torch.Tensor) -> torch.Tensor:
        return torch.linalg.cholesky(z[:, :, None])[:, 0, 0].log() - z[:, 0]

    g = generator(0, "raises")
    draws = nuts(factor, torch.ones(2, 1, dtype=torch.float64), generator=g, draws=5, warmup=5)
    assert bool((draws.draws > 0).all())


def test_no_density_anywhere_near_ends_at_once() -> None:
    cliff = lambda z: torch.where(z[:, 0].abs() < 1e-300, 0 * z[:, 0], torch.nan)  # noqa: E731
    started = time.perf_counter()
    draws = nuts(cliff, torch.zeros(1, 1, dtype=torch.float64), generator=generator(0), draws=20, warmup=20)
    assert time.perf_counter() - started < 5
    assert draws.divergences == 20


def test_a_start_without_density_is_named() -> None:
    with pytest.raises(NumericalError, match="not finite at the start"):
        nuts(lambda z: z.sum(-1) * torch.nan, torch.zeros(2, 1, dtype=torch.float64), generator=generator(0))


def test_out_of_time_hands_over_what_there_is() -> None:
    def slow(z: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002)
        return -0.5 * z.square().sum(-1)

    with pytest.raises(BudgetError) as caught:
        run(slow, draws=100_000, warmup=0, time_limit=1.0)
    partial = caught.value.details["partial"]
    assert isinstance(partial, Draws)
    assert 0 < partial.draws.shape[1] < 100_000
    assert partial.draws.shape == (4, partial.log_density.shape[1], 2)
    with pytest.raises(BudgetError) as caught:
        run(slow, time_limit=0.0)
    assert caught.value.details["partial"].draws.shape == (4, 0, 2)


@pytest.mark.parametrize("options", [{"draws": 0}, {"target_accept": 1.0}, {"max_depth": 0}, {"metric": "round"}])
def test_options_are_checked(options) -> None:
    with pytest.raises(ConfigError):
        run(**options)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match="one_at_a_time"):
        run(lambda z: -z.square(), draws=5, warmup=5)
    with pytest.raises(ShapeError):
        nuts(correlated, torch.zeros(2, dtype=torch.float64), generator=generator(0))
    with pytest.raises(ShapeError):
        run(covariance=torch.eye(3))


@pytest.mark.parametrize("warmup", [0, 10, 20, 100, 149, 150, 300, 1000, 1234])
def test_windows_end_before_the_warm_up(warmup) -> None:
    first, ends = windows(warmup)
    assert ends == sorted(set(ends))
    assert not ends or (first < ends[0] and ends[-1] < warmup and ends[-1] >= 0.85 * warmup - 50)


def test_a_window_gives_the_covariance() -> None:
    z = np.random.default_rng(0).normal(size=(500, 2)) @ np.array([[1e-4, 0.0], [3.0, 2.0]])
    moments = Moments(Mass(np.diag([1e-8, 10.0])))
    for row in z:
        moments.add(row)
    assert np.allclose(moments.mass().inverse, np.cov(z.T) * 500 / 505, rtol=1e-3, atol=1e-10)


def test_dual_averaging_finds_the_step() -> None:
    found = DualAveraging(1.0, 0.8)
    for _ in range(2000):
        found.update(1 / (1 + found.step))
    assert abs(found.final() - 0.25) < 0.03


def test_r_hat_and_tail_sizes_know_bad_chains() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 1000))
    assert 0.99 < rhat(z) < 1.01
    assert (
        rhat(z * np.array([1, 1, 1, 3.0])[:, None]) > 1.05
    )  # equal means, unequal spreads: only the folded one sees it
    sticky = np.empty((4, 1000))
    sticky[:, 0] = rng.normal(size=4)
    for i in range(1, 1000):
        sticky[:, i] = 0.9 * sticky[:, i - 1] + math.sqrt(1 - 0.81) * rng.normal(size=4)
    assert 2000 < tail_ess(z) < 5000
    assert tail_ess(sticky) < 1000
    wanted = math.sqrt((1 + 0.9) / (1 - 0.9) / 4000)  # of a first-order autoregression
    assert 0.75 * wanted < mcse_mean(sticky) < 1.25 * wanted
    assert np.isnan(rhat(np.zeros((4, 10))))


def _ranks(replicates: int, draws: int = 31) -> np.ndarray:
    """Simulation-based calibration of ``mu ~ N(0, 1), y_i ~ N(mu, 1)``: rank of the truth among thinned draws."""
    found = []
    for i in range(replicates):
        g = generator(i, "sbc")
        mu = torch.randn(1, generator=g, dtype=torch.float64)
        y = mu + torch.randn(3, generator=g, dtype=torch.float64)
        start = torch.randn(1, 1, generator=g, dtype=torch.float64)

        def target(z: torch.Tensor, y: torch.Tensor = y) -> torch.Tensor:
            return -0.5 * z.square().sum(-1) - 0.5 * (y - z).square().sum(-1)

        chain = nuts(target, start, generator=g, draws=3 * draws, warmup=50).draws[0, ::3, 0]
        found.append(int((chain < mu).sum()))
    return np.array(found)


@pytest.mark.slow
def test_calibration_on_a_conjugate_model() -> None:
    from scipy.stats import chisquare, kstest

    ranks = _ranks(240)
    assert chisquare(np.bincount(ranks // 4, minlength=8)).pvalue > 1e-3
    assert kstest((ranks + 0.5) / 32, "uniform").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_long_chains_match_moments(metric) -> None:
    scale = torch.linspace(0.1, 3.0, 10, dtype=torch.float64)
    draws = run(lambda z: -0.5 * (z / scale).square().sum(-1), dim=10, draws=800, warmup=300, metric=metric)
    within(draws, 0.0, scale.numpy(), sizes=4.5)  # type: ignore[arg-type]
    assert draws.converged, draws.problems()


@pytest.mark.slow
def test_heavy_tails_that_are_not_a_funnel() -> None:
    draws = run(lambda z: -3.0 * torch.log1p(z.square() / 5).sum(-1), dim=3, draws=1000, warmup=300)  # Student-t, 5
    s = draws.summary()
    assert (np.abs(s.mean) < 4 * s.mcse).all()
    inside = (draws.draws.abs() < 2.0150484).double().numpy()  # 90 % of a t with 5 degrees of freedom
    assert (np.abs(inside.mean((0, 1)) - 0.9) < 4 * mcse_mean(inside)).all()
