"""MarkovGP against dense Gaussian algebra written here, against stored references, and as a thing to use."""

from __future__ import annotations

import bz2
import json
import math
import os
from pathlib import Path

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
    derivatives,
    differences,
    join,
    points,
)

F64 = torch.float64
DATA = Path(os.environ.get("SCIINFER_DATA", ""))
needs_data = pytest.mark.skipif("SCIINFER_DATA" not in os.environ, reason="SCIINFER_DATA names no data folder")

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


# -- functionals -----------------------------------------------------------------------------------------------------


def weights(items, kernel_of):
    """Every functional as a cosine and sine amplitude: exact for a Cosine kernel of angular frequency ``w``."""
    w = kernel_of
    rows = []
    for kind, a, b in zip(items.kind.tolist(), items.start.tolist(), items.end.tolist(), strict=True):
        c, s = np.cos(w * b), np.sin(w * b)
        rows.append(
            [
                (c, s),
                (-w * s, w * c),
                ((s - np.sin(w * a)) / w / (b - a or 1), (np.cos(w * a) - c) / w / (b - a or 1)),
                (c - np.cos(w * a), s - np.sin(w * a)),
            ][kind]
        )
    return np.array(rows)


def test_every_functional_of_an_oscillation():
    """A sum of cosines is finitely many random amplitudes: all functionals are then plain linear algebra."""
    kernel = Cosine(4.0, 1.5) + Cosine(7.0, 0.8)
    seen = join(
        points([0.3, 6.0]),
        derivatives([1.0, 8.5]),
        averages([0.0, 0.5, 5.0, 2.0], [2.0, 4.0, 9.0, 2.0]),
        differences([1.0, 1.5], [3.0, 9.0]),
    )
    asked = join(averages([1.0, -3.0], [6.0, 0.0]), differences([0.0], [12.0]), derivatives([2.0]), points([2.0]))
    y = np.random.default_rng(3).normal(size=10)
    sd = [math.sqrt(1.5), math.sqrt(1.5), math.sqrt(0.8), math.sqrt(0.8)]
    W, V = (np.hstack([weights(i, 2 * math.pi / p) for p in (4.0, 7.0)]) * sd for i in (seen, asked))
    value, mean, cov = dense(W @ W.T, 0.1, y, V @ W.T, V @ V.T)
    gp = MarkovGP(kernel, noise=0.1)
    assert gp.log_likelihood(seen, y).item() == pytest.approx(value, rel=1e-9)
    post = gp.condition(seen, y)
    np.testing.assert_allclose(post.mean(asked), mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(post.covariance(asked), cov, rtol=0, atol=1e-8)
    level = MarkovGP(kernel, noise=0.1, mean=2.0).condition(points([]), [])
    assert level.mean(asked).tolist() == pytest.approx([2.0, 2.0, 0.0, 0.0, 2.0])


def test_derivatives_and_differences_of_a_rough_process():
    """Matérn-5/2: ``Cov(f', f) = k'``, ``Cov(f', f') = -k''``."""
    kernel, a, b = Matern52(1.3), np.array([0.0, 1.0, 2.5]), np.array([0.4, 3.0])
    lag = torch.as_tensor(np.subtract.outer(b, a)).requires_grad_()
    (first,) = torch.autograd.grad(kernel.covariance(lag).sum(), lag)
    within = torch.as_tensor(np.subtract.outer(b, b)).requires_grad_()
    rate = math.sqrt(5) / 1.3
    r = np.abs(np.subtract.outer(b, b))
    second = rate**2 / 3 * (1 + rate * r - (rate * r) ** 2) * np.exp(-rate * r)
    K = np.block([[gram(kernel, a, a), first.numpy().T], [first.numpy(), second]])
    assert within.shape == (2, 2)
    y = np.array([0.3, -0.4, 1.0, 0.2, -0.9])
    value, *_ = dense(K, 0.1, y, K[:1], K[:1, :1])
    found = MarkovGP(kernel, noise=0.1).log_likelihood(join(points(a), derivatives(b)), y)
    assert found.item() == pytest.approx(value, rel=1e-9)
    C = np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [-1.0, 0.0, 1.0]])
    value, *_ = dense(C @ K[:3, :3] @ C.T, 0.1, y[:3], K[:1, :3], K[:1, :1])
    found = MarkovGP(kernel, noise=0.1).log_likelihood(differences([0.0, 1.0, 0.0], [1.0, 2.5, 2.5]), y[:3])
    assert found.item() == pytest.approx(value, rel=1e-9)


