"""The fractional SDE: exact linear case, posterior of the Hurst index, controlled posterior of the neural one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, sample_batch, stream

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.exact import whitened_rows
from sciinfer.models.fractional_control import start_root
from sciinfer.models.fractional_linear import FractionalModel
from sciinfer.models.fractional_neural import build_neural
from sciinfer.models.fractional_posterior import Prior, find_posterior
from sciinfer.models.fractional_sde import fractional_sde
from sciinfer.models.fractional_start import posterior_density, weak_prior
from sciinfer.models.grids import pad_for
from sciinfer.models.simulated import refine
from sciinfer.processes.fractional import FractionalSDE
from sciinfer.random import generator
from sciinfer.statespace import LinearGaussian, log_likelihood

F64 = torch.float64
LINEAR = {"terms": 3, "draws": 8}
NEURAL = {"process": "neural", "terms": 2, "hidden": 4, "width": 4, "step": 0.5}


def wide_schema(channels):
    names = [f"v{i}" for i in range(channels)]
    return Schema(
        TimeAxis("time", "number", 0.0, 1.0), None, tuple(map(Variable, names)), tuple(Channel(name) for name in names)
    )


def simulated(hurst, *, series, times, seed, **options):
    """Exact fractional Ornstein-Uhlenbeck series, each a channel: ``[1, T, C]`` as a batch."""
    ds = si.open_dataset("fractional_ou", n_series=series, n_times=times, hurst=hurst, seed=seed, **options)
    return SeriesBatch.of([torch.tensor(ds["time"].values)], [torch.tensor(ds["y"].values.T)])


@pytest.mark.parametrize("options", [LINEAR, NEURAL, {**NEURAL, "kind": "II", "latent": 1}], ids=["linear", "I", "II"])
def test_every_kind(options):
    check_model(lambda seed=0: fractional_sde(SCHEMA, seed=seed, **options), sample_batch())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"process": "cubic"}, "linear, neural"),
        ({"terms": 1}, "terms"),
        ({"draws": 0}, "draws"),
        ({"latent": 2.5}, "latent"),
        ({"noise": 0.0}, "noise"),
        ({"hurst": 1.0, "process": "neural"}, "hurst"),
        ({"step": -1.0}, "step"),
        ({"warmup": 2.0}, "warmup"),
        ({"kind": "III", "process": "neural"}, "one of: I, II"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        fractional_sde(SCHEMA, **options)


# -- from data to answers --------------------------------------------------------------------------------------------


def tiny(scale=1.0, stretch=1.0):
    ds = si.open_dataset("fractional_ou", n_series=2, n_times=12, duration=6.0, hurst=0.4, noise_sd=0.2)
    out = xr.Dataset({"y": ds["y"].drop_attrs() * scale})
    return out.assign_coords(time=ds["time"].values * stretch)


@pytest.mark.parametrize("options", [{"terms": 3, "draws": 50}, NEURAL], ids=["linear", "neural"])
def test_fit_save_load_predict(options, tmp_path):
    fitted = si.fit(tiny(), model="fractional-sde", options=options, training={"steps": 3}, progress="silent")
    asked = {"time": [0.5, 12.0, 3.0], "draws": 5}
    tree = fitted.predict(**asked)
    again = si.load(fitted.save(tmp_path / "run"))
    for group in ("posterior", "posterior_predictive"):
        assert np.array_equal(tree[group]["y"].values, again.predict(**asked)[group]["y"].values)
    assert "hurst" in fitted.summary() and again.summary() == fitted.summary()
    assert fitted.generate(time=[0.0, 1.0], draws=3)["prior_predictive"]["y"].shape[-1] == 2


def test_posterior_speaks_the_callers_units():
    one, other = (
        si.fit(ds, model="fractional-sde", options={"terms": 3, "draws": 50}, training={"steps": 1}, progress="silent")
        for ds in (tiny(), tiny(scale=3.0, stretch=10.0))
    )
    a, b = one.model.posterior(), other.model.posterior()
    torch.testing.assert_close(a.hurst, b.hurst, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(a.rate, 10 * b.rate, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(3 * a.noise, b.noise, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(3 * a.scale, b.scale * 10**b.hurst, rtol=1e-3, atol=1e-4)
    low, high = a.interval(0.5)
    assert 0 < low.item() < high.item() < 1


def test_dates_are_counted_in_seconds():
    numbers, dates = (
        FractionalModel(schema, seed=0, terms=3, noise=0.3, draws=4)
        for schema in (
            Schema(TimeAxis("t", "number", 0.0, 60.0), None, SCHEMA.variables, SCHEMA.channels),
            Schema(TimeAxis("t", "datetime", 0.0, 60e9), None, SCHEMA.variables, SCHEMA.channels),
        )
    )
    for model in (numbers, dates):
        model.get_buffer("raw_draws").fill_(0.1)
    for one, other in zip(numbers.posterior()[:4], dates.posterior()[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


# -- the posterior of the Hurst index --------------------------------------------------------------------------------


def test_the_density_of_the_posterior_is_the_model_s():
    batch = simulated(0.4, series=2, times=15, seed=1)
    model = FractionalModel(wide_schema(2), seed=0, terms=4, noise=0.3, draws=20)
    model.initialise(batch)
    density, _ = posterior_density(batch, weak_prior(batch), terms=4)
    with torch.no_grad():
        found = density(model.raw()[None])[0].sum().item()
        expected = -model.loss(batch, generator=stream("x")).value.item() * batch.observed
    assert found == pytest.approx(expected, rel=1e-9)
    # the weights are at the mode
    model.loss(batch, generator=stream("x")).value.backward()
    assert all(p.grad.abs().max() < 1e-3 for p in model.parameters() if p.requires_grad)


def test_importance_sampling_finds_known_moments():
    # a banana: x1 ~ N(0, 1), x0 | x1 ~ N(x1^2 / 4, 0.5^2), the others independent
    def density(raw):
        x0, x1, x2, x3 = raw.unbind(-1)
        return -0.5 * ((x0 - 0.25 * x1**2) ** 2 / 0.25 + x1**2 + (x2 - 1) ** 2 / 0.04 + (x3 + 2) ** 2)

    flat = Prior(torch.zeros(3, 3, dtype=F64), torch.full((3, 3), 3.0, dtype=F64))
    found = find_posterior(density, flat, torch.zeros(3, 4, dtype=F64), 4000, generator(0, "banana"))
    assert bool((found.ess > 1000).all())
    mean, sd = found.draws.mean(0), found.draws.std(0)
    expected = torch.tensor([0.25, 0.0, 1.0, -2.0], dtype=F64).expand(3, 4)
    spread = torch.tensor([math.sqrt(0.25 + 0.125), 1.0, 0.2, 1.0], dtype=F64).expand(3, 4)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.15)
    torch.testing.assert_close(sd, spread, rtol=0.15, atol=0)


def test_the_prior_s_draws_follow_its_density():
    prior = Prior(torch.tensor([[0.5, -1.0, 2.0]], dtype=F64), torch.tensor([[1.0, 0.5, 2.0]], dtype=F64))
    draws = prior.sample(20000, generator(0, "prior"))
    other = Prior(prior.centre + 0.3, prior.spread)
    assert (other.log_prob(draws) - prior.log_prob(draws)).exp().mean().item() == pytest.approx(1.0, abs=0.03)
    index = torch.sigmoid(draws[..., 0])
    assert index.mean().item() == pytest.approx(0.5, abs=0.01) and index.var().item() == pytest.approx(1 / 12, rel=0.03)


@pytest.mark.slow
def test_posterior_of_weak_data_agrees_with_plain_importance_sampling_from_the_prior():
    batch = simulated(0.4, series=1, times=25, seed=2, noise_sd=0.2)
    prior = weak_prior(batch)
    density, start = posterior_density(batch, prior, terms=3)
    raw = prior.sample(150_000, generator(0, "brute"))
    with torch.no_grad():
        weights = torch.softmax((density(raw) - prior.log_prob(raw))[:, 0], 0)
    assert 1 / weights.square().sum() > 1000
    brute = raw[torch.multinomial(weights, 20_000, replacement=True, generator=generator(1, "brute")), 0]
    found = find_posterior(density, prior, start, 20_000, generator(0, "is")).draws[:, 0]
    edges = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=F64)
    ours, theirs = (torch.quantile(torch.sigmoid(x[:, 0]), edges) for x in (found, brute))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)
    torch.testing.assert_close(found.mean(0), brute.mean(0), rtol=0, atol=0.2 * float(brute.std(0).max()))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a minute and a half of work, on a busy machine much longer
@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7])
def test_intervals_of_the_hurst_index_cover(hurst):
    # paths of the exact process, not of the approximation; 40 data sets are 40 channels
    batch = simulated(hurst, series=40, times=150, seed=0)
    model = FractionalModel(wide_schema(40), seed=0, terms=8, noise=0.3, draws=200)
    model.initialise(batch)
    found = model.posterior()
    low, high = found.interval(0.9)
    inside = float(((low < hurst) & (hurst < high)).double().mean())
    print(f"H = {hurst}: {inside:.1%} inside, width {float((high - low).mean()):.3f}")
    assert 0.85 <= inside <= 0.95
    assert float((high - low).mean()) < 0.3
    assert abs(float(found.hurst.mean()) - hurst) < 0.06


@pytest.mark.slow
def test_the_linear_model_beats_the_baselines():
    ds = si.open_dataset("fractional_ou", n_series=8, n_times=120, hurst=0.7, duration=30.0, noise_sd=0.5)
    hidden = np.random.default_rng(0).random(ds["y"].shape) < 0.3
    train, test = ds.assign(y=ds["y"].where(~hidden)), ds.assign(y=ds["y"].where(hidden))
    fitted = si.fit(train, model="fractional-sde", progress="silent")
    scores = fitted.score(test)
    assert scores.attrs["model_wins"] == "wins"


# -- the neural one --------------------------------------------------------------------------------------------------


def linear_case(kind, hurst, step):
    """A neural model at its start (drift linear) and three short series."""
    ds = si.open_dataset("fractional_ou", n_series=3, n_times=12, duration=6.0, hurst=hurst, noise_sd=0.2)
    t, y = torch.tensor(ds["time"].values), torch.tensor(ds["y"].values)
    batch = SeriesBatch.of([t[: 12 - 2 * i] for i in range(3)], [y[i, : 12 - 2 * i, None] for i in range(3)])
    model = build_neural(1, 1, 4, seed=0, kind=kind, noise=0.2, hurst=hurst, hidden=4, width=4, step=step, warmup=0.0)
    with torch.no_grad():
        model.process.log_scale.fill_(0.2)
        model.process.start_mean.fill_(0.1)
        model.process.resolve(6.0, 0.2)
        model.guide.follow(model.process)
        model.decoder.weight.fill_(1.0)
    return model, batch


def chain_loglik(model, batch):
    """The engine's likelihood of the discretised process."""
    p, padded = model.process, pad_for(batch)
    fine, at = refine(padded.time, model.step, 1)
    S, N = fine.shape
    pieces = [model.guide.transition(p, step, p.weights()) for step in model._steps(fine)]
    A = torch.stack([pieces[0][0], *(a for a, _, _ in pieces)], 1)
    Q = torch.stack([pieces[0][2] @ pieces[0][2].mT, *(b @ b.mT for _, _, b in pieces)], 1)
    H, y, log_jacobian = whitened_rows(model.decoder, model.likelihood, padded)
    H_fine, y_fine = H.new_zeros(S, N, 1, A.shape[-1]), y.new_zeros(S, N, 1)
    H_fine[..., :1].scatter_add_(1, at[..., None, None], H)
    y_fine.scatter_add_(1, at[..., None], y)
    R = start_root(p)
    m0 = torch.nn.functional.pad(p.start_mean, (0, p.terms)).expand(S, -1)
    problem = LinearGaussian(A, Q, H_fine, y_fine, m0, (R @ R.mT).expand(S, *R.shape))
    return log_likelihood(problem) + log_jacobian.sum(1)


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7])
def test_the_bound_is_tight_when_the_drift_is_linear(kind, hurst):
    model, batch = linear_case(kind, hurst, 0.2)
    with torch.no_grad():
        fit, start, path = model.elbo_terms(batch, generator=stream("one path"))
        torch.testing.assert_close(fit - start - path, chain_loglik(model, batch), rtol=1e-9, atol=1e-9)


