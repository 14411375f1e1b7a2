"""Gaussian processes with any likelihood from the user's side: data in any order, fits, draws, the facade, Whittle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

import sciinfer as si
from sciinfer.errors import ConfigError, DataError, ShapeError
from sciinfer.gp.approximate import ApproximateMarkovGP
from sciinfer.gp.kernels import IntegratedWiener, Matern12, Matern32
from sciinfer.gp.kernels.multi import Coregionalised
from sciinfer.gp.whittle import expected_periodogram, whittle_log_likelihood, whittle_start
from sciinfer.likelihoods import Bernoulli, Gaussian, Poisson, StudentT
from sciinfer.random import generator

F64 = torch.float64
SLOW = pytest.mark.slow


def _counts(n=60, seed=0):
    g = generator(seed, "counts")
    time = torch.rand(n, generator=g, dtype=F64).mul(20).sort().values
    return time, torch.poisson((1 + torch.sin(time)).exp(), generator=g)


def test_the_order_of_the_data_and_of_the_question_does_not_matter():
    time, y = _counts()
    shuffled = torch.randperm(len(time), generator=generator(1, "order"))
    gp = ApproximateMarkovGP(Matern32(lengthscale=2.0), Poisson(1), mean=1.0)
    a, b = gp.condition(time, y), gp.condition(time[shuffled].numpy(), y[shuffled].tolist())
    at = [5.0, -3.0, 5.0, 40.0]
    torch.testing.assert_close(a.mean(at), b.mean(at))
    torch.testing.assert_close(a.variance(at), b.variance(at)[[2, 1, 0, 3]])
    torch.testing.assert_close(a.mean([-3.0, 5.0]), a.mean(at)[[1, 0]])


def test_tied_times_and_gaps():
    gp = ApproximateMarkovGP(Matern32(lengthscale=2.0), Poisson(1), tolerance=1e-13)
    tied = gp.condition([0.0, 1.0, 1.0, 2.0], [1.0, 4.0, 2.0, float("nan")])
    assert tied.converged
    # two counts at one time say what their sum says of twice the exposure
    double = ApproximateMarkovGP(Matern32(lengthscale=2.0), Poisson(1, exposure=2.0), tolerance=1e-13)
    halves = double.condition([0.0, 0.0], [3.0, 4.0]), gp.condition([0.0] * 4, [2.0, 1.0, 4.0, 0.0])
    torch.testing.assert_close(halves[0].mean([0.0, 1.0]), halves[1].mean([0.0, 1.0]), rtol=1e-6, atol=1e-7)


def test_far_from_the_data_the_posterior_is_the_prior():
    time, y = _counts(20)
    post = ApproximateMarkovGP(Matern32(lengthscale=1.0, variance=1.4), Poisson(1), mean=0.3).condition(time, y)
    assert float(post.mean([1e4])) == pytest.approx(0.3, abs=1e-9)
    assert float(post.variance([1e4])) == pytest.approx(1.4, rel=1e-9)
    assert float(post.observation_mean([1e4])) == pytest.approx(math.exp(0.3 + 0.7), rel=1e-6)


def test_draws_have_the_posterior_moments():
    time, y = _counts(20)
    post = ApproximateMarkovGP(Matern32(lengthscale=2.0), Poisson(1), mean=1.0).condition(time, y)
    at, n = [0.5, 7.0, 30.0], 4000
    draws = post.sample(at, n, seed=3)
    assert tuple(draws.shape) == (n, 3)
    assert torch.equal(draws, post.sample(at, n, seed=3))
    z = (draws.mean(0) - post.mean(at)) / (post.variance(at) / n).sqrt()
    assert float(z.abs().max()) < 4.5
    torch.testing.assert_close(draws.var(0), post.variance(at), rtol=0.12, atol=0.0)


def test_ragged_series_are_each_their_own():
    (t1, y1), (t2, y2) = _counts(15, 1), _counts(9, 2)
    gp = ApproximateMarkovGP(Matern32(lengthscale=2.0), Poisson(1), mean=1.0)
    both, at = gp.condition([t1, t2], [y1, y2]), [1.0, 8.0]
    assert tuple(both.mean(at).shape) == (2, 2)
    for s, (t, y) in enumerate(((t1, y1), (t2, y2))):
        torch.testing.assert_close(both.mean(at)[s], gp.condition(t, y).mean(at), rtol=1e-7, atol=1e-8)
    total = float(gp.elbo([t1, t2], [y1, y2]).detach())
    assert total == pytest.approx(sum(float(gp.elbo(t, y).detach()) for t, y in ((t1, y1), (t2, y2))), rel=1e-9)


def test_a_series_without_data_starts_where_it_is_asked_for():
    gp = ApproximateMarkovGP(IntegratedWiener(rate=0.1, level_variance=2.0), Poisson(1))
    post = gp.condition([1000.0, 1001.0], [float("nan"), float("nan")])
    assert float(post.variance([7.0])) == pytest.approx(2.0, rel=1e-9)


@pytest.mark.parametrize("method", ["cvi", pytest.param("ep", marks=SLOW), pytest.param("laplace", marks=SLOW)])
def test_a_fit_ends_where_the_slope_is_zero_and_leaves_the_caller_alone(method):
    time, y = _counts()
    gp = ApproximateMarkovGP(Matern32(lengthscale=0.3, variance=0.3), Poisson(1), method=method, mean="constant")
    before = {name: p.detach().clone() for name, p in gp.named_parameters()}
    fitted = gp.fit(time, y)
    assert all(torch.equal(p, before[name]) for name, p in gp.named_parameters())
    assert fitted.report is not None and fitted.report.converged
    value = fitted.elbo(time, y)
    slopes = torch.autograd.grad(value, list(fitted.parameters()))
    assert max(float(s.abs().max()) for s in slopes) < 2e-3
    assert float(value.detach()) > float(gp.elbo(time, y).detach()) + 1
    assert fitted.report.objective == pytest.approx(float(value.detach()), abs=1e-5)


def test_outliers_cost_student_t_little():
    time = torch.linspace(0, 10, 60, dtype=F64)
    y = torch.sin(time) + 0.05 * torch.randn(60, generator=generator(0, "noise"), dtype=F64)
    y[[10, 30, 45]] += 6.0
    error = {}
    for name, lik in (("student-t", StudentT(1, noise=0.1)), ("gaussian", Gaussian(1, noise=0.1))):
        post = ApproximateMarkovGP(Matern32(lengthscale=3.0), lik).condition(time, y)
        error[name] = float((post.mean(time) - torch.sin(time)).abs().max())
    assert error["student-t"] < 0.15 < error["gaussian"]


def test_several_outputs_share_latents():
    time, _ = _counts(40)
    latent = torch.sin(time)
    y = torch.poisson((1 + latent[:, None] * torch.tensor([1.0, -1.0, 0.5])).exp(), generator=generator(0, "y"))
    y[::3, 0] = math.nan
    kernel = Coregionalised([Matern32(lengthscale=2.0)], [[1.0], [-1.0], [0.5]])
    post = ApproximateMarkovGP(kernel, Poisson(3), mean=1.0).condition(time, y)
    assert tuple(post.mean(time).shape) == (40, 3)
    missing = post.mean(time)[::3, 0] - 1
    assert float(np.corrcoef(missing, latent[::3])[0, 1]) > 0.8
    # every output is a multiple of the one latent function
    torch.testing.assert_close(post.mean(time)[:, 1] - 1, 1 - post.mean(time)[:, 0])


def test_what_cannot_be_used_is_named():
    gp = ApproximateMarkovGP(Matern12(), Bernoulli(1))
    with pytest.raises(ShapeError, match="outputs"):
        gp.elbo([0.0, 1.0], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(DataError, match="finite"):
        gp.elbo([0.0, math.inf], [1.0, 0.0])
    with pytest.raises(DataError, match="missing"):
        gp.fit([0.0, 1.0], [math.nan, math.nan])
    with pytest.raises(ConfigError, match="mean"):
        ApproximateMarkovGP(Matern12(), Bernoulli(1), mean="linear")  # pyright: ignore[reportArgumentType]


# -- Whittle -----------------------------------------------------------------------------------------------------


def test_the_expected_periodogram_is_exact_with_gaps():
    kernel, n = Matern32(lengthscale=4.0, variance=1.5), 50
    seen = (torch.rand(n, generator=generator(0, "seen")) > 0.2).to(F64)
    lag = torch.arange(n, dtype=F64)
    K = kernel.covariance(lag[:, None] - lag).detach() + 0.2 * torch.eye(n, dtype=F64)
    waves = torch.fft.fft(torch.diag(seen), dim=0)
    exact = (waves @ K.to(waves.dtype) @ waves.conj().mT).diagonal().real / seen.sum()
    window = torch.stack([(seen[: n - k] * seen[k:]).sum() for k in range(n)]) / seen.sum()
    torch.testing.assert_close(expected_periodogram(kernel, 0.2, window, 1.0).detach(), exact, rtol=1e-11, atol=1e-12)


def test_the_whittle_score_has_mean_zero_at_the_truth():
    """Unbiased estimating equations: the average gradient over replicates is within its own noise."""
    kernel, n = Matern32(lengthscale=5.0, variance=1.5), 64
    lag = torch.arange(n, dtype=F64)
    root = torch.linalg.cholesky(kernel.covariance(lag[:, None] - lag).detach() + 0.2 * torch.eye(n, dtype=F64))
    slopes = []
    for draw in (root @ torch.randn(n, 200, generator=generator(0, "paths"), dtype=F64)).mT:
        value = whittle_log_likelihood(kernel, 0.2, draw, 1.0)
        slopes.append(torch.stack(torch.autograd.grad(value, list(kernel.parameters()))))
    found = torch.stack(slopes)
    assert float((found.mean(0) / (found.std(0) / 200**0.5)).abs().max()) < 4


def test_the_whittle_start_is_near_the_truth():
    kernel, n = Matern32(lengthscale=8.0, variance=1.5), 1000
    lag = torch.arange(n, dtype=F64)
    root = torch.linalg.cholesky(kernel.covariance(lag[:, None] - lag).detach() + 0.2 * torch.eye(n, dtype=F64))
    y = 3.0 + root @ torch.randn(n, generator=generator(0, "path"), dtype=F64)
    y[100:150] = math.nan
    start = Matern32(lengthscale=2.0)
    found, noise, report = whittle_start(start, y, 1.0)
    assert report.converged
    assert isinstance(found, Matern32)
    assert float(start.lengthscale.detach()) == pytest.approx(2.0)
    assert float(found.lengthscale.detach()) == pytest.approx(8.0, rel=0.3)
    assert noise == pytest.approx(0.2, rel=0.3)
    with pytest.raises(ConfigError, match="stationary"):
        whittle_start(IntegratedWiener(), y, 1.0)
    with pytest.raises(DataError, match="few"):
        whittle_start(start, [1.0, 2.0], 1.0)


# -- facade ------------------------------------------------------------------------------------------------------


def _dataset(n=40):
    rng = np.random.default_rng(0)
    t = np.arange(float(n))
    y = rng.poisson(np.exp(1 + np.sin(t / 4)), (2, n)).astype(float)
    y[0, 10:14] = np.nan
    return xr.Dataset({"n": (("cell", "t"), y)}, coords={"t": t, "cell": ["a", "b"]})


QUICK = {"training": {"steps": 4}, "progress": "silent"}


@pytest.mark.parametrize("likelihood", [None, pytest.param("negative-binomial", marks=SLOW)])
def test_counts_through_the_facade(likelihood, tmp_path):
    options = {} if likelihood is None else {"likelihood": likelihood}
    ds = _dataset()
    fitted = si.fit(ds, model="gp-sites", options=options, series="cell", **QUICK)
    tree = fitted.predict(time=[2.5, 11.0, 45.0], draws=50)
    counts = tree["posterior_predictive"]["n"]
    assert bool((counts >= 0).all()) and bool((counts == counts.round()).all())
    rate = tree["posterior"]["n"].sel(t=2.5).mean()
    assert 2 < float(rate) < 9  # the truth is 4.8
    path = fitted.save(tmp_path / "fit")
    again = si.load(path).predict(time=[2.5, 11.0, 45.0], draws=50)
    xr.testing.assert_identical(again["posterior"]["n"], tree["posterior"]["n"])
    assert fitted.generate(time=[0.0, 1.0], draws=3)["prior_predictive"]["n"].sizes["draw"] == 3


def test_counts_are_scored_and_negative_ones_refused():
    ds = _dataset()
    fitted = si.fit(ds.isel(t=slice(0, 30)), model="gp-sites", series="cell", **QUICK)
    scores = fitted.score(ds.isel(t=slice(30, 40)), draws=50)
    assert bool(np.isfinite(scores["crps"].sel(forecaster="model", channel="n")))
    with pytest.raises(DataError, match="negative"):
        si.fit(-ds, model="gp-sites", series="cell", **QUICK)
