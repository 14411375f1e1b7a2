"""Gaussian-process factor analysis: the walk, closed forms, masks, frames, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.errors import ConfigError, DataError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.gpfa import gpfa, poisson_gpfa
from sciinfer.models.gpfa_gaussian import GaussianFactors
from sciinfer.models.gpfa_latents import orthogonal_frame
from sciinfer.models.gpfa_sites import SiteFactors
from sciinfer.random import generator
from sciinfer.training import TrainingConfig, train

F64 = torch.float64


def schema(channels: int, scale: float = 1.0) -> Schema:
    axis = TimeAxis("t", "number", 0.0, 1.0)
    return Schema(axis, "series", (Variable("n"),), tuple(Channel("n", (c,), scale=scale) for c in range(channels)))


def spikes(latents: int = 2, channels: int = 12, trials: int = 3, bins: int = 80, *, gain: float = 1.0) -> tuple:
    """Counts from a known model; returns the batch and the latents that made it, ``[S, T, K]``."""
    g = generator(1, "spikes")
    model = poisson_gpfa(schema(channels), latent=latents, kernel="matern32(lengthscale=8.0)", frame="none")
    with torch.no_grad():
        model.decoder.weight.copy_(gain * torch.randn(channels, latents, generator=g, dtype=F64) / latents**0.5)
        model.decoder.bias.fill_(0.3)
        time = torch.arange(bins, dtype=F64)
        drawn = model.generate(time, draws=trials, generator=g)
    assert drawn.latent is not None
    return SeriesBatch.of([time] * trials, list(drawn.observation[:, 0])), drawn.latent[:, 0]


def fitted(model, batch, **changes):
    train(model, batch, TrainingConfig(**{**model.training_defaults(batch), **changes}), seed=0)
    return model


# -- every model's walk ----------------------------------------------------------------------------------------------


def test_walk_of_the_gaussian_model() -> None:
    check_model(lambda seed=0: gpfa(SCHEMA, seed=seed, latent=1), sample_batch())


def test_walk_with_more_latents_than_channels_and_a_composite_kernel() -> None:
    kernel = "matern32(lengthscale=2.0) + matern12 * cosine(period=3.0)"
    check_model(lambda seed=0: gpfa(SCHEMA, seed=seed, latent=3, kernel=kernel, ard=True), sample_batch())


def test_walk_with_roots_of_counts() -> None:
    check_model(lambda seed=0: gpfa(SCHEMA, seed=seed, latent=1, transform="sqrt"), sample_batch("poisson"))


@pytest.mark.parametrize(
    "likelihood",
    ["poisson", *(pytest.param(n, marks=pytest.mark.slow) for n in ("negative-binomial", "bernoulli", "gaussian"))],
)
def test_walk_of_the_site_model(likelihood: str) -> None:
    kind = "poisson" if likelihood == "negative-binomial" else likelihood
    build = lambda seed=0: poisson_gpfa(SCHEMA, seed=seed, latent=1, likelihood=likelihood)  # noqa: E731
    check_model(build, sample_batch(kind, lengths=(4, 1, 5)))


# -- what it is ------------------------------------------------------------------------------------------------------


def test_latents_have_variance_one_whatever_the_kernel() -> None:
    process = gpfa(schema(3), latent=2, kernel="matern52 + matern12").process
    G, P = process.readout(), process.initial()[1]
    torch.testing.assert_close((G @ P @ G.mT).detach(), torch.eye(2, dtype=F64), rtol=1e-12, atol=1e-12)


def test_gaussian_log_likelihood_equals_dense_algebra() -> None:
    model = move(gpfa(schema(5), latent=2, kernel="matern32(lengthscale=1.5)"), 0.3)
    time = torch.tensor([0.0, 0.4, 0.4, 1.7, 3.0], dtype=F64)
    values = torch.randn((5, 5), generator=generator(0, "values"), dtype=F64)
    values[1, 2] = values[3] = float("nan")
    batch = SeriesBatch.of([time], [values])
    W, d, sd = model.decoder.weight, model.decoder.bias, model.likelihood.noise
    lag = time[:, None] - time
    shapes = [kernel.covariance(lag) / kernel.covariance(lag[0, :1]) for kernel in model.process.kernels]
    cov = sum(torch.kron(shape, torch.outer(w, w)) for shape, w in zip(shapes, W.mT, strict=True))
    cov = cov + torch.diag(sd.square().repeat(5))
    seen = ~values.reshape(-1).isnan()
    law = torch.distributions.MultivariateNormal(d.repeat(5)[seen], cov[seen][:, seen])
    expected = law.log_prob(values.reshape(-1)[seen])
    torch.testing.assert_close(model.log_likelihood(batch)[0], expected, rtol=1e-10, atol=1e-10)


def test_gaussian_sites_are_exact() -> None:
    """With Gaussian noise the bound is the log-likelihood and the moments agree."""
    batch = sample_batch()
    exact, sites = gpfa(SCHEMA, latent=1), poisson_gpfa(SCHEMA, latent=1, likelihood="gaussian")
    sites.load_state_dict(exact.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(sites.bound(batch), exact.bound(batch), rtol=1e-8, atol=1e-8)
        for a, b in zip(sites.latent_moments(batch), exact.latent_moments(batch), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_bound_has_the_slope_of_finite_differences() -> None:
    batch, _ = spikes(channels=4, trials=2, bins=15)
    model = move(poisson_gpfa(schema(4), latent=2, likelihood="negative-binomial"), 0.2)
    model.bound(batch).sum().backward()
    g = generator(0, "direction")
    parameters = [p for p in model.parameters() if p.requires_grad]
    direction = [torch.randn(p.shape, generator=g, dtype=F64) for p in parameters]
    slope = sum((p.grad * v).sum() for p, v in zip(parameters, direction, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-4, -1e-4):
            for p, v in zip(parameters, direction, strict=True):
                p.add_(step * v)
            fit, divergence = model.elbo_terms(batch)
            values.append((fit - divergence).sum())
            for p, v in zip(parameters, direction, strict=True):
                p.sub_(step * v)
    assert float((values[0] - values[1]) / 2e-4) == pytest.approx(float(slope), rel=1e-5)


def test_closed_form_moments_are_those_of_the_draws() -> None:
    batch, _ = spikes(channels=4, trials=1, bins=20)
    times = torch.tensor([[3.0, 12.5]], dtype=F64)
    for model in (
        move(poisson_gpfa(schema(4), latent=2, bin_width=0.5), 0.1),
        move(gpfa(schema(4, scale=2.0), latent=2, transform="sqrt"), 0.1),
    ):
        with torch.no_grad():
            answer = model.predict(batch, times, draws=20_000, generator=stream("draws"))
        mean, variance = answer.observation.mean(0), answer.observation.var(0)
        torch.testing.assert_close(answer.signal.mean(0), answer.mean, rtol=0.05, atol=0.02)
        torch.testing.assert_close(mean, answer.mean, rtol=0.05, atol=0.02)
        torch.testing.assert_close(variance, answer.variance, rtol=0.25, atol=0.02)


# -- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [gpfa, poisson_gpfa])
def test_masked_bins_equal_dropped_rows_and_an_empty_trial_is_the_prior(build) -> None:
    batch, _ = spikes(channels=5, trials=2, bins=20)
    model = build(schema(5), latent=2, kernel="matern32(lengthscale=5.0)")
    masked = batch._replace(mask=batch.mask.clone(), values=batch.values.clone())
    hole = torch.zeros(len(batch.time), dtype=torch.bool)
    hole[4:9] = True
    masked.mask[hole], masked.values[hole] = False, float("nan")
    times = batch.padded().time
    for a, b in zip(model.latent_moments(masked, times), model.latent_moments(batch.keep(~hole), times), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    empty = batch._replace(mask=torch.zeros_like(batch.mask))
    mean, cov = model.latent_moments(empty)
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    torch.testing.assert_close(cov, torch.eye(2, dtype=F64).expand_as(cov), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("build", [gpfa, poisson_gpfa])
def test_gradients_stay_finite_with_nan_under_the_mask(build) -> None:
    batch, _ = spikes(channels=5, trials=2, bins=12)
    values, mask = batch.values.clone(), batch.mask.clone()
    values[3:6, 1:4], mask[3:6, 1:4] = float("nan"), False
    model = build(schema(5), latent=2)
    model.loss(batch._replace(values=values, mask=mask), generator=stream("loss")).value.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


def test_held_out_channels_are_not_looked_at() -> None:
    batch, _ = spikes(channels=6, trials=2, bins=20)
    model = poisson_gpfa(schema(6), latent=2)
    other = batch._replace(values=batch.values.clone())
    other.values[:, 4:] = 9.0
    for a, b in zip(*(model.latent_moments(x, channels=range(4)) for x in (batch, other)), strict=True):
        assert torch.equal(a, b)
    mean, variance = model.predictor_moments(batch, channels=range(4))
    assert mean.shape == variance.shape == (2, 20, 6)
    assert not torch.equal(*(model.latent_moments(x)[0] for x in (batch, other)))
    with pytest.raises(ConfigError):
        model.latent_moments(batch, channels=[6])


# -- frames ----------------------------------------------------------------------------------------------------------


def test_frame_turns_latents_and_loadings_together() -> None:
    weight = torch.randn((7, 3), generator=generator(0, "weight"), dtype=F64)
    frame = orthogonal_frame(weight)
    gram = frame.loading.mT @ frame.loading
    torch.testing.assert_close(gram, torch.diag(frame.explained), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(frame.loading @ frame.rotation.mT, weight)
    assert frame.explained.tolist() == sorted(frame.explained.tolist(), reverse=True)
    assert bool((frame.loading.gather(0, frame.loading.abs().argmax(0, keepdim=True)) > 0).all())
    other = orthogonal_frame(weight @ frame.rotation)
    torch.testing.assert_close(other.loading, frame.loading, rtol=1e-9, atol=1e-9)


def test_reported_latents_and_loadings_make_the_rates() -> None:
    batch, _ = spikes(channels=4, trials=1, bins=10)
    model = move(poisson_gpfa(schema(4), latent=2), 0.2)
    with torch.no_grad():
        answer = model.predict(batch, batch.padded().time, draws=3, generator=stream("predict"))
        rate = (answer.latent @ model.frame().loading.mT + model.decoder.bias).exp()
    torch.testing.assert_close(rate, answer.signal)


# -- learning --------------------------------------------------------------------------------------------------------


def test_start_is_near_and_training_improves_it() -> None:
    batch, truth = spikes(channels=20, bins=100)
    model = poisson_gpfa(schema(20), latent=2)
    model.initialise(batch)
    assert isinstance(model, SiteFactors)
    before = model.bound(batch).sum().detach()
    fitted(model, batch, steps=6)
    assert bool(model.bound(batch).sum() > before)
    found = model.latent_moments(batch)[0].reshape(-1, 2).numpy()
    assert _r2(truth.reshape(-1, 2).numpy(), found).min() > 0.85
    scales = [float(kernel.lengthscale.detach()) for kernel in model.process.kernels]  # type: ignore[attr-defined]
    assert all(4 < scale < 16 for scale in scales), scales


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial", "bernoulli", "gaussian", "sqrt"])
def test_start_on_irregular_times_with_silent_and_unseen_channels(likelihood: str) -> None:
    g = generator(4, "irregular")
    lengths = (30, 1, 17)
    times = [torch.rand(n, generator=g, dtype=F64).mul(9).sort().values for n in lengths]
    times[0][5] = times[0][4]
    values = [torch.poisson(torch.ones(n, 7, dtype=F64), generator=g).clamp(max=1.0) for n in lengths]
    for trial in values:
        trial[:, 2], trial[:, 3], trial[:, 4] = 0.0, float("nan"), 1.0
    batch = SeriesBatch.of(times, values)
    kind = {"sqrt": gpfa(schema(7), latent=2, transform="sqrt")}
    model = kind.get(likelihood) or poisson_gpfa(schema(7), latent=2, likelihood=likelihood)
    model.initialise(batch)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    model.loss(batch, generator=stream("loss")).value.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    model.initialise(batch._replace(mask=torch.zeros_like(batch.mask)))


def test_a_repeated_evaluation_starts_from_the_last_sites() -> None:
    batch, _ = spikes(channels=5, trials=1, bins=15)
    model = poisson_gpfa(schema(5), latent=2)
    assert isinstance(model, SiteFactors)
    first = model.bound(batch).detach()
    move(model, 0.01)
    warm = model.bound(batch).detach()
    assert model._kept is not None
    assert model._kept.fit.passes < 10
    model._kept = None
    torch.testing.assert_close(warm, model.bound(batch).detach(), rtol=1e-7, atol=1e-7)
    assert not torch.equal(first, warm)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial"])
def test_unneeded_latents_are_shrunk(likelihood: str) -> None:
    batch, _ = spikes(latents=2, channels=20, trials=4, bins=120)
    model = fitted(poisson_gpfa(schema(20), latent=5, ard=True, likelihood=likelihood), batch)
    assert model.summary()["active_latents"] == 2


@pytest.mark.slow
def test_unneeded_latents_of_real_values_are_shrunk() -> None:
    g = generator(3, "real")
    time = torch.arange(60, dtype=F64)
    truth = gpfa(schema(12), latent=1, kernel="matern32(lengthscale=6.0)")
    drawn = truth.generate(time, draws=3, generator=g).observation[:, 0].detach()
    batch = SeriesBatch.of([time] * 3, list(drawn))
    model = fitted(gpfa(schema(12), latent=3, ard=True), batch, steps=40)
    assert model.summary()["active_latents"] == 1
    assert isinstance(model, GaussianFactors)


def _r2(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    design = np.column_stack([found, np.ones(len(found))])
    return 1 - (truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]).var(0) / truth.var(0)


# -- labels ----------------------------------------------------------------------------------------------------------


def recording() -> xr.Dataset:
    batch, _ = spikes(channels=4, trials=2, bins=25)
    counts = batch.values.reshape(2, 25, 4).numpy().copy()
    counts[0, 3, 1] = np.nan
    coords = {"trial": [5, 7], "t": 0.02 * np.arange(25), "unit": list("abcd")}
    return xr.Dataset({"n": (("trial", "t", "unit"), counts)}, coords=coords)


@pytest.mark.parametrize(
    ("model", "options"), [("gpfa", {"transform": "sqrt"}), ("poisson-gpfa", {"bin_width": 0.02}), ("gpfa", {})]
)
def test_fit_save_load_predict(model: str, options: dict, tmp_path: Path) -> None:
    ds = recording()
    fit = si.fit(ds, model=model, options={"latent": 2, **options}, training={"steps": 3}, progress="silent")
    tree = fit.predict(time=[0.05, 0.6], draws=4)
    assert tree["posterior"]["latent"].sizes["latent_dim"] == 2
    assert tree["posterior_predictive"]["n"].sizes["unit"] == 4
    if options:
        assert float(tree["posterior_predictive"]["n"].min()) >= 0
        assert 0.3 < float(tree["posterior"]["n"].mean() / ds["n"].mean()) < 3
    fit.save(tmp_path / "run")
    again = si.load(tmp_path / "run").predict(time=[0.05, 0.6], draws=4)
    assert np.array_equal(tree["posterior"]["latent"].values, again["posterior"]["latent"].values)
    assert "active_latents" in fit.summary()


def test_spikes_beside_a_real_value() -> None:
    ds = recording()
    ds["speed"] = ds["n"].sum("unit") + 0.1
    options = {"latent": 1, "likelihood": {"n": "poisson"}}
    fit = si.fit(ds, model="poisson-gpfa", options=options, training={"steps": 2}, progress="silent")
    tree = fit.predict(time=[0.1], draws=3)
    assert {"n", "speed"} <= set(tree["posterior"].data_vars)


@pytest.mark.parametrize(
    "bad",
    [
        {"latent": 0},
        {"prior": -1.0},
        {"frame": "varimax"},
        {"start": "now"},
        {"kernel": "wiener"},
        {"likelihood": "bernoulli", "bin_width": 0.1},
    ],
)
def test_wrong_options_are_refused(bad: dict) -> None:
    with pytest.raises(ConfigError):
        poisson_gpfa(SCHEMA, **bad)


def test_roots_of_negative_values_are_refused() -> None:
    with pytest.raises(DataError):
        gpfa(SCHEMA, transform="sqrt").initialise(sample_batch())
