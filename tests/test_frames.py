"""Whatever the caller holds becomes a Dataset."""

import warnings
from types import SimpleNamespace

import cftime
import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr

from sciinfer.errors import DataError, SchemaError, SciInferWarning, TimeError
from sciinfer.labelled import as_dataset


def _long() -> pd.DataFrame:
    return pd.DataFrame(
        {"id": ["b", "a", "b", "a", "a"], "time": [0.0, 0.5, 1.0, 1.5, 2.0], "flux": [1.0, 2.0, np.nan, 4.0, 5.0]}
    )


def test_long_frame_becomes_contiguous_ragged():
    ds = as_dataset(_long())
    assert ds["row_size"].attrs["sample_dimension"] == "obs"
    assert ds["row_size"].dims == ("id",)
    assert ds["row_size"].values.tolist() == [2, 3]
    assert ds["id"].values.tolist() == ["b", "a"]
    assert ds["time"].dims == ("obs",)
    assert ds["time"].values.tolist() == [0.0, 1.0, 0.5, 1.5, 2.0]
    np.testing.assert_array_equal(ds["flux"].values, [1.0, np.nan, 2.0, 4.0, 5.0])


@pytest.mark.parametrize("name", ["id", "series", "series_id", "unique_id", "subject"])
def test_series_column_is_found_by_name(name):
    assert name in as_dataset(_long().rename(columns={"id": name})).dims


def test_own_names_are_kept():
    frame = _long().rename(columns={"id": "patient", "time": "hour"})
    ds = as_dataset(frame, time="hour", series="patient")
    assert ds["hour"].dims == ("obs",)
    assert ds["row_size"].dims == ("patient",)


def test_layout_names_give_way_to_columns():
    ds = as_dataset(_long().rename(columns={"flux": "obs"}))
    assert ds["obs"].dims == ("obs_",)


def test_multiindex_is_a_long_frame():
    xr.testing.assert_identical(as_dataset(_long().set_index(["id", "time"])), as_dataset(_long()))


def test_wide_frame_by_column_and_by_index():
    days = pd.date_range("2020-01-01", periods=3)
    by_index = as_dataset(pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [1.0, np.nan, 3.0]}, index=days))
    by_column = as_dataset(pd.DataFrame({"date": days, "x": [1.0, 2.0, 3.0]}))
    assert by_index["y"].dims == ("time",)
    assert by_column["x"].dims == ("date",)
    assert by_column["date"].dtype == np.dtype("datetime64[ns]")


def test_numeric_index_is_time():
    assert as_dataset(pd.Series([1.0, 2.0], index=[10.0, 20.0]))["time"].values.tolist() == [10.0, 20.0]
    assert as_dataset(pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index([3, 4], name="hour"))).x.dims == ("hour",)


def test_dates_win_over_a_column_called_t():
    frame = pd.DataFrame({"t": [20.0, 21.0], "when": pd.date_range("2020", periods=2)})
    assert as_dataset(frame)["t"].dims == ("when",)
    indexed = pd.DataFrame({"t": [20.0, 21.0]}, index=pd.date_range("2020", periods=2))
    assert as_dataset(indexed)["t"].dims == ("time",)


def test_iso_strings_are_dates_and_others_are_refused():
    assert as_dataset(pd.DataFrame({"time": ["2020-01-31"], "x": [1.0]}))["time"].dtype.kind == "M"
    with pytest.raises(TimeError) as err:
        as_dataset(pd.DataFrame({"time": ["01/02/2020"], "x": [1.0]}))
    assert err.value.variable == "time"
    assert "ISO" in str(err.value)


def test_polars_long_and_wide():
    xr.testing.assert_identical(as_dataset(pl.from_pandas(_long())), as_dataset(_long()))
    wide = pl.DataFrame({"t": [0.0, 1.0], "x": [1.0, None]})
    np.testing.assert_array_equal(as_dataset(wide)["x"].values, [1.0, np.nan])


def test_dataframe_interchange_alone_is_enough():
    table = pd.DataFrame({"t": [0.0, 1.0], "x": [1.0, 2.0]})
    only = SimpleNamespace(__dataframe__=table.__dataframe__)
    assert as_dataset(only)["x"].values.tolist() == [1.0, 2.0]


def test_arrow_table():
    pa = pytest.importorskip("pyarrow")
    assert as_dataset(pa.table({"t": [0.0, 1.0], "x": [1.0, 2.0]}))["x"].dims == ("t",)


def test_unnamed_dataarray_is_called_value():
    array = xr.DataArray([1.0, 2.0], coords={"time": [0.0, 1.0]}, dims="time")
    assert list(as_dataset(array)) == ["value"]
    assert list(as_dataset(array.rename("flux"))) == ["flux"]


@pytest.mark.parametrize(
    ("data", "error"),
    [({"t": [0.0], "x": [1.0]}, SchemaError), ([1.0, 2.0], DataError), (np.zeros(3), DataError), (None, DataError)],
)
def test_data_without_labels_are_refused_with_advice(data, error):
    with pytest.raises(error) as err:
        as_dataset(data)
    assert "pd.DataFrame" in err.value.fix


def test_fault_9_non_numeric_column_is_named_and_numeric_ones_listed():
    frame = _long().assign(note="ok")
    with pytest.raises(DataError) as err:
        as_dataset(frame)
    assert err.value.variable == "note"
    assert "['flux']" in str(err.value)
    assert err.value.code == "data/not-numeric"


