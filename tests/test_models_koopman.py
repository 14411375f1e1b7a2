"""The Koopman model: the walk, modal form against the dense process, spectra with intervals, control, transforms."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import ellipj, ellipk
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.errors import ConfigError, DataError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.likelihoods import Gaussian
from sciinfer.models.exact import ExactPathModel
from sciinfer.models.koopman import Koopman, koopman
from sciinfer.models.koopman_em import continuous, fit_autoregression
from sciinfer.models.koopman_fit import refine
from sciinfer.models.koopman_start import copy_lines, copy_modal, find_lines, from_stationary
from sciinfer.nets import LinearDecoder
from sciinfer.processes import StationaryLinear
from sciinfer.random import generator
from sciinfer.training import TrainingConfig, train

F64 = torch.float64
ROOT = Path(os.environ.get("SCIINFER_DATA", "")) / "koopman"
needs_data = pytest.mark.skipif(
    "SCIINFER_DATA" not in os.environ or not ROOT.is_dir(), reason="needs SCIINFER_DATA with koopman"
)


def schema(channels: int, scale: float = 1.0) -> Schema:
    axis = TimeAxis("t", "number", 0.0, scale)
    return Schema(axis, "series", (Variable("y"),), tuple(Channel("y", (c,)) for c in range(channels)))


def fitted(model: Koopman, batch: SeriesBatch, **changes) -> Koopman:
    train(model, batch, TrainingConfig(**{**model.training_defaults(batch), **changes}), seed=0)
    return model


# -- every model's walk ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"latent": 3},
        {"latent": 5, "spectrum": "mixed", "noise": "dense", "cycle": 2.0},
        {"latent": 2, "spectrum": "unit-circle"},
        {"latent": 3, "spectrum": "free", "transform": "log", "offset": 9.0},
    ],
)
def test_walk(options) -> None:
    check_model(lambda seed=0: koopman(SCHEMA, seed=seed, **options), sample_batch())


def test_fit_save_load_predict(tmp_path) -> None:
    t = np.arange(40.0)
    wave = np.stack([np.cos(0.5 * t), np.sin(0.5 * t)], 1) + 0.05 * np.random.default_rng(0).normal(size=(40, 2))
    wave[5:9] = np.nan
    ds = xr.Dataset({"y": (("t", "unit"), wave)}, coords={"t": t})
    options = {"latent": 2, "start": "lines"}
    found = si.fit(ds, model="koopman", options=options, training={"steps": 2}, progress="silent")
    found.save(tmp_path / "run")
    again = si.load(tmp_path / "run")
    a, b = (f.predict(time=[3.3, 50.0], draws=4)["posterior_predictive"]["y"] for f in (found, again))
    xr.testing.assert_identical(a, b)
    assert "mode[0].half_life" in found.summary()
    assert math.isfinite(found.model.spectrum()[0]["frequency_low"])
    # a loaded model has no data of its own: no interval rather than a wrong one
    assert math.isnan(again.model.spectrum()[0]["frequency_low"])


# -- the starts ------------------------------------------------------------------------------------------------------


def test_the_modal_form_of_a_dense_process_has_its_likelihood() -> None:
    batch = sample_batch()
    dense = StationaryLinear(5, generator=generator(0, "dense"))
    decoder = LinearDecoder(5, 2, generator=generator(0, "readout"))
    model = koopman(SCHEMA, latent=5, noise="dense")
    copy_modal(from_stationary(dense, decoder), model.process, model.decoder)
    wanted = ExactPathModel(dense, decoder, Gaussian(2)).log_likelihood(batch)
    assert not bool(model.process.get_buffer("oscillates").all()) or model.process.dim % 2
    torch.testing.assert_close(model.log_likelihood(batch), wanted, rtol=1e-6, atol=1e-6)


def test_expectation_maximisation_finds_an_autoregression() -> None:
    rng = np.random.default_rng(0)
    A = np.array([[0.9, 0.2, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.0, 0.75]])
    x = np.zeros((800, 3))
    for k in range(1, 800):
        x[k] = A @ x[k - 1] + 0.5 * rng.normal(size=3)
    mask = (rng.random(x.shape) < 0.8).astype(float)
    found = fit_autoregression([((x + 0.1 * rng.normal(size=x.shape)) * mask, mask)])
    np.testing.assert_allclose(found.A, A, atol=0.1)
    modal = continuous(found, 2.0)
    sizes = np.exp(2.0 * (-modal.damping + 1j * modal.frequency))
    wanted = abs(np.linalg.eigvals(found.A))
    np.testing.assert_allclose(np.sort(abs(sizes)), np.sort(wanted), rtol=1e-9)


def test_a_start_that_does_not_fit_is_refused() -> None:
    batch = sample_batch()
    with pytest.raises(ConfigError, match="times on a grid"):
        koopman(SCHEMA, latent=2, start="em").initialise(batch)
    with pytest.raises(ConfigError, match="as many latent"):
        koopman(SCHEMA, latent=1, start="em").initialise(batch)


def test_lines_are_found_through_gaps() -> None:
    rng = np.random.default_rng(0)
    t = np.sort(rng.random(300) * 200)
    y = np.stack([np.cos(0.8 * t), 0.2 * np.sin(2.9 * t) + np.sin(0.8 * t)], 1) + 0.05 * rng.normal(size=(300, 2))
    y[rng.random(y.shape) < 0.3] = np.nan
    lines = find_lines(SeriesBatch.of([torch.tensor(t)], [torch.tensor(y)]), 2)
    assert lines is not None
    np.testing.assert_allclose(np.sort(lines.frequency), [0.8, 2.9], atol=5e-4)
    np.testing.assert_allclose(lines.noise, 0.05, rtol=0.2)
    assert find_lines(SeriesBatch.of([torch.arange(3.0)], [torch.zeros(3, 1)]), 2) is None


# -- the spectrum ----------------------------------------------------------------------------------------------------


def simulated(rows: int = 150, seed: int = 0) -> tuple[SeriesBatch, Koopman]:
    """Two channels of one damped mode, irregular times."""
    truth = koopman(schema(2), latent=2, seed=1)
    with torch.no_grad():
        truth.process.log_frequency.fill_(math.log(0.6))
        truth.process.raw_damping.fill_(math.log(0.05))
        truth.decoder.weight.copy_(torch.tensor([[1.0, 0.3], [0.2, -0.8]], dtype=F64))
        truth.likelihood.log_noise.fill_(math.log(0.1))
        time = torch.rand(rows, generator=generator(seed, "times"), dtype=F64).mul(rows).sort().values
        drawn = truth.generate(time, draws=3, generator=generator(seed, "draws")).observation[:, 0]
    return SeriesBatch.of([time] * 3, list(drawn)), truth


def test_spectrum_with_intervals_in_the_callers_units() -> None:
    batch, _ = simulated()
    model = fitted(koopman(schema(2, scale=0.5), latent=2, start="lines"), batch, steps=25)
    (row,) = model.spectrum()
    # a model time is half a unit of the caller's
    assert row["frequency_low"] < 1.2 < row["frequency_high"]
    assert row["damping_low"] < 0.1 < row["damping_high"]
    assert row["frequency_high"] - row["frequency_low"] < 0.3
    assert row["half_life"] == pytest.approx(math.log(2) / row["damping"])
    assert row["half_life_low"] == pytest.approx(math.log(2) / row["damping_high"])
    assert row["period_high"] == pytest.approx(2 * math.pi / row["frequency_low"])
    wider = model.spectrum(level=0.99)[0]
    assert wider["frequency_low"] < row["frequency_low"] < row["frequency"] < row["frequency_high"]
    summary = model.summary()
    assert summary["mode[0].frequency_low"] == row["frequency_low"]


def test_intervals_are_those_of_the_full_hessian() -> None:
    """One real mode: the Schur complement of differences equals the inverse of autograd's Hessian."""
    batch, _ = simulated(40)
    batch = batch._replace(values=batch.values[:, :1], mask=batch.mask[:, :1])
    model = fitted(koopman(schema(1), latent=1), batch, steps=30)
    names = [name for name, p in model.named_parameters() if p.requires_grad and p.numel()]
    flat = torch.cat([dict(model.named_parameters())[n].detach().reshape(-1) for n in names])
    row = model.spectrum()[0]
    deviation = math.log(row["damping_high"] / row["damping"]) / 1.959964

    def dense(x: torch.Tensor) -> torch.Tensor:
        at = dict(zip(names, x, strict=True))
        noise = (1e-4 + at["likelihood.log_noise"].exp()).square()
        total = x.new_zeros(())
        for s in range(3):
            part = batch.select([s])
            gap = (part.time[:, None] - part.time).abs()
            K = at["decoder.weight"].square() * (-at["process.raw_damping"].exp() * gap).exp()
            K = K + noise * torch.eye(len(gap), dtype=F64)
            y = part.values[:, 0] - at["decoder.bias"]
            total = total + 0.5 * torch.logdet(K) + 0.5 * y @ torch.linalg.solve(K, y)
        return total

    H = torch.autograd.functional.hessian(dense, flat)
    assert isinstance(H, torch.Tensor)
    prior = torch.tensor([5.0 if n == "process.raw_damping" else 30.0 for n in names], dtype=F64)
    cov = torch.linalg.inv(H + torch.diag(prior**-2))
    at = names.index("process.raw_damping")
    assert deviation == pytest.approx(float(cov[at, at].sqrt()), rel=1e-4)


