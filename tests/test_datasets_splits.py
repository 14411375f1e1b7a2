"""Splits: disjoint, exhaustive, no row lost, the caller's data untouched, for every layout."""

import itertools

import numpy as np
import pytest
import xarray as xr
from sciinfer.datasets import open_dataset, split_series, split_time

from sciinfer.errors import ConfigError, DataError, SchemaError, TimeError

LAYOUTS = ("grid", "padded", "ragged")


def make(layout: str, n_series: int = 10) -> xr.Dataset:
    ds = open_dataset("ornstein_uhlenbeck", n_series=n_series, n_times=12, missing=0.2, layout=layout)
    return ds.assign(age=("series", np.arange(n_series) * 10.0))


def rows(ds: xr.Dataset) -> list[tuple]:
    """Every (series, time, value) that exists, whatever the layout."""
    if "row_size" in ds:
        labels = np.repeat(ds["series"].values, ds["row_size"].values)
        found = zip(labels, ds["time"].values, ds["y"].values, strict=True)
    else:
        series, time, y = xr.broadcast(ds["series"], ds["time"], ds["y"])
        found = zip(series.values.ravel(), time.transpose(*series.dims).values.ravel(),
                    y.transpose(*series.dims).values.ravel(), strict=True)  # fmt: skip
    return sorted((int(s), float(t), repr(float(y))) for s, t, y in found if not np.isnan(t))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_series_split_is_disjoint_and_exhaustive(layout):
    ds = make(layout)
    before = ds.copy(deep=True)
    parts = split_series(ds, (0.6, 0.2, 0.2), seed=3)
    labels = [part["series"].values.tolist() for part in parts]
    assert [len(chosen) for chosen in labels] == [6, 2, 2]
    assert sorted(itertools.chain(*labels)) == list(range(10)) and all(chosen == sorted(chosen) for chosen in labels)
    assert sorted(itertools.chain(*map(rows, parts))) == rows(ds)
    assert all((part["age"] == part["series"] * 10).all() for part in parts)
    xr.testing.assert_identical(ds, before)
    parts[0]["y"].values[...] = 0
    xr.testing.assert_identical(ds, before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_series_split_follows_the_seed_alone(layout):
    def labels(seed):
        return [part["series"].values.tolist() for part in split_series(make(layout), seed=seed)]

    assert labels(1) == labels(1) and labels(1) != labels(2)
    assert labels(1) == [part["series"].values.tolist() for part in split_series(make("grid"), seed=1)]


def test_ragged_series_keep_their_own_rows():
    ds = make("ragged")
    begin = np.cumsum(ds["row_size"].values) - ds["row_size"].values
    for part in split_series(ds):
        offset = 0
        for label, size in zip(part["series"].values, part["row_size"].values, strict=True):
            assert size == ds["row_size"].values[label]
            own = ds["y"].values[begin[label] : begin[label] + size]
            np.testing.assert_array_equal(part["y"].values[offset : offset + size], own)
            offset += size
        assert offset == part.sizes["obs"] and part["row_size"].attrs["sample_dimension"] == "obs"


def test_series_split_along_another_dim():
    ds = make("grid").rename(series="stay")
    assert sum(part.sizes["stay"] for part in split_series(ds, dim="stay")) == 10
    with pytest.raises(SchemaError, match="stay"):
        split_series(ds)


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.2, -0.2), (), (np.nan, 1.0)])
def test_fractions_must_make_a_whole(fractions):
    with pytest.raises(ConfigError, match="sum to 1"):
        split_series(make("grid"), fractions)


def test_a_part_without_series_is_refused_unless_asked_for():
    with pytest.raises(DataError, match="2 series are too few") as caught:
        split_series(make("grid", 2), (0.8, 0.1, 0.1))
    assert caught.value.dim == "series" and caught.value.index == 1
    assert [p.sizes["series"] for p in split_series(make("grid", 2), (1.0, 0.0))] == [2, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_time_split_loses_nothing_and_leaks_nothing(layout, share):
    ds = make(layout)
    at = float(np.nanquantile(ds["time"].values, share))
    before = ds.copy(deep=True)
    early, late = split_time(ds, at)
    assert float(early["time"].max()) < at <= float(late["time"].min())
    assert sorted(rows(early) + rows(late)) == rows(ds)
    for part in (early, late):
        assert part["series"].equals(ds["series"]) and part["age"].equals(ds["age"])
        assert part["y"].attrs == ds["y"].attrs and part["time"].attrs == ds["time"].attrs and part.attrs == ds.attrs
        assert part["y"].dims == ds["y"].dims
    xr.testing.assert_identical(ds, before)
    early["y"].values[...] = 0
    late["age"].values[...] = 0
    xr.testing.assert_identical(ds, before)


def test_padded_parts_have_their_padding_last():
    for part in split_time(make("padded"), 5.0):
        present = part["time"].notnull().values
        assert (np.sort(present, axis=1)[:, ::-1] == present).all()
        assert present.any(axis=0).all()  # no column of padding alone
        assert part["y"].where(part["time"].isnull()).isnull().all()


def test_padded_with_dims_in_the_other_order_and_a_channel():
    ds = make("padded").transpose("obs", "series")
    ds["z"] = ds["y"].expand_dims(channel=2).transpose("obs", "channel", "series") * xr.DataArray(
        [1.0, 2.0], dims="channel"
    )
    early, late = split_time(ds, 5.0)
    assert early["z"].dims == ("obs", "channel", "series") and early["y"].dims == ("obs", "series")
    for part in (early, late):
        assert part["z"].isel(channel=1, drop=True).equals((part["y"] * 2).rename("z"))
    assert sorted(rows(early) + rows(late)) == rows(ds)


def test_ragged_series_that_end_before_the_cut_stay_as_empty_ones():
    early, late = split_time(make("ragged"), 8.0)
    assert late.sizes["series"] == 10 and (late["row_size"] == 0).any()
    assert int(late["row_size"].sum()) == late.sizes["obs"]
    assert early["row_size"].dtype == np.int64


def test_dates():
    co2 = open_dataset("co2")
    early, late = split_time(co2, "1995-01-01")
    assert early.sizes["time"] + late.sizes["time"] == 2284
    assert early["time"].max() < np.datetime64("1995-01-01") <= late["time"].min()
    assert split_time(co2, np.datetime64("1995-01-01"))[0].equals(early)


@pytest.mark.parametrize("at", ["yesterday", 3.0, None])
def test_a_cut_that_is_no_date_is_refused(at):
    with pytest.raises(TimeError) as caught:
        split_time(open_dataset("nile"), at)
    assert caught.value.variable == "time" and caught.value.fix


@pytest.mark.parametrize("at", ["2000-01-01", "x", float("nan"), -1.0, 100.0])
def test_a_cut_that_leaves_one_side_empty_or_is_no_number_is_refused(at):
    with pytest.raises(TimeError):
        split_time(make("grid"), at)


def test_missing_times_are_refused_not_dropped():
    ds = make("ragged")
    time = ds["time"].values.copy()
    time[4] = np.nan
    with pytest.raises(TimeError, match="missing") as caught:
        split_time(ds.assign_coords(time=("obs", time)), 5.0)
    assert caught.value.index == 4


def test_without_a_time_coordinate():
    with pytest.raises(SchemaError, match="'t'"):
        split_time(make("grid"), 5.0, time="t")


def test_oscillator_split_is_the_same_for_a_dataset_with_read_only_arrays():
    ds = open_dataset("oscillator_gappy")
    ds["y"].values.flags.writeable = False
    early, late = split_time(ds, 6.0)
    assert early.sizes["time"] + late.sizes["time"] == 80