def test_an_exposure_is_the_mean_of_many_points():
    """The posterior of an average agrees with averaging the joint posterior of a fine grid."""
    gp = MarkovGP(Matern32(2.0), noise=0.2)
    post = gp.condition(join(points(TIME), averages([0.0, 1.0], [3.0, 2.0])), [*Y, 0.4, -0.2])
    nodes, w = np.polynomial.legendre.leggauss(60)
    at = 1.5 + 2.5 * nodes
    mean, cov = post.mean(at).numpy() @ w / 2, w @ post.covariance(at).numpy() @ w / 4
    asked = averages([-1.0], [4.0])
    assert post.mean(asked).item() == pytest.approx(mean, abs=1e-5)
    assert post.variance(asked).item() == pytest.approx(cov, rel=1e-4)
    draws = post.sample(join(asked, points([1.0])), 4000, seed=0)
    assert float(draws[:, 0].var()) == pytest.approx(cov, rel=0.1)


def test_functionals_that_make_no_sense():
    with pytest.raises(ConfigError, match="Matern12 has no derivative"):
        MarkovGP(Matern12(), noise=0.1).log_likelihood(derivatives([0.0]), [1.0])
    with pytest.raises(DataError, match="ends before"):
        averages([1.0], [0.0])
    with pytest.raises(DataError, match="two times"):
        differences([1.0], [1.0])
    with pytest.raises(ShapeError, match="1 starts and 2 ends"):
        averages([1.0], [1.0, 2.0])
    with pytest.raises(ConfigError, match="one output"):
        MarkovGP(MULTI["separable"](), noise=0.1).log_likelihood(averages([0.0], [1.0]), [[1.0, 2.0]])
    with pytest.raises(ConfigError, match="one output at times"):
        MarkovGP(Matern32()).condition([0.0], [1.0]).components(averages([0.0], [1.0]))
    found = averages([1.0, 1.0], [1.0, 2.0])
    assert found.kind.tolist() == [0, 2]


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


# -- stored references -----------------------------------------------------------------------------------------------


def refs() -> dict:
    return json.loads((DATA / "gp/refs_dev/refs.json").read_text())


KINDS = {"m12": Matern12, "m32": Matern32, "m52": Matern52}


def mcycle():
    table = np.loadtxt(DATA / "gp/bayesnewton/mcycle.csv", delimiter=",")
    return table[:, 1], table[:, 2]


@needs_data
@pytest.mark.parametrize("kind", KINDS)
def test_motorcycle_references(kind):
    ref, (time, y) = refs()["mcycle"][kind], mcycle()
    gp = MarkovGP(KINDS[kind](8.0, 2000.0), noise=500.0)
    value = gp.log_likelihood(time, y)
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)
    slopes = torch.autograd.grad(value, [gp.kernel.log_lengthscale, gp.kernel.log_variance, gp.log_noise])
    assert [s.item() for s in slopes] == pytest.approx(ref["grad_log"], rel=1e-4)
    post = gp.condition(time, y)
    np.testing.assert_allclose(post.mean(ref["t_star"]), ref["mean"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(post.variance(ref["t_star"]), ref["var"], rtol=1e-6)


@needs_data
@pytest.mark.parametrize("kind", KINDS)
def test_motorcycle_maximum_likelihood(kind):
    best, (time, y) = refs()["mcycle"][kind]["mlii"], mcycle()
    fitted = MarkovGP(KINDS[kind](8.0, 2000.0), noise=500.0).fit(time, y)
    assert fitted.report.converged
    assert fitted.report.objective == pytest.approx(best["lml"], abs=1e-6)
    found = [fitted.kernel.lengthscale.item(), fitted.kernel.variance.item(), fitted.noise.item()]
    assert found == pytest.approx([best["ell"], best["s2"], best["noise"]], rel=1e-3)


@needs_data
def test_motorcycle_squared_exponential_is_near():
    best, (time, y) = refs()["mcycle"]["rbf"]["mlii"], mcycle()
    fitted = MarkovGP(RBF(8.0, 2000.0, order=6), noise=500.0).fit(time, y)
    assert abs(fitted.report.objective - best["lml"]) < 0.5
    better = MarkovGP(RBF(8.0, 2000.0, order=12), noise=500.0)
    assert better.log_likelihood(time, y).item() == pytest.approx(refs()["mcycle"]["rbf"]["lml"], abs=0.05)


@needs_data
@pytest.mark.parametrize("kind", ["m12", "m32", "m52", "sho"])
@pytest.mark.parametrize("n", [500, 2000])
def test_generated_series(kind, n):
    data, ref = np.load(DATA / f"gp/refs_dev/m32_irregular_N{n}.npz"), refs()[f"gen{n}_{kind}"]
    sho = kind == "sho"
    kernel = SHO.from_power(1.2 * 0.4 / 3.0, 1 / 0.4, 3.0) if sho else KINDS[kind](*ref["params"])
    value = MarkovGP(kernel, noise=0.12).log_likelihood(data["t"], data["y"])
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)


@needs_data
@pytest.mark.parametrize(
    "name", ["gen10000_m32", "gen102400_m32", pytest.param("gen1000000_m32", marks=pytest.mark.slow)]
)
def test_long_series(name):
    ref, n = refs()[name], int(name[3:].split("_")[0])
    file = DATA / f"gp/refs_dev/m32_irregular_N{n}.npz"
    time, y = generated(n) if not file.exists() else (np.load(file)["t"], np.load(file)["y"])
    gp = MarkovGP(Matern32(*ref["params"]), noise=ref["noise"])
    value = gp.log_likelihood(time, y)
    slopes = torch.autograd.grad(value, [gp.kernel.log_lengthscale, gp.kernel.log_variance, gp.log_noise])
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)
    assert [s.item() for s in slopes] == pytest.approx(ref["grad_log"], rel=1e-4)


