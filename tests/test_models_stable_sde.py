"""Stable neural SDEs: the shared checks, closed forms, stability, no leak, learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream
from support.waves import baselines, waves

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.hidden_rows import fold_masks, hide
from sciinfer.models.stable_sde import geometric_sde, langevin_sde, linear_noise_sde
from sciinfer.nets.control import build_control
from sciinfer.processes.stable import GeometricSDE, LangevinSDE, LinearNoiseSDE
from sciinfer.random import generator

F64 = torch.float64
BUILD = {"langevin-sde": langevin_sde, "linear-noise-sde": linear_noise_sde, "geometric-sde": geometric_sde}
TINY = {"latent": 3, "hidden": 6, "paths": 3}


@pytest.mark.parametrize("name", list(BUILD))
def test_the_shared_checks(name):
    check_model(lambda seed=0: BUILD[name](SCHEMA, seed=seed, **TINY), sample_batch())


@pytest.mark.parametrize("control", ["rectilinear", "hermite"])
def test_the_shared_checks_for_other_controls(control):
    batch = sample_batch(lengths=(8, 5))
    check_model(lambda seed=0: langevin_sde(SCHEMA, seed=seed, control=control, **TINY), batch)


def _constant(process, b, s):
    """Set rest and spread to constants."""
    with torch.no_grad():
        for layer in (process.net.layers[-1], process.spread_net):
            layer.weight.zero_()
        process.net.layers[-1].bias.copy_(process.BOUND * torch.atanh(torch.tensor(b / process.BOUND, dtype=F64)))
        share = torch.tensor(s / process.SPREAD, dtype=F64)
        process.spread_net.bias.copy_(torch.log(share / (1 - share)))


def test_geometric_brownian_motion_has_its_closed_moments():
    process = GeometricSDE(1, 2, 2, (4,), generator=generator(0, "p"))
    process.LEAST = 0.0
    _constant(process, 0.7, 0.5)
    with torch.no_grad():
        process.raw_rate.fill_(-60.0)  # no return: plain geometric Brownian motion
    n, T, y = 20000, 2.0, torch.zeros(20000, 1, 1, dtype=F64)
    g = generator(1, "noise")
    with torch.no_grad():
        for _ in range(4):
            noise = torch.randn(y.shape, generator=g, dtype=F64)
            y = process.advance(y, torch.tensor([T / 4], dtype=F64), torch.zeros(1, 2, dtype=F64), noise)
        z = process.state(y)[:, 0, 0]
    mean, variance = np.exp(0.7 * T), np.exp(2 * 0.7 * T) * (np.exp(0.25 * T) - 1)
    assert float(z.mean()) == pytest.approx(mean, abs=4 * (variance / n) ** 0.5)
    spread = float((z - mean).square().std()) / n**0.5
    assert float((z - mean).square().mean()) == pytest.approx(variance, abs=4 * spread)
    t = torch.zeros(3, dtype=F64)
    at = torch.tensor([[0.5], [1.0], [3.0]], dtype=F64)
    torch.testing.assert_close(process.drift(t, at), 0.7 * at)
    torch.testing.assert_close(process.diffusion(t, at), 0.5 * at)


def test_langevin_reaches_the_stationary_law_of_ornstein_uhlenbeck():
    process = LangevinSDE(1, 2, 2, (4,), generator=generator(0, "p"))
    _constant(process, 0.6, 0.8)
    a, z, g = float(process.rate.detach()), torch.full((20000, 1, 1), 9.0, dtype=F64), generator(2, "noise")
    with torch.no_grad():
        for _ in range(5):
            noise = torch.randn(z.shape, generator=g, dtype=F64)
            z = process.advance(z, torch.tensor([20.0], dtype=F64), torch.zeros(1, 2, dtype=F64), noise)
    sd = 0.8 / (2 * a) ** 0.5
    assert float(z.mean()) == pytest.approx(0.6 / a, abs=4 * sd / 20000**0.5)
    assert float(z.std()) == pytest.approx(sd, rel=0.03)


@pytest.mark.parametrize("kind", [LangevinSDE, LinearNoiseSDE, GeometricSDE])
@pytest.mark.parametrize("h", [0.1, 5.0])
def test_wild_weights_do_not_explode(kind, h):
    process = kind(3, 4, 2, (8,), generator=generator(0, "p"))
    with torch.no_grad():
        for parameter in process.parameters():
            parameter.mul_(20.0)
        process.raw_rate.fill_(-30.0)  # the slowest return that the class allows
        y, g = torch.zeros(1000, 1, 3, dtype=F64), generator(0, "noise")
        u = 5 * torch.ones(1, 4, dtype=F64)
        for _ in range(60):
            y = process.advance(y, torch.tensor([h], dtype=F64), u, torch.randn(y.shape, generator=g, dtype=F64))
        z = process.state(y)
    assert bool(torch.isfinite(z).all())
    if kind is GeometricSDE:
        assert float(z.min()) > 0
        assert float(y.abs().max()) < process.BOUND / process.LEAST + 10
    else:
        bound = process.BOUND / float(process.rate.detach().min())
        slack = process.SPREAD / (2 * process.LEAST) ** 0.5 if kind is LangevinSDE else bound * 3
        assert float(z.square().mean().sqrt()) < bound + 2 * slack


def test_linear_noise_second_moment_decays_as_it_should():
    process = LinearNoiseSDE(1, 2, 2, (4,), generator=generator(0, "p"))
    _constant(process, 1e-300, 0.6)
    a, z, g = float(process.rate.detach()), torch.ones(200000, 1, 1, dtype=F64), generator(3, "noise")
    with torch.no_grad():
        z = process.advance(z, torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.randn(z.shape, generator=g, dtype=F64))  # fmt: skip  # noqa: E501
    assert float(z.square().mean()) == pytest.approx(np.exp(-2 * a + 0.36), rel=0.02)


def test_what_is_scored_is_never_read():
    model, batch = move(langevin_sde(SCHEMA, **TINY)), sample_batch(lengths=(9, 6))
    padded = batch.padded()
    hidden = padded.mask & hide(padded, stream("hide"))
    control = build_control(padded.time, padded.values, padded.mask & ~hidden, "linear")
    changed = build_control(padded.time, torch.where(hidden, 99.0, padded.values), padded.mask & ~hidden, "linear")
    with torch.no_grad():
        for other in (None, 7):
            g = [None, None] if other is None else [generator(other), generator(other)]
            a, b = (model.paths_at(c, padded.time, 2, g[i])[0] for i, c in enumerate((control, changed)))
            assert torch.equal(a, b)


def test_folds_hide_every_row_twice_and_hiding_covers_all_ways():
    padded = sample_batch(lengths=(5, 1, 8)).padded()
    folds = torch.stack(fold_masks(padded)).to(torch.int64).sum(0)
    assert bool((folds[padded.rows] == 2).all())
    big = SeriesBatch.of([torch.arange(10.0, dtype=F64)] * 200, [torch.zeros(10, 2, dtype=F64)] * 200).padded()
    hidden = hide(big, stream("ways"))
    whole_rows = (hidden[..., 0] == hidden[..., 1]).all(1)
    tails = whole_rows & (hidden[..., 0].to(torch.int64).diff(dim=1) >= 0).all(1)
    assert 5 < int((~whole_rows).sum()) < 60
    assert int(tails.sum()) > 60
    assert 2 < int(hidden.all(2).all(1).sum()) < 60


def test_online_predictions_do_not_depend_on_later_data():
    model, batch = move(linear_noise_sde(SCHEMA, control="rectilinear", **TINY)), sample_batch(lengths=(8,))
    times = batch.time[None, 3:5]
    late = (batch.time > float(times.max()))[:, None]
    changed = batch._replace(values=torch.where(late & batch.mask, batch.values + 5, batch.values))
    with torch.no_grad():
        a, b = (model.predict(x, times, draws=3, generator=stream("p")).signal for x in (batch, changed))
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", list(BUILD))
def test_fit_save_load_predict(name, tmp_path):
    time = np.array([0.0, 0.4, 1.1, 2.0, 2.2, 3.1, 4.0])
    ds = xr.Dataset({"y": (("series", "time"), np.sin(time + np.arange(3)[:, None]))}, coords={"time": time})
    fitted = si.fit(ds, model=name, options=TINY, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "m")
    ask = {"time": [0.5, 3.0, 6.0], "draws": 4}
    first, again = fitted.predict(**ask), si.load(tmp_path / "m").predict(**ask)
    xr.testing.assert_identical(first["posterior"].to_dataset(), again["posterior"].to_dataset())


@pytest.mark.parametrize(
    ("options", "says"), [({"control": "spline"}, "rectilinear"), ({"paths": 0}, "paths"), ({"step": -1.0}, "step")]
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        langevin_sde(SCHEMA, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BUILD))
def test_it_learns(name):
    """Gappy noisy waves of random phase: better than constant, last value and line in the gaps and beyond the end."""
    train, test, truth, asked = waves()
    fitted = si.fit(train, model=name, progress="silent")
    found = fitted.predict(test, time=asked, draws=100)["posterior_predictive"]["y"].isel(chain=0)
    error = float(((found.mean("draw").values - truth) ** 2).mean())
    assert error < 0.5 * min(baselines(test, asked, truth).values())
    low, high = found.quantile([0.05, 0.95], dim="draw").values
    assert 0.75 < float(((low <= truth) & (truth <= high)).mean()) <= 1.0
    spread = (
        fitted.predict(test, time=[5.0, 60.0], draws=100)["posterior_predictive"]["y"].std("draw").values.mean((0, 1))
    )
    assert spread[1] > 1.1 * spread[0]  # thirty gaps beyond the end, against at a datum
