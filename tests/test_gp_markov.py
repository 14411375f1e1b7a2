"""MarkovGP against dense Gaussian algebra written here, and as a thing to use."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import sciinfer as si
from sciinfer.errors import ConfigError, DataError, ShapeError, StateError, TimeError
from sciinfer.gp import (
    GP,
    RBF,
    SHO,
    Constant,
    Coregionalised,
    Cosine,
    Coupled,
    HidaMatern,
    IntegratedWiener,
    Linear,
    MarkovGP,
    Matern12,
    Matern32,
    Matern52,
    MixedPosterior,
    Periodic,
    QuasiPeriodic,
    Separable,
    Wiener,
    averages,
)

F64 = torch.float64
TIME = np.array([3.0, 0.2, 1.7, 1.7, 9.5, 4.1, 1.7, 6.6, 0.9])
Y = np.array([0.3, -1.1, 0.8, np.nan, 0.1, -0.4, 1.2, 0.9, 0.0])
AT = [5.0, 1.7, -1.0, 12.0, 3.0, 5.0]

STATIONARY = {
    "matern12": lambda: Matern12(1.7, 2.0),
    "matern52": lambda: Matern52(1.7, 2.0),
    "sho": lambda: SHO(3.0, 2.0, 1.5),
    "rbf": lambda: RBF(1.5, 2.0, order=6),
    "periodic": lambda: Periodic(4.0, 1.2, harmonics=4),
    "sum": lambda: Matern32(2.0) + Constant(0.7) + Cosine(5.0, 0.3),
    "hida-matern": lambda: HidaMatern(4.0, 3.0),
    "quasi-periodic": lambda: QuasiPeriodic(4.0, 9.0, harmonics=2),
}


def dense(K: np.ndarray, noise, y: np.ndarray, cross: np.ndarray, prior: np.ndarray):
    """Log-likelihood, posterior mean and covariance by plain matrices."""
    S = K + np.diag(np.broadcast_to(noise, len(y)))
    mean, cov = cross @ np.linalg.solve(S, y), prior - cross @ np.linalg.solve(S, cross.T)
    value = -0.5 * (y @ np.linalg.solve(S, y) + np.linalg.slogdet(S)[1] + len(y) * math.log(2 * math.pi))
    return value, mean, cov


def gram(kernel, a, b) -> np.ndarray:
    with torch.no_grad():
        return kernel.covariance(torch.as_tensor(np.subtract.outer(np.array(a), np.array(b)))).numpy()


@pytest.mark.parametrize("backend", ["auto", "sequential", "scan"])
@pytest.mark.parametrize("name", STATIONARY)
def test_it_is_the_dense_process(name, backend):
    kernel = STATIONARY[name]()
    gp, seen = MarkovGP(kernel, noise=0.2, mean=0.4, backend=backend), ~np.isnan(Y)
    value, mean, cov = dense(
        gram(kernel, TIME[seen], TIME[seen]),
        0.2,
        Y[seen] - 0.4,
        gram(kernel, AT, TIME[seen]),
        gram(kernel, AT, AT),
    )
    assert gp.log_likelihood(TIME, Y).item() == pytest.approx(value, rel=1e-9)
    post = gp.condition(TIME, Y)
    np.testing.assert_allclose(post.mean(AT), mean + 0.4, rtol=0, atol=1e-9)
    np.testing.assert_allclose(post.variance(AT), np.diag(cov), rtol=0, atol=1e-9)
    np.testing.assert_allclose(post.covariance(AT), cov, rtol=0, atol=1e-9)


NONSTATIONARY = {
    "wiener": (lambda: Wiener(0.4, 2.0), lambda a, b: 2.0 + 0.4 * np.minimum(a, b)),
    "linear": (lambda: Linear(0.4) + Constant(2.0), lambda a, b: 2.0 + 0.4 * a * b),
    "integrated wiener": (
        lambda: IntegratedWiener(0.4, 3.0, 2.0),
        lambda a, b: 3 + 2 * a * b + 0.4 * np.minimum(a, b) ** 2 * (3 * np.maximum(a, b) - np.minimum(a, b)) / 6,
    ),
}


@pytest.mark.parametrize("name", NONSTATIONARY)
@pytest.mark.parametrize("start", [None, -2.0])
def test_a_kernel_that_is_not_stationary_begins_where_it_is_told(name, start):
    build, cov = NONSTATIONARY[name]
    seen, origin = ~np.isnan(Y), 0.2 if start is None else start
    t, at = TIME[seen] - origin, np.array([5.0, 1.7, 12.0]) - origin
    value, mean, posterior = dense(cov(t[:, None], t), 0.2, Y[seen], cov(at[:, None], t), cov(at[:, None], at))
    gp = MarkovGP(build(), noise=0.2, start=start)
    assert gp.log_likelihood(TIME, Y).item() == pytest.approx(value, rel=1e-9)
    post = gp.condition(TIME, Y)
    np.testing.assert_allclose(post.mean(at + origin), mean, rtol=0, atol=2e-8)
    np.testing.assert_allclose(post.covariance(at + origin), posterior, rtol=0, atol=2e-8)
    with pytest.raises(ConfigError, match="start=-9"):
        post.mean([-9.0])


MULTI = {
    "coregionalised": lambda: Coregionalised([Matern12(2.0), SHO(3.0, 2.0)], [[1.0, 0.5], [-0.3, 2.0]]),
    "separable": lambda: Separable(Matern32(2.0), [[1.0, 0.6], [0.6, 2.0]]),
    "coupled": lambda: Coupled([[1.0, 0.2], [0.4, -1.0]], [0.5, 1.5], [[0.0, 2.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize("name", MULTI)
def test_several_outputs_with_holes(name):
    kernel, y = MULTI[name](), np.stack([Y, np.roll(Y, 2) + 0.5], axis=1)
    noise, seen = np.array([0.2, 0.05]), ~np.isnan(y).reshape(-1)
    flat = lambda a, b: gram(kernel, a, b).transpose(0, 2, 1, 3).reshape(2 * len(a), 2 * len(b))  # noqa: E731
    K, cross, prior = flat(TIME, TIME)[seen][:, seen], flat(AT, TIME)[:, seen], flat(AT, AT)
    value, mean, cov = dense(K, np.tile(noise, len(TIME))[seen], y.reshape(-1)[seen], cross, prior)
    gp = MarkovGP(kernel, noise=noise)
    assert gp.log_likelihood(TIME, y).item() == pytest.approx(value, rel=1e-9)
    post = gp.condition(TIME, y)
    np.testing.assert_allclose(post.mean(AT).reshape(-1), mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(post.covariance(AT).reshape(cov.shape), cov, rtol=0, atol=1e-9)
    np.testing.assert_allclose(post.variance(AT).reshape(-1), np.diag(cov), rtol=0, atol=1e-9)
    assert post.sample(AT, 3, seed=0).shape == (3, len(AT), 2)


@pytest.mark.parametrize("name", ["matern52", "sho", "hida-matern", "sum"])
def test_gradients_are_finite_differences(name):
    gp = MarkovGP(STATIONARY[name](), noise=0.2, mean="constant")
    gp.log_likelihood(TIME, Y).backward()
    for label, parameter in gp.named_parameters():
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step
                values.append(float(gp.log_likelihood(TIME, Y)))
                parameter -= step
        slope = (values[0] - values[1]) / 2e-5
        assert float(parameter.grad.sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6), label


def test_the_likelihood_is_differentiable_in_the_data():
    gp, y = MarkovGP(Matern32(2.0), noise=0.2), torch.tensor(Y, requires_grad=True)
    (slope,) = torch.autograd.grad(gp.log_likelihood(TIME, y), y)
    seen = ~np.isnan(Y)
    expected = np.zeros(len(Y))
    expected[seen] = -np.linalg.solve(gram(gp.kernel, TIME[seen], TIME[seen]) + 0.2 * np.eye(seen.sum()), Y[seen])
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-10)


def test_joint_draws_have_the_posterior_moments():
    gp = MarkovGP(Matern32(2.0) + Cosine(5.0, 0.3), noise=0.2)
    post, n = gp.condition(TIME, Y), 20_000
    draws, cov = post.sample(AT, n, seed=1), post.covariance(AT)
    centred = draws - post.mean(AT)
    # standard errors of a mean and of a covariance of Gaussian draws
    assert float((centred.mean(0).abs() / (cov.diagonal() / n).sqrt()).max()) < 4.5
    spread = ((cov.diagonal()[:, None] * cov.diagonal() + cov.square()) / n).sqrt()
    assert float(((centred.mT @ centred / n - cov).abs() / spread).max()) < 4.5
    assert torch.equal(draws, post.sample(AT, n, seed=1))
    assert not torch.equal(draws[:3], post.sample(AT, 3, seed=2))
    torch.testing.assert_close(draws[:, 0], draws[:, 5], rtol=0, atol=1e-6)


def test_order_ties_and_missing_rows_do_not_matter():
    gp, seen = MarkovGP(Matern52(1.7), noise=0.2), ~np.isnan(Y)
    shuffled = np.random.default_rng(3).permutation(len(TIME))
    value = gp.log_likelihood(TIME, Y).item()
    assert gp.log_likelihood(TIME[shuffled], Y[shuffled]).item() == pytest.approx(value, rel=1e-13)
    assert gp.log_likelihood(torch.as_tensor(TIME[seen]), torch.as_tensor(Y[seen])).item() == value
    post, again = gp.condition(TIME, Y), gp.condition(TIME[shuffled], Y[shuffled])
    torch.testing.assert_close(post.mean(AT), again.mean(AT), rtol=0, atol=1e-12)
    back = list(reversed(AT))
    torch.testing.assert_close(post.mean(back).flip(0), post.mean(AT), rtol=0, atol=1e-12)
    torch.testing.assert_close(post.covariance(back).flip(0, 1), post.covariance(AT), rtol=0, atol=1e-12)


def test_nothing_observed_is_the_prior_and_no_gradient_is_nan():
    gp = MarkovGP(Matern52(1.7, 2.0), noise=0.2, mean=3.0)
    nothing = np.full(len(TIME), np.nan)
    value = gp.log_likelihood(TIME, nothing)
    value.backward()
    assert value.item() == 0.0
    assert all(bool((p.grad == 0).all()) for p in gp.parameters() if p.grad is not None)
    for post in (gp.condition(TIME, nothing), gp.condition([], [])):
        torch.testing.assert_close(post.mean(AT), torch.full((6,), 3.0, dtype=F64))
        np.testing.assert_allclose(post.covariance(AT), gram(gp.kernel, AT, AT), rtol=0, atol=1e-12)
    gp.log_likelihood(TIME, Y).backward()
    assert all(bool(p.grad.isfinite().all()) for p in gp.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["matern12", "matern52", "sho", "hida-matern"])
def test_gaps_of_any_length(name):
    """From 1e-9 to 1e9 length-scales in one series."""
    kernel = STATIONARY[name]()
    t = np.array([0.0, 1e-9, 2e-9, 1e-4, 0.5, 0.5, 2.0, 1e3, 1e6, 1e9])
    y = np.sin(np.arange(10.0))
    value, mean, _ = dense(
        gram(kernel, t, t), 0.1, y, gram(kernel, [1e-9, 1e9 + 1], t), gram(kernel, [0.0, 0.0], [0.0, 0.0])
    )
    gp = MarkovGP(kernel, noise=0.1)
    assert gp.log_likelihood(t, y).item() == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(gp.condition(t, y).mean([1e-9, 1e9 + 1]), mean, rtol=0, atol=1e-7)
    slopes = torch.autograd.grad(gp.log_likelihood(t, y), list(kernel.parameters()))
    assert all(bool(s.isfinite().all()) for s in slopes)


def test_ragged_series_in_one_batch():
    gp = MarkovGP(SHO(3.0, 2.0), noise=0.2)
    times, values = [TIME, TIME[:3], [1.0], [2.0, 3.0]], [Y, Y[:3], [0.5], [np.nan, np.nan]]
    together = gp.log_likelihood(times, values)
    alone = [gp.log_likelihood(t, y).item() for t, y in zip(times, values, strict=True)]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)
    assert together[3] == 0.0
    per_point = MarkovGP(SHO(3.0, 2.0), noise=[np.full(9, 0.2), np.full(3, 0.2), [0.2], [0.2, 0.2]])
    assert per_point.log_likelihood(times, values).tolist() == pytest.approx(alone, rel=1e-12)
    fitted = gp.fit(times, values, iterations=15)
    assert fitted.report.objective > sum(alone)


def test_noise_of_each_point():
    noise, kernel, seen = np.random.default_rng(3).uniform(0.05, 0.5, len(TIME)), Matern32(2.0), ~np.isnan(Y)
    value, mean, _ = dense(
        gram(kernel, TIME[seen], TIME[seen]), noise[seen], Y[seen], gram(kernel, AT, TIME[seen]), np.eye(6)
    )
    gp = MarkovGP(kernel, noise=noise)
    assert gp.log_likelihood(TIME, Y).item() == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(gp.condition(TIME, Y).mean(AT), mean, rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match="9 noise variances for 2 rows"):
        gp.log_likelihood([0.0, 1.0], [1.0, 2.0])


def test_arrays_of_any_make_and_empty_questions():
    gp = MarkovGP(Matern32(2.0), noise=0.1)
    value = gp.log_likelihood(TIME, Y).item()
    kinds = (list, torch.as_tensor, pd.Series, xr.DataArray)
    assert [gp.log_likelihood(kind(TIME), kind(Y)).item() for kind in kinds] == [value] * 4
    post = gp.condition(TIME, Y)
    assert (post.mean([]).shape, post.covariance([]).shape, post.sample([], 3).shape) == ((0,), (0, 0), (3, 0))
    sharp = MarkovGP(SHO(3.0, 5.0), noise=1e-10).condition([0.0, 1.0, 2.0], [1.0, np.nan, 0.0])
    np.testing.assert_allclose(sharp.mean([2.0, 0.0]), [0.0, 1.0], rtol=0, atol=1e-8)
    assert bool((sharp.variance([2.0, 0.0]) < 2e-10).all())


def test_components_of_a_sum():
    gp = MarkovGP(Matern32(2.0) + Cosine(5.0, 0.3) + Matern32(0.3), noise=0.2, mean=1.0)
    post, seen = gp.condition(TIME, Y), ~np.isnan(Y)
    parts = post.components(AT)
    assert parts.names == ("Matern32", "Cosine", "Matern32-2")
    torch.testing.assert_close(parts.mean.sum(0) + 1.0, post.mean(AT))
    S = gram(gp.kernel, TIME[seen], TIME[seen]) + 0.2 * np.eye(seen.sum())
    for kernel, mean, variance in zip(gp.kernel.parts, parts.mean, parts.variance, strict=True):
        cross = gram(kernel, AT, TIME[seen])
        np.testing.assert_allclose(mean, cross @ np.linalg.solve(S, Y[seen] - 1.0), rtol=0, atol=1e-9)
        expected = np.diag(gram(kernel, AT, AT) - cross @ np.linalg.solve(S, cross.T))
        np.testing.assert_allclose(variance, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: MarkovGP(Matern12(), noise=0.0), ConfigError, "noise must be a positive"),
        (lambda: MarkovGP(Matern12(), noise=[0.1, -0.1]), ConfigError, "not positive"),
        (lambda: MarkovGP(Matern12(), mean="linear"), ConfigError, "mean"),
        (lambda: MarkovGP(Matern12()).log_likelihood([0.0, 1.0], [1.0]), ShapeError, "wanted"),
        (lambda: MarkovGP(Matern12()).log_likelihood([0.0, np.nan], [1.0, 2.0]), DataError, "time is nan"),
        (lambda: MarkovGP(Matern12()).log_likelihood([0.0, 1.0], [1.0, np.inf]), DataError, "infinite"),
        (lambda: MarkovGP(Matern12()).log_likelihood([[0.0], [1.0]], [[1.0]]), DataError, "2 series"),
        (lambda: MarkovGP(Matern12()).fit([0.0], [np.nan]), DataError, "missing"),
        (lambda: MarkovGP(Matern12()).log_likelihood(["a"], [1.0]), DataError, "cannot be read as numbers"),
        (lambda: MarkovGP(Matern12()).log_likelihood(np.array(["2020"], "M8[s]"), [1.0]), TimeError, "model=.gp"),
        (lambda: MarkovGP(Matern12()).fit([0.0], [1.0], method="guess"), ConfigError, "unknown method"),
        (lambda: MarkovGP(Matern12(), noise=[0.1, 0.1]).noise, ConfigError, "fixed per point"),
    ],
)
def test_misuse_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


# -- fit -------------------------------------------------------------------------------------------------------------


def sampled(n: int = 150):
    time = np.sort(np.random.default_rng(3).uniform(0, 40, n))
    truth = MarkovGP(Matern32(2.0, 1.5), noise=0.1)
    f = truth.condition([], []).sample(time, 1, seed=5)[0].numpy()
    return time, f + 0.3 * np.random.default_rng(0).normal(size=n) + 4.0


def test_a_fit_finds_the_maximum_says_so_and_leaves_its_start_alone():
    time, y = sampled()
    gp = MarkovGP(Matern32(1.0, 1.0), noise=1.0, mean="constant")
    fitted = gp.fit(time, y)
    assert gp.report is None
    assert gp.noise.item() == pytest.approx(1.0)
    assert fitted.report.converged
    assert fitted.report.objective == pytest.approx(fitted.log_likelihood(time, y).item(), rel=1e-12)
    slopes = torch.autograd.grad(fitted.log_likelihood(time, y), [p for p in fitted.parameters() if p.requires_grad])
    assert max(float(s.abs().max()) for s in slopes) < 0.02
    assert fitted.kernel.lengthscale.item() == pytest.approx(2.0, rel=0.5)
    assert fitted.noise.item() == pytest.approx(0.09, rel=0.4)
    assert "converged" in fitted.explain()


def test_more_starts_are_never_worse():
    time, y = sampled(60)
    gp = MarkovGP(SHO(40.0, 1.0), noise=1.0, mean="constant")
    one, three = gp.fit(time, y, iterations=30), gp.fit(time, y, iterations=30, starts=3)
    assert three.report.objective >= one.report.objective - 1e-9
    assert gp.fit(time, y, iterations=2).report.converged is False


def test_a_mixture_of_posteriors_has_the_moments_of_its_draws():
    parts = [MarkovGP(Matern32(scale), noise=0.2).condition(TIME, Y) for scale in (0.5, 2.0, 5.0)]
    mixed, n = MixedPosterior(parts), 30_000
    draws, mean, cov = mixed.sample(AT, n, seed=4), mixed.mean(AT), mixed.covariance(AT)
    torch.testing.assert_close(mixed.variance(AT), cov.diagonal())
    assert float(((draws.mean(0) - mean).abs() / (cov.diagonal() / n).sqrt()).max()) < 4.5
    torch.testing.assert_close(torch.cov(draws.mT), cov, rtol=0, atol=0.05)
    assert bool((mixed.variance(AT) > torch.stack([p.variance(AT) for p in parts]).mean(0)).all())
    # neighbouring draws come from different parts: the order says nothing
    assert abs(float(torch.corrcoef(torch.stack([draws[1:, 0], draws[:-1, 0]]))[0, 1])) < 0.03


def test_options_of_a_sampler_need_the_sampler():
    gp = MarkovGP(Matern12(), noise=0.1)
    with pytest.raises(ConfigError, match="no option draws"):
        gp.fit(TIME, Y, draws=10)
    with pytest.raises(ConfigError, match="prior for log_period"):
        gp.fit(TIME, Y, method="hmc", priors={"log_period": None})


@pytest.mark.slow
def test_the_hyper_posterior_is_that_of_a_grid():
    gp = MarkovGP(Matern12(2.0, 1.0), noise=np.full(len(TIME), 0.2))
    fitted = gp.fit(TIME, Y, method="hmc", draws=400, warmup=150, chains=2, seed=1)
    axis = torch.linspace(-4, 4, 33, dtype=F64)
    table = torch.empty(33, 33, dtype=F64)
    with torch.no_grad():
        for i, a in enumerate(axis):
            for j, b in enumerate(axis):
                gp.kernel.log_lengthscale.copy_(a + math.log(2.0))
                gp.kernel.log_variance.copy_(b)
                table[i, j] = gp.log_likelihood(TIME, Y) - 0.5 * (a**2 + b**2)
    weight = (table - table.max()).exp() / (table - table.max()).exp().sum()
    means = [float((weight.sum(1) * axis).sum()) + math.log(2.0), float((weight.sum(0) * axis).sum())]
    found = fitted.hyper.chains.summary()
    assert list(found.mean) == pytest.approx(means, abs=4 * max(found.mcse))
    assert [fitted.kernel.log_lengthscale.item(), fitted.kernel.log_variance.item()] == pytest.approx(list(found.mean))
    post = fitted.condition(TIME, Y)
    assert len(post.parts) == 32
    assert post.sample(AT, 5).shape == (5, len(AT))


# -- the door --------------------------------------------------------------------------------------------------------


def test_the_door_takes_the_line_the_dense_factor_or_vecchia():
    from sciinfer.gp.spatial import Matern

    line = GP(Matern32(2.0), noise=0.2)
    with pytest.raises(StateError):
        line.explain()
    value = line.log_likelihood(TIME, Y)
    assert value.item() == pytest.approx(MarkovGP(Matern32(2.0), noise=0.2).log_likelihood(TIME, Y).item(), rel=1e-14)
    assert line.explain().startswith("markov: inputs on a line")
    assert line.certify(TIME, Y) < 1e-9
    assert "nats of the dense log-likelihood" in line.explain()
    few = GP(Matern32(2.0), noise=0.2, way="dense")
    assert few.log_likelihood(TIME[:, None], Y).item() == pytest.approx(value.item(), rel=1e-10)
    plane, X = GP(Matern(1.5, 0.7), noise=0.1), np.random.default_rng(3).uniform(size=(40, 2))
    z = np.sin(5 * X).sum(1)
    assert plane.condition(X, z).mean(X[:3]).shape == (3,)
    assert plane.explain().startswith("dense: 40 points of 2 inputs")
    near = GP(Matern(1.5, 0.7), noise=0.1, way="vecchia", neighbours=20)
    exact = plane.log_likelihood(X, z).item()
    assert near.log_likelihood(X, z).item() == pytest.approx(exact, abs=0.5)
    assert near.certify(X, z) < 0.5
    assert near.explain().startswith("vecchia: asked for")


def test_the_door_fits_and_passes_gradients():
    time, y = sampled(80)
    for way in ("markov", "dense"):
        gp = GP(Matern32(1.0), noise=1.0, mean="constant", way=way)
        gp.log_likelihood(time, y).backward()
        assert all(p.grad is not None and bool((p.grad != 0).all()) for p in gp.parameters())
        fitted = gp.fit(time, y)
        assert fitted.report.converged
        assert "fit converged" in fitted.explain()
        assert fitted.log_likelihood(time, y).item() == pytest.approx(fitted.report.objective, rel=1e-9)
        assert gp.log_noise.item() == 0.0


def test_the_door_says_how_exact_a_fit_is():
    from sciinfer.gp.spatial import Matern

    X = np.random.default_rng(3).uniform(size=(60, 2))
    z = np.sin(5 * X).sum(1)
    near = GP(Matern(1.5, 0.7), noise=0.1, way="vecchia", neighbours=12).fit(X, z, iterations=20, rounds=1)
    assert near.explain().startswith("vecchia: asked for; 12 nearest predecessors; twice the neighbours change")
    assert near.certify(X, z) < 2.0
    noise = np.linspace(0.1, 0.3, len(TIME))
    each = GP(RBF(2.0), noise=noise, mean=0.3).fit(TIME, Y, iterations=5)
    alone = MarkovGP(each.kernel, noise=noise, mean=0.3).log_likelihood(TIME, Y).item()
    assert each.report.objective == pytest.approx(alone, rel=1e-12)
    assert "kernel approximated within" in each.explain()
    assert "on up to 200 points within" in each.explain()
    assert each.certify(TIME, Y) < 1e-9
    line = GP(IntegratedWiener(0.4), noise=0.1)
    assert math.isnan(line.certify(TIME, Y))
    assert line.explain().endswith("no dense form to compare with")
    exposed = GP(Matern32(), noise=0.1)
    assert math.isnan(exposed.certify(averages([0.0, 1.0], [2.0, 2.5]), [0.3, 0.1]))


def test_the_door_refuses_what_no_room_fits():
    from sciinfer.gp.spatial import Matern

    with pytest.raises(ConfigError, match="unknown back-end"):
        GP(Matern32(), way="exact")
    with pytest.raises(ConfigError, match="no state-space form"):
        GP(Matern(1.5), way="markov").log_likelihood(TIME, Y)
    with pytest.raises(ConfigError, match="MarkovGP"):
        GP(MULTI["separable"]())


# -- the facade ------------------------------------------------------------------------------------------------------


def test_the_model_gp_through_the_facade(tmp_path):
    """Dates, durations and products in the kernel's text; the summed kernels come back as ``latent``."""
    months = pd.date_range("2000-01-01", periods=80, freq="30D")
    year = np.arange(80) * 30 / 365.25
    noise = 0.2 * np.random.default_rng(0).normal(size=80)
    data = xr.DataArray(3 * year + 2 * np.sin(2 * np.pi * year) + noise, {"time": months}, ["time"], "level")
    kernel = "integrated-wiener + matern32(lengthscale=3650D) * cosine(period=365.25D)"
    options = {"kernel": kernel, "noise": 0.1}
    fitted = si.fit(data, model="gp", options=options, training={"steps": 12}, progress="silent")
    ahead = pd.to_datetime(["2006-10-01", "2003-01-15"])
    tree = fitted.predict(time=ahead, draws=40)
    found = tree["posterior"]["level"].mean(("chain", "draw")).values
    at = np.array([(day - months[0]).days for day in ahead]) / 365.25
    np.testing.assert_allclose(found, 3 * at + 2 * np.sin(2 * np.pi * at), atol=0.5)
    parts = tree["posterior"]["latent"]
    assert parts.sizes["latent_dim"] == 2
    season = parts.isel(latent_dim=1).mean(("chain", "draw")).values / parts.isel(latent_dim=1).std().item()
    assert np.sign(season).tolist() == np.sign(np.sin(2 * np.pi * at)).tolist()
    fitted.save(tmp_path / "fit")
    again = si.load(tmp_path / "fit").predict(time=ahead, draws=40)
    np.testing.assert_array_equal(again["posterior"]["level"].values, tree["posterior"]["level"].values)


@pytest.mark.parametrize("options", [{"noise": -1.0}, {"latent": 3}, {"kernel": "matern32 * wiener"}])
def test_the_model_gp_names_a_bad_option(options):
    with pytest.raises(ConfigError, match=r"noise|no option|factor"):
        si.fit(si.open_dataset("nile"), model="gp", options=options, progress="silent")