def test_dates_report_in_a_readable_unit() -> None:
    hours = xr.date_range("2020-01-01", periods=60, freq="h").values
    wave = np.cos(2 * np.pi * np.arange(60) / 12)
    ds = xr.Dataset({"y": ("time", wave)}, coords={"time": hours})
    found = si.fit(ds, model="koopman", options={"latent": 2, "start": "lines"}, progress="silent")
    row = found.model.spectrum()[0]
    assert row["unit"] == "h"
    assert row["period"] == pytest.approx(12.0, abs=0.02)


# -- inputs, transforms, checks --------------------------------------------------------------------------------------


def test_inputs_shift_the_data_by_the_response() -> None:
    batch = sample_batch()
    u = torch.randn(len(batch.time), 2, generator=stream("u"), dtype=F64)
    model = move(koopman(SCHEMA, latent=3, inputs=2))
    forced = batch._replace(covariates=u)
    blank = batch._replace(covariates=torch.zeros_like(u))
    times = torch.tensor([[0.3, 9.0, -1.0]], dtype=F64).expand(3, 3)
    with torch.no_grad():
        rows = forced._replace(values=u, mask=torch.ones_like(u, dtype=torch.bool)).padded()
        response = model.process.response(rows.time, rows.values, rows.time) @ model.decoder.weight.mT
        moved = forced._replace(values=(batch.values + response[rows.rows]) * batch.mask)
        torch.testing.assert_close(model.log_likelihood(moved), model.log_likelihood(blank), rtol=1e-10, atol=1e-10)
        with_u, without = (model.predict(b, times, draws=2, generator=stream("p")).mean for b in (moved, blank))
        assert with_u is not None
        gained = model.process.response(rows.time, rows.values, times) @ model.decoder.weight.mT
        torch.testing.assert_close(with_u - without, gained, rtol=1e-9, atol=1e-9)
    model.loss(forced, generator=stream("loss")).value.backward()
    assert model.process.control.grad is not None
    assert bool(model.process.control.grad.any())
    with pytest.raises(DataError, match="2 inputs, the data have 0"):
        model.log_likelihood(batch)


