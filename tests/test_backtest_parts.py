"""Significance, recalibration and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import ttest_1samp
from typer.testing import CliRunner

import sciinfer as si
from sciinfer.backtesting.compare import diebold_mariano
from sciinfer.backtesting.conformal import first_window, recalibrated
from sciinfer.backtesting.forecasters import question
from sciinfer.backtesting.panel import read_panel
from sciinfer.backtesting.predicted import of_draws, of_normal
from sciinfer.backtesting.windows import rolling_windows
from sciinfer.cli import app
from sciinfer.errors import ConfigError, DataError, NumericalError
from sciinfer.labelled.io import read_tree

# -- significance ----------------------------------------------------------------------------------------------------


def test_without_overlap_it_is_the_t_test() -> None:
    """One step ahead, the corrected statistic of Diebold and Mariano is Student's."""
    difference = np.random.default_rng(0).normal(0.3, 1.0, size=12)
    found = diebold_mariano(difference)
    expected = ttest_1samp(difference, 0.0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.mean / found.se == pytest.approx(expected.statistic, rel=1e-10)


def test_overlapping_windows_widen_the_error() -> None:
    """A moving sum of three: the plain error is too small, that with its two lags is near the truth."""
    rng = np.random.default_rng(1)
    rejected = {0: 0, 2: 0}
    for _ in range(400):
        noise = rng.normal(size=62)
        series = noise[2:] + noise[1:-1] + noise[:-2]
        for lag in rejected:
            rejected[lag] += diebold_mariano(series, lag).p < 0.05
    assert rejected[0] / 400 > 0.2 and rejected[2] / 400 < 0.13


def test_false_claims_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(2)
    share = np.mean([diebold_mariano(rng.normal(size=5)).verdict != "ties" for _ in range(2000)])
    assert share == pytest.approx(0.05, abs=0.012)


def test_no_claim_without_variance() -> None:
    for difference in ([0.5], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1]):
        found = diebold_mariano(np.array(difference))
        assert found.verdict == "none" and np.isnan(found.p)
    assert np.isnan(diebold_mariano(np.array([0.1, 0.4]), lag=5).p)
    with pytest.raises(DataError, match="finite"):
        diebold_mariano(np.array([0.1, np.nan]))


# -- recalibration ---------------------------------------------------------------------------------------------------


def _asked(n_series: int = 8, windows: int = 6, step: int = 5, horizon: int = 5):
    values = np.random.default_rng(0).normal(size=(n_series, 60))
    ds = xr.Dataset({"y": (("series", "time"), values)}, coords={"time": np.arange(60.0)})
    panel = read_panel(ds, time=None, series=None, variables=None)
    parts = rolling_windows(panel, horizon=horizon, windows=windows, step=step, context=None)
    return panel, [question(panel, part, number) for number, part in enumerate(parts)]


@pytest.mark.parametrize("sd", [0.2, 5.0])
def test_it_repairs_widths(sd: float) -> None:
    """Forecasts of white noise that are five times too narrow or too wide."""
    panel, asked = _asked(n_series=60)
    found = [of_normal(0 * one.truth, 0 * one.truth + sd, one.truth) for one in asked]
    first = first_window(panel, asked)
    better = recalibrated(panel, asked, found, first=first, draws=400)
    assert first == 2 and better[0] is found[0] and better[1] is found[1]
    late = np.concatenate([one.covered for one in better[2:]]).mean(axis=(0, 1))
    np.testing.assert_allclose(late, [0.5, 0.8, 0.9, 0.95], atol=0.06)
    before = np.concatenate([one.covered for one in found[2:]]).mean(axis=(0, 1))
    assert abs(before[2] - 0.9) > 0.09
    crps = [np.mean([one.crps.mean() for one in each[2:]]) for each in (found, better)]
    assert crps[1] < crps[0] and crps[1] == pytest.approx(1 / np.sqrt(np.pi), rel=0.1)
    np.testing.assert_allclose(better[3].quantile[..., 10], found[3].quantile[..., 10], atol=1e-9)


