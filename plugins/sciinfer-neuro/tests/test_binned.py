"""Bins: no spike is lost, edges have their exposure, and the way back."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sciinfer_neuro.binned import bin_spikes, unbin
from sciinfer_neuro.events import trial_tensor
from sciinfer_neuro.exposure import expected_counts, exposure_of, firing_rate, mask_partial
from sciinfer_neuro.ragged import ragged_spikes, trial_index
from sciinfer_neuro.tables import counts_table, from_counts_table

from sciinfer.errors import ConfigError, DataError, SchemaError
from sciinfer.labelled import infer_schema


def random_spikes(seed: int = 0, trials: int = 6, n: int = 400) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    start, stop = -rng.uniform(0.1, 0.3, trials), rng.uniform(0.8, 2.0, trials)
    trial, unit = rng.integers(0, trials, n), rng.integers(0, 3, n)
    time = start[trial] + rng.uniform(0, 1, n) * (stop - start)[trial]
    return ragged_spikes(time, unit, trial, start=start, stop=stop, unit_labels=range(5))


@pytest.mark.parametrize("width", [0.001, 0.01, 0.03, 0.1, 7.0])
def test_no_spike_is_lost(width: float) -> None:
    spikes = random_spikes()
    binned = bin_spikes(spikes, width)
    assert float(binned.counts.sum()) == spikes.sizes["spike"]
    per_trial = binned.counts.sum(("time", "unit")).values
    np.testing.assert_array_equal(per_trial, spikes.row_size.values)
    np.testing.assert_allclose(binned.exposure.sum("time") * width, spikes.stop - spikes.start, rtol=1e-9)


def test_counts_exposure_and_gaps_by_hand() -> None:
    spikes = ragged_spikes([0.0, 0.1, 0.19, 0.05], [1, 1, 2, 1], [0, 0, 0, 1], start=[0.0, 0.04], stop=[0.25, 0.1])
    binned = bin_spikes(spikes, 0.1)
    nan = np.nan
    want = [[[1, 0], [1, 1], [0, 0]], [[1, 0], [nan, nan], [nan, nan]]]
    np.testing.assert_array_equal(binned.counts.values, want)
    np.testing.assert_allclose(binned.exposure.values, [[1, 1, 0.5], [0.6, 0, 0]])
    np.testing.assert_allclose(binned.time.values, [0.05, 0.15, 0.25])
    attrs = binned.counts.attrs
    assert (attrs["units"], attrs["bin_width"], attrs["support"]) == ("1", 0.1, "count")


def test_exposure_makes_the_rate_right() -> None:
    """A constant rate: dividing by the exposure is unbiased in the cut bin, forgetting it is not."""
    rng = np.random.default_rng(3)
    trials, rate, stop = 4000, 30.0, 0.13
    n = rng.poisson(rate * stop, trials)
    trial = np.repeat(np.arange(trials), n)
    spikes = ragged_spikes(rng.uniform(0, stop, n.sum()), np.zeros(n.sum(), int), trial, stop=stop, start=0.0,
                           trial_labels=np.arange(trials))  # fmt: skip
    binned = bin_spikes(spikes, 0.1)
    mean = firing_rate(binned).mean("trial").values[:, 0]
    np.testing.assert_allclose(mean, rate, rtol=0.03)
    assert float((binned.counts / 0.1).mean("trial")[1, 0]) < 10.0
    expected = expected_counts(xr.full_like(binned.counts, rate), binned)
    np.testing.assert_allclose(expected.values[0, :, 0], [3.0, 0.9], rtol=1e-9)
    masked = mask_partial(binned)
    assert masked.counts.notnull().sum() == trials and float(masked.exposure.min()) == 0.0
    assert mask_partial(binned, 0.2).counts.identical(binned.counts)
    with pytest.raises(ConfigError):
        mask_partial(binned, 2.0)
    with pytest.raises(SchemaError):
        mask_partial(binned.drop_vars("exposure"))


def test_rounding_is_not_exposure() -> None:
    width = 0.1
    left = np.arange(30) * width
    share = exposure_of(np.zeros(1), np.array([30 * width]), left, width)
    np.testing.assert_array_equal(share, 1.0)


@pytest.mark.parametrize("width", [0.013, 0.1, 0.5])
def test_unbin_and_bin_again(width: float) -> None:
    spikes = random_spikes()
    binned = bin_spikes(spikes, width)
    back = unbin(binned)
    again = bin_spikes(back, width)
    np.testing.assert_array_equal(again.counts.values, binned.counts.values)
    np.testing.assert_allclose(again.exposure.values, binned.exposure.values, atol=1e-9)
    np.testing.assert_array_equal(back.row_size.values, spikes.row_size.values)
    np.testing.assert_allclose(back.stop.values, spikes.stop.values, atol=1e-9)
    one = np.abs(np.sort(back.time.values[trial_index(back) == 2]) - spikes.time.values[trial_index(spikes) == 2])
    assert one.max() < 2 * width


def test_unbin_refuses() -> None:
    binned = bin_spikes(random_spikes(), 0.1)
    with pytest.raises(DataError, match="whole numbers"):
        unbin(binned.assign(counts=(binned.counts + 0.5).assign_attrs(binned.counts.attrs)))
    holes = binned.counts.copy(deep=True)
    holes[2, 5] = np.nan
    with pytest.raises(DataError, match="one stretch") as caught:
        unbin(binned.assign(counts=holes))
    assert caught.value.index == 2


def test_the_counts_table_round_trip_is_exact() -> None:
    binned = bin_spikes(random_spikes(), 0.07).drop_vars("origin")
    table = counts_table(binned)
    assert table.counts.sum() == 400 and (table.exposure > 0).all()
    assert from_counts_table(table).identical(binned)
    with pytest.raises(DataError, match="two rows"):
        from_counts_table(pd.concat([table, table[:1]]), bin_width=0.07)
    with pytest.raises(SchemaError, match="width"):
        from_counts_table(pd.DataFrame(table.to_dict()))


def test_trial_tensor_has_the_grid_of_the_window() -> None:
    spikes = random_spikes()
    tensor = trial_tensor(spikes, np.full(6, 0.2), (-0.4, 0.6), 0.1)
    assert tensor.counts.shape == (6, 10, 5)
    np.testing.assert_allclose(tensor.time.values, np.arange(10) * 0.1 - 0.35)
    assert ((tensor.exposure[:, 0] > 0) == (spikes.start < -0.1)).all()  # the window begins before the trials do
    np.testing.assert_array_equal(tensor.counts.isnull().all("unit").values, (tensor.exposure == 0).values)
    milli = trial_tensor(spikes, np.full(6, 200.0), (-400, 600), 0.1, units="ms")
    np.testing.assert_array_equal(milli.counts.values, tensor.counts.values)


def test_trials_on_a_session_clock_are_refused() -> None:
    start = np.arange(50) * 10.0
    spikes = ragged_spikes(start + 0.5, np.zeros(50), np.arange(50), start=start, stop=start + 1)
    with pytest.raises(DataError, match="align"):
        bin_spikes(spikes, 0.1)
    with pytest.raises(ConfigError):
        bin_spikes(spikes, 0.0)


def test_models_see_counts_alone() -> None:
    """Windows and exposure are coordinates, so that a model's schema holds the counts only."""
    binned = bin_spikes(random_spikes(), 0.1)
    schema = infer_schema(binned.isel(unit=slice(3)))  # the other units are silent
    assert [v.name for v in schema.variables] == ["counts"]


@pytest.mark.skipif(not os.environ.get("SCIINFER_DATA"), reason="SCIINFER_DATA is not set: the recordings are not here")
def test_real_rat_motor_cortex() -> None:
    raw = np.load(Path(os.environ["SCIINFER_DATA"]) / "gpvae" / "rat_motor" / "motor_ctx_data.npz", allow_pickle=False)
    spikes = ragged_spikes(raw["spiketimes"], raw["neuron_ids"], raw["trial_ids"], start=0, stop=2000, units="ms")
    binned = bin_spikes(spikes, 0.02)
    assert binned.counts.shape == (1266, 100, 30) and float(binned.counts.sum()) == 648_889
    want = np.zeros((1266, 100, 30))
    np.add.at(want, (raw["trial_ids"], (raw["spiketimes"] // 20).astype(int), raw["neuron_ids"]), 1)
    np.testing.assert_array_equal(binned.counts.values, want)