def test_an_input_is_told_from_noise() -> None:
    g = generator(0, "control")
    time, u = torch.arange(200.0, dtype=F64), torch.randn(200, 1, generator=g, dtype=F64).sign()
    truth = koopman(schema(1), latent=2, inputs=1, seed=3)
    with torch.no_grad():
        truth.process.control.copy_(torch.tensor([[0.6], [0.0]], dtype=F64))
        truth.process.log_frequency.fill_(math.log(0.5))
        truth.process.raw_damping.fill_(math.log(0.2))
        response = truth.process.response(time[None], u[None], time[None]) @ truth.decoder.weight.mT
    y = response[0] + 0.05 * torch.randn(200, 1, generator=g, dtype=F64)
    batch = SeriesBatch.of([time], [y], [u])
    model = fitted(koopman(schema(1), latent=2, inputs=1, start="none"), batch, steps=40)
    with torch.no_grad():
        found = model.process.response(time[None], u[None], time[None]) @ model.decoder.weight.mT
    assert float((found - response).square().mean() / response.square().mean()) < 0.02


def test_moments_and_quantiles_of_logarithms() -> None:
    batch = sample_batch()
    model = move(koopman(SCHEMA, latent=2, transform="log", offset=12.0))
    model.get_buffer("centre").fill_(2.5)
    model.get_buffer("spread").fill_(0.2)
    times = torch.tensor([[0.7, 6.0]], dtype=F64).expand(3, 2)
    with torch.no_grad():
        found = model.predict(batch, times, draws=20_000, generator=stream("draws"))
        levels = model.quantiles(batch, times, [0.1, 0.5, 0.9])
    assert found.mean is not None
    assert found.variance is not None
    torch.testing.assert_close(found.observation.mean(0), found.mean, atol=0.1, rtol=0)
    torch.testing.assert_close(found.observation.var(0), found.variance, rtol=0.05, atol=0)
    drawn = torch.quantile(found.observation, torch.tensor([0.1, 0.5, 0.9], dtype=F64), dim=0)
    torch.testing.assert_close(drawn, levels, atol=0.12, rtol=0)
    # the signal is the mean without noise: its average is that of the observations
    torch.testing.assert_close(found.signal.mean(0), found.mean, atol=0.1, rtol=0)
    with pytest.raises(DataError, match="not positive"):
        model.log_likelihood(batch._replace(values=batch.values - 20))