def test_it_knows_only_what_lies_before_the_origin() -> None:
    """Windows that overlap: of an earlier one only the rows before the origin count."""
    panel, asked = _asked(step=2)
    assert first_window(panel, asked) == 2
    found = [of_normal(0 * one.truth, 0 * one.truth + 1.0, one.truth) for one in asked]
    better = recalibrated(panel, asked, found, first=2, draws=50)
    panel.rows.values[panel.starts[:-1] + asked[3].window.origin] = 1e6
    later = [question(panel, one.window, one.number) for one in asked]
    spiked = recalibrated(panel, later, found, first=2, draws=50)
    for k in (2, 3):
        np.testing.assert_array_equal(spiked[k].quantile, better[k].quantile)
    assert not np.array_equal(spiked[4].quantile, better[4].quantile)


def test_it_takes_two_known_windows() -> None:
    panel, asked = _asked(windows=2)
    with pytest.raises(ConfigError, match="windows=3"):
        first_window(panel, asked)


def test_windows_that_calibrate_are_scored_for_nobody() -> None:
    ds = xr.Dataset({"y": ("time", np.random.default_rng(0).normal(size=60))}, coords={"time": np.arange(60.0)})
    found = si.backtest("random-walk", ds, horizon=4, windows=5, conformal=True, draws=20)
    assert found.scores["n_by_window"].values.tolist() == [[0, 0, 4, 4, 4]]
    assert found.scores.attrs["windows"] == 3 and "2 more only calibrate" in found.summary()
    names = found.scores["model"].values.tolist()
    assert names[:2] == ["random-walk", "random-walk (conformal)"]
    assert not found.scores["is_baseline"].sel(model=names[1])


def test_a_forecast_that_is_not_finite() -> None:
    with pytest.raises(NumericalError, match="not finite"):
        of_draws(np.full((1, 1, 3), np.nan), np.zeros((1, 1)))


# -- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    time = pd.date_range("2021-01-01", periods=40, freq="D")
    parts = [pd.DataFrame({"unique_id": k, "ds": time, "y": rng.normal(size=40).cumsum()}) for k in "ab"]
    pd.concat(parts).to_csv(tmp_path / "sales.csv", index=False)
    return tmp_path / "sales.csv"


def test_command_prints_and_writes(sales: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "b.nc", tmp_path / "b.csv"
    text = run("backtest", sales, "random-walk", "--horizon", "5D", "--windows", 3, "--season", 7, "--out", out,
               "--table", table, "--draws", 20)  # fmt: skip
    assert "3 windows scored, horizon 5D" in text and "seasonal_naive_drift (baseline)" in text and "wrote" in text
    tree = read_tree(out)
    assert tree["forecasts"]["forecast"].sizes["quantile"] == 21 and "crps_quantile_9" in tree["scores"]
    frame = pd.read_csv(table)
    assert set(frame["unique_id"]) == {"a", "b"} and len(frame) == 5 * 3 * 2 * 5


def test_command_in_json(sales: Path) -> None:
    found = json.loads(run("backtest", sales, "random-walk", "--horizon", 5, "--windows", 1, "--json", "--draws", 20))
    assert found["windows"] == 1 and found["best_baseline"]
    assert {row["model"] for row in found["rows"]} >= {"random-walk", "persistence"}
    assert all(row["p_value"] is None for row in found["rows"])


def test_command_with_a_fitted_model(sales: Path, tmp_path: Path) -> None:
    data = pd.read_csv(sales, parse_dates=["ds"])
    si.fit(data[data["ds"] < "2021-01-31"], "random-walk", progress="silent", out=tmp_path / "run")
    text = run("backtest", sales, tmp_path / "run", "--horizon", 5, "--windows", 2, "--draws", 20)
    assert "run is" in text or "run beats" in text or "wins" in text
    refused = run("backtest", sales, tmp_path / "run", "--horizon", 5, "--windows", 3, "--draws", 20, code=2)
    assert "after the first origin" in refused


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--horizon", "soon"], "cannot read the duration"),
        (["--horizon", "5", "--windows", "20"], "'a', 'b' are too short"),
        (["--horizon", "5", "--table", "b.txt"], "use .csv or .parquet"),
        (["--horizon", "5", "--out", "b.txt"], "use .nc or .zarr"),
    ],
)
def test_command_explains_itself(sales: Path, extra: list[str], says: str) -> None:
    assert says in run("backtest", sales, "random-walk", *extra, code=2)
    assert "two models" in run("backtest", sales, "random-walk", "random-walk", "--horizon", 5, code=2)
