import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sciinfer_neuro.cosmoothing import both_nulls, cosmooth
from sciinfer_neuro.features import LatentMoments, PrincipalRates, SmoothedRates, TimeBasis, TimeByTrial
from sciinfer_neuro.metrics import co_bps
from sciinfer_neuro.smoothing import smooth

from sciinfer.errors import ConfigError, DataError, SchemaError

FILE = Path(os.environ.get("SCIINFER_DATA", "")) / "gpvae" / "rat_motor" / "motor_ctx_data.npz"
needs_data = pytest.mark.skipif(
    "SCIINFER_DATA" not in os.environ or not FILE.exists(),
    reason="set SCIINFER_DATA to the folder of reference data (area gpvae)",
)
SPLIT = {"held_out": slice(3, None, 4), "train": slice(0, None, 2), "test": slice(1, None, 2)}
QUICK = {"ridges": [100.0, 10.0], "folds": 3}


def population(trials: int = 40, bins: int = 50, units: int = 8, seed: int = 0) -> xr.DataArray:
    """Counts on a trial-varying bump and a slow wave shared by all units."""
    rng = np.random.default_rng(seed)
    t = np.arange(bins)
    late = rng.uniform(10, 40, trials)
    latent = np.stack([2 * np.exp(-0.5 * ((t - late[:, None]) / 4) ** 2), np.sin(t / 8 + 6 * late[:, None])], -1)
    rate = np.exp(latent @ rng.normal(size=(2, units)) - 1.0)
    return xr.DataArray(
        rng.poisson(rate).astype(float),
        dims=("trial", "time", "unit"),
        coords={"trial": np.arange(trials), "time": (np.arange(bins) + 0.5) * 0.02, "unit": np.arange(units)},
        attrs={"bin_width": 0.02},
        name="counts",
    )


EVERY = (SmoothedRates((0.05, 0.2)), TimeBasis(6), TimeByTrial(2, 4, 0.1), PrincipalRates(3, (0.1,)))


def test_nothing_leaks_from_what_is_predicted() -> None:
    y = population()
    base = cosmooth(y, **SPLIT, features=EVERY, **QUICK)
    out, test = np.arange(8)[SPLIT["held_out"]], np.arange(40)[SPLIT["test"]]
    hidden = y.copy(deep=True)
    hidden.values[np.ix_(test, np.arange(50), out)] += 5
    again = cosmooth(hidden, **SPLIT, features=EVERY, **QUICK)
    np.testing.assert_array_equal(again.rates.values, base.rates.values)
    assert again.choice == base.choice and again.validation.identical(base.validation)
    other = y.copy(deep=True)
    other.values[1, :, 0] += 1  # a held-in unit of the first test trial
    moved = cosmooth(other, **SPLIT, features=EVERY, **QUICK).rates.values
    assert not np.array_equal(moved[0], base.rates.values[0])
    np.testing.assert_array_equal(moved[1:], base.rates.values[1:])


def test_scores_are_those_of_its_rates_and_beat_the_means() -> None:
    y = population()
    found = cosmooth(y, **SPLIT, **QUICK)
    target = y.isel(trial=SPLIT["test"], unit=SPLIT["held_out"])
    assert found.rates.dims == target.dims and found.rates.unit.values.tolist() == [3, 7]
    scores = found.scores.co_bps
    assert float(scores.sel(null="evaluation")) == pytest.approx(float(co_bps(target, found.rates)), abs=1e-12)
    assert float(scores.sel(null="train")) > float(scores.sel(null="evaluation")) - 0.01 > 0.1
    assert found.scores.co_bps_unit.sizes == {"null": 2, "unit": 2}


def test_the_choice_is_made_on_training_trials() -> None:
    y = population()
    sets = {"clock": (TimeBasis(8),), "units": (SmoothedRates((0.06,)),)}
    found = cosmooth(y, **SPLIT, features=sets, combine="best", **QUICK)
    assert found.choice == "units" and found.validation.candidate.values.tolist() == ["clock", "units", "average"]
    alone = cosmooth(y, **SPLIT, features=sets["units"], **QUICK)
    np.testing.assert_array_equal(found.rates.values, alone.rates.values)
    mixed = cosmooth(y, **SPLIT, features=sets, combine="average", **QUICK)
    auto = cosmooth(y, **SPLIT, features=sets, **QUICK)
    assert auto.choice == auto.validation.candidate.values[auto.validation.values.argmax()]
    clock = cosmooth(y, **SPLIT, features=sets["clock"], **QUICK)
    np.testing.assert_allclose(mixed.rates, np.sqrt(alone.rates.values * clock.rates.values))


