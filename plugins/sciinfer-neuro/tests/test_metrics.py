import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from sciinfer_neuro.metrics import (
    bits_per_spike,
    co_bps,
    fp_bps,
    psth_r2,
    r2,
    train_null,
    unit_means,
    velocity_r2,
)
from sciinfer_neuro.rescaling import rescale_times, rescaled, time_rescaling
from sciinfer_neuro.ridge import VELOCITY_RIDGES, fit_ridge

from sciinfer.errors import ConfigError, DataError, SchemaError, ShapeError

DIMS = ("trial", "time", "unit")
ROOT = Path(os.environ.get("SCIINFER_DATA", "")) / "gpvae"
FIXTURE = -0.41577241026729356


def fixture() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.poisson(0.3, (4, 50, 6)).astype(float), rng.gamma(2, 0.15, (4, 50, 6))


def labelled(array: np.ndarray) -> xr.DataArray:
    return xr.DataArray(
        array, dims=DIMS, coords={"unit": np.arange(array.shape[-1]), "time": np.arange(array.shape[1])}
    )


def test_reference_bits_per_spike() -> None:
    counts, rates = fixture()
    assert bits_per_spike(counts, rates) == pytest.approx(FIXTURE, abs=1e-13)
    assert float(co_bps(labelled(counts), labelled(rates))) == pytest.approx(FIXTURE, abs=1e-13)
    path = ROOT / "references_dev.json"
    if "SCIINFER_DATA" in os.environ and path.exists():
        assert json.loads(path.read_text())["bps"]["bps"] == FIXTURE


def test_missing_counts_are_deleted() -> None:
    counts, rates = fixture()
    gappy = counts.copy()
    gappy[2:] = np.nan
    assert bits_per_spike(gappy, rates) == pytest.approx(bits_per_spike(counts[:2], rates[:2]), abs=1e-13)
    blank = np.where(np.isnan(gappy), np.nan, rates)
    assert bits_per_spike(gappy, blank) == bits_per_spike(gappy, rates)
    with pytest.raises(DataError) as caught:
        bits_per_spike(counts, blank)
    assert caught.value.index == (2, 0, 0)


def test_zero_rates_cost_much_but_not_everything() -> None:
    counts = np.array([[1.0], [1.0]])
    zero = bits_per_spike(counts, np.zeros((2, 1)))
    assert zero == pytest.approx((np.log(1e-9) - 1e-9 + 1) / np.log(2))


def test_both_nulls() -> None:
    counts, rates = fixture()
    train, test = labelled(counts[:2]), labelled(counts[2:])
    flat = train_null(train)
    np.testing.assert_allclose(flat, unit_means(counts[:2]))
    as_rates = flat + xr.zeros_like(test)
    assert float(co_bps(test, as_rates, null=flat)) == pytest.approx(0.0, abs=1e-12)
    assert float(co_bps(test, as_rates)) < 0  # the benchmark's null has seen the test counts
    honest, cheating = (float(co_bps(test, labelled(rates[2:]), null=n)) for n in (flat, None))
    assert honest > cheating
    assert honest == pytest.approx(bits_per_spike(counts[2:], rates[2:], null=flat.values))
    assert co_bps(test, as_rates, null=flat).attrs["null"] == "given"
    assert co_bps(test, as_rates).attrs["null"] == "evaluation"


def test_by_unit_and_draws() -> None:
    counts, rates = fixture()
    by_unit = co_bps(labelled(counts), labelled(rates), over=("trial", "time"))
    for j in range(6):
        assert float(by_unit[j]) == pytest.approx(bits_per_spike(counts[..., [j]], rates[..., [j]]))
    draws = xr.concat([labelled(0.5 * rates), labelled(1.5 * rates)], dim="draw")
    assert float(co_bps(labelled(counts), draws)) == pytest.approx(FIXTURE)
    silent = counts.copy()
    silent[..., 1] = 0
    assert np.isnan(co_bps(labelled(silent), labelled(rates), over=("trial", "time"))[1])


def test_forward_prediction_scores_later_bins_only() -> None:
    counts, rates = fixture()
    got = fp_bps(labelled(counts), labelled(rates), after=39)
    assert float(got) == pytest.approx(bits_per_spike(counts[:, 40:], rates[:, 40:]))


def test_labels_and_shapes_are_checked() -> None:
    counts, rates = map(labelled, fixture())
    with pytest.raises(ShapeError):
        co_bps(counts, rates.assign_coords(unit=np.arange(1, 7)))
    with pytest.raises(SchemaError):
        co_bps(counts, rates.expand_dims(fold=2))
    with pytest.raises(ShapeError):
        bits_per_spike(counts.values, rates.values[:, 1:])
    with pytest.raises(DataError):
        bits_per_spike(-counts.values, rates.values)
    with pytest.raises(DataError, match="inf"):
        bits_per_spike(np.array([[np.inf]]), np.array([[1.0]]))
    with pytest.raises(DataError, match="vary"):
        velocity_r2(np.eye(10), np.eye(10), np.eye(10), np.ones((10, 10)))


