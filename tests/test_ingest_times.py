"""Times: dates, numbers, lost precision, other units, questions."""

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sciinfer.errors import SciInferWarning, TimeError, UnitsError
from sciinfer.labelled import Schema, encode, infer_schema, query_times


def _at(time, units: str | None = None) -> xr.Dataset:
    values = np.arange(float(len(time)))
    coord = ("time", time, {} if units is None else {"units": units})
    return xr.Dataset({"y": ("time", values)}, coords={"time": coord})


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_of_any_unit(unit):
    ds = _at(np.array(["2020-01-01", "2020-01-08", "2020-01-15", "2020-02-05"], f"datetime64[{unit}]"))
    schema = infer_schema(ds)
    assert (schema.time.kind, schema.time.scale) == ("datetime", 7 * 86400e9)
    assert encode(ds, schema).batch.time.tolist() == [0.0, 1.0, 2.0, 5.0]


def test_dates_keep_nanoseconds():
    start = np.datetime64("2024-05-06T07:08:09.123456789", "ns")
    ds = _at(start + np.array([0, 10, 20, 35], "timedelta64[ns]"))
    schema = infer_schema(ds)
    model = encode(ds, schema).batch.time.numpy()
    assert model.tolist() == [0.0, 1.0, 2.0, 3.5]
    restored = Schema.from_dict(schema.to_dict()).time
    assert (restored.from_model(model) == ds["time"].values).all()


def test_fault_7_cftime_is_converted_and_other_calendars_refused():
    standard = [cftime.DatetimeGregorian(2000, 1, day) for day in (1, 2, 3)]
    assert infer_schema(_at(standard)).time.scale == 86400e9
    with pytest.raises(TimeError) as err:
        infer_schema(_at([cftime.Datetime360Day(2000, 2, day) for day in (28, 29, 30)]))
    assert (err.value.variable, err.value.code) == ("time", "time/calendar")


@pytest.mark.parametrize(
    ("time", "index"),
    [
        (np.array(["2020-01-01", "NaT", "2020-01-03"], "datetime64[ns]"), 1),
        (np.array([0.0, 1.0, np.nan]), 2),
        (np.array([-np.inf, 1.0, 2.0]), 0),
    ],
)
def test_fault_7_missing_time_is_placed(time, index):
    with pytest.raises(TimeError) as err:
        infer_schema(_at(time))
    assert (err.value.variable, err.value.dim, err.value.index, err.value.code) == (
        "time",
        "time",
        index,
        "time/missing",
    )


@pytest.mark.parametrize("time", [["a", "b"], np.array([1 + 1j, 2]), np.array([1, 2], "timedelta64[s]")])
def test_times_of_no_use(time):
    with pytest.raises(TimeError) as err:
        infer_schema(_at(time))
    assert err.value.variable == "time"


@pytest.mark.parametrize("periods", [2, 50])
@pytest.mark.parametrize("freq", ["1s", "1min", "1h", "1D"])
def test_fault_6_nanoseconds_since_1970_in_single_precision(periods, freq):
    stamps = pd.date_range("2024-01-01", periods=periods, freq=freq).as_unit("ns").asi8
    with pytest.raises(TimeError) as err:
        infer_schema(_at(stamps.astype(np.float32)))
    assert (err.value.variable, err.value.code) == ("time", "time/precision")
    assert "float64" in err.value.fix
    schema = infer_schema(_at(stamps.astype(np.float64)))
    assert schema.time.scale == pytest.approx(pd.Timedelta(freq).total_seconds() * 1e9)


def test_fault_6_also_when_predicting():
    stamps = pd.date_range("2024-01-01", periods=9, freq="1h").as_unit("ns").asi8
    schema = infer_schema(_at(stamps.astype(np.float64)))
    with pytest.raises(TimeError):
        encode(_at(stamps.astype(np.float32)), schema)


@pytest.mark.parametrize(
    "time",
    [
        np.arange(20000, dtype=np.float32),
        np.linspace(0, 1, 101, dtype=np.float32),
        np.sort(np.random.default_rng(0).random(300)).astype(np.float32),
        np.array([0.0, 0.0, 0.5, 1.0], dtype=np.float32),
        np.array([3.3], dtype=np.float32),
        np.array([3, 4, 9]),
    ],
)
def test_single_precision_that_resolves_its_gaps_is_fine(time):
    assert infer_schema(_at(time), scale=False).time.scale > 0


def test_model_unit_is_the_median_gap_within_series():
    ds = xr.Dataset(
        {"y": (("id", "obs"), [[0.0, 1.0, 2.0], [0.0, 1.0, 5.0]])},
        coords={"time": (("id", "obs"), [[0.0, 2.0, 4.0], [100.0, 100.0, 102.0]])},
    )
    assert infer_schema(ds).time.scale == 2.0
    single = _at([5.0, 5.0])
    assert infer_schema(single).time.scale == 1.0


def test_time_units_are_converted_or_refused():
    schema = infer_schema(_at([0.0, 60.0, 120.0], "s"))
    assert schema.time.units == "s"
    assert encode(_at([0.0, 1.0, 2.0], "min"), schema).batch.time.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(UnitsError) as err:
        encode(_at([0.0, 1.0], "parsec"), schema)
    assert err.value.variable == "time"
    with pytest.warns(SciInferWarning, match="time"):
        encode(_at([0.0, 60.0]), schema)


def test_dates_and_numbers_do_not_mix():
    dates = _at(pd.date_range("2020", periods=3))
    with pytest.raises(TimeError):
        encode(_at([0.0, 1.0, 2.0]), infer_schema(dates))
    with pytest.raises(TimeError):
        encode(dates, infer_schema(_at([0.0, 1.0, 2.0])))


def test_queries_keep_order_ties_and_type():
    schema = infer_schema(_at([10.0, 12.0, 14.0]))
    caller, model = query_times(schema, [14, 10, 10, 20])
    assert caller.tolist() == [14.0, 10.0, 10.0, 20.0]
    assert model.tolist() == [2.0, 0.0, 0.0, 5.0]
    dated = infer_schema(_at(pd.date_range("2020-01-01", periods=3)))
    caller, model = query_times(dated, ["2020-01-03", "2019-12-31"])
    assert caller.dtype == np.dtype("datetime64[ns]")
    assert model.tolist() == [2.0, -1.0]
    assert query_times(schema, 12.0)[1].tolist() == [1.0]
    assert query_times(schema, xr.DataArray([12.0], dims="time"))[1].tolist() == [1.0]


def test_zoned_queries_are_converted():
    dated = infer_schema(_at(pd.date_range("2020-01-01", periods=3)))
    with pytest.warns(SciInferWarning, match="UTC"):
        caller, _ = query_times(dated, pd.DatetimeIndex(["2020-01-02T01:00"], tz="Europe/Berlin"))
    assert caller[0] == np.datetime64("2020-01-02")


@pytest.mark.parametrize("asked", [[], [np.nan], ["2020-01-01"], [[1.0, 2.0]]])
def test_queries_that_make_no_sense(asked):
    with pytest.raises(TimeError) as err:
        query_times(infer_schema(_at([10.0, 12.0])), asked)
    assert err.value.variable == "time"
