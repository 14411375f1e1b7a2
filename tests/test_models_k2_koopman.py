"""The Koopman-Kalman forecaster: the contract on a regular grid, its parts, and that it learns a season."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model

import sciinfer as si
from sciinfer.errors import ConfigError, TimeError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.k2_koopman import K2Koopman, k2_koopman
from sciinfer.models.k2_koopman_parts import LearnedFilter, bounded, local_operator
from sciinfer.random import generator

F64 = torch.float64
TINY = {"context": 6, "horizon": 4, "patch": 2, "dim": 3, "width": 4}


def regular(lengths: tuple[int, ...] = (9, 1, 14)) -> SeriesBatch:
    """Two channels on a grid of step .5, with gaps, a time twice and rows without data left out."""
    g = generator(0, "regular")
    times, values = [], []
    for n in lengths:
        t = 0.5 * torch.arange(n, dtype=F64)
        v = torch.randn((n, 2), generator=g, dtype=F64)
        if n > 3:
            t[3], v[1, 0] = t[2], float("nan")
        times.append(t)
        values.append(v)
    return SeriesBatch.of(times, values)


def build(seed: int = 0) -> K2Koopman:
    model = k2_koopman(SCHEMA, seed=seed, **TINY)
    model.initialise(regular((20, 15)))
    return model


def test_it_keeps_the_contract_of_a_model():
    check_model(build, regular())


def test_irregular_times_are_refused():
    t = torch.tensor([0.0, 1.0, 2.0, 3.4, 4.4], dtype=F64)
    model = k2_koopman(SCHEMA, **TINY)
    with pytest.raises(TimeError, match="k2-koopman needs times on a regular grid"):
        model.initialise(SeriesBatch.of([t], [torch.zeros(5, 2, dtype=F64)]))


def test_the_operator_of_a_window():
    """A rotation is found by least squares, and no power of a bounded operator explodes."""
    a = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=F64)
    rows = [torch.tensor([[1.0, 0.0]], dtype=F64)]
    for _ in range(200):
        rows.append(rows[-1] @ a)
    k = local_operator(torch.stack(rows, 1))[0]
    angle = torch.linalg.eigvals(k).angle().abs()
    torch.testing.assert_close(angle, torch.full((2,), 0.6435, dtype=F64), atol=2e-3, rtol=0)
    g = generator(0, "wild")
    wild = 5 * torch.randn(20, 8, 8, generator=g, dtype=F64)
    calm = bounded(wild)
    radius = torch.linalg.eigvals(calm).abs().amax(1)
    assert float(radius.max()) <= 1 + 1e-9
    assert float(radius.min()) > 8 ** (-1 / 128) - 1e-6, "and it is no smaller than need be"
    assert float(torch.linalg.matrix_power(calm, 720).abs().max()) < 50
    small = 0.3 * a
    torch.testing.assert_close(bounded(small), small)


def test_the_filter_is_a_kalman_filter():
    """Against the conditional of the joint Gaussian of three steps."""
    torch.manual_seed(0)
    filt, d, steps = LearnedFilter(2), 2, 3
    g = generator(1, "filter")
    with torch.no_grad():
        for p in filt.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=F64))
        start = torch.randn(1, d, generator=g, dtype=F64)
        seen = torch.randn(1, steps, d, generator=g, dtype=F64)
        states, covariances = filt(start, seen)
        eye = torch.eye(d, dtype=F64)
        f, h = bounded(filt.transition), filt.observation
        q = filt.process.tril() @ filt.process.tril().mT + 1e-6 * eye
        r = filt.measurement.tril() @ filt.measurement.tril().mT + 1e-4 * eye
        power = lambda n: torch.linalg.matrix_power(f, n)  # noqa: E731
        cov = lambda i, j: sum(power(i - k) @ q @ power(j - k).mT for k in range(1, min(i, j) + 1))  # noqa: E731
        sx = torch.cat([cov(steps, j) @ h.mT for j in range(1, steps + 1)], 1)
        sy = torch.cat(
            [torch.cat([h @ cov(i, j) @ h.mT + (r if i == j else 0) for j in range(1, 4)], 1) for i in range(1, 4)]
        )
        centre = torch.cat([h @ power(i) @ start[0] for i in range(1, steps + 1)])
        mean = power(steps) @ start[0] + sx @ torch.linalg.solve(sy, seen.flatten() - centre)
    torch.testing.assert_close(states[0, -1], mean)
    torch.testing.assert_close(covariances[-1], cov(steps, steps) - sx @ torch.linalg.solve(sy, sx.mT))


def season(seed: int = 0) -> xr.Dataset:
    g = np.random.default_rng(seed)
    t = np.arange(600.0)
    y = np.stack([np.sin(2 * np.pi * t / 12), np.cos(2 * np.pi * t / 12) + 0.5 * np.sin(2 * np.pi * t / 6)], 1)
    y += 0.1 * g.standard_normal(y.shape)
    return xr.Dataset({"y": (("time", "state"), y)}, coords={"time": t, "state": ["a", "b"]})


def test_fit_save_load_predict_and_beats_the_last_value(tmp_path):
    ds = season()
    options = {"context": 48, "horizon": 24, "patch": 12, "dim": 12, "width": 8}
    fitted = si.fit(ds.isel(time=slice(500)), "k2-koopman", options=options, training={"steps": 10}, progress="silent")
    again = si.load(fitted.save(tmp_path / "fit"))
    asked = ds.time.values[500:524]
    first, second = (f.predict(time=asked, draws=100)["posterior_predictive"]["y"].values for f in (fitted, again))
    np.testing.assert_array_equal(first, second)
    truth = ds["y"].values[500:524]
    first, last = first.reshape(-1, 24, 2), ds["y"].values[499]
    assert np.sqrt(np.mean((first.mean(0) - truth) ** 2)) < 0.3 * np.sqrt(np.mean((last - truth) ** 2))
    low, high = np.quantile(first, [0.05, 0.95], axis=0)
    assert 0.75 < np.mean((low < truth) & (truth < high)) <= 1.0
    assert "own_operator_share" in fitted.summary()


@pytest.mark.slow
@pytest.mark.skipif("SCIINFER_DATA" not in os.environ, reason="ETTh1 needs SCIINFER_DATA")
def test_on_etth1_it_is_no_worse_than_the_linear_map():
    """Guide: closed-form NLinear .3726 (wQL .2565) at 336 -> 96."""
    from benchmarks.k2_koopman import compared

    ours, linear = compared(336, 96, 300)
    assert linear.mse == pytest.approx(0.3726, abs=5e-3)
    assert ours.mse <= linear.mse
    assert ours.wql <= linear.wql
    assert 0.85 <= ours.cover <= 0.95


def test_refused_options():
    for options in (
        {"context": 0},
        {"horizon": 0},
        {"patch": 0},
        {"dim": 0},
        {"width": 0},
        {"context": 24, "patch": 24},
    ):
        with pytest.raises(ConfigError, match=next(iter(options))):
            k2_koopman(SCHEMA, **options)