@pytest.mark.parametrize(
    "options",
    [{"latent": 0}, {"spectrum": "round"}, {"noise": "no"}, {"start": "x"}, {"transform": "e"}, {"cycle": -1.0}],
)
def test_options_are_checked(options) -> None:
    with pytest.raises(ConfigError):
        koopman(SCHEMA, **options)


def test_it_forecasts_better_than_trivial_answers() -> None:
    batch, truth = simulated(120)
    early, late = batch.split_time(0.3)
    model = fitted(koopman(schema(2), latent=2, start="lines"), early, steps=20)
    times = late.padded().time
    y = late.padded().values
    near = times < times[:, :1] + 6

    def error(m: Koopman) -> float:
        with torch.no_grad():
            mean = m.predict(early, times, draws=1, generator=stream("f")).mean
        assert mean is not None
        return float((mean - y)[near].square().mean())

    last = torch.stack([v[n - 1] for v, n in zip(early.padded().values, early.lengths, strict=True)])[:, None]
    assert error(model) < 0.6 * min(float((y - last)[near].square().mean()), float(y[near].square().mean()))
    assert error(model) < 1.3 * error(truth)


# -- the pendulum ----------------------------------------------------------------------------------------------------


def pendulum(theta: float, noise: float, seed: int, rows: int = 2200) -> tuple[np.ndarray, np.ndarray, float]:
    """Closed-form swing of angle and speed, a random orthonormal map to 64 channels, noise, half the rows lost."""
    rng, t = np.random.default_rng(seed), 0.1 * np.arange(rows)
    w, k = math.sqrt(9.81), math.sin(theta / 2)
    K = float(ellipk(k * k))
    sn, cn, dn, _ = ellipj(K - w * t, k * k)
    state = np.stack([2 * np.arcsin(k * sn), -2 * k * w * cn * dn / np.sqrt(1 - (k * sn) ** 2)], axis=1)
    frame = np.linalg.qr(rng.normal(size=(64, 2)))[0]
    y = state @ frame.T + noise * rng.normal(size=(rows, 64))
    y[rng.permutation(rows)[: rows // 2]] = np.nan
    return t, y, math.pi * w / (2 * K)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.03, 0.08])
