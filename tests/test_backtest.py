"""Rolling origins: no look ahead, the right rows, the right scores, errors that help."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import sciinfer as si
from sciinfer.backtesting.predicted import LEVELS
from sciinfer.diagnostics.quantile_scores import LEVELS_9, LEVELS_19, crps_quantile
from sciinfer.errors import ConfigError, DataError, NameNotFoundError, SchemaError

NEEDS_DATA = pytest.mark.skipif("SCIINFER_DATA" not in os.environ, reason="SCIINFER_DATA names no folder of data")
#: a model trained in a few steps; what it forecasts is poor and does not matter here
TRAINED = {"process": "linear", "latent": 1}, {"steps": 2}
LENGTHS = {"a": 30, "b": 26, "c": 40}


def long_frame(*, irregular: bool = True, seed: int = 0) -> pd.DataFrame:
    """Ragged, irregular, with values missing."""
    rng = np.random.default_rng(seed)
    parts = []
    for name, n in LENGTHS.items():
        hours = np.cumsum(rng.integers(12, 36, size=n)) if irregular else 24 * np.arange(n)
        values = np.sin(np.arange(n) / 3) + 0.1 * rng.normal(size=n) + 5
        values[rng.uniform(size=n) < 0.1] = np.nan
        values[[0, 1, -1]] = [5.0, 5.1, 5.2]
        ds = pd.Timestamp("2020-01-01") + pd.to_timedelta(hours, unit="h")
        parts.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": values}))
    return pd.concat(parts, ignore_index=True)


def grid(n: int = 40, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 2)).cumsum(axis=0) + 10
    return xr.Dataset(
        {"p": ("time", values[:, 0], {"units": "hPa"}), "q": ("time", values[:, 1], {"units": "K"})},
        coords={"time": np.arange(n, dtype=float)},
    )


# -- no look ahead ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "refit"),
    [("random-walk", False), ("history-regression", True), pytest.param("latent-sde", False, marks=pytest.mark.slow)],
)
def test_a_planted_future_value_changes_nothing(other: str, refit: bool) -> None:
    """1e6 right after the last origin, in every series, and every forecast is the same to the bit."""
    data = long_frame()
    settings: dict = {"horizon": 4, "windows": 3, "refit": refit, "conformal": True, "draws": 5}
    if other == "latent-sde":
        settings |= {"options": {"other": TRAINED[0]}, "training": {"other": TRAINED[1]}}
    if other == "history-regression":
        settings |= {"options": {"other": {"random": 0}}}
    models = {"random-walk": "random-walk", "other": other}
    clean = si.backtest(models, data, **settings)
    spiked = data.copy()
    ends = spiked.groupby("unique_id").tail(4).groupby("unique_id").head(1).index
    spiked.loc[ends, "y"] = 1e6
    found = si.backtest(models, spiked, **settings)
    assert int((found.forecasts["observed"] == 1e6).sum()) == 3 and found.forecasts.sizes["model"] == 7
    for name in ("forecast", "mean"):
        np.testing.assert_array_equal(found.forecasts[name].values, clean.forecasts[name].values)
    assert float(found.scores["mae"].min()) > 1e4 > float(clean.scores["mae"].max())


def test_a_value_after_the_first_origin_is_only_seen_later() -> None:
    data = grid()
    spiked = data.copy(deep=True)
    spiked["p"][40 - 3 * 4] = 1e6
    models = {"m": "random-walk"}
    a, b = (si.backtest(models, d, horizon=4, windows=3, draws=5, refit=2) for d in (data, spiked))
    first = {"window": 0}
    np.testing.assert_array_equal(a.forecasts["forecast"].isel(first), b.forecasts["forecast"].isel(first))
    assert not np.array_equal(a.forecasts["forecast"].isel(window=1), b.forecasts["forecast"].isel(window=1))
    # the unit of the normalised scores is that of the rows before the first origin
    shared = a.scores["crps_by_window"].isel(window=0, channel=0)
    assert not np.allclose(shared, b.scores["crps_by_window"].isel(window=0, channel=0))
    ratio = [s.scores["crps"].isel(channel=0) / s.scores["crps_normalised"].isel(channel=0) for s in (a, b)]
    np.testing.assert_allclose(*ratio, rtol=1e-12)


def test_a_model_that_has_seen_the_future_is_refused() -> None:
    data = grid()
    fitted = si.fit(data, "random-walk", progress="silent")
    with pytest.raises(DataError, match="after the first origin") as caught:
        si.backtest(fitted, data, horizon=4, windows=2, draws=5)
    assert caught.value.code == "data/leak" and "refit=True" in str(caught.value.fix)
    again = si.backtest({"again": fitted}, data, horizon=4, windows=2, draws=5, refit=True)
    early = si.fit(data.isel(time=slice(0, 32)), "random-walk", progress="silent")
    found = si.backtest([early], data, horizon=4, windows=2, draws=5)
    own = si.backtest("random-walk", data, horizon=4, windows=2, draws=5)
    np.testing.assert_array_equal(found.forecasts["forecast"].values, own.forecasts["forecast"].values)
    assert "again" in again.forecasts["model"]
    with pytest.raises(ConfigError, match="fitted already"):
        si.backtest(early, data, horizon=4, windows=2, options={"increments": 2})
    with pytest.raises(SchemaError, match="convert"):
        si.backtest(early, data.assign(p=data["p"].assign_attrs(units="Pa")), horizon=4, windows=2, draws=5)


def test_channels_are_matched_by_name() -> None:
    data = grid()
    early = data.isel(time=slice(0, 32))
    swapped = si.fit(early, "random-walk", variables=["q", "p"], progress="silent")
    found = si.backtest(swapped, data, horizon=4, windows=2, draws=50)
    last = found.forecasts["forecast"].sel(quantile=0.5).isel(model=0, lead=0, window=0)
    np.testing.assert_allclose(last, [data["p"][31], data["q"][31]], atol=2.0)
    only = si.fit(early, "random-walk", variables=["q"], progress="silent")
    with pytest.raises(SchemaError, match="was not fitted on 'p'"):
        si.backtest(only, data, horizon=4, windows=2)
    assert si.backtest(only, data, horizon=4, windows=2, variables=["q"]).forecasts["channel"].values == ["q"]


def test_context_is_all_that_a_forecast_is_given() -> None:
    data = grid()
    other = data.copy(deep=True)
    other["p"][:20] += 100.0
    names = {"horizon": 4, "windows": 2, "context": 8, "refit": True, "draws": 5}
    a, b = (si.backtest("random-walk", d, **names).forecasts["forecast"] for d in (data, other))
    np.testing.assert_array_equal(a.values, b.values)
    by_time = si.backtest("random-walk", data, **{**names, "context": 8.0})
    np.testing.assert_array_equal(a.values, by_time.forecasts["forecast"].values)


# -- which rows ------------------------------------------------------------------------------------------------------


def test_windows_end_with_each_series() -> None:
    data = long_frame()
    found = si.backtest("random-walk", data, horizon=3, windows=2, step=2, draws=5)
    for name, part in data.groupby("unique_id"):
        one = found.forecasts.sel(unique_id=name)
        times = part["ds"].to_numpy()
        np.testing.assert_array_equal(one["ds"].values, [times[-5:-2], times[-3:]])
        np.testing.assert_array_equal(one["cutoff"].values, times[[-6, -4]])
        np.testing.assert_array_equal(one["observed"].values[1, :, 0], part["y"].to_numpy()[-3:])
    assert found.scores.attrs["windows"] == 2 and found.scores.attrs["pairs"] == 6


def test_a_duration_cuts_all_series_at_one_moment() -> None:
    data = long_frame()
    # all series end within the last six days, at moments of their own
    shift = {name: data["ds"].max() - part["ds"].max() for name, part in data.groupby("unique_id")}
    delay = data["unique_id"].map({name: gap - pd.Timedelta(k, "D") for k, (name, gap) in enumerate(shift.items())})
    data = data.assign(ds=data["ds"] + delay)
    found = si.backtest("random-walk", data, horizon="4D", windows=2, draws=5)
    assert found.forecasts.sizes["unique_id"] == 3
    for same in (pd.Timedelta("4D"), np.timedelta64(4, "D"), 4 * 86400.0):
        again = si.backtest("random-walk", data, horizon=same, windows=2, draws=5, baselines=[])
        np.testing.assert_array_equal(again.forecasts["ds"].values, found.forecasts["ds"].values)
    cut = np.datetime64(data["ds"].max() - pd.Timedelta("4D"))
    for name, part in data.groupby("unique_id"):
        early, late = found.forecasts["ds"].sel(unique_id=name).values
        np.testing.assert_array_equal(late[~np.isnat(late)], part["ds"][part["ds"] > cut])
        last = found.forecasts["cutoff"].sel(unique_id=name).values
        assert last[1] == part["ds"][part["ds"] <= cut].max() and last[0] < early[0] <= last[1]
    assert len(np.unique(np.isnat(found.forecasts["ds"].values).sum(axis=-1))) > 1


def test_rows_and_durations_agree_on_a_grid() -> None:
    data = grid()
    rows = si.backtest("random-walk", data, horizon=4, windows=3, step=2, draws=5)
    spans = si.backtest("random-walk", data, horizon=4.0, windows=3, step=2.0, draws=5)
    np.testing.assert_array_equal(rows.forecasts["forecast"].values, spans.forecasts["forecast"].values)
    np.testing.assert_array_equal(
        rows.forecasts["time"].values, [32 + np.arange(4), 34 + np.arange(4), 36 + np.arange(4)]
    )


def test_rows_of_one_time_stay_together() -> None:
    data = xr.Dataset({"y": ("time", np.arange(12.0) % 3)}, coords={"time": np.repeat(np.arange(6.0), 2)})
    found = si.backtest("random-walk", data, horizon=3, windows=1, draws=5)
    assert found.forecasts["time"].values.tolist() == [[4.0, 4.0, 5.0, 5.0]]
    assert found.forecasts["cutoff"].item() == 3.0


def test_layouts_give_the_same() -> None:
    """A padded rectangle, a ragged array and the grid that both hold."""
    rng = np.random.default_rng(3)
    values, time = rng.normal(size=(2, 20)), np.arange(20.0)
    shared = xr.Dataset({"y": (("series", "time"), values)}, coords={"time": time, "series": ["a", "b"]})
    padded = xr.Dataset(
        {"y": (("series", "obs"), values)},
        coords={"time": (("series", "obs"), np.tile(time, (2, 1))), "series": ["a", "b"]},
    )
    ragged = pd.DataFrame({"series": np.repeat(["a", "b"], 20), "time": np.tile(time, 2), "y": values.ravel()})
    found = [si.backtest("random-walk", d, horizon=3, windows=2, draws=5) for d in (shared, padded, ragged)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].forecasts["forecast"].values, other.forecasts["forecast"].values)


# -- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_long_table() -> None:
    data = long_frame()
    found = si.backtest("random-walk", data, horizon=4, windows=3, draws=30, season=2)
    table = found.frame()
    assert list(table.columns[:6]) == ["unique_id", "ds", "cutoff", "model", "y", "mean"]
    assert [c for c in table.columns if c.startswith("q")] == [f"q{level:g}" for level in LEVELS]
    assert len(table) == 5 * 3 * 3 * 4 and (table["ds"] > table["cutoff"]).all()
    seen = table[table["y"].notna()]
    for model, part in seen.groupby("model"):
        scores = found.scores.sel(model=model, channel="y")
        y = part["y"].to_numpy()
        error = np.abs(part["q0.5"].to_numpy() - y)
        assert float(scores["mae"]) == pytest.approx(error.mean(), rel=1e-12)
        assert float(scores["rmse"]) == pytest.approx(np.sqrt(((part["mean"].to_numpy() - y) ** 2).mean()), rel=1e-12)
        for count, levels in ((9, LEVELS_9), (19, LEVELS_19)):
            loss = crps_quantile(y, part[[f"q{level:g}" for level in levels]].to_numpy(), levels)
            assert float(scores[f"crps_quantile_{count}"]) == pytest.approx(loss.mean(), rel=1e-12)
            normalised = loss.sum() / np.abs(y).sum()
            assert float(scores[f"crps_quantile_{count}_normalised"]) == pytest.approx(normalised, rel=1e-12)
        scaled = []
        for (name, cutoff), rows in part.groupby(["unique_id", "cutoff"]):
            past = data[(data["unique_id"] == name) & (data["ds"] <= cutoff)]["y"].to_numpy()
            scaled += list(np.abs(rows["q0.5"] - rows["y"]) / np.nanmean(np.abs(past[2:] - past[:-2])))
        assert float(scores["mase"]) == pytest.approx(np.mean(scaled), rel=1e-12)
    n = found.scores
    assert int(n["n"].item()) == len(seen) // 5
    for dim in ("lead", "window"):
        weights = n[f"n_by_{dim}"].isel(channel=0)
        pooled = (n[f"crps_by_{dim}"].isel(channel=0) * weights).sum(dim) / weights.sum()
        np.testing.assert_allclose(pooled, n["crps"].isel(channel=0), rtol=1e-12)
        assert int(weights.sum()) == int(n["n"].item())


def test_channels_of_different_units_are_not_added_up() -> None:
    found = si.backtest("random-walk", grid(), horizon=4, windows=2, draws=20)
    scores = found.scores.sel(model="persistence")
    assert scores["channel"].values.tolist() == ["p", "q", "all"]
    assert np.isnan(scores["crps"].sel(channel="all")) and np.isfinite(scores["crps"].sel(channel=["p", "q"])).all()
    for name in ("mase", "crps_normalised", "coverage_80"):
        np.testing.assert_allclose(scores[name].sel(channel="all"), scores[name].sel(channel=["p", "q"]).mean())
    assert "variable" in found.frame() and "p [hPa]" in found.summary() and "all (n = 16)" in found.summary()


def test_the_summary_says_that_the_baseline_wins() -> None:
    """White noise around a level: two steps of training do not find it, the constant does."""
    rng = np.random.default_rng(0)
    data = xr.Dataset({"y": ("time", rng.normal(size=120))}, coords={"time": np.arange(120.0)})
    found = si.backtest("random-walk", data, horizon=6, windows=8)
    assert found.scores.attrs["best_baseline"] == "constant" == found.best
    assert str(found.scores["verdict"].sel(model="random-walk").item()) == "loses"
    assert "the baseline wins: random-walk LOSES to constant" in found.summary() and "8 windows" in found.summary()
    beaten = si.backtest("random-walk", data.cumsum(), horizon=6, windows=8, baselines=["constant"])
    assert str(beaten.scores["verdict"].sel(model="random-walk").item()) == "wins"
    assert "random-walk beats the best baseline, constant" in repr(beaten)


def test_one_window_claims_nothing() -> None:
    found = si.backtest("random-walk", grid(), horizon=4, windows=1)
    assert np.isnan(found.scores["p_value"]).all() and set(found.scores["verdict"].values) == {"none"}
    assert "one window: no claim can be made" in found.summary()
    alone = si.backtest("random-walk", grid(), horizon=4, windows=3, baselines=[])
    assert "no baseline was scored" in alone.summary()


def test_a_season_adds_its_baseline() -> None:
    time = pd.date_range("2020-01-01", periods=80, freq="D")
    y = np.sin(2 * np.pi * np.arange(80) / 7) + 0.01 * np.random.default_rng(0).normal(size=80)
    data = pd.DataFrame({"ds": time, "y": y})
    by_rows = si.backtest("random-walk", data, horizon="14D", windows=3, season=7)
    by_time = si.backtest("random-walk", data, horizon="14D", windows=3, season="7D")
    assert by_rows.scores.attrs["best_baseline"] == "seasonal_naive_drift"
    xr.testing.assert_equal(by_rows.scores, by_time.scores)
    assert float(by_rows.scores["mase"].sel(model="seasonal_naive_drift").item()) < 3.0


@NEEDS_DATA
def test_random_walk_on_exchange_rates() -> None:
    """The rows of the published split: 5 windows of 30 days from row 6071."""
    rates = si.open_dataset("exchange_rate").isel(time=slice(5600, 6221))
    found = si.backtest("random-walk", rates, horizon=30, windows=5, draws=1000, baselines=["persistence"])
    scores = found.scores.sel(model="random-walk", channel="all")
    assert found.forecasts["time"].values[0, 0] == 6071.0
    assert float(scores["crps_quantile_9_normalised"]) == pytest.approx(0.0074, abs=1e-4)
    assert float(scores["crps_quantile_19_normalised"]) == pytest.approx(0.00707, abs=1e-4)
    assert float(scores["coverage_80"]) == pytest.approx(0.864, abs=0.01)


# -- errors ----------------------------------------------------------------------------------------------------------


def test_short_series_are_named() -> None:
    data = long_frame()
    with pytest.raises(DataError, match=r"series 'b' is too short: 26 rows") as caught:
        si.backtest("random-walk", data, horizon=5, windows=5)
    assert caught.value.index == "b" and "windows=4" in str(caught.value.fix)
    with pytest.raises(DataError, match=r"'a', 'b' are too short"):
        si.backtest("random-walk", data, horizon=30, windows=1)
    late = data[(data["unique_id"] != "b") | (data["ds"] < data["ds"].min() + pd.Timedelta("3D"))]
    with pytest.raises(DataError, match=r"'b'.* in no window"):
        si.backtest("random-walk", late, horizon="4D", windows=2)
    with pytest.raises(DataError, match="window 0 of 40"):
        si.backtest("random-walk", data, horizon="4D", windows=40)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"horizon": 0}, "horizon must be positive"),
        ({"horizon": "tomorrow"}, "cannot read the duration"),
        ({"horizon": True}, "rows or a duration"),
        ({"horizon": [3]}, "rows or a duration"),
        ({"step": "2D"}, "different kinds"),
        ({"step": -1}, "step must be positive"),
        ({"windows": 0}, "windows must be"),
        ({"draws": 1}, "draws must be"),
        ({"refit": -1}, "refit must be"),
        ({"model": []}, "no model"),
        ({"model": 3}, "registered name or a fitted one"),
        ({"model": ["random-walk", "random-walk"]}, "two models are called"),
        ({"model": ["random-walk", "gp"], "options": {"latent": 1}}, "several models"),
        ({"model": "random-walk", "baselines": ["random-walk"]}, "a model and a baseline"),
        ({"baselines": ["seasonal_naive_drift"]}, "needs a season"),
        ({"windows": 2, "conformal": True}, "cannot be recalibrated"),
    ],
)
def test_arguments_that_cannot_be(change: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        si.backtest(**{"model": "random-walk", "data": long_frame(), "horizon": 3, "windows": 3, **change})
    assert caught.value.fix or caught.value.variable


def test_unknown_names() -> None:
    with pytest.raises(NameNotFoundError, match="did you mean latent-sde"):
        si.backtest("latent-sd", grid(), horizon=3)
    with pytest.raises(NameNotFoundError, match="no baseline is called"):
        si.backtest("random-walk", grid(), horizon=3, baselines=["clairvoyance"])


def test_nothing_observed_after_the_origins() -> None:
    data = grid().where(lambda d: d["time"] < 32)
    with pytest.raises(DataError, match="nothing was observed"):
        si.backtest("random-walk", data, horizon=4, windows=2)


def test_an_error_says_whose_and_where() -> None:
    with pytest.raises(ConfigError) as caught:
        si.backtest({"mine": "random-walk"}, grid(), horizon=4, options={"colour": "red"})
    assert caught.value.details == {"model": "mine", "window": 0}
    assert "in the backtest of 'mine', window 0 of 5" in caught.value.__notes__