def test_the_bound_is_a_bound_when_the_guide_is_wrong():
    model, batch = linear_case("I", 0.3, 0.4)
    with torch.no_grad():
        exact = chain_loglik(model, batch)[2]
        model.guide.matrix.fill_(-1.5)
        model.guide.offset.fill_(0.3)
        fit, start, path = model.elbo_terms(batch.select([2] * 400), generator=stream("paths"))
    elbo = fit - start - path
    assert elbo.mean() + 4 * elbo.std() / math.sqrt(400) < exact


def test_the_bound_s_slope_in_the_hurst_index():
    model, batch = linear_case("I", 0.35, 0.25)
    fit, start, path = model.elbo_terms(batch, generator=stream("slope"))
    (found,) = torch.autograd.grad((fit - start - path).sum(), model.process.logit_hurst)
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            model.process.logit_hurst.add_(step)
            values.append(chain_loglik(model, batch).sum().item())
            model.process.logit_hurst.sub_(step)
    assert found.item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("kind", ["I", "II"])
def test_prior_paths_have_fractional_increments(kind):
    hurst, n = 0.3, 2000
    p = FractionalSDE(1, 6, kind=kind, hurst=hurst, generator=generator(0, "p"))
    p.resolve(10.0, 0.5)
    with torch.no_grad():
        p.log_rate.fill_(-30.0)  # no drift: X is the noise itself
        g, weights = generator(0, "paths"), p.weights()
        y = torch.randn(n, 1, 6, generator=g, dtype=F64) @ p.memory_root().mT
        z, start, at = torch.zeros(n, 1, dtype=F64), None, {}
        for k in range(40):
            noise = torch.randn(n, 1, 7, generator=g, dtype=F64)
            z, y = p.advance(z, y, p.step(torch.tensor(0.25, dtype=F64)), noise, t=z[:, 0], weights=weights)
            at[k + 1] = z[:, 0]
        start = at[4]
    at_one, at_ten = float(start.var()), float(at[40].var())
    assert at_one == pytest.approx(1.0, abs=0.15)
    assert at_ten / at_one == pytest.approx(10 ** (2 * hurst), rel=0.15)


