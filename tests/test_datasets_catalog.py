"""Every registered data set and simulator: card, labels, units, numbers; and what a wrong name is told."""

import doctest
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import sciinfer.datasets as datasets
import xarray as xr
from sciinfer.datasets.cards import FOLDER, content_sha256, read_card

from sciinfer.errors import ConfigError, NameNotFoundError, SciInferWarning
from sciinfer.extend import registry

DATASETS = [entry.name for entry in registry().entries("datasets") if "/" not in entry.name]
SIMULATORS = [entry.name for entry in registry().entries("simulators") if "/" not in entry.name]
#: missing entries that belong to the data: (variable, how many)
GAPS = {
    "co2": {"co2": 59},
    "oscillator_gappy": {"y": 600},
    "oscillator_gappy_test": {"y": 1000},
    "aqi36": {"pm25": None},
    "physionet2012": None,
    "brusselator_bxl": None,
}


def opened(name: str) -> xr.Dataset:
    if datasets.card(name).source == "local" and not os.environ.get("SCIINFER_DATA"):
        pytest.skip("SCIINFER_DATA is not set: the raw files of this data set are not on this machine")
    return datasets.open_dataset(name)


@pytest.mark.parametrize("name", DATASETS)
def test_card_is_complete_and_agrees_with_the_entry(name):
    card, entry = datasets.card(name), registry().entry("datasets", name)
    for field in ("title", "summary", "source", "origin", "license", "citation", "retrieval"):
        assert getattr(card, field).strip(), field
    assert card.dims and card.units
    assert len(card.sha256) == 64 and set(card.sha256) <= set("0123456789abcdef")
    assert (entry.source, entry.license, entry.citation) == (card.source, card.license, card.citation)
    assert (entry.sha256, entry.size) == (card.sha256, card.size)
    assert set(entry.dims) == set(card.dims)
    assert dict(entry.units).items() <= dict(card.units).items()
    assert all(len(file.sha256) == 64 and file.size > 0 for file in card.files)
    assert card.source in ("bundled", "package", "local")
    assert bool(card.files) == (card.source != "package")


