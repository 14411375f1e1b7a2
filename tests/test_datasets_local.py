"""The real files under SCIINFER_DATA, read and counted against what is known of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import sciinfer.datasets as datasets
from sciinfer.datasets.physionet2012 import STATIC

from sciinfer.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not os.environ.get("SCIINFER_DATA"), reason="SCIINFER_DATA is not set: the raw files are not on this machine"
)


@pytest.fixture(scope="module")
def stays():
    return datasets.open_dataset("physionet2012", subset="a")


@pytest.fixture(scope="module")
def raw():
    with np.load(Path(os.environ["SCIINFER_DATA"], "sde", "physionet2012_set_a.npz")) as file:
        return {key: file[key] for key in file}


def test_physionet_keeps_every_observation(stays, raw):
    names = list(raw["var_names"])
    count = sum(int(stays[str(name)].notnull().sum()) for name in names)
    unknown = sum(int((raw["value"][raw["var"] == names.index(n)] == -1).sum()) for n in ("Gender", "Height", "Weight"))
    assert count + unknown + stays.attrs["repeats_averaged"] == len(raw["value"]) == 1_753_980
    assert (unknown, stays.attrs["repeats_averaged"]) == (2223, 3744)
    assert len(set(names)) == 41 and set(map(str, names)) == set(stays.data_vars) - {"row_size"}


def test_physionet_layout(stays, raw):
    sizes = stays["row_size"].values
    assert stays["row_size"].attrs["sample_dimension"] == "obs" and sizes.sum() == stays.sizes["obs"] == 299_264
    assert (stays["series"].values == raw["record_id"]).all() and sizes.min() >= 1
    begin = np.cumsum(sizes) - sizes
    inner = np.ones(stays.sizes["obs"] - 1, dtype=bool)
    inner[begin[1:] - 1] = False
    assert (np.diff(stays["time"].values)[inner] > 0).all()
    assert stays["time"].attrs["units"] == "h" and stays["time"].min() >= 0 and stays["time"].max() <= 48


def test_physionet_one_stay_is_its_records(stays, raw):
    k = 1234
    rows = slice(raw["ptr"][k], raw["ptr"][k + 1])
    one = stays.isel(obs=slice(*np.cumsum(stays["row_size"].values)[k - 1 : k + 1]))
    minutes, places = np.unique(raw["minute"][rows], return_inverse=True)
    np.testing.assert_allclose(one["time"].values * 60, minutes, rtol=1e-15)
    for code, name in enumerate(map(str, raw["var_names"])):
        here = raw["var"][rows] == code
        expected = np.full(len(minutes), np.nan)
        for place in np.unique(places[here]):
            expected[place] = raw["value"][rows][here & (places == place)].astype(np.float64).mean()
        if name in ("Gender", "Height", "Weight"):
            expected[expected == -1] = np.nan
        np.testing.assert_array_equal(one[name].values, expected)


def test_physionet_statics(stays):
    first = np.cumsum(stays["row_size"].values) - stays["row_size"].values
    later = np.ones(stays.sizes["obs"], dtype=bool)
    later[first] = False
    by_series = datasets.open_dataset("physionet2012", subset="a", static="series")
    dropped = datasets.open_dataset("physionet2012", subset="a", static="drop")
    for name in STATIC:
        assert np.isnan(stays[name].values[later]).all()
        np.testing.assert_array_equal(by_series[name].values, stays[name].values[first])
        assert by_series[name].dims == ("series",) and by_series[name].attrs["units"] and name not in dropped
    assert (by_series["Age"].values >= 15).all() and set(np.unique(by_series["ICUType"])) == {1.0, 2.0, 3.0, 4.0}
    assert int(by_series["Height"].isnull().sum()) == 1894 and int(by_series["Gender"].isnull().sum()) == 3
    for name in set(dropped.data_vars) - {"row_size"}:
        assert int(dropped[name].notnull().sum()) == int(stays[name].notnull().sum())
    assert dropped.sizes["series"] == 4000


def test_physionet_options_are_checked():
    for options in ({"subset": "c"}, {"static": "keep"}):
        with pytest.raises(ConfigError) as caught:
            datasets.open_dataset("physionet2012", **options)
        assert caught.value.variable in options


def test_aqi36_parts_are_disjoint_and_count_as_published():
    seen, held, ground = (datasets.open_dataset("aqi36", part=p)["pm25"] for p in ("observed", "heldout", "ground"))
    assert not (seen.notnull() & held.notnull()).any()
    assert ((seen.notnull() | held.notnull()) == ground.notnull()).all()
    assert held.equals(ground.where(seen.isnull()))
    assert int(held.sel(time=held["time"].dt.month.isin([3, 6, 9, 12])).notnull().sum()) == 20_434
    assert round(float(ground.isnull().mean()), 4) == 0.1325 and round(float(seen.isnull().mean()), 4) == 0.2458
    assert float(ground.sel(station="001001")[0]) == 138.0
    assert np.unique(np.diff(ground["time"].values)).tolist() == [3_600_000_000_000]
    with pytest.raises(ConfigError, match="observed, heldout or ground"):
        datasets.open_dataset("aqi36", part="missing")


def test_mocap_parts():
    train, val, everything = (datasets.open_dataset("mocap35", part=p)["angle"] for p in ("train", "val", "all"))
    assert (train.shape, val.shape, everything.shape) == ((16, 300, 50), (3, 300, 50), (19, 300, 50))
    assert (everything.values[:16] == train.values).all() and (everything.values[16:] == val.values).all()
    with pytest.raises(ConfigError, match="train, val or all"):
        datasets.open_dataset("mocap35", part="test")


def test_tables_have_the_files_own_first_and_last_values():
    ett = datasets.open_dataset("ett")
    assert str(ett["time"].values[0]) == "2016-07-01T00:00:00.000000000" and float(ett["OT"][0]) == 30.5310001373291
    assert np.unique(np.diff(ett["time"].values)).tolist() == [3_600_000_000_000]
    rate = datasets.open_dataset("exchange_rate")["rate"]
    assert rate[1].values.tolist() == [0.7818, 1.61, 0.861104, 0.633513, 0.211242, 0.006863, 0.594, 0.523972]
    assert float(datasets.open_dataset("mujoco")["y"].max()) == np.float64(np.float32(2.8526688))


def test_brusselator_bxl_looks_like_the_simulator():
    real = datasets.open_dataset("brusselator_bxl")
    made = datasets.open_dataset("brusselator", seed=1)
    assert round(float(real["activator"].notnull().mean()), 6) == 0.902003
    begin = np.cumsum(real["row_size"].values) - real["row_size"].values
    rising = np.diff(real["time"].values) > 0
    rising[begin[1:] - 1] = True
    assert rising.all()
    for name in ("activator", "inhibitor"):
        assert abs(float(real[name].mean()) - float(made[name].mean())) < 0.02
        late_real, late_made = (ds[name].values[ds["time"].values > 40] for ds in (real, made))
        assert abs(np.nanstd(late_real) / np.nanstd(late_made) - 1) < 0.15
