"""The forecasting benchmarks' protocol: scores over splits, who wins, and data without leaks."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import xarray as xr

from sciinfer.diagnostics import Forecast, evaluate, split_scores
from sciinfer.errors import ConfigError, ShapeError

pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
protocol, mujoco, pendulum, physionet, ou = (
    importlib.import_module(f"benchmarks.{name}")
    for name in ("protocol", "dynamics_mujoco", "dynamics_pendulum_images", "dynamics_physionet", "dynamics_ou")
)
F64 = torch.float64


def table(errors: dict[str, tuple[float, float]], scale: float = 1.0) -> xr.Dataset:
    """One split of two channels, the second with half the entries; every entry is off by the same amount."""
    truth = torch.zeros(1, 4, 2, dtype=F64)
    mask = torch.ones(1, 4, 2, dtype=torch.bool)
    mask[:, 2:, 1] = False
    forecasts = {
        name: Forecast(torch.tensor(error, dtype=F64).expand(1, 4, 2), torch.ones(1, 4, 2, dtype=F64))
        for name, error in errors.items()
    }
    return evaluate(truth, mask, forecasts, channel_names=["a", "b"], scale=[scale, scale], resamples=2)


def test_both_averages_in_any_unit():
    ds = split_scores([table({"model": (1.0, 4.0), "constant": (2.0, 2.0)}, scale=3.0)] * 2)
    mean = ds["mean"].sel(forecaster="model")
    assert float(mean.sel(metric="mse")) == pytest.approx((4 * 1 + 2 * 16) / 6)
    assert float(mean.sel(metric="mse_variable_mean")) == pytest.approx(8.5)
    ruled = split_scores([table({"model": (1.0, 4.0), "constant": (2.0, 2.0)}, scale=3.0)] * 2, unit=[3.0, 6.0])
    assert float(ruled["mean"].sel(forecaster="model", metric="mse_variable_mean")) == pytest.approx((1 + 4) / 2)
    by_split = np.array([[3.0, 3.0], [6.0, 6.0]])
    found = split_scores([table({"model": (1.0, 1.0)}, scale=3.0)] * 2, unit=by_split)["score"]
    assert found.sel(metric="mse", forecaster="model").values.tolist() == pytest.approx([1.0, 0.25])


def test_a_win_needs_two_deviations_of_the_difference_and_a_clear_one_two_of_the_scores():
    def verdict(model: list[float], baseline: list[float]) -> tuple[str, bool]:
        tables = [table({"model": (m, m), "constant": (b, b)}) for m, b in zip(model, baseline, strict=True)]
        row = split_scores(tables).sel(forecaster="model", metric="mse")
        return str(row["verdict"].item()), bool(row["clearly"].item())

    assert verdict([1.0, 1.01, 0.99], [2.0, 2.01, 1.99]) == ("wins", True)
    assert verdict([1.0, 2.0, 3.0], [1.05, 2.02, 3.02]) == ("wins", False), "splits differ more than the two do"
    assert verdict([1.0, 1.0, 2.0], [1.5, 1.5, 1.5]) == ("ties", False)
    assert verdict([2.0, 2.01, 1.99], [1.0, 1.01, 0.99]) == ("loses", True)
    assert split_scores([table({"model": (1.0, 1.0)})] * 3)["verdict"].values.tolist()[0] == ["none"]


def test_the_best_baseline_is_that_of_the_mean_over_splits():
    tables = [table({"model": (1, 1), "constant": a, "linear": b}) for a, b in (((3, 3), (2, 2)), ((1, 1), (2.5, 2.5)))]
    ds = split_scores(tables)
    assert str(ds["best_baseline"].sel(metric="mse").item()) == "constant"
    assert str(ds["best_baseline"].sel(metric="coverage_90").item()) == ""


def test_what_cannot_be_compared_is_refused():
    one = table({"model": (1.0, 1.0), "constant": (2.0, 2.0)})
    with pytest.raises(ConfigError, match="no spread"):
        split_scores([one])
    with pytest.raises(ShapeError, match="same forecasters"):
        split_scores([one, table({"model": (1.0, 1.0)})])
    with pytest.raises(ShapeError, match="units"):
        split_scores([one, one], unit=[1.0, 2.0, 3.0])


def test_windows_of_one_trajectory_are_on_one_side():
    y = np.arange(20.0)[:, None, None] * 1000 + np.arange(100.0)[None, :, None] + np.zeros(2)
    for split in mujoco.splits(y, 0.0, starts=40):
        owners = [set(np.unique(part["y"].values[..., 0] // 1000)) for part in split]
        assert [len(owner) for owner in owners] == [14, 3, 3]
        assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    first = next(iter(mujoco.splits(y, 0.0, starts=40)))
    assert set(np.unique(first.train["y"].values[..., 0] // 1000)) == set(range(14)), "in the order of the file"


def test_dropped_steps_are_whole_and_of_the_history():
    y = np.ones((5, 100, 3))
    gone = np.isnan(mujoco.windows(y, 0.7, seed=(0, 0), starts=4)["y"].values)
    assert (gone.any(axis=2) == gone.all(axis=2)).all()
    assert not gone[:, 50:].any() and (gone[:, :50, 0].sum(axis=1) == 35).all()
    assert not (gone[0] == gone[1]).all()


def test_the_filmed_pendulum_keeps_its_energy_and_shows_its_angle():
    one = pendulum.film(6, seed=0)
    assert one.images.shape == (6, 50, 576) and one.images.min() >= 0 and one.images.max() <= 1
    assert (np.diff(one.time, axis=1) > 0).all()
    path = pendulum._swing(np.array([0.5, 2.0]))
    speed = np.gradient(path, pendulum.DT, axis=1)[:, 1:-1]
    energy = 0.5 * speed**2 - pendulum.RATE * np.cos(path[:, 1:-1])
    np.testing.assert_allclose(energy, -pendulum.RATE * np.cos(path[:, :1]) + 0 * energy, atol=0.06 * pendulum.RATE)
    image = pendulum._draw(np.array([np.pi / 2])).reshape(24, 24)
    assert image[18:, :].sum() > 0 and image[:10, :].sum() == 0, "a rod that points along the first axis"


def test_a_range_of_zero_is_no_ruler():
    ds = xr.Dataset({"a": ("obs", [1.0, 3.0]), "b": ("obs", [1.0, 1.0]), "size": ("series", [2.0])})
    assert physionet.ranges([ds, ds * 2]).tolist() == [5.0, 1.0]


@pytest.mark.slow
def test_the_protocol_end_to_end_with_the_exact_answer_beside_it():
    splits = [protocol.simulated("ornstein_uhlenbeck", 30, seed=seed, n_times=24) for seed in range(2)]
    contender = protocol.Contender(
        model="latent-sde", options={"process": "linear", "latent": 1}, training={"steps": 3}, references=ou.smoother
    )
    found = protocol.measure(splits, [contender], after=5.0, step=0.5)
    rows = {row.name: row for row in protocol.rows_of("ou", found, goals={"mse": 1.0})}
    assert {"ou/mse-persistence", "ou/mse-pca_var", "ou/crps-per_variable_linear", "ou/crps-constant"} <= rows.keys()
    assert rows["ou/crps-exact"].goal is None and rows["ou/crps-constant"].goal == 1.0
    assert rows["ou/mse-goal"].peer == 1.0 and "+-" in rows["ou/mse-goal"].note
    assert sum("best baseline" in row.note for row in rows.values()) == 3
    crps = found.scores["mean"].sel(metric="crps").to_series()
    assert crps["exact"] == pytest.approx(crps["latent-sde"], rel=0.05)
    assert crps["exact"] < crps[["persistence", "linear", "pca_var"]].min()
