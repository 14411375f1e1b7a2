import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sciinfer_neuro.baselines import FEATURES, QUICK, co_smoothing_baselines, decode_trials, smoothed_psth
from sciinfer_neuro.cosmoothing import cosmooth
from sciinfer_neuro.features import SmoothedRates
from sciinfer_neuro.forward import forward_predict
from sciinfer_neuro.metrics import fp_bps

from sciinfer.errors import ConfigError, DataError, ShapeError

FILE = Path(os.environ.get("SCIINFER_DATA", "")) / "gpvae" / "rat_motor" / "motor_ctx_data.npz"
needs_data = pytest.mark.skipif(
    "SCIINFER_DATA" not in os.environ or not FILE.exists(),
    reason="set SCIINFER_DATA to the folder of reference data (area gpvae)",
)
TRAIN, TEST = slice(0, None, 2), slice(1, None, 2)


def population(trials: int = 40, bins: int = 40, units: int = 6, gain: float = 1.0, seed: int = 0) -> xr.DataArray:
    """Units that ramp up together, by an amount that differs from trial to trial."""
    rng = np.random.default_rng(seed)
    height = rng.normal(size=trials)
    course = np.linspace(0, 1.5, bins)
    rate = np.exp(-1.0 + course + gain * 0.5 * height[:, None])[..., None] * np.linspace(0.5, 2, units)
    return xr.DataArray(
        rng.poisson(rate).astype(float),
        dims=("trial", "time", "unit"),
        coords={"time": (np.arange(bins) + 0.5) * 0.02, "height": ("trial", height), "unit": np.arange(units)},
        attrs={"bin_width": 0.02},
    )


def test_baselines_side_by_side() -> None:
    y = population()
    split = {"held_out": [1, 4], "train": TRAIN, "test": TEST}
    found = co_smoothing_baselines(y, **split, names=["psth", "smoothing-80"], folds=3, ridges=[100.0, 10.0])
    assert found.baseline.values.tolist() == ["psth", "smoothing-80"] and set(QUICK) <= {"psth", *FEATURES}
    alone = cosmooth(y, **split, features=(SmoothedRates((0.08,), log=True),), folds=3, ridges=[100.0, 10.0])
    np.testing.assert_array_equal(found.co_bps.sel(baseline="smoothing-80"), alone.scores.co_bps)
    assert float(found.co_bps.min()) > 0
    with pytest.raises(ConfigError, match="lfads"):
        co_smoothing_baselines(y, **split, names=["lfads"])


