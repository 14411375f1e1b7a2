"""Layouts: where time, series and channels are, whatever the order of dims."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from sciinfer.errors import DataError, SchemaError, SciInferWarning, ShapeError, TimeError
from sciinfer.labelled import Encoded, as_dataset, data_hash, encode, infer_schema

NAN = np.nan


def _field(seed: int = 0) -> xr.Dataset:
    values = np.random.default_rng(seed).normal(size=(3, 5, 2, 4))
    return xr.Dataset(
        {"temp": (("id", "time", "y", "x"), values, {"units": "K"}), "wind": (("id", "time"), values[..., 0, 0] * 2)},
        coords={"id": ["a", "b", "c"], "time": [0.0, 1.0, 2.5, 3.0, 7.0], "x": [10, 20, 30, 40]},
    )


def _ragged() -> xr.Dataset:
    frame = pd.DataFrame(
        {
            "id": list("abbba"),
            "time": [0.0, 0.5, 1.0, 1.5, 2.0],
            "flux": [1.0, 2.0, NAN, 4.0, 5.0],
            "mag": [1.0] * 4 + [2.0],
        }
    )
    return as_dataset(frame)


def _padded() -> xr.Dataset:
    time = [[0.0, 2.0, NAN], [0.5, 1.0, 1.5]]
    flux = [[1.0, 5.0, NAN], [2.0, NAN, 4.0]]
    mag = [[1.0, 2.0, NAN], [1.0, 1.0, 1.0]]
    dims = ("id", "obs")
    return xr.Dataset({"flux": (dims, flux), "mag": (dims, mag)}, coords={"time": (dims, time), "id": ["a", "b"]})


def _same(a: Encoded, b: Encoded) -> None:
    for left, right in zip(a.batch[:4], b.batch[:4], strict=True):
        assert torch.equal(left, right)
    np.testing.assert_array_equal(a.series_labels, b.series_labels)
    assert a.counts == b.counts


def test_grid_with_series_and_further_dims():
    ds = _field()
    schema = infer_schema(ds)
    out = encode(ds, schema)
    assert (schema.layout, schema.series, schema.time.name) == ("grid", "id", "time")
    assert schema.n_channels == 9
    assert schema.variables[0].dims == ("x", "y")
    assert schema.variables[0].labels == ((10, 20, 30, 40), ())
    assert schema.channels[3].label == "temp[x=20, y=1]"
    assert out.batch.lengths.tolist() == [5, 5, 5]
    assert out.series_labels.tolist() == ["a", "b", "c"]
    assert out.counts == {"rows": 15, "series": 3, "observed": 135, "missing": 0}
    got = out.batch.values[5 + 2].numpy() * schema.scale + schema.shift
    np.testing.assert_allclose(got[3], ds["temp"].sel(id="b", time=2.5, x=20).isel(y=1), rtol=1e-14)
    np.testing.assert_allclose(got[8], ds["wind"].sel(id="b", time=2.5), rtol=1e-14)


def test_units_of_model_time_and_values():
    ds = _field()
    schema = infer_schema(ds)
    batch = encode(ds, schema).batch
    assert (schema.time.origin, schema.time.scale) == (0.0, 1.0 + 0.25)  # gaps 1, 1.5, 0.5, 4
    assert batch.time[:5].tolist() == [0.0, 0.8, 2.0, 2.4, 5.6]
    assert batch.values.dtype == batch.time.dtype == torch.float64
    assert float(batch.values.mean(0).abs().max()) < 1e-14
    torch.testing.assert_close(
        batch.values.std(0, correction=0), torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_padded_and_ragged_are_the_same_data():
    ragged, padded = _ragged(), _padded()
    schema = infer_schema(ragged)
    assert schema.layout == "ragged"
    assert infer_schema(padded).layout == "padded"
    assert infer_schema(padded).channels == schema.channels
    assert infer_schema(padded).time == schema.time
    _same(encode(padded, schema), encode(ragged, schema))
    assert encode(padded, schema).row_order.tolist() == [0, 1, 3, 4, 5]


def test_padded_with_dates_and_nat():
    time = np.array([["2020-01-01", "NaT"], ["2020-01-01", "2020-01-02"]], "datetime64[ns]")
    ds = xr.Dataset({"y": (("trial", "obs"), [[1.0, NAN], [2.0, 3.0]])}, coords={"t": (("trial", "obs"), time)})
    out = encode(ds, infer_schema(ds))
    assert out.batch.lengths.tolist() == [1, 2]
    assert out.batch.time.tolist() == [0.0, 0.0, 1.0]
    assert out.series_labels.tolist() == [0, 1]


@pytest.mark.parametrize("make", [_field, _ragged, _padded])
def test_fault_12_transposed_dims_give_equal_bits(make):
    ds = make()
    schema = infer_schema(ds)
    for order in (tuple(ds.dims)[::-1], tuple(sorted(map(str, ds.dims)))):
        turned = ds.transpose(*order)
        assert infer_schema(turned) == schema
        _same(encode(turned, schema), encode(ds, schema))
        assert data_hash(turned) == data_hash(ds)


@pytest.mark.parametrize("make", [_field, _ragged, _padded])
def test_fault_19_odd_memory_gives_equal_results(make):
    ds = make()
    schema, expected, before = infer_schema(ds), encode(ds, infer_schema(ds)), ds.copy(deep=True)
    odd = ds.copy(deep=True)
    for name in [n for n, v in odd.variables.items() if v.dtype.kind == "f" and n not in odd.indexes]:
        values = odd[name].values
        reversed_ = np.ascontiguousarray(values[tuple(slice(None, None, -1) for _ in values.shape)])
        view = reversed_[tuple(slice(None, None, -1) for _ in values.shape)]
        view.setflags(write=False)
        odd[name].variable._data = view
        assert view.strides[0] < 0
    assert infer_schema(odd) == schema
    _same(encode(odd, schema), expected)
    xr.testing.assert_identical(ds, before)
    expected.batch.values.zero_()
    xr.testing.assert_identical(ds, before)


def test_dask_arrays_are_computed():
    pytest.importorskip("dask.array")
    ds = _field()
    lazy = ds.chunk({"time": 2})
    assert infer_schema(lazy) == infer_schema(ds)
    _same(encode(lazy, infer_schema(ds)), encode(ds, infer_schema(ds)))
    assert data_hash(lazy) == data_hash(ds)
    assert lazy["temp"].chunks is not None


def test_fault_5_unsorted_times_are_sorted_with_one_notice():
    ds = _ragged()
    shuffled = ds.isel(obs=[1, 0, 4, 3, 2])
    schema = infer_schema(shuffled)
    with pytest.warns(SciInferWarning, match="sorted") as notices:
        out = encode(shuffled, schema)
    assert len(notices) == 1
    assert schema == infer_schema(ds)
    _same(out, encode(ds, schema))
    np.testing.assert_array_equal(shuffled["time"].values[out.row_order], ds["time"].values)


def test_ties_are_kept_in_the_callers_order():
    ds = xr.Dataset({"y": ("time", [3.0, 1.0, 2.0])}, coords={"time": [1.0, 0.0, 1.0]})
    with pytest.warns(SciInferWarning):
        out = encode(ds, infer_schema(ds, scale=False))
    assert out.batch.values[:, 0].tolist() == [1.0, 3.0, 2.0]
    assert out.row_order.tolist() == [1, 0, 2]


def test_fault_4_one_time_point():
    ds = xr.Dataset({"y": ("time", [2.0])}, coords={"time": [5.0]})
    with pytest.warns(SciInferWarning, match="constant"):
        schema = infer_schema(ds)
    out = encode(ds, schema)
    assert (schema.time.scale, out.batch.time.tolist(), out.batch.values.tolist()) == (1.0, [0.0], [[0.0]])


def test_time_is_found_by_name_type_or_attribute():
    def coord(attrs: dict, values: list) -> xr.Dataset:
        return xr.Dataset({"y": ("k", [1.0, 2.0])}, coords={"k": ("k", [0.0, 1.0]), "w": ("k", values, attrs)})

    assert infer_schema(coord({"axis": "T"}, [3.0, 4.0])).time.name == "w"
    assert infer_schema(coord({"standard_name": "time"}, [3.0, 4.0])).time.name == "w"
    assert infer_schema(coord({}, list(pd.date_range("2020", periods=2)))).time.name == "w"
    assert infer_schema(coord({}, [3.0, 4.0]), time="w").time.name == "w"
    with pytest.raises(SchemaError) as err:
        infer_schema(coord({}, [3.0, 4.0]))
    assert err.value.code == "schema/no-time"
    assert "'k'" in str(err.value)
    assert "'w'" in str(err.value)


def test_two_date_axes_are_ambiguous():
    days = pd.date_range("2020", periods=2)
    ds = xr.Dataset({"y": (("a", "b"), np.ones((2, 2)))}, coords={"a": days, "b": days})
    with pytest.raises(SchemaError, match=r"several.*'a', 'b'"):
        infer_schema(ds)


def test_a_data_variable_may_be_named_as_time():
    ds = xr.Dataset({"y": ("obs", [1.0, 2.0]), "clock": ("obs", [0.0, 4.0])})
    schema = infer_schema(ds, time="clock")
    assert [v.name for v in schema.variables] == ["y"]
    assert encode(ds, schema).batch.time.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("ds", "options", "error"),
    [
        (xr.Dataset(coords={"time": [0.0]}), {}, DataError),
        (xr.Dataset({"y": ("time", [])}, coords={"time": []}), {}, DataError),
        (_field().isel(x=slice(0, 0)), {}, DataError),
        (xr.Dataset({"y": ("time", [1.0])}), {}, SchemaError),
        (xr.Dataset({"y": ("time", ["a"])}, coords={"time": [0.0]}), {}, SchemaError),
        (_field(), {"variables": ["nope"]}, SchemaError),
        (_field(), {"variables": []}, SchemaError),
        (_field(), {"series": "who"}, SchemaError),
        (_field().rename(x="draw"), {}, SchemaError),
        (_field().rename(id="chain"), {"series": "chain"}, SchemaError),
        (_ragged().assign(row_size=("id", [1, 3], {"sample_dimension": "obs"})), {}, ShapeError),
        (_padded().rename(id="p", obs="q"), {}, SchemaError),
    ],
)
def test_fault_3_and_datasets_that_cannot_be_understood(ds, options, error):
    with pytest.raises(error) as err:
        infer_schema(ds, **options)
    assert err.value.fix


def test_fault_3_names_the_empty_dim():
    with pytest.raises(DataError) as err:
        infer_schema(_field().isel(x=slice(0, 0)))
    assert (err.value.dim, err.value.code) == ("x", "data/empty")


def test_variables_without_time_are_left_out_aloud_and_without_series_refused():
    with pytest.warns(SciInferWarning, match="age"):
        assert infer_schema(_field().assign(age=("id", [1.0, 2.0, 3.0]))).n_channels == 9
    with pytest.raises(SchemaError) as err:
        infer_schema(_field().assign(common=("time", np.arange(5.0))))
    assert err.value.variable == "common"


def test_a_value_without_a_time_is_not_lost():
    ds = _padded()
    ds["flux"][0, 2] = 9.0
    with pytest.raises(TimeError) as err:
        infer_schema(ds)
    assert (err.value.index, err.value.dim) == ((0, 2), "id, obs")


def test_single_series_of_a_model_of_many():
    schema = infer_schema(_field())
    out = encode(_field().isel(id=1, drop=True), schema)
    assert out.series_labels.tolist() == [0]
    assert torch.equal(out.batch.values, encode(_field(), schema).batch.values[5:10])
    with pytest.raises(SchemaError) as err:
        encode(_field(), infer_schema(_field().isel(id=0, drop=True)))
    assert err.value.dim == "id"


def test_frames_may_be_passed_straight():
    frame = pd.DataFrame({"patient": list("aab"), "hour": [0.0, 1.0, 0.0], "x": [1.0, 2.0, 3.0]})
    schema = infer_schema(frame, time="hour", series="patient")
    assert encode(frame, schema).series_labels.tolist() == ["a", "b"]
    assert encode(frame.drop(columns="patient").iloc[:2], schema).batch.n_series == 1


def _calls(ds: xr.Dataset) -> tuple[xr.Dataset, Encoded]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SciInferWarning)
        schema = infer_schema(ds, scale=False)
        return ds, encode(ds, schema)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_every_observed_value_comes_back(seed, series, steps, channels):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((series, steps, channels)) < 0.3, NAN, rng.normal(size=(series, steps, channels)))
    values[0, 0] = 0.0  # every channel is seen at least once
    time = rng.choice(100, steps, replace=False) / 7.0
    ds = xr.Dataset({"y": (("id", "time", "c"), values)}, coords={"time": time})
    _, out = _calls(ds)
    padded = out.batch.padded()
    back = np.full((series * steps, channels), NAN)
    back[out.row_order] = np.where(padded.mask, padded.values, NAN)[padded.rows.numpy()]
    np.testing.assert_array_equal(back.reshape(values.shape), values)
    assert out.counts["missing"] == int(np.isnan(values).sum())


@settings(max_examples=20, deadline=None)
@given(st.permutations(["id", "time", "x", "y"]))
def test_any_order_of_dims_gives_equal_bits(order):
    ds = _field()
    schema = infer_schema(ds)
    _same(encode(ds.transpose(*order), schema), encode(ds, schema))


@settings(max_examples=20, deadline=None)
@given(st.permutations(list(range(5))))
def test_row_order_undoes_the_sorting(order):
    ds = _field().isel(time=list(order))
    _, out = _calls(ds)
    clock = np.tile(ds["time"].values, 3)
    assert (clock[out.row_order] == np.tile(_field()["time"].values, 3)).all()
    assert sorted(out.row_order.tolist()) == list(range(15))
