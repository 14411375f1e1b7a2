"""Regression on histories: the contract of a model, features by hand, and forecasts where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, sample_batch

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.history_features import History, features_of
from sciinfer.models.history_regression import HistoryRegression, history_regression
from sciinfer.random import generator

F64 = torch.float64


def fitted_to(batch: SeriesBatch, seed: int = 0, **options: int) -> HistoryRegression:
    model = history_regression(SCHEMA, seed=seed, **options)
    model.initialise(batch)
    return model


def test_it_keeps_the_contract_of_a_model():
    data = sample_batch(lengths=(12, 9, 15, 1, 20, 7, 11, 8))
    check_model(lambda seed=0: fitted_to(data, seed, random=5), sample_batch())


def test_features_are_what_they_say():
    time = torch.tensor([[0.0, 1.0, 3.0]], dtype=F64)
    values = torch.tensor([[[2.0, 0.0], [3.0, 0.0], [7.0, 0.0]]], dtype=F64)
    seen = torch.tensor([[[True, False], [True, False], [True, False]]])
    table = features_of(time, values, seen).view(1, 4, 2, 9)
    assert not table[:, :, 1].any(), "a channel that was never seen says nothing"
    assert not table[:, 0].any(), "nor does a series before its first row"
    known, last, slope, less, _, mean, fresh, both, stale = table[0, 3, 0].tolist()
    assert (known, last, slope, fresh, both, stale) == pytest.approx((1, 7, 2, 1, 7, 0))
    fade = np.exp(-np.array([3.0, 2.0, 0.0]) / 2)
    assert less == pytest.approx(7 - (fade @ [2, 3, 7]) / (fade.sum() + 0.3))
    assert 0 < mean < 7
    later = History.blank(1, 2, values).read(time[:, 0], values[:, 0], seen[:, 0])
    later = later.read(torch.tensor([4.0], dtype=F64), torch.zeros(1, 2, dtype=F64), torch.tensor([[False, True]]))
    assert later.features()[0, 0, 8] == pytest.approx(np.log(5.0))


def waves(n: int = 60, noise: float = 0.1, seed: int = 0) -> SeriesBatch:
    """Two channels of one circle at irregular times, each seen at two times in three: one tells about the other."""
    g = generator(seed, "waves")
    times, values = [], []
    for _ in range(n):
        t = torch.rand(40, generator=g, dtype=F64).mul(20).sort().values
        phase = 6.28 * torch.rand(1, generator=g, dtype=F64) + 0.5 * t
        y = torch.stack([phase.sin(), phase.cos()], 1) + noise * torch.randn(40, 2, generator=g, dtype=F64)
        y[torch.rand(40, 2, generator=g, dtype=F64) < 0.33] = float("nan")
        times.append(t)
        values.append(y)
    return SeriesBatch.of(times, values)


def test_it_learns_what_channels_say_about_each_other():
    from sciinfer.diagnostics import per_variable_linear, run_baselines

    train, test = waves(), waves(20, seed=1)
    cond, future = test.keep(test.time <= 12), test.keep(test.time > 12).drop_empty().padded()
    answer = fitted_to(train, random=16).predict(cond, future.time, draws=1, generator=generator(0, "predict"))
    assert answer.mean is not None and answer.variance is not None
    error = lambda mean: float((mean - future.values)[future.mask].square().mean())  # noqa: E731
    forecasts = run_baselines(cond, future.time) | {"own": per_variable_linear(train, cond, future.time, cutoff=12.0)}
    assert error(answer.mean.detach()) < 0.3 * min(error(f.mean) for f in forecasts.values())
    z = ((answer.mean - future.values) / answer.variance.sqrt())[future.mask].detach()
    assert 0.84 < float((z.abs() < 1.645).double().mean()) < 0.96


@torch.no_grad()
def test_a_forecast_widens_and_draws_have_its_moments():
    model = fitted_to(waves(), random=0)
    test = waves(3, seed=2)
    times = torch.tensor([[20.0, 22.0, 35.0]], dtype=F64).expand(3, 3)
    answer = model.predict(test, times, draws=4000, generator=generator(0, "draws"))
    assert answer.variance is not None and bool((answer.variance[:, 2] > answer.variance[:, 0]).all())
    sd = answer.variance.sqrt()
    torch.testing.assert_close(answer.observation.mean(0), answer.mean, atol=5 * float(sd.max()) / 4000**0.5, rtol=0)
    torch.testing.assert_close(answer.observation.std(0), sd, rtol=0.06, atol=0)
    assert bool((answer.signal.std(0) < answer.observation.std(0)).all())


@torch.no_grad()
def test_generated_paths_start_like_the_data_and_stay_bounded():
    model = fitted_to(waves(), random=16)
    paths = model.generate(torch.linspace(0, 100, 101, dtype=F64), draws=200, generator=generator(0, "generate"))
    early = paths.observation[:, 0, :6]
    assert 0.5 < float(early.std()) < 1.1
    assert abs(float(early.mean())) < 0.2
    assert float(paths.observation.abs().max()) < 50, "one step at a time it may drift, but not away"


def test_fit_save_load_predict(tmp_path):
    y = waves(12).values.view(12, 40, 2)
    ds = xr.Dataset({"y": (("series", "time", "state"), y.numpy())}, coords={"time": np.arange(40.0)})
    ds = ds.assign_coords(series=np.arange(12), state=["a", "b"])
    fitted = si.fit(ds, "history-regression", options={"random": 8}, progress="silent")
    again = si.load(fitted.save(tmp_path / "fit"))
    first, second = (f.predict(time=[39.0, 41.5], draws=3)["posterior_predictive"]["y"].values for f in (fitted, again))
    np.testing.assert_array_equal(first, second)
    assert "noise" in fitted.summary()
    scores = fitted.score(ds, after=20.0)
    assert np.isfinite(float(scores["crps_normalised"].sel(forecaster="model", channel="all")))


def test_refused_options():
    for options in ({"random": -1}, {"random": True}, {"lengthscale": 0.0}, {"lengthscale": "long"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            history_regression(SCHEMA, **options)