def test_exposure_and_missing_counts() -> None:
    y = population(trials=80)
    share = np.ones((80, 50))
    share[:, -1] = 0.5
    cut = y.copy(deep=True)
    cut.values[:, -1] = np.random.default_rng(0).binomial(cut.values[:, -1].astype(int), 0.5)
    cut = cut.assign_coords(exposure=(("trial", "time"), share))
    found = cosmooth(cut, **SPLIT, **QUICK)
    whole = cosmooth(y, **SPLIT, **QUICK)
    ratio = float(found.rates[:, -1].mean() / whole.rates[:, -1].mean())
    assert abs(ratio - 1) < 0.25  # rates are per whole bin; without the exposure they would be half
    gappy = y.copy(deep=True)
    gappy.values[::3, 40:] = np.nan
    assert float(cosmooth(gappy, **SPLIT, **QUICK).scores.co_bps.min()) > 0.1


def test_both_nulls_with_exposure_score_constant_rates_with_zero() -> None:
    rng = np.random.default_rng(0)
    share = np.array([[1.0, 1.0, 0.25, 0.0]])
    y = xr.DataArray(rng.poisson(3.0 * share[..., None] * np.ones(2)).astype(float), dims=("trial", "time", "unit"))
    y = y.assign_coords(exposure=(("trial", "time"), share))
    rate = y.values.sum((0, 1)) / share.sum()
    scores = both_nulls(y, y.copy(data=np.broadcast_to(rate, y.shape)), y)
    np.testing.assert_allclose(scores.co_bps, 0.0, atol=1e-12)


def test_smoothing_keeps_a_steady_rate_at_gaps_and_edges() -> None:
    share = np.ones((2, 30))
    share[:, 0] = 0.4
    counts = np.full((2, 30, 1), 3.0) * share[..., None]
    counts[1, 10:15] = np.nan
    np.testing.assert_allclose(smooth(counts, 2.0, exposure=share), 3.0, rtol=1e-12)


@pytest.mark.slow
def test_latents_of_a_model_given_held_in_units() -> None:
    y = population(trials=16, bins=20)
    quick = {"options": {"latent": 2}, "training": {"steps": 3}, "draws": 8}
    names = {"mean": LatentMoments(**quick), "spread": LatentMoments(**quick, deviations=True)}
    transform = {name: block.fit(y[:8, :, :6]) for name, block in names.items()}
    held = y[8:, :, :6]
    assert transform["mean"](held).shape == (8, 20, 2) and transform["spread"](held).shape == (8, 20, 4)
    np.testing.assert_allclose(transform["mean"](held[:1]), transform["mean"](held)[:1], atol=1.0)
    found = cosmooth(y, **SPLIT, features=(names["mean"], TimeBasis(4)), **QUICK)
    assert np.isfinite(found.rates.values).all()


def test_refusals() -> None:
    y = population(trials=8, bins=10)
    with pytest.raises(ConfigError, match="train and in test"):
        cosmooth(y, held_out=[0], train=slice(0, 5), test=slice(4, None))
    with pytest.raises(ConfigError, match="held in"):
        cosmooth(y, held_out=slice(None), train=slice(0, 4), test=slice(4, None))
    with pytest.raises(ConfigError, match="nothing"):
        cosmooth(y, held_out=[], train=slice(0, 4), test=slice(4, None))
    with pytest.raises(ConfigError, match="does not fit"):
        cosmooth(y, held_out=[8], train=slice(0, 4), test=slice(4, None))
    with pytest.raises(DataError) as caught:
        cosmooth(y.where(y.unit != 2, 0.0), held_out=[2], train=slice(0, 4), test=slice(4, None))
    assert caught.value.index == 2
    with pytest.raises(DataError, match="-1"):
        cosmooth(y - 1, held_out=[2], train=slice(0, 4), test=slice(4, None))
    with pytest.raises(SchemaError, match="trial"):
        cosmooth(y[0], held_out=[2], train=slice(0, 4), test=slice(4, None))
    with pytest.raises(ConfigError, match="positive"):
        cosmooth(y, held_out=[2], train=slice(0, 4), test=slice(4, None), folds=2, ridges=[0.0])


@needs_data
@pytest.mark.slow
def test_rat_motor_cortex() -> None:
    pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
    bench = importlib.import_module("benchmarks.neuro_rat_motor")
    y, _ = bench.load(FILE)
    found = cosmooth(y, **bench.SPLIT, features=bench.candidates())
    assert float(found.scores.co_bps.sel(null="evaluation")) >= 0.079