def test_velocity_decoder_agrees_with_the_benchmarks_recipe() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(83, 5)), rng.normal(size=(5, 2))
    v = x @ w + rng.normal(size=(83, 2))
    z, u = x[::-1] * 1.1, v[::-1]
    search = GridSearchCV(Ridge(), {"alpha": np.logspace(-4, 0, 9)}).fit(x, v)
    assert velocity_r2(x, v, z, u) == pytest.approx(search.score(z, u), abs=1e-9)
    ours = fit_ridge(x, v, ridges=VELOCITY_RIDGES, folds=5, shuffle=False, standardise=False)
    np.testing.assert_allclose(ours.validation_r2, search.cv_results_["mean_test_score"], atol=1e-9)
    assert ours.ridge == pytest.approx(search.best_params_["alpha"])


def test_ridge_refusals() -> None:
    x = np.ones((10, 2))
    with pytest.raises(DataError) as caught:
        fit_ridge(x, np.r_[np.nan, np.zeros(9)])
    assert caught.value.index == (0, 0)
    with pytest.raises(ConfigError):
        fit_ridge(x, np.zeros(10), folds=11)


def test_r2_is_the_usual_one() -> None:
    rng = np.random.default_rng(2)
    y, m = (labelled(rng.normal(size=(3, 20, 2))) for _ in range(2))
    by_unit = r2(y, m, over=("trial", "time"))
    want = [1 - ((y - m)[..., j] ** 2).sum() / ((y[..., j] - y[..., j].mean()) ** 2).sum() for j in range(2)]
    np.testing.assert_allclose(by_unit, want)


def test_psth_r2_by_condition_and_shift() -> None:
    rng = np.random.default_rng(3)
    time = np.arange(60)
    bump = np.exp(-0.5 * ((time - 30) / 4.0) ** 2)[:, None] * [2.0, 1.0]
    condition = np.arange(400) % 2
    rates = np.stack([0.2 + bump * (1 + c) for c in condition])
    counts = rng.poisson(rates).astype(float)
    good = psth_r2(labelled(counts), labelled(rates), condition)
    assert good.dims == ("unit",) and float(good.min()) > 0.9
    assert float(psth_r2(labelled(counts), labelled(rates * 0 + rates.mean()), condition).max()) <= 1e-3
    shift = rng.integers(-8, 9, 400)
    late = np.stack([np.roll(c, s, axis=0) for c, s in zip(counts, shift, strict=True)])
    known = np.stack([np.roll(c, s, axis=0) for c, s in zip(rates, shift, strict=True)])
    assert float(psth_r2(labelled(late), labelled(known), condition, shift=shift).min()) > 0.9
    assert float(psth_r2(labelled(counts), labelled(rates), condition, width=1.0).min()) > float(good.min())


def test_time_rescaling_accepts_the_truth_and_refuses_others() -> None:
    rng = np.random.default_rng(4)
    rates = np.exp(np.sin(np.arange(200) / 15.0))[None, :, None] * np.array([0.3, 0.1, 0.6, 0.05]) * np.ones((20, 1, 1))
    counts = rng.poisson(rates).astype(float)
    true = time_rescaling(labelled(counts), labelled(rates))
    assert true.p_value.dims == ("unit",) and float(true.p_value.min()) > 0.01
    assert true.spikes.values.tolist() == counts.sum((0, 1)).tolist()
    flat = time_rescaling(labelled(counts), labelled(rates * 0 + rates.mean((0, 1))))
    assert float(flat.p_value[[0, 2]].max()) < 1e-6 and not flat.inside[[0, 2]].any()
    by_trial = time_rescaling(labelled(counts), labelled(rates), by="trial")
    assert by_trial.sizes == {"trial": 20} and float((by_trial.p_value < 0.05).mean()) <= 0.2


def test_p_values_are_uniform_under_the_truth() -> None:
    rng = np.random.default_rng(5)
    rates = np.full((1, 100, 200), 0.4)
    counts = rng.poisson(rates).astype(float)
    for kind, y in (("poisson", counts), ("bernoulli", (counts > 0).astype(float))):
        p = time_rescaling(labelled(y), labelled(rates), kind=kind).p_value.values
        assert abs((p < 0.1).mean() - 0.1) < 0.05, kind


def test_rescaled_bins_with_gaps_and_refusals() -> None:
    counts, rates = np.array([1.0, np.nan, 2.0, 0.0]), np.array([0.5, np.nan, 1.0, 1.0])
    u = rescaled(counts, rates, rng=np.random.default_rng(0))
    assert len(u) == 3 and -np.log1p(-u).sum() <= 1.5
    with pytest.raises(DataError, match="two spikes"):
        rescaled(counts, rates, rng=np.random.default_rng(0), kind="bernoulli")
    with pytest.raises(DataError, match="rate"):
        rescaled(np.ones(2), np.array([1.0, np.nan]), rng=np.random.default_rng(0))
    none = time_rescaling(labelled(np.zeros((1, 5, 1))), labelled(np.ones((1, 5, 1))))
    assert np.isnan(none.statistic).all() and not none.inside.any()
    with pytest.raises(ShapeError):
        time_rescaling(labelled(np.zeros((1, 5, 1))), labelled(np.ones((1, 4, 1))))


def test_continuous_time_is_exact_for_linear_rates() -> None:
    times = np.array([0.0, 1.0, 3.0])
    rates = np.array([0.0, 2.0, 2.0])
    u = rescale_times(np.array([0.5, 1.0, 2.0]), times, rates)
    np.testing.assert_allclose(-np.log1p(-u), [0.25, 0.75, 2.0], rtol=1e-12)
    with pytest.raises(DataError):
        rescale_times(np.array([2.0, 1.0]), times, rates)
    with pytest.raises(DataError):
        rescale_times(np.array([3.5]), times, rates)