def double_well(seed, series=12, times=40):
    """``dX = 2 (X - X^3) dt + 0.6 dB^H``, H = 0.7, from exact fractional Gaussian noise, seen with noise 0.15."""
    hurst, fine, span = 0.7, 800, 20.0
    k = np.arange(fine)
    lag = np.abs(k[:, None] - k)
    cov = 0.5 * ((lag + 1.0) ** (2 * hurst) + np.abs(lag - 1.0) ** (2 * hurst) - 2.0 * lag ** (2 * hurst))
    rng, h = np.random.default_rng(seed), span / fine
    noise = rng.standard_normal((series, fine)) @ np.linalg.cholesky(cov).T * h**hurst
    x = np.empty((series, fine + 1))
    x[:, 0] = rng.choice([-1.0, 1.0], series)
    for i in range(fine):
        x[:, i + 1] = x[:, i] + 2 * (x[:, i] - x[:, i] ** 3) * h + 0.6 * noise[:, i]
    step = fine // times
    values = x[:, ::step][:, :times] + 0.15 * rng.standard_normal((series, times))
    return xr.Dataset({"y": (("series", "time"), values)}, {"time": np.arange(times) * step * h})


@pytest.mark.slow
def test_the_neural_model_learns_a_double_well():
    ds = double_well(0)
    hidden = np.random.default_rng(1).random(ds["y"].shape) < 0.25
    train, test = ds.assign(y=ds["y"].where(~hidden)), ds.assign(y=ds["y"].where(hidden))
    options = {"process": "neural", "terms": 3, "hidden": 16, "width": 8, "step": 0.5}
    fitted = si.fit(train, model="fractional-sde", options=options, training={"steps": 120}, progress="silent")
    loss = fitted.history.loss
    assert np.mean(loss[-15:]) < np.mean(loss[:5]) - 0.02
    scores = fitted.score(test)
    print(scores, fitted.summary())
    assert scores.attrs["model_wins"] == "wins"