def test_psth_is_the_smoothed_mean_course_of_training_trials() -> None:
    y = population(trials=400, gain=0.0)
    course = smoothed_psth(y, train=TRAIN)
    truth = np.exp(-1.0 + np.linspace(0, 1.5, 40))[:, None] * np.linspace(0.5, 2, 6)
    assert course.dims == ("time", "unit")
    np.testing.assert_allclose(course[5:-5], truth[5:-5], rtol=0.15)
    changed = y.copy(deep=True)
    changed.values[1::2] += 3
    assert smoothed_psth(changed, train=TRAIN).equals(course)
    gappy = y.copy(deep=True)
    gappy.values[::4, :20] = np.nan
    np.testing.assert_allclose(smoothed_psth(gappy, train=TRAIN), course, rtol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpfa", "poisson-gpfa", "lds"])
def test_latents_of_registered_models_are_baselines(name: str) -> None:
    y = population(trials=16)
    block = FEATURES[name][0]
    quick = type(block)(block.model, {**block.options, "latent": 2}, {"steps": 5}, block.root, draws=20)
    found = cosmooth(y, held_out=[1, 4], train=TRAIN, test=TEST, features=(quick,), folds=2, ridges=[10.0])
    assert float(found.scores.co_bps.sel(null="train")) > 0


def test_decoding_a_number_of_each_trial() -> None:
    y = population(trials=120)
    found = decode_trials(y, y.height, train=TRAIN, test=TEST, windows=[[0.02], [0.8, 0.4]])
    assert found.windows == (0.8, 0.4) and found.r2 > 0.7 and abs(found.r2 - found.validation_r2) < 0.2
    shuffled = np.random.default_rng(0).permutation(y.height.values)
    assert decode_trials(y, shuffled, train=TRAIN, test=TEST, windows=[[0.8]]).r2 < 0.05
    gappy = y.where(y.time < 0.7)
    assert decode_trials(gappy, y.height, train=TRAIN, test=TEST, windows=[[0.4]]).r2 > 0.7
    with pytest.raises(ShapeError):
        decode_trials(y, y.height[1:], train=TRAIN, test=TEST)
    with pytest.raises(ConfigError, match="longer"):
        decode_trials(y, y.height, train=TRAIN, test=TEST, windows=[[2.0]])


def test_decoding_never_looks_at_test_targets() -> None:
    y = population()
    target = y.height.values.copy()
    first = decode_trials(y, target, train=TRAIN, test=TEST, windows=[[0.4], [0.1]], folds=5, repeats=1)
    target[1::2] = 9.0 + np.arange(20)
    second = decode_trials(y, target, train=TRAIN, test=TEST, windows=[[0.4], [0.1]], folds=5, repeats=1)
    assert first.prediction.equals(second.prediction) and first.validation_r2 == second.validation_r2


def test_forward_prediction_uses_the_past_only_and_gains() -> None:
    y = population(trials=120)
    quick = {"after": 0.5, "train": TRAIN, "test": TEST, "number": 4, "ridges": [100.0, 10.0], "folds": 3}
    found = forward_predict(y, **quick)
    assert found.rates.time.values.min() > 0.5
    assert float(found.scores.co_bps.sel(null="evaluation")) > 0.05 and found.validation > 0.05
    target = y[TEST]
    rates = target.copy(data=np.ones(target.shape))
    rates.values[:, -found.rates.sizes["time"] :] = found.rates.values
    by_metric = float(fp_bps(target, rates, after=0.5))
    assert by_metric == pytest.approx(float(found.scores.co_bps.sel(null="evaluation")), abs=1e-12)
    later = y.copy(deep=True)
    later.values[1::2, -found.rates.sizes["time"] :] += 4
    assert np.array_equal(forward_predict(later, **quick).rates, found.rates)


def test_forward_prediction_of_noise_is_the_mean_rate() -> None:
    rng = np.random.default_rng(3)
    y = population(trials=60).copy(data=rng.poisson(0.3, (60, 40, 6)).astype(float))
    found = forward_predict(y, after=0.5, train=TRAIN, test=TEST, number=4, folds=3, ridges=[100.0, 10.0])
    assert found.validation >= 0 and float(found.weight.mean()) < 0.5
    assert float(found.scores.co_bps.sel(null="train")) > -0.005


def test_forward_refusals() -> None:
    y = population(trials=8)
    with pytest.raises(ConfigError, match="cut"):
        forward_predict(y, after=5.0, train=[0, 1], test=[2])
    with pytest.raises(DataError) as caught:
        forward_predict(y.where((y.unit != 2) | (y.time < 0.5), 0.0), after=0.5, train=TRAIN, test=TEST)
    assert caught.value.index == 2


@needs_data
@pytest.mark.slow
def test_rat_motor_interval_and_forward_prediction() -> None:
    pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
    bench = importlib.import_module("benchmarks.neuro_rat_motor")
    y, interval = bench.load(FILE)
    train, test = bench.SPLIT["train"], bench.SPLIT["test"]
    assert decode_trials(y, interval, train=train, test=test).r2 >= 0.31
    busy = y[..., np.flatnonzero(y[train].sum(("trial", "time")).values > 200)]
    found = forward_predict(busy, after=1.5, train=train, test=test)
    assert float(found.scores.co_bps.min()) >= 0


def test_the_benchmark_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
    bench = importlib.import_module("benchmarks.neuro_rat_motor")
    monkeypatch.delenv("SCIINFER_DATA", raising=False)
    (row,) = bench.rows()
    assert row.name.endswith("absent") and "SCIINFER_DATA" in row.note


@needs_data
@pytest.mark.slow
def test_the_benchmark_runs() -> None:
    pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
    rows = list(importlib.import_module("benchmarks.neuro_rat_motor").rows(tiny=True))
    assert {"neuro_rat_motor/co-bps", "neuro_rat_motor/fp-bps"} <= {row.name for row in rows}
    assert all(np.isfinite(row.ours) for row in rows)