def test_fault_8_whole_numbers_are_cast_with_one_notice():
    frame = _long().assign(n=1, flag=True, nullable=pd.array([1, None, 3, 4, 5], dtype="Int64"))
    with pytest.warns(SciInferWarning) as notices:
        ds = as_dataset(frame)
    assert len(notices) == 1
    assert all(name in str(notices[0].message) for name in ("'n'", "'flag'", "'nullable'"))
    assert {ds[n].dtype for n in ("n", "flag", "nullable")} == {np.dtype("float64")}
    np.testing.assert_array_equal(ds["nullable"].values, [1, 3, np.nan, 4, 5])


def test_fault_8_datasets_too():
    ds = xr.Dataset({"n": ("time", [1, 2])}, coords={"time": [0, 1]})
    with pytest.warns(SciInferWarning, match="'n'"):
        out = as_dataset(ds)
    assert out["n"].dtype == np.float64
    assert ds["n"].dtype.kind == "i"


def test_integers_that_float64_cannot_hold_are_refused():
    with pytest.raises(DataError) as err:
        as_dataset(pd.DataFrame({"t": [0.0], "code": [2**53 + 1]}))
    assert (err.value.variable, err.value.code) == ("code", "data/precision")


def test_fault_11_complex_column_is_refused():
    with pytest.raises(DataError) as err:
        as_dataset(pd.DataFrame({"t": [0.0], "z": [1 + 2j]}))
    assert (err.value.variable, err.value.code) == ("z", "data/complex")


def test_fault_3_empty_frame():
    with pytest.raises(DataError) as err:
        as_dataset(_long().iloc[:0])
    assert err.value.code == "data/empty"


@pytest.mark.parametrize("column", ["time", "index"])
def test_fault_7_zones_become_utc_with_notice(column):
    stamps = pd.date_range("2020-07-01", periods=2, tz="Europe/Berlin")
    frame = pd.DataFrame({"time": stamps, "x": [1.0, 2.0]})
    with pytest.warns(SciInferWarning, match="UTC"):
        ds = as_dataset(frame if column == "time" else frame.set_index("time"))
    assert ds["time"].values[0] == np.datetime64("2020-06-30T22:00")


def test_fault_7_zones_in_a_dataset():
    stamps = pd.date_range("2020-07-01", periods=2, tz="Europe/Berlin")
    ds = xr.Dataset({"x": ("time", [1.0, 2.0])}, coords={"time": stamps})
    with pytest.warns(SciInferWarning, match="UTC"):
        out = as_dataset(ds)
    assert out["time"].values[0] == np.datetime64("2020-06-30T22:00")


def test_fault_7_strings_with_offsets_agree_and_mixed_ones_are_refused():
    frame = pd.DataFrame({"time": ["2020-03-29T01:00+01:00", "2020-03-29T03:00+02:00"], "x": [1.0, 2.0]})
    with pytest.warns(SciInferWarning, match="UTC"):
        ds = as_dataset(frame)
    assert ds["time"].values.tolist() == np.array(["2020-03-29T00:00", "2020-03-29T01:00"], "datetime64[ns]").tolist()
    with pytest.raises(TimeError, match="mixed"):
        as_dataset(frame.assign(time=["2020-03-29T01:00+01:00", "2020-03-29T03:00"]))


def test_fault_7_cftime():
    def make(calendar: str) -> xr.Dataset:
        times = [cftime.datetime(2000, 2, day, 12, calendar=calendar) for day in (1, 2)]
        return xr.Dataset({"x": ("time", [1.0, 2.0])}, coords={"time": times})

    ds = as_dataset(make("standard"))
    assert ds["time"].values[1] == np.datetime64("2000-02-02T12:00")
    with pytest.raises(TimeError) as err:
        as_dataset(make("360_day"))
    assert (err.value.variable, err.value.code) == ("time", "time/calendar")


def test_dates_beyond_nanoseconds_do_not_wrap():
    stamps = np.array(["1000-01-01", "2020-01-01"], dtype="datetime64[s]")
    with pytest.raises(TimeError) as err:
        as_dataset(pd.DataFrame({"time": stamps, "x": [1.0, 2.0]}))
    assert (err.value.index, err.value.code) == (0, "time/range")


@pytest.mark.parametrize(
    ("frame", "options", "error"),
    [
        (_long().drop(columns="time"), {}, SchemaError),
        (_long(), {"time": "when"}, SchemaError),
        (_long(), {"series": "who"}, SchemaError),
        (pd.DataFrame([[0.0, 1.0, 2.0]], columns=["t", "x", "x"]), {}, SchemaError),
        (pd.DataFrame({"time": [True, False], "x": [1.0, 2.0]}), {}, TimeError),
        (pd.DataFrame({"time": pd.to_timedelta([1, 2], "s"), "x": [1.0, 2.0]}), {}, TimeError),
        (_long().assign(id=["a", None, "b", "b", "b"]), {}, DataError),
    ],
)
def test_tables_that_do_not_say_what_they_mean(frame, options, error):
    with pytest.raises(error) as err:
        as_dataset(frame, **options)
    assert err.value.fix


def test_no_time_lists_candidates():
    with pytest.raises(SchemaError) as err:
        as_dataset(_long().drop(columns="time").assign(hour=1.0))
    assert "hour" in str(err.value)


def test_inputs_are_not_changed():
    frame, before = _long().assign(n=1), _long().assign(n=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = as_dataset(frame)
    ds["flux"].values[:] = 0.0
    pd.testing.assert_frame_equal(frame, before)
    wide, kept = pd.DataFrame({"t": [0.0, 1.0], "x": [1.0, 2.0]}), pd.DataFrame({"t": [0.0, 1.0], "x": [1.0, 2.0]})
    out = as_dataset(wide)
    out["x"].values[:] = 0.0
    out["t"].values  # noqa: B018 - coordinates share no memory either
    pd.testing.assert_frame_equal(wide, kept)


def test_as_dataset_twice_is_as_dataset_once():
    once = as_dataset(_long())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(as_dataset(once), once)
