"""Ragged spikes: windows, units, tables, cutting and aligning."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sciinfer_neuro.events import align, cut
from sciinfer_neuro.ragged import check_ragged, ragged_spikes, select_trials, trial_index
from sciinfer_neuro.tables import from_table, to_table, to_windows
from sciinfer_neuro.units import seconds

from sciinfer.errors import ConfigError, DataError, SchemaError, SciInferWarning, ShapeError, TimeError, UnitsError
from sciinfer.labelled.io import read, write


def random_spikes(seed: int = 0, trials: int = 7, units: int = 4, n: int = 300) -> xr.Dataset:
    """Ragged trials of unequal length; the last trial and the last unit are silent."""
    rng = np.random.default_rng(seed)
    start, stop = -rng.uniform(0.1, 0.3, trials), rng.uniform(0.8, 2.0, trials)
    trial, unit = rng.integers(0, trials - 1, n), rng.integers(0, units - 1, n)
    time = start[trial] + rng.uniform(0, 1, n) * (stop - start)[trial]
    labels = {"unit_labels": [f"u{i}" for i in range(units)], "trial_labels": 10 + np.arange(trials)}
    names = np.array(labels["unit_labels"])[unit]
    return ragged_spikes(time, names, 10 + trial, start=start, stop=stop, **labels)


def test_layout() -> None:
    spikes = random_spikes()
    assert spikes.sizes == {"spike": 300, "unit": 4, "trial": 7}
    assert spikes.time.attrs["units"] == "s" and spikes.row_size.attrs["sample_dimension"] == "spike"
    assert int(spikes.row_size[-1]) == 0 and not (spikes.unit_index == 3).any()
    row = trial_index(spikes)
    assert (np.diff(row) >= 0).all() and (np.diff(spikes.time.values)[np.diff(row) == 0] >= 0).all()


def test_the_table_round_trip_is_exact() -> None:
    spikes = random_spikes()
    back = from_table(to_table(spikes), to_windows(spikes), unit_labels=spikes.unit)
    assert back.identical(spikes)
    shuffled = to_table(spikes).sample(frac=1.0, random_state=1)
    shuffled.attrs = {"units": "s"}
    assert from_table(shuffled, to_windows(spikes), unit_labels=spikes.unit).identical(spikes)
    pd.testing.assert_frame_equal(to_table(back), to_table(spikes))


def test_files_keep_the_spikes(tmp_path: Path) -> None:
    spikes = random_spikes()
    write(spikes, tmp_path / "spikes.nc")
    back = read(tmp_path / "spikes.nc")
    xr.testing.assert_equal(check_ragged(back), spikes)
    assert back.row_size.attrs == spikes.row_size.attrs


def test_milliseconds_are_converted_once() -> None:
    plain = ragged_spikes([0.013, 0.052, 0.021], [1, 1, 2], start=0.0, stop=0.1)
    milli = ragged_spikes([13, 52, 21], [1, 1, 2], start=0, stop=100, units="ms")
    told = ragged_spikes(xr.DataArray([13.0, 52, 21], attrs={"units": "ms"}), [1, 1, 2], start=0, stop=100)
    assert plain.identical(milli) and plain.identical(told)
    raw = plain.assign_coords({n: plain[n] * 1e3 for n in ("time", "start", "stop", "origin")})
    for name in ("time", "start", "stop", "origin"):
        raw[name].attrs["units"] = "ms"
    np.testing.assert_allclose(check_ragged(raw).time.values, plain.time.values, rtol=1e-15)
    assert check_ragged(raw).stop.attrs["units"] == "s"


def test_units_that_cannot_be() -> None:
    with pytest.raises(UnitsError, match="are the times in ms"):
        ragged_spikes([100, 200, 300], [1, 1, 1])
    with pytest.raises(UnitsError, match="are the times in s"):
        ragged_spikes([0.01, 0.05, 0.09], [1, 1, 1], units="ms")
    quick = np.cumsum(np.random.default_rng(0).exponential(30.0, 500) + 1.0)  # ms, taken for s: a median of 22 s
    with pytest.raises(UnitsError, match="are the times in ms"):
        ragged_spikes(quick, np.zeros(500))
    slow = np.cumsum(np.random.default_rng(0).exponential(40.0, 500))  # a slow neuron, in seconds
    assert ragged_spikes(slow, np.zeros(500)).sizes["spike"] == 500
    with pytest.raises(UnitsError, match="cannot be in") as caught:
        ragged_spikes([0.1], [1], units="mV")
    assert caught.value.fix
    with pytest.raises(UnitsError, match="'ms', but"):
        seconds(xr.DataArray([1.0], attrs={"units": "ms"}), "s")
    wrong = random_spikes()
    wrong.time.attrs["units"] = "km"
    with pytest.raises(UnitsError):
        check_ragged(wrong)


def test_refusals() -> None:
    with pytest.raises(DataError) as caught:
        ragged_spikes([0.1, 0.5], [1, 1], start=0.0, stop=0.5)
    assert caught.value.index == 1 and caught.value.code == "data/outside-trial"
    with pytest.raises(TimeError) as caught:
        ragged_spikes([0.1, np.nan], [1, 1])
    assert caught.value.index == 1
    with pytest.raises(DataError, match="not among"):
        ragged_spikes([0.1], [7], unit_labels=[1, 2])
    with pytest.raises(DataError, match="lasts from"):
        ragged_spikes([0.1], [7], start=0.0, stop=0.0)
    with pytest.raises(ShapeError):
        ragged_spikes([0.1, 0.2], [7])
    with pytest.raises(ShapeError):
        ragged_spikes([0.1], [7], stop=[1.0, 2.0])
    with pytest.raises(SchemaError):
        check_ragged(xr.Dataset({"x": ("time", [1.0])}))
    with pytest.raises(SchemaError):
        from_table(pd.DataFrame({"cell": [1], "time": [0.1]}))
    with pytest.raises(DataError, match="two windows"):
        windows = pd.DataFrame({"trial": [0, 0], "start": 0.0, "stop": 1.0})
        from_table(pd.DataFrame({"unit": [1], "time": [0.1], "trial": [0]}), windows)


def test_select_trials() -> None:
    spikes = random_spikes()
    some = select_trials(spikes, [4, 1])
    table = to_table(spikes)
    assert some.trial.values.tolist() == [14, 11]
    assert sorted(some.time.values) == sorted(table.time[table.trial.isin([11, 14])])
    assert select_trials(spikes, spikes.stop.values > 99).sizes["spike"] == 0


def test_align_shifts_and_cuts() -> None:
    spikes = random_spikes()
    events = np.linspace(0.2, 0.7, 7)
    around = align(spikes, events, (-0.25, 0.4))
    table = to_table(spikes)
    for i, event in enumerate(events):
        low = max(event - 0.25, float(spikes.start[i]))
        high = min(event + 0.4, float(spikes.stop[i]))
        own = table[table.trial == 10 + i].time
        want = np.sort(own[(own >= low) & (own < high)]) - event
        np.testing.assert_allclose(select_trials(around, [i]).time.values, want, atol=1e-12)
        np.testing.assert_allclose([float(around.start[i]), float(around.stop[i])], [low - event, high - event])
    np.testing.assert_allclose(around.origin.values, events)
    back = align(around, -events, (-9.0, 9.0))  # what is left, on the old clock
    np.testing.assert_allclose(back.time.values, around.time.values + events[trial_index(around)], atol=1e-12)
    np.testing.assert_allclose(back.origin.values, 0.0, atol=1e-12)


def test_events_in_milliseconds_and_missing() -> None:
    spikes = random_spikes()
    events = np.full(7, 300.0)
    events[2], events[3] = np.nan, 99_000.0
    with pytest.warns(SciInferWarning, match=r"2 of 7 trials .* 1 without an event, 1 with"):
        around = align(spikes, events, (-100, 100), units="ms")
    assert around.trial.values.tolist() == [10, 11, 14, 15, 16]
    with pytest.raises(ShapeError):
        align(spikes, [0.1, 0.2], (-0.1, 0.1))
    with pytest.raises(ConfigError):
        align(spikes, np.full(7, 0.3), (0.1, -0.1))
    with pytest.raises(DataError, match="units and clock"):
        align(spikes, np.full(7, 300.0), (-0.1, 0.1))


def test_cut_a_session() -> None:
    session = ragged_spikes([0.9, 1.1, 5.2, 5.2], [1, 2, 1, 1], stop=6.0)
    windows = pd.DataFrame({"trial": ["a", "b", "c"], "start": [1.0, 5.0, 0.8], "stop": [2.0, 6.0, 1.15]})
    trials = cut(session, windows)
    np.testing.assert_allclose(trials.time.values, [0.1, 0.2, 0.2, 0.1, 0.3])
    assert trials.row_size.values.tolist() == [1, 2, 2] and trials.trial.values.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(trials.stop.values, [1.0, 1.0, 0.35])
    assert trials.origin.values.tolist() == [1.0, 5.0, 0.8]
    with pytest.raises(DataError, match="does not lie in the session"):
        cut(session, pd.DataFrame({"start": [5.0], "stop": [6.5]}))
    with pytest.raises(ShapeError):
        cut(trials, windows)
