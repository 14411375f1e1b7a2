"""Vecchia's approximation against dense Gaussian processes, and its pieces against plain loops."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, DataError, NumericalError, ShapeError
from sciinfer.gp.kernels import Matern12, Matern32, Seasonal
from sciinfer.gp.spatial import (
    DensePosterior,
    Matern,
    SquaredExponential,
    VecchiaGP,
    as_covariance,
    dense_log_likelihood,
    maximin,
)
from sciinfer.gp.spatial import vecchia as vecchia_module
from sciinfer.gp.spatial.conditionals import blocks, condition_last
from sciinfer.gp.spatial.neighbours import nearest_among, nearest_before, within_before
from sciinfer.random import numpy_generator

F64 = torch.float64
UCI = Path(os.environ.get("SCIINFER_DATA", "/nonexistent")) / "gp" / "uci"


def field(n=900, noise=0.05, seed=0, lengthscale=0.2, nu=1.5):
    """Uniform points in the unit square and a draw of a Matern process there."""
    g = numpy_generator(seed, "vecchia-test")
    X = torch.as_tensor(g.uniform(size=(n, 2)))
    kernel = Matern(nu, lengthscale)
    with torch.no_grad():
        K = kernel(X, X) + noise * torch.eye(n, dtype=F64)
        y = torch.linalg.cholesky(K) @ torch.as_tensor(g.normal(size=n))
    return X, y, kernel


def exact(kernel, X, y, noise):
    with torch.no_grad():
        return float(dense_log_likelihood(kernel, X, y, torch.full((len(y),), noise, dtype=F64)))


# ---- order and neighbours


def greedy_maximin(X):
    order = [int(np.argmin(((X - X.mean(0)) ** 2).sum(1)))]
    while len(order) < len(X):
        distance = ((X[:, None] - X[order]) ** 2).sum(-1).min(1)
        distance[order] = -1
        order.append(int(np.argmax(distance)))
    return order


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_maximin_is_the_greedy_order_with_and_without_the_tree(dims):
    X = numpy_generator(0, "order", dims).uniform(size=(200, dims))
    expected = greedy_maximin(X)
    for dense in (1000, 3):
        order, lengths = maximin(X, dense=dense)
        assert order.tolist() == expected
        for k in (1, 50, 199):
            assert lengths[k] == pytest.approx(np.sqrt(((X[order[k]] - X[order[:k]]) ** 2).sum(1)).min(), rel=1e-12)
    assert np.isinf(lengths[0])


@pytest.mark.parametrize("dense", [1000, 3])
def test_repeated_points_come_last_and_every_point_once(dense):
    X = np.repeat(numpy_generator(0, "twice").uniform(size=(30, 2)), 2, axis=0)
    order, lengths = maximin(X, dense=dense)
    assert sorted(order.tolist()) == list(range(60))
    assert (lengths[30:] == 0).all() and (lengths[:30] > 0).all()


@pytest.mark.parametrize("kind", ["maximin", "line"])
def test_nearest_predecessors_are_those_of_a_full_search(kind):
    X = numpy_generator(1, "near").uniform(size=(2500, 2))
    X = X[maximin(X)[0]] if kind == "maximin" else np.sort(X[:, :1], axis=0)
    found = nearest_before(X, 7)
    for i in (0, 1, 5, 7, 8, 600, 1024, 1500, 2499):
        distance = ((X[:i] - X[i]) ** 2).sum(1)
        assert [j for j in found[i] if j >= 0] == np.argsort(distance, kind="stable")[:7].tolist()


def test_predecessors_within_a_radius_and_nearest_of_others():
    X = numpy_generator(2, "near").uniform(size=(150, 2))
    radius = np.linspace(0.5, 0.05, 150)
    for i, found in enumerate(within_before(X, radius)):
        distance = np.sqrt(((X[:i] - X[i]) ** 2).sum(1))
        assert found.tolist() == np.flatnonzero(distance <= radius[i]).tolist()
    near = nearest_among(X[:100], X[100:], 3)
    assert (near == np.argsort(((X[100:, None] - X[:100]) ** 2).sum(-1), axis=1)[:, :3]).all()
    assert nearest_among(X[:2], X[:5], 3).shape == (5, 2)


# ---- covariances


@pytest.mark.parametrize("kernel", [Matern(0.5, [0.5, 2.0]), Matern(1.5), Matern(2.5), SquaredExponential([1.0, 3.0])])
def test_covariances_are_definite_and_smooth_at_zero(kernel):
    X = torch.as_tensor(numpy_generator(0, "cov").normal(size=(20, 2)))
    X = torch.cat([X, X[:1]]).requires_grad_()
    K = kernel(X, X)
    assert torch.equal(K, K.mT) and float(torch.linalg.eigvalsh(K.detach()).min()) > -1e-12
    torch.testing.assert_close(kernel.variance_at(X), K.diagonal(), rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(K.sum(), X)
    assert bool(slope.isfinite().all())


def test_a_kernel_of_time_is_taken_by_distance():
    X = torch.as_tensor(numpy_generator(0, "cov").normal(size=(6, 3)))
    ours = as_covariance(Matern32(lengthscale=0.7, variance=2.0))
    torch.testing.assert_close(ours(X, X), Matern(1.5, 0.7, 2.0)(X, X))
    line = as_covariance(Seasonal(period=2.0))
    expected = Seasonal(period=2.0).covariance((X[:, :1] - X[:, 0]).abs())
    torch.testing.assert_close(line(X[:, :1], X[:, :1]), expected)
    with pytest.raises(ConfigError, match="one input"):
        line(X, X)
    with pytest.raises(ConfigError, match="no covariance"):
        as_covariance("matern")
    with pytest.raises(ConfigError, match="2 length-scales for 3 inputs"):
        Matern(1.5, [1.0, 2.0])(X, X)


# ---- likelihood


def test_a_sorted_markov_process_needs_one_neighbour():
    g = numpy_generator(0, "line")
    x, y = torch.as_tensor(g.uniform(0, 20, 300)), torch.as_tensor(g.normal(size=300))
    gp = VecchiaGP(Matern12(1.3, 0.7), noise=torch.zeros(300, dtype=F64), neighbours=1)
    expected = exact(as_covariance(Matern12(1.3, 0.7)), x[:, None], y, 0.0)
    assert gp.log_likelihood(x, y).item() == pytest.approx(expected, rel=1e-10)


def test_two_dimensional_field_of_900_points():
    X, y, kernel = field()
    truth = exact(kernel, X, y, 0.05)
    with torch.no_grad():
        gaps = {m: float(VecchiaGP(kernel, 0.05, neighbours=m).log_likelihood(X, y)) - truth for m in (5, 20, 40)}
    assert abs(gaps[20]) < 1.0
    assert 3.0 < abs(gaps[5]) < 60.0  # so that the check above could fail
    assert abs(gaps[40]) < abs(gaps[5]) / 10


def test_certificate_is_the_change_at_twice_the_neighbours():
    X, y, kernel = field(300)
    gp = VecchiaGP(kernel, 0.05, neighbours=6)
    with torch.no_grad():
        change = gp.log_likelihood(X, y) - VecchiaGP(kernel, 0.05, neighbours=12).log_likelihood(X, y)
    assert gp.certificate(X, y) == pytest.approx(abs(float(change)), rel=1e-12)
    assert "twice the neighbours" in gp.explain()


def test_with_all_neighbours_it_is_the_dense_process():
    X, y, kernel = field(60)
    assert VecchiaGP(kernel, 0.05, neighbours=59).log_likelihood(X, y).item() == exact(kernel, X, y, 0.05)
    # one neighbour less for the last point only: the blocks themselves, not the dense branch
    nearly = VecchiaGP(kernel, 0.05, neighbours=58).log_likelihood(X, y).item()
    assert nearly == pytest.approx(exact(kernel, X, y, 0.05), abs=1e-3)


@pytest.mark.parametrize("chunk", [4_000_000, 300])
def test_gradients_against_differences(chunk, monkeypatch):
    monkeypatch.setattr(vecchia_module, "_CHUNK", chunk)
    X, y, _ = field(50)
    gp = VecchiaGP(Matern(2.5, [0.2, 0.3]), 0.05, mean="constant", neighbours=4)
    y = y.clone().requires_grad_()
    parameters = [*gp.parameters(), y]
    slopes = torch.autograd.grad(3.0 * gp.log_likelihood(X, y), parameters)
    for parameter, slope in zip(parameters, slopes, strict=True):
        flat = parameter.data.view(-1)
        for j in range(min(3, len(flat))):
            values, kept = [], float(flat[j])
            for step in (1e-5, -1e-5):
                flat[j] = kept + step
                values.append(3.0 * gp.log_likelihood(X, y).item())
            flat[j] = kept
            assert float(slope.view(-1)[j]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-6)


def test_missing_values_are_left_out_and_order_does_not_matter():
    X, y, kernel = field(120)
    gp = VecchiaGP(kernel, torch.linspace(0.05, 0.1, 120, dtype=F64), neighbours=10)
    holes = y.clone()
    holes[::7] = torch.nan
    kept = ~holes.isnan()
    less = VecchiaGP(kernel, torch.linspace(0.05, 0.1, 120, dtype=F64)[kept], neighbours=10)
    value = gp.log_likelihood(X, holes)
    assert value.item() == less.log_likelihood(X[kept], y[kept]).item()
    assert all(bool(s.isfinite().all()) for s in torch.autograd.grad(value, list(kernel.parameters())))
    mixed = torch.as_tensor(numpy_generator(0, "mix").permutation(120))
    other = VecchiaGP(kernel, 0.05, neighbours=10)
    same = other.log_likelihood(X[mixed].numpy(), y[mixed].numpy()).item()
    assert same == pytest.approx(other.log_likelihood(X, y).item(), rel=1e-12)


def test_no_value_at_all_gives_the_prior():
    X, y, kernel = field(40)
    gp = VecchiaGP(kernel, 0.05, mean=2.0)
    nothing = torch.full_like(y, torch.nan)
    assert gp.log_likelihood(X, nothing).item() == 0.0
    post = gp.condition(X, nothing)
    torch.testing.assert_close(post.mean(X), torch.full_like(y, 2.0))
    torch.testing.assert_close(post.covariance(X), kernel(X, X).detach())
    with pytest.raises(DataError, match="nothing to fit"):
        gp.fit(X, nothing)


def test_repeated_points_take_jitter_and_say_so():
    X, y, kernel = field(40)
    X, y = torch.cat([X, X]), torch.cat([y, y])
    noisy = VecchiaGP(kernel, 0.05, neighbours=10)
    assert noisy.log_likelihood(X, y).isfinite() and noisy.jitter == 0.0
    free = VecchiaGP(SquaredExponential(0.5), torch.zeros(80, dtype=F64), neighbours=10)
    assert free.log_likelihood(X, y).isfinite() and free.jitter > 0
    assert "jitter" in free.explain()


# ---- posterior


def test_posterior_approaches_the_dense_one():
    X, y, kernel = field(500)
    at = torch.as_tensor(numpy_generator(3, "at").uniform(size=(60, 2)))
    dense = DensePosterior(kernel, X, y, torch.full((500,), 0.05, dtype=F64), torch.zeros((), dtype=F64))
    worst = {}
    for m in (3, 30):
        post = VecchiaGP(kernel, 0.05, neighbours=m).condition(X, y)
        worst[m] = float(((post.mean(at) - dense.mean(at)).abs() / dense.variance(at).sqrt()).max())
    assert worst[30] < 0.05 < 0.3 < worst[3]
    torch.testing.assert_close(post.variance(at), dense.variance(at), rtol=0.02, atol=0)
    torch.testing.assert_close(post.covariance(at), dense.covariance(at), rtol=0, atol=0.01)


def test_draws_have_the_posteriors_moments_and_repeat():
    X, y, kernel = field(300)
    gp = VecchiaGP(kernel, 0.05, neighbours=15)
    at = torch.as_tensor(numpy_generator(4, "at").uniform(size=(25, 2)))
    at = torch.cat([at, at[:2]])
    for post in (gp.condition(X, y), VecchiaGP(kernel, 0.05, neighbours=300).condition(X, y)):
        draws = post.sample(at, 4000, seed=1)
        assert torch.equal(draws, post.sample(at, 4000, seed=1)) and not torch.equal(draws, post.sample(at, 4000))
        torch.testing.assert_close(draws[:, :2], draws[:, 25:], rtol=0, atol=1e-6)
        spread = post.covariance(at)
        sd = spread.diagonal().sqrt()
        assert float(((draws.mean(0) - post.mean(at)) / sd).abs().max()) < 5.0 / 4000**0.5
        torch.testing.assert_close(
            torch.cov(draws.mT), spread, rtol=0, atol=0.05 * float(spread.diagonal().max()) + 0.01
        )


# ---- fit


def test_fit_finds_what_the_dense_likelihood_finds():
    X, y, _ = field(250)
    start = Matern(1.5, [0.5, 0.5], 2.0)
    dense = VecchiaGP(start, 0.3, neighbours=250).fit(X, y)
    ours = VecchiaGP(start, 0.3, neighbours=25).fit(X, y)
    assert ours.report.converged and dense.report.converged
    assert start.variance.item() == pytest.approx(2.0)  # the caller's kernel is not touched
    assert ours.report.objective == pytest.approx(dense.report.objective, abs=1.0)
    torch.testing.assert_close(ours.covariance.lengthscale, dense.covariance.lengthscale, rtol=0.15, atol=0)
    torch.testing.assert_close(ours.noise, dense.noise, rtol=0.15, atol=0)
    assert "converged" in ours.explain()


def test_further_starts_find_the_better_of_two_maxima():
    """All noise, or a wave: from a long length-scale and much noise the wave is not found."""
    x = torch.linspace(0, 10, 60, dtype=F64)
    y = (2.0 * x).sin() + 0.3 * torch.as_tensor(numpy_generator(0, "starts").normal(size=60))
    one, several = (VecchiaGP(Matern(2.5, 6.0), 1.0, neighbours=60).fit(x, y, starts=count) for count in (1, 6))
    assert several.report.objective > one.report.objective + 10.0


# ---- errors


def test_errors_name_the_place():
    X, y, kernel = field(30)
    gp = VecchiaGP(kernel, 0.05)
    with pytest.raises(ShapeError, match="'y'"):
        gp.log_likelihood(X, y[:-1])
    with pytest.raises(DataError, match=r"index 3.*infinite"):
        gp.log_likelihood(X, y.index_fill(0, torch.tensor([3]), torch.inf))
    with pytest.raises(DataError, match=r"'X', index \(2, 1\)"):
        gp.log_likelihood(X.index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(torch.nan, dtype=F64)), y)
    with pytest.raises(ShapeError, match="'at'"):
        gp.condition(X, y).mean(X[:, :1])
    for bad in ({"neighbours": 0}, {"ordering": "random"}, {"noise": -1.0}, {"mean": "linear"}, {"noise": -y.abs()}):
        with pytest.raises(ConfigError):
            VecchiaGP(kernel, **bad)
    with pytest.raises(ConfigError, match="sorted"):
        VecchiaGP(kernel, 0.05, ordering="sorted", neighbours=2).log_likelihood(X, y)
    with pytest.raises(ConfigError, match="30 points"):
        VecchiaGP(kernel, torch.ones(5, dtype=F64)).log_likelihood(X, y)
    with pytest.raises(NumericalError, match="not finite"):
        VecchiaGP(Matern(1.5, variance=1e300), 1e-3, neighbours=3).log_likelihood(X * 1e-200, y * 1e300)


# ---- real data


@pytest.mark.slow
@pytest.mark.parametrize(("neighbours", "published"), [(5, 133.0), (10, 28.1), (20, 3.86), (30, 0.77)])
def test_latent_divergence_of_900_points(neighbours, published):
    """``KL(exact || Vecchia)`` of the noise-free field is close to the known values of another draw of the points."""
    X, _, kernel = field()
    X = X[torch.as_tensor(maximin(X.numpy())[0])]
    index = torch.cat([torch.as_tensor(nearest_before(X.numpy(), neighbours)), torch.arange(900)[:, None]], 1)
    with torch.no_grad():
        variance = condition_last(blocks(kernel, X, torch.zeros(900, dtype=F64), index)).variance
        divergence = 0.5 * float(variance.log().sum() - torch.logdet(kernel(X, X)))
    assert divergence == pytest.approx(published, rel=0.2)


@pytest.mark.slow
@pytest.mark.skipif(not UCI.exists(), reason="SCIINFER_DATA holds no gp/uci")
@pytest.mark.parametrize(
    ("name", "splits", "neighbours", "rmse", "nll"),
    [
        ("yacht", range(5), 10_000, 0.333, 0.088),
        ("energy", range(2), 10_000, 0.524, 0.810),
        ("yacht", range(2), 30, 0.361, 0.208),
    ],
)
def test_uci_regression(name, splits, neighbours, rmse, nll):
    """As good as stored exact fits (Matern-5/2, one length-scale per input), means over the same splits."""
    scores = np.mean([uci_scores(name, split, neighbours) for split in splits], axis=0)
    assert scores[0] < 1.1 * rmse and scores[1] < nll + 0.1, scores


def uci_scores(name, split, neighbours):
    """RMSE and negative log-density per point, original units; everything scaled by the training part."""
    with np.load(UCI / f"{name}.npz") as stored:
        X, y, test = stored["X"], stored["y"], stored["test_mask"][split].astype(bool)
    centre, scale = X[~test].mean(0), X[~test].std(0)
    X = (X - centre) / np.where(scale > 0, scale, 1.0)
    level, unit = y[~test].mean(), y[~test].std()
    gp = VecchiaGP(Matern(2.5, [X.shape[1] ** 0.5] * X.shape[1]), 0.1, neighbours=neighbours)
    gp = gp.fit(X[~test], (y[~test] - level) / unit, iterations=60, rounds=3, starts=4)
    post = gp.condition(X[~test], (y[~test] - level) / unit)
    mean = post.mean(X[test]).numpy() * unit + level
    variance = (post.variance(X[test]) + gp.noise.detach()).numpy() * unit**2
    error = y[test] - mean
    return np.sqrt((error**2).mean()), 0.5 * (np.log(2 * np.pi * variance) + error**2 / variance).mean()