def generated(n: int):
    """The generator of the stored series, seed 0."""
    g = np.random.default_rng(0)
    t = np.sort(g.uniform(0, 0.05 * n, n))
    x = np.array([g.normal(), g.normal() * math.sqrt(3)])
    z, steps = g.normal(size=(n, 2)), torch.as_tensor(np.diff(t, prepend=t[0]))
    with torch.no_grad():
        A, Q = (part.numpy() for part in Matern32(1.0, 1.0).transition(steps))
    root = np.linalg.cholesky(Q + 1e-14 * np.eye(2))
    f = np.empty(n)
    f[0] = x[0]
    for k in range(1, n):
        x = A[k] @ x + root[k] @ z[k]
        f[k] = x[0]
    return t, f + 0.3 * g.normal(size=n)


@needs_data
def test_regular_series():
    data, ref = np.load(DATA / "gp/refs_dev/m32_regular_N10240.npz"), refs()["regular10240_m32"]
    gp = MarkovGP(Matern32(*ref["params"]), noise=0.12)
    assert gp.log_likelihood(data["t"], data["y"]).item() == pytest.approx(ref["lml"], rel=1e-8)


@needs_data
def test_overlapping_exposures():
    data, ref = np.load(DATA / "gp/refs_dev/integrated_ou_N200.npz"), refs()["integrated_ou_N200"]
    gp = MarkovGP(Matern12(ref["ell"], ref["s2"]), noise=ref["noise"])
    value = gp.log_likelihood(averages(data["start"], data["end"]), data["y"])
    assert value.item() == pytest.approx(ref["lml"], rel=1e-8)


def light_curve(entry: str):
    if entry.startswith("k2"):
        table = np.loadtxt(DATA / "astro/light_curves/k2_EPIC201367065.csv", delimiter=",")
        return table[:, 0], 1e3 * (table[:, 1] - 1), None
    star = entry.split("_")[1]
    lines = bz2.decompress((DATA / "astro/light_curves/s82_rrlyrae_ugriz.csv.bz2").read_bytes()).decode().splitlines()
    rows = [line.split(",") for line in lines[1:] if line.startswith(f"{star},")]
    table = np.array([[float(r[1]), float(r[2]), float(r[3])] for r in rows if r[4] == "g"])
    return table[:, 0], table[:, 1], table[:, 2]


def light_curve_kernel(kind: str, p: dict):
    if kind == "ou":
        return Matern12(p["tau"], p["var"])
    return Matern32(p["rho"], p["sigma"] ** 2) if kind == "matern32" else SHO.from_power(p["S0"], p["w0"], p["Q"])


KERNELS = ("ou_Q", "matern32_Q", "sho_Q3.0", "sho_Q0.3")
CURVES = [f"rrlyr_{star}_g_{kind}" for star in (13350, 4099, 1013184) for kind in KERNELS]
CURVES += ["k2_epic201367065_ou", "k2_epic201367065_sho"]


