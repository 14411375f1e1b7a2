"""Scores of a model beside its baselines: values, averages, noise, verdict, text."""

import numpy as np
import pytest
import torch

from sciinfer.diagnostics import (
    Forecast,
    Samples,
    best_baseline,
    crps_gaussian,
    evaluate,
    model_wins,
    noise_floor,
    summary_lines,
)
from sciinfer.diagnostics.blocks import score_blocks
from sciinfer.errors import ConfigError, DataError, NameNotFoundError, ShapeError
from sciinfer.random import generator, numpy_generator

S, T, C = 12, 10, 2


def made(seed: int = 0, n_series: int = S) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(seed, "truth")
    truth = torch.randn(n_series, T, C, generator=g, dtype=torch.float64)
    mask = torch.rand(n_series, T, C, generator=g) < 0.7
    mask[..., 1] &= torch.rand(n_series, T, generator=g) < 0.3
    return truth, mask


def normal(truth: torch.Tensor, shift: float = 0.0, sd: float = 1.0) -> Forecast:
    return Forecast(torch.full_like(truth, shift), torch.full_like(truth, sd))


def scored(forecasts, truth, mask, **options):
    options = {"channel_names": ["a", "b"], "scale": [2.0, 10.0], "shift": [1.0, 5.0], **options}
    return evaluate(truth, mask, forecasts, **options)


def test_values_by_hand_in_both_units():
    truth, mask = made()
    ds = scored({"model": normal(truth, 0.5, 2.0)}, truth, mask)
    y = truth[..., 1][mask[..., 1]].numpy()
    row = ds.sel(forecaster="model", channel="b")
    assert float(row["rmse_normalised"]) == pytest.approx(np.sqrt(((y - 0.5) ** 2).mean()))
    assert float(row["rmse"]) == pytest.approx(10 * float(row["rmse_normalised"]))
    assert float(row["mae"]) == pytest.approx(10 * np.abs(y - 0.5).mean())
    assert float(row["crps_normalised"]) == pytest.approx(crps_gaussian(0.5, 2.0, y).mean())
    assert float(row["crps"]) == pytest.approx(10 * float(row["crps_normalised"]))
    assert float(row["coverage_90"]) == pytest.approx((np.abs(y - 0.5) < 2 * 1.6448536).mean())
    assert int(row["n"]) == len(y)
    assert float(row["truth_mean"]) == pytest.approx(5 + 10 * y.mean())


def test_overall_rows_pool_entries_or_average_channels():
    truth, mask = made()
    ds = scored({"model": normal(truth, 0.5)}, truth, mask).sel(forecaster="model")
    squares = [((truth[..., c][mask[..., c]] - 0.5) ** 2) for c in range(C)]
    assert float(ds["rmse_normalised"].sel(channel="all")) == pytest.approx(float(torch.cat(squares).mean().sqrt()))
    mean_first = float(torch.stack([s.mean() for s in squares]).mean().sqrt())
    assert float(ds["rmse_normalised"].sel(channel="variable_mean")) == pytest.approx(mean_first)
    assert np.isnan(float(ds["rmse"].sel(channel="all")))  # two scales: nothing to add up in caller's units
    assert ds["overall"].values.tolist() == [False, False, True, True]
    assert ds["n"].values.tolist() == [len(squares[0]), len(squares[1]), *[sum(map(len, squares))] * 2]


def test_overall_rows_in_callers_units_where_all_units_agree():
    truth, mask = made()
    ds = scored({"model": normal(truth)}, truth, mask, units=["K", "K"]).sel(forecaster="model")
    errors = torch.cat([2 * truth[..., 0][mask[..., 0]], 10 * truth[..., 1][mask[..., 1]]])
    assert float(ds["rmse"].sel(channel="all")) == pytest.approx(float((errors**2).mean().sqrt()))
    assert ds["units"].values.tolist() == ["K"] * 4
    mixed = scored({"model": normal(truth)}, truth, mask, units=["K", "m"])
    assert np.isnan(mixed["rmse"].sel(channel="all").item())


