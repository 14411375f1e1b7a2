"""MarkovGP against dense Gaussian algebra written here, and as a thing to use."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from sciinfer.errors import ConfigError, DataError, ShapeError, TimeError
from sciinfer.gp import (
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
    Periodic,
    QuasiPeriodic,
    Separable,
    Wiener,
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