def test_all_four_frequencies_of_a_pendulum(noise) -> None:
    t, y, base = pendulum(2.7, noise, 0)
    ds = xr.Dataset({"y": (("t", "unit"), y)}, coords={"t": t})
    options = {"latent": 8, "spectrum": "unit-circle", "start": "lines"}
    found = si.fit(ds, model="koopman", options=options, training={"steps": 8}, progress="silent")
    modes = found.model.process.frequency().detach().numpy()[::2] / found.schema.time.scale
    np.testing.assert_allclose(np.sort(modes), base * np.array([1, 3, 5, 7]), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_data
def test_air_quality_is_imputed_within_the_goal() -> None:
    observed, hidden = si.open_dataset("aqi36"), si.open_dataset("aqi36", part="heldout")
    month = hidden.time.dt.month.isin([3, 6, 9, 12]).values
    y = np.where(month[:, None], hidden.pm25.values, np.nan)
    scored = np.isfinite(y)
    linear = observed.pm25.to_pandas().interpolate(limit_direction="both").to_numpy()
    assert scored.sum() == 20_434
    assert np.abs(linear - y)[scored].mean() == pytest.approx(14.683, abs=5e-4)
    options = {"latent": 36, "noise": "dense", "transform": "log", "offset": 40.0, "cycle": "1D", "start": "em"}
    found = si.fit(observed, model="koopman", options=options, training={"steps": 0}, progress="silent")
    times = torch.tensor(found.schema.time.to_model(observed.time.values))[None]
    levels = np.arange(1, 20) / 20
    with torch.no_grad():
        q = found.model.quantiles(found._conditioning().batch, times, levels.tolist())[:, 0].numpy()
    q = (q * found.schema.scale + found.schema.shift)[:, scored]
    y = y[scored]
    crps = (2 * ((y <= q) - levels[:, None]) * (q - y)).sum() / 19 / y.sum()
    assert np.abs(q[9] - y).mean() <= 10.5
    assert crps <= 0.125
    assert 0.88 <= ((q[0] < y) & (y < q[-1])).mean() <= 0.95


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_intervals_cover_the_pendulums_frequencies() -> None:
    """100 draws of noise; the map to 64 channels is orthonormal, so two coordinates hold all of the signal."""
    t, y, base = pendulum(2.7, 0.0, 0, rows=400)
    seen = np.isfinite(y[:, 0])
    frame = np.linalg.svd(y[seen], full_matrices=False)[2][:2]
    clean, time = y[seen] @ frame.T, torch.tensor(t[seen]) * 10
    truth, hits = base * np.array([1, 3, 5, 7]), np.zeros(4)
    for k in range(100):
        noisy = clean + 0.03 * np.random.default_rng(k).normal(size=clean.shape)
        batch = SeriesBatch.of([time], [torch.tensor(noisy)])
        model = koopman(schema(2, scale=0.1), latent=8, spectrum="unit-circle")
        lines = find_lines(batch, 4)
        assert lines is not None
        # the swing is exact: without noise of its own, whose rate would only widen the intervals
        copy_lines(lines, model.process, model.decoder, model.likelihood, slow=1e-9)
        model.process.log_drive.requires_grad_(False)
        refine(model, batch, 12)
        rows = sorted(model.spectrum(batch), key=lambda row: row["frequency"])
        hits += [row["frequency_low"] < w < row["frequency_high"] for row, w in zip(rows, truth, strict=True)]
    assert hits.min() >= 90, hits