def test_every_card_has_an_entry():
    assert sorted(path.stem for path in (FOLDER / "cards").glob("*.toml")) == sorted(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_dataset_is_what_its_card_says(name):
    ds, card = opened(name), datasets.card(name)
    assert dict(ds.sizes) == dict(card.dims)
    for variable in ds.data_vars:
        assert ds[variable].attrs["units"] == card.units[variable]
        assert ds[variable].dtype == (np.int64 if variable == "row_size" else np.float64)
        assert not np.isinf(ds[variable]).any()
    assert set(card.units) <= set(ds.variables)
    assert ds.attrs["title"] == card.title and ds.attrs["license"] == card.license and ds.attrs["source"]
    if "time" in ds.variables:
        assert ds["time"].dtype.kind in "fM" and ds["time"].notnull().all()


@pytest.mark.parametrize("name", DATASETS)
def test_missing_entries_are_the_known_ones(name):
    ds, known = opened(name), GAPS.get(name, {})
    for variable in ds.data_vars if known is not None else ():
        expected = known.get(variable, 0)
        if expected is not None:
            assert int(ds[variable].isnull().sum()) == expected


@pytest.mark.parametrize("name", [n for n in [*DATASETS, *SIMULATORS] if n != "physionet2012"])
def test_a_caller_cannot_change_what_the_next_one_gets(name):
    first = opened(name)
    digest = content_sha256(numeric(first))
    for variable in first.data_vars:
        first[variable].values[...] = 7
        first[variable].attrs["units"] = "parsec"
    first.attrs["title"] = "mine"
    again = opened(name)
    assert content_sha256(numeric(again)) == digest
    assert again.attrs["title"] != "mine" and all(v.attrs["units"] != "parsec" for v in again.data_vars.values())


def numeric(ds: xr.Dataset) -> xr.Dataset:
    return ds.drop_vars([v for v in ds.variables if ds[v].dtype.kind not in "fiM"])


@pytest.mark.parametrize("name", ["co2", "sunspots", "elnino", "nile", "digits"])
def test_values_of_installed_packages_are_those_of_the_card(name):
    assert content_sha256(datasets.open_dataset(name)) == read_card(name).sha256


def test_other_values_in_an_installed_package_are_reported(monkeypatch):
    from sciinfer.datasets import statsmodels_series

    original = statsmodels_series._table("nile")
    monkeypatch.setattr(statsmodels_series, "_table", lambda name: original.assign(volume=original["volume"] + 1))
    with pytest.warns(SciInferWarning, match=r"installed statsmodels holds other values.*sha256"):
        datasets.open_dataset("nile")


def test_content_digest_does_not_depend_on_the_bits_of_nan():
    quiet = np.array([np.nan])
    other = np.array([0x7FF8000000000001], dtype=np.uint64).view(np.float64)
    assert content_sha256(xr.Dataset({"a": ("t", quiet)})) == content_sha256(xr.Dataset({"a": ("t", other)}))


def test_real_series_have_the_known_values():
    co2 = datasets.open_dataset("co2")
    assert co2["time"].dtype == "datetime64[ns]" and str(co2["time"].values[0])[:10] == "1958-03-29"
    assert float(co2["co2"][0]) == 316.1
    assert np.unique(np.diff(co2["time"].values)).tolist() == [np.timedelta64(7, "D").astype("timedelta64[ns]")]
    elnino = datasets.open_dataset("elnino")
    assert float(elnino["temperature"].sel(time="1950-08-01")) == 20.15
    assert str(elnino["time"].values[-1])[:10] == "2010-12-01"
    nile = datasets.open_dataset("nile")
    assert str(nile["time"].values[-1])[:10] == "1970-01-01" and float(nile["discharge"].mean()) == 919.35
    assert float(datasets.open_dataset("sunspots")["sunspots"].sel(time="1701-01-01")) == 11.0
    digits = datasets.open_dataset("digits")
    assert (float(digits["grey"].min()), float(digits["grey"].max())) == (0.0, 16.0)
    assert int((digits["label"] == 0).sum()) == 178


def test_names_are_unambiguous_and_complete():
    assert datasets.names() == registry().names("datasets") + registry().names("simulators")
    assert len(set(datasets.names())) == len(datasets.names())
    assert {"co2", "oscillator_gappy", "physionet2012", "oscillator", "double_well"} <= set(datasets.names())


def test_unknown_name_suggests_the_nearest():
    for call in (datasets.open_dataset, datasets.card):
        with pytest.raises(NameNotFoundError, match=r"did you mean.*oscillator_gappy") as caught:
            call("oscilator_gapy")
        assert caught.value.code == "name/datasets"


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no option seed.*takes no options") as caught:
        datasets.open_dataset("nile", seed=3)
    assert caught.value.code == "config/option"
    with pytest.raises(ConfigError, match=r"no option sead.*n_series.*seed"):
        datasets.open_dataset("ornstein_uhlenbeck", sead=3)
    with pytest.raises(ConfigError, match=r"no option fetch"):
        datasets.open_dataset("mujoco", fetch=None)


@pytest.mark.parametrize("name", SIMULATORS)
def test_options_of_a_simulator_are_all_described(name):
    entry, target = registry().entry("simulators", name), registry().get("simulators", name)
    parameters = inspect.signature(target).parameters
    assert list(entry.options) and set(entry.options) == set(parameters) - {"seed"}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())


def test_card_of_a_simulator_comes_from_its_entry():
    card = datasets.card("double_well")
    assert card.source == "simulated" and card.license == "Apache-2.0" and card.units["y"] == "1"


@pytest.mark.parametrize("module", [m.name for m in pkgutil.walk_packages(datasets.__path__, "sciinfer.datasets.")])
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_opening_imports_neither_torch_nor_pooch():
    code = (
        "import sys, sciinfer.datasets as d; d.open_dataset('oscillator_gappy');"
        "d.open_dataset('double_well', n_series=1);"
        "sys.exit(sorted({'torch', 'pooch', 'sklearn', 'statsmodels'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