@needs_data
@pytest.mark.parametrize("entry", CURVES)
def test_light_curves(entry):
    """Errors are those of the table for the stars; the K2 flux is in parts per thousand with an error of 0.05."""
    ref = json.loads((DATA / "astro/light_curves/gp_reference_values.json").read_text())[entry]
    time, y, error = light_curve(entry)
    assert len(time) == ref["n"]
    noise = 0.05**2 if error is None else error**2
    gp = MarkovGP(light_curve_kernel(ref["kernel"], ref["params"]), noise=noise, mean=ref["mean"])
    assert gp.log_likelihood(time, y).item() == pytest.approx(ref["loglike_dense"], rel=1e-8)
    post = gp.condition(time, y)
    np.testing.assert_allclose(post.mean(ref["t_query"]), ref["pred_mean"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(post.variance(ref["t_query"]), ref["pred_var"], rtol=1e-6)


def co2():
    """Monthly means, standardised on the months before 2004; time from the first month."""
    table = np.loadtxt(DATA / "gp/parallel_gps/co2_mm_mlo.txt")
    year, ppm = table[:, 2], table[:, 3]
    train = year < 2004
    mu, sd = ppm[train].mean(), ppm[train].std(ddof=1)
    return year - year[0], (ppm - mu) / sd, train, sd


def band(lengthscale: float, variance: float, period: float):
    return HidaMatern(lengthscale, period, variance, learn_period=False)


def score(gp, time, y, train, sd):
    post = gp.condition(time[train], y[train])
    mean, variance = post.mean(time[~train]).numpy(), (post.variance(time[~train]) + gp.noise).detach().numpy()
    error = y[~train] - mean
    nlpd = 0.5 * np.mean(error**2 / variance + np.log(2 * math.pi * variance)) + math.log(sd)
    return sd * math.sqrt(np.mean(error**2)), nlpd


@needs_data
def test_carbon_dioxide_references():
    ref, (time, y, train, sd) = refs()["co2_mlii"], co2()
    assert (train.sum(), (~train).sum()) == (550, 205)
    assert sd == pytest.approx(ref["sd"], rel=1e-9)
    rate, l1, s1, l2, s2, l3, s3, noise = ref["theta"]
    kernel = IntegratedWiener(rate, 10.0, 1.0) + band(l1, s1, 1.0) + band(l2, s2, 0.5) + Matern32(l3, s3)
    gp = MarkovGP(kernel, noise=noise)
    assert -gp.log_likelihood(time[train], y[train]).item() == pytest.approx(ref["nlml"], rel=1e-7)
    rmse, nlpd = score(gp, time, y, train, sd)
    assert rmse == pytest.approx(ref["rmse"], rel=1e-5)
    assert nlpd == pytest.approx(ref["nlpd"], rel=1e-5)


@needs_data
def test_carbon_dioxide_with_a_fixed_kernel():
    ref, (_, _, train, _) = refs()["co2"], co2()
    table = np.loadtxt(DATA / "gp/parallel_gps/co2_mm_mlo.txt")
    time, y = table[:, 2], table[:, 3] - ref["mean_subtracted"]
    kernel = Matern52(40.0, 900.0) + band(60.0, 4.0, 1.0) + band(60.0, 0.5, 0.5) + Matern32(1.5, 0.3)
    gp = MarkovGP(kernel, noise=ref["noise"])
    assert gp.log_likelihood(time[train], y[train]).item() == pytest.approx(ref["lml"], rel=1e-8)
    post, at = gp.condition(time[train], y[train]), time[~train][:5]
    np.testing.assert_allclose(post.mean(at) + ref["mean_subtracted"], ref["mean_first5"], rtol=1e-6)
    np.testing.assert_allclose(post.variance(at) + ref["noise"], ref["var_first5"], rtol=1e-6)
    rmse, nlpd = score(gp, time, y, train, 1.0)
    assert rmse == pytest.approx(ref["rmse"], rel=1e-6)
    assert nlpd == pytest.approx(ref["nlpd"], rel=1e-6)


@needs_data
@pytest.mark.slow
def test_carbon_dioxide_from_a_plain_start_and_better():
    """The stored optimum is found from round numbers; a smooth trend beside the straight one forecasts better."""
    ref, (time, y, train, sd) = refs()["co2_mlii"], co2()
    season = lambda: band(50.0, 0.01, 1.0) + band(50.0, 0.001, 0.5) + Matern32(1.0, 0.01)  # noqa: E731
    gp = MarkovGP(IntegratedWiener(1e-3, 10.0, 1.0) + season(), noise=1e-3).fit(time[train], y[train])
    assert gp.report.converged
    assert -gp.report.objective == pytest.approx(ref["nlml"], abs=1e-3)
    rmse, nlpd = score(gp, time, y, train, sd)
    assert rmse < 2.285
    assert nlpd < 1.95
    trend = IntegratedWiener(1e-5, 10.0, 1.0) + RBF(60.0, 1.0, order=6)
    better = MarkovGP(trend + season(), noise=1e-3).fit(time[train], y[train])
    rmse, nlpd = score(better, time, y, train, sd)
    assert rmse < 2.1
    assert nlpd < 1.92