def test_a_channel_without_truth_is_nan_and_left_out_of_the_mean():
    truth, mask = made()
    mask[..., 1] = False
    ds = scored({"model": normal(truth)}, truth, mask).sel(forecaster="model")
    assert np.isnan(float(ds["crps"].sel(channel="b"))) and int(ds["n"].sel(channel="b")) == 0
    assert float(ds["crps_normalised"].sel(channel="variable_mean")) == pytest.approx(
        float(ds["crps_normalised"].sel(channel="a"))
    )


def test_samples_agree_with_the_normal_they_come_from():
    truth, mask = made(n_series=60)
    draws = torch.randn(400, *truth.shape, generator=generator(1, "draws"), dtype=torch.float64)
    ds = scored({"exact": normal(truth), "draws": Samples(draws, torch.zeros_like(truth))}, truth, mask)
    exact, sampled = ds.sel(forecaster="exact", channel="all"), ds.sel(forecaster="draws", channel="all")
    assert float(sampled["rmse_normalised"]) == pytest.approx(float(exact["rmse_normalised"]), abs=1e-12)
    assert float(sampled["crps_normalised"]) == pytest.approx(float(exact["crps_normalised"]), rel=0.01)
    for name in ("coverage_50", "coverage_90"):
        assert float(sampled[name]) == pytest.approx(float(exact[name]), abs=0.02)
        assert abs(float(exact[name]) - float(name[-2:]) / 100) < 4 * float(exact[f"{name}_se"])


def test_what_lies_under_the_mask_is_never_read():
    truth, mask = made()
    dirty = torch.where(mask, truth, torch.tensor(float("nan")).double())
    forecast = normal(truth)
    holed = Forecast(*(torch.where(mask, part, torch.tensor(float("nan")).double()) for part in forecast))
    assert scored({"model": forecast}, truth, mask).equals(scored({"model": holed}, dirty, mask))


def test_noise_floor_is_the_standard_error_over_series():
    truth, _ = made(n_series=400)
    mask = torch.ones_like(truth, dtype=torch.bool)
    blocks = {"model": score_blocks(truth, mask, normal(truth), (0.9,))}
    found = noise_floor(blocks, generator=numpy_generator(0, "boot"), resamples=2000)["model"]
    per_series = crps_gaussian(0.0, 1.0, truth[..., 0].numpy()).mean(1)
    assert found["crps"][0] == pytest.approx(per_series.std(ddof=1) / np.sqrt(400), rel=0.08)
    assert found["coverage_90"][0] == pytest.approx(np.sqrt(0.09 / (400 * T)), rel=0.2)


@pytest.mark.parametrize("n_series", [1, 3])
def test_few_series_are_cut_in_time(n_series):
    truth, mask = made(n_series=n_series)
    blocks = score_blocks(truth, mask, normal(truth), (0.9,))
    assert len(blocks.entries) == (10 if n_series == 1 else 21)
    assert blocks.entries.sum() == int(mask.sum())
    ds = scored({"model": normal(truth)}, truth, mask)
    assert ds["crps_normalised_se"].sel(channel="all").item() > 0


def test_one_entry_has_no_noise_estimate():
    truth = torch.zeros(1, 1, 2, dtype=torch.float64)
    ds = scored({"model": normal(truth), "constant": normal(truth, 1.0)}, truth, torch.ones_like(truth).bool())
    assert bool(np.isnan(ds["crps_se"]).all())
    assert model_wins(ds) == "ties"


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "wins"), (-0.5, "ties"), (2.0, "loses")])
def test_verdict_compares_with_the_best_baseline(shift, verdict):
    truth, mask = made(n_series=50)
    forecasts = {"persistence": normal(truth, 3.0), "model": normal(truth, shift), "constant": normal(truth, 0.5)}
    ds = scored(forecasts, truth, mask)
    assert best_baseline(ds) == ds.attrs["best_baseline"] == "constant"
    assert model_wins(ds) == model_wins(ds, "model") == ds.attrs["model_wins"] == verdict
    assert float(ds["crps_difference"].sel(forecaster="constant")) == 0.0
    with pytest.raises(NameNotFoundError, match="persistence"):
        model_wins(ds, "other")


