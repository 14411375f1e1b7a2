"""Scores: closed forms, unbiasedness, propriety, masks, labels."""

import numpy as np
import pytest
import xarray as xr

from sciinfer.diagnostics import (
    coverage,
    coverage_error,
    crps,
    crps_gaussian,
    energy_score,
    interval_score,
    mae,
    nlpd,
    nlpd_gaussian,
    rmse,
)
from sciinfer.diagnostics.cores import chi2_tail, normal_cdf
from sciinfer.errors import ConfigError, DataError, SchemaError, ShapeError
from sciinfer.extend import registry

METRICS = [rmse, mae, crps, energy_score, interval_score, coverage, coverage_error, nlpd]


def pair(n: int = 6, m: int = 9, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
    rng = np.random.default_rng(seed)
    time = np.arange(n, dtype=float)
    truth = xr.DataArray(rng.normal(size=n), dims="time", coords={"time": time}, attrs={"units": "K"}, name="y")
    return truth, xr.DataArray(rng.normal(size=(m, n)), dims=("draw", "time"), coords={"time": time}, name="y")


@pytest.mark.parametrize(("mean", "sd", "y"), [(0.0, 1.0, 0.3), (2.0, 0.1, 1.9), (-1.0, 3.0, 8.0)])
def test_gaussian_crps_is_the_integral_of_the_squared_cdf_error(mean, sd, y):
    below, weight_b = _gauss_legendre(mean - 12 * sd, y) if y > mean - 12 * sd else (np.array([]), np.array([]))
    above, weight_a = _gauss_legendre(y, max(y, mean) + 12 * sd)
    integral = (weight_b * normal_cdf((below - mean) / sd) ** 2).sum()
    integral += (weight_a * (1 - normal_cdf((above - mean) / sd)) ** 2).sum()
    assert abs(float(crps_gaussian(mean, sd, y)) - integral) < 1e-8


def _gauss_legendre(a, b):
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return 0.5 * (b - a) * nodes + 0.5 * (a + b), 0.5 * (b - a) * weights


def test_fair_crps_equals_the_double_sum():
    truth, sample = pair()
    x, y = sample.values, truth.values
    m = len(x)
    direct = np.abs(x - y).mean(0) - np.abs(x[:, None] - x[None]).sum((0, 1)) / (2 * m * (m - 1))
    np.testing.assert_allclose(crps(truth, sample, over=[]), direct, atol=1e-14)


@pytest.mark.parametrize("m", [2, 3, 10])
def test_fair_crps_is_unbiased_for_tiny_ensembles(m):
    rng = np.random.default_rng(m)
    truth = xr.DataArray(np.full(40_000, 0.7), dims="i")
    score = crps(truth, xr.DataArray(rng.normal(size=(40_000, m)), dims=("i", "draw")), over=[]).values
    exact = float(crps_gaussian(0.0, 1.0, 0.7))
    assert abs(score.mean() - exact) < 4 * score.std() / np.sqrt(len(score))


def test_energy_score_is_the_crps_in_one_dimension():
    truth, sample = pair()
    one = energy_score(truth.expand_dims("c"), sample.expand_dims("c"), across="c", over=[])
    np.testing.assert_allclose(one, crps(truth, sample, over=[]), atol=1e-14)


def test_energy_score_is_unbiased_and_ignores_missing_components():
    rng = np.random.default_rng(3)
    big = xr.DataArray(rng.normal(size=(3, 1500)), dims=("c", "draw"))
    truth = xr.DataArray([0.5, -1.0, np.nan], dims="c")
    reference = float(energy_score(truth, big))
    assert reference == pytest.approx(float(energy_score(truth[:2], big[:2])), abs=1e-12)
    small = xr.DataArray(rng.normal(size=(20_000, 3, 3)), dims=("i", "c", "draw"))
    score = energy_score(truth.expand_dims(i=20_000), small, across="c", over=[]).values
    spread_of_reference = 1.0 / np.sqrt(1500)
    assert abs(score.mean() - reference) < 4 * np.hypot(score.std() / np.sqrt(20_000), spread_of_reference)


@pytest.mark.parametrize("m", [2, 5, 19, 100])
@pytest.mark.parametrize("prob", [0.5, 0.9, 0.95])
def test_coverage_of_calibrated_draws_is_the_probability_for_any_number_of_draws(m, prob):
    rng = np.random.default_rng(m)
    n = 20_000
    truth = xr.DataArray(rng.gumbel(size=n), dims="i")
    got = coverage(truth, xr.DataArray(rng.gumbel(size=(n, m)), dims=("i", "draw")), prob=prob)
    assert abs(float(got) - prob) < 4 * np.sqrt(prob * (1 - prob) / n)


def test_coverage_of_discrete_data_is_calibrated_too():
    rng = np.random.default_rng(0)
    truth = xr.DataArray(rng.poisson(0.5, 20_000), dims="i")
    got = coverage(truth, xr.DataArray(rng.poisson(0.5, (20_000, 20)), dims=("i", "draw")), prob=0.5)
    assert abs(float(got) - 0.5) < 4 * np.sqrt(0.25 / 20_000)


def test_coverage_sees_wrong_spread():
    rng = np.random.default_rng(0)
    truth = xr.DataArray(rng.normal(size=4000), dims="i")
    draws = xr.DataArray(rng.normal(size=(4000, 50)), dims=("i", "draw"))
    assert float(coverage(truth, 0.5 * draws)) < 0.7 < 0.97 < float(coverage(truth, 2 * draws))
    assert float(coverage_error(truth, draws)) < 0.02 < float(coverage_error(truth, 0.5 * draws))


@pytest.mark.parametrize("metric", [crps, interval_score, nlpd])
@pytest.mark.parametrize("offset", ["shift", "scale"])
def test_proper_scores_are_least_at_the_truth(metric, offset):
    rng = np.random.default_rng(7)
    truth = xr.DataArray(1.0 + 2.0 * rng.normal(size=4000), dims="i")
    noise = xr.DataArray(rng.normal(size=(4000, 100)), dims=("i", "draw"))
    grid = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    made = [(1 + g) + 2 * noise if offset == "shift" else 1 + 2 * np.exp(g) * noise for g in grid]
    scores = [float(metric(truth, sample)) for sample in made]
    assert grid[int(np.argmin(scores))] == 0.0


def test_energy_score_punishes_a_wrong_correlation():
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(np.array([[1.0, 0.9], [0.9, 1.0]]))
    truth = xr.DataArray(rng.normal(size=(3000, 2)) @ root.T, dims=("i", "c"))
    white = rng.normal(size=(3000, 30, 2))
    right = xr.DataArray(white @ root.T, dims=("i", "draw", "c"))
    wrong = xr.DataArray(white, dims=("i", "draw", "c"))
    assert float(energy_score(truth, right, across="c")) < float(energy_score(truth, wrong, across="c")) - 0.01


def test_hand_computed_values():
    truth, sample = xr.DataArray(3.0), xr.DataArray([0.0, 1.0, 5.0], dims="draw")
    assert float(rmse(truth, sample)) == 1.0
    assert float(mae(truth, sample)) == 2.0
    assert float(crps(truth, sample)) == pytest.approx(7 / 3 - (1 + 4 + 5) / 6)
    assert float(nlpd(truth, sample)) == pytest.approx(float(nlpd_gaussian(2.0, np.sqrt(7.0), 3.0)))
    assert float(interval_score(xr.DataArray(7.0), sample, prob=0.5)) == pytest.approx(5 + 4 * 2)


def test_quantile_convention_is_the_order_statistic_at_p_times_m_plus_one():
    sample = xr.DataArray(np.arange(1.0, 20.0), dims="draw")
    assert float(interval_score(xr.DataArray(10.0), sample, prob=0.9)) == pytest.approx(18.0)


@pytest.mark.parametrize("metric", METRICS)
def test_missing_truth_equals_deleted_truth(metric):
    truth, sample = pair()
    holed = truth.copy()
    holed[[1, 4]] = np.nan
    dirty = sample.copy()
    dirty[:, 1] = np.nan
    kept = [0, 2, 3, 5]
    assert float(metric(holed, dirty)) == pytest.approx(float(metric(truth[kept], sample[:, kept])), abs=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_arguments_are_left_alone_and_chains_stack(metric):
    truth, sample = pair(m=8)
    before = truth.copy(deep=True), sample.copy(deep=True)
    flat = metric(truth, sample)
    xr.testing.assert_identical(before[0], truth)
    xr.testing.assert_identical(before[1], sample)
    chains = xr.DataArray(sample.values.reshape(2, 4, -1), dims=("chain", "draw", "time"), coords={"time": truth.time})
    assert float(metric(truth, chains, dim=("chain", "draw"))) == pytest.approx(float(flat), abs=1e-14)
    with pytest.raises(SchemaError, match="chain"):
        metric(truth, chains)


@pytest.mark.parametrize("metric", METRICS)
def test_labels_must_agree(metric):
    truth, sample = pair()
    with pytest.raises(ShapeError, match="labels"):
        metric(truth.assign_coords(time=truth.time + 0.5), sample)
    with pytest.raises(SchemaError, match="draw"):
        metric(truth, sample.rename(draw="sample"))


@pytest.mark.parametrize("metric", METRICS)
def test_one_forecast_serves_every_entry_of_a_further_dim(metric):
    truth, sample = pair()
    two = xr.concat([truth, truth + 1.0], dim="series")
    kept = {"across": "time", "over": []} if metric is energy_score else {"over": "time"}
    both = metric(two, sample, **kept)
    assert both.dims == ("series",)
    np.testing.assert_allclose(both[1], metric(truth + 1.0, sample, **kept), atol=1e-14)


def test_units_travel_and_over_selects_dims():
    truth, sample = pair()
    assert crps(truth, sample).attrs["units"] == "K"
    assert crps(truth, sample, over=[]).dims == ("time",)
    assert crps(truth, sample).ndim == 0
    with pytest.raises(SchemaError, match="place"):
        crps(truth, sample, over="place")


@pytest.mark.parametrize("metric", [crps, energy_score, interval_score, coverage, nlpd])
def test_one_draw_is_refused(metric):
    truth, sample = pair(m=1)
    with pytest.raises(DataError, match="at least 2") as caught:
        metric(truth, sample)
    assert caught.value.code == "data/too-few-draws"
    assert "crps_gaussian" in str(caught.value.fix)


def test_values_that_are_not_finite_are_named():
    truth, sample = pair()
    sample[3, 2] = np.inf
    with pytest.raises(DataError) as caught:
        crps(truth, sample)
    assert (caught.value.variable, caught.value.index) == ("y", (2,))
    truth[0] = np.inf
    with pytest.raises(DataError, match="infinite"):
        crps(truth, sample)


def test_options_out_of_range_are_refused():
    truth, sample = pair()
    with pytest.raises(ConfigError, match="between 0 and 1"):
        coverage(truth, sample, prob=1.0)
    with pytest.raises(DataError, match="positive"):
        crps_gaussian(0.0, 0.0, 1.0)
    with pytest.raises(DataError, match="equal"):
        nlpd(truth, xr.zeros_like(sample))


def test_nothing_observed_gives_nan_without_a_warning():
    truth, sample = pair()
    assert np.isnan(float(crps(truth * np.nan, sample)))


def test_metrics_are_registered_and_load():
    names = {"rmse", "mae", "crps", "energy_score", "interval_score", "coverage", "coverage_error", "nlpd"}
    assert names <= set(registry().names("metrics"))
    truth, sample = pair()
    for name in names:
        assert isinstance(registry().get("metrics", name)(truth, sample, dim="draw"), xr.DataArray)
    assert registry().entry("metrics", "crps").proper


def test_chi2_tail_known_values():
    assert chi2_tail(3.841458820694124, 1) == pytest.approx(0.05, abs=1e-12)
    assert chi2_tail(16.918977604620448, 9) == pytest.approx(0.05, abs=1e-12)