def test_differences_are_paired():
    truth, mask = made(n_series=50)
    hard = truth * torch.linspace(0.1, 10, 50, dtype=torch.float64)[:, None, None]
    ds = scored({"model": normal(hard, 0.0, 3.0), "constant": normal(hard, 0.05, 3.0)}, hard, mask)
    unpaired = np.hypot(*ds["crps_normalised_se"].sel(channel="all").values)
    assert float(ds["crps_difference_se"].sel(forecaster="model")) < 0.1 * unpaired


def test_same_generator_same_numbers_and_inputs_untouched():
    truth, mask = made()
    copy = truth.clone()
    first, second = (scored({"model": normal(truth)}, truth, mask, generator=numpy_generator(3, "e")) for _ in range(2))
    assert first.identical(second)
    assert bool((copy == truth).all())


def test_the_result_can_be_written_to_netcdf(tmp_path):
    truth, mask = made()
    ds = scored({"model": normal(truth)}, truth, mask, units=["K", None])
    ds.to_netcdf(tmp_path / "scores.nc", engine="h5netcdf")
    assert ds.attrs["best_baseline"] == "" and ds.attrs["model_wins"] == "none"


def test_summary_is_aligned_and_plain_about_losing():
    truth, mask = made(n_series=50)
    ds = scored({"model": normal(truth, 2.0), "constant": normal(truth)}, truth, mask, units=["K", ""])
    lines = summary_lines(ds)
    assert lines[0].startswith("a [K] (n = ") and "CRPS" in lines[0]
    assert len({len(line) for line in lines[:3]}) == 1
    assert "constant *" in "\n".join(lines)
    assert "model LOSES to the best baseline (constant)" in lines[-1]


def test_summary_of_many_channels_says_how_many_are_hidden():
    truth = torch.randn(9, 4, 30, generator=generator(0, "x")).double()
    names = [f"c{i}" for i in range(30)]
    ds = evaluate(truth, torch.ones_like(truth).bool(), {"m": normal(truth)}, channel_names=names, scale=np.ones(30))
    lines = summary_lines(ds)
    assert "(24 more channels are not shown)" in lines and lines[-1] == "no baseline was scored"


def test_a_channel_called_all_keeps_its_name():
    truth, mask = made()
    ds = scored({"m": normal(truth)}, truth, mask, channel_names=["all", "b"])
    assert ds["channel"].values.tolist() == ["all", "b", "(all)", "variable_mean"]


def test_bad_input_is_named():
    truth, mask = made()
    with pytest.raises(ConfigError, match="nothing to score"):
        scored({}, truth, mask)
    with pytest.raises(DataError, match="nothing was observed"):
        scored({"m": normal(truth)}, truth, torch.zeros_like(mask))
    with pytest.raises(ShapeError, match="channel names"):
        scored({"m": normal(truth)}, truth, mask, channel_names=["a"])
    with pytest.raises(ShapeError) as caught:
        scored({"m": Samples(torch.zeros(5, S, T))}, truth, mask)
    assert caught.value.variable == "m"
    with pytest.raises(DataError, match="positive"):
        scored({"m": normal(truth, sd=0.0)}, truth, mask)
    with pytest.raises(DataError, match="not finite"):
        scored({"m": normal(truth, shift=float("nan"))}, truth, mask)
    with pytest.raises(DataError, match="at least 2"):
        scored({"m": Samples(truth[None])}, truth, mask)
