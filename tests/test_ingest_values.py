"""Values: missing, infinite, of a wrong type, scaled, in other units, outside their support."""

import numpy as np
import pytest
import torch
import xarray as xr

from sciinfer.errors import ConfigError, DataError, SchemaError, SciInferError, SciInferWarning, ShapeError, UnitsError
from sciinfer.labelled import check_support, data_hash, encode, infer_schema
from sciinfer.labelled.scaling import standardise
from sciinfer.labelled.units import factor

NAN = np.nan


def _one(values, units: str | None = None, **coords) -> xr.Dataset:
    attrs = {} if units is None else {"units": units}
    return xr.Dataset({"flux": ("time", values, attrs)}, coords={"time": np.arange(float(len(values))), **coords})


def test_fault_1_nan_is_masked_and_counted():
    ds = _one([1.0, NAN, 3.0, NAN])
    out = encode(ds, infer_schema(ds))
    assert out.batch.mask[:, 0].tolist() == [True, False, True, False]
    assert out.counts["missing"] == 2
    assert torch.isfinite(out.batch.values).all()
    assert infer_schema(ds).shift.tolist() == [2.0]


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("call", ["infer", "encode"])
def test_fault_2_infinite_values_are_placed(bad, call):
    good = xr.Dataset({"flux": (("time", "x"), np.eye(3))}, coords={"time": [0.0, 1.0, 2.0]})
    ds = good.copy(deep=True)
    ds["flux"][2, 1] = bad
    with pytest.raises(DataError) as err:
        infer_schema(ds) if call == "infer" else encode(ds, infer_schema(good))
    assert (err.value.variable, err.value.dim, err.value.index) == ("flux", "time, x", (2, 1))
    assert err.value.code == "data/infinite"
    assert np.isinf(ds["flux"].values[err.value.index])


def test_fault_2_index_is_the_callers_even_when_transposed_and_unsorted():
    ds = _one([1.0, np.inf, 3.0]).isel(time=[2, 1, 0])
    with pytest.raises(DataError) as err:
        infer_schema(ds)
    assert (err.value.dim, err.value.index) == ("time", 1)


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8", "float32"])
def test_fault_8_other_number_types(dtype):
    ds = _one(np.array([0, 1, 1, 0], dtype=dtype))
    if dtype == "float32":
        schema = infer_schema(ds)
    else:
        with pytest.warns(SciInferWarning, match="cast"):
            schema = infer_schema(ds)
    assert schema.shift.tolist() == [0.5]
    assert schema.scale.tolist() == [0.5]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.array([1 + 1j, 2]), "data/complex"),
        (np.array(["a", "b"]), "data/not-numeric"),
        (np.array(["a", 1.0], dtype=object), "data/not-numeric"),
        (np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"), "data/not-numeric"),
    ],
)
def test_faults_9_and_11_types_that_are_no_numbers(values, code):
    ds = _one([1.0, 2.0]).assign(odd=("time", values))
    with pytest.raises(DataError) as err:
        infer_schema(ds)
    assert (err.value.variable, err.value.code) == ("odd", code)
    if code == "data/not-numeric":
        assert "['flux']" in str(err.value)
    assert infer_schema(ds, variables=["flux"]).n_channels == 1
    with pytest.raises(DataError):
        encode(_one([1.0, 2.0]).assign(flux=("time", values)), infer_schema(_one([1.0, 2.0])))


def test_fault_11_a_dataset_of_complex_numbers_alone():
    with pytest.raises(DataError) as err:
        infer_schema(_one(np.array([1j, 2j])))
    assert err.value.code == "data/complex"


def test_fault_16_constant_channel():
    ds = _one([0.1] * 7).assign(other=("time", np.arange(7.0)))
    with pytest.warns(SciInferWarning, match="flux"):
        schema = infer_schema(ds)
    assert schema.scale[0] == 1.0
    assert encode(ds, schema).batch.values[:, 0].tolist() == [0.0] * 7


def test_all_missing_channel_is_named():
    ds = xr.Dataset(
        {"flux": (("time", "band"), [[1.0, NAN], [2.0, NAN]])}, coords={"time": [0.0, 1.0], "band": ["r", "g"]}
    )
    with pytest.raises(DataError, match="band=g") as err:
        infer_schema(ds)
    assert (err.value.variable, err.value.code, err.value.index) == ("flux", "data/all-missing", (1,))


def test_scale_false_keeps_the_numbers():
    ds = _one([1.0, 5.0, 2.0])
    schema = infer_schema(ds, scale=False)
    assert encode(ds, schema).batch.values[:, 0].tolist() == [1.0, 5.0, 2.0]


@pytest.mark.parametrize("offset", [0.0, 1e8, -1e12])
def test_two_pass_scaling_survives_a_large_offset(offset):
    shift, scale = standardise(np.array([1.0, 2.0, 3.0, 4.0]) + offset)
    assert shift == 2.5 + offset
    assert scale == pytest.approx(np.sqrt(1.25), rel=1e-12)


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_scaling_neither_overflows_nor_vanishes(size):
    shift, scale = standardise(np.array([-1.0, 1.0]) * size)
    assert (shift, scale) == (0.0, size)


@pytest.mark.parametrize(("have", "want", "times"), [("km", "m", 1e3), ("ms", "s", 1e-3), (" m ", "m", 1.0)])
def test_fault_13_units_are_converted(have, want, times):
    schema = infer_schema(_one([1.0, 2.0, 4.0], want))
    same, other = _one([1.0, 2.0, 4.0], want), _one(np.array([1.0, 2.0, 4.0]) / times, have)
    torch.testing.assert_close(
        encode(other, schema).batch.values, encode(same, schema).batch.values, rtol=1e-14, atol=1e-15
    )


def test_fault_13_units_that_cannot_be_converted_name_both():
    with pytest.raises(UnitsError) as err:
        encode(_one([1.0, 2.0], "mag"), infer_schema(_one([1.0, 2.0], "Jy")))
    assert err.value.variable == "flux"
    assert "'mag'" in str(err.value)
    assert "'Jy'" in str(err.value)


def test_fault_13_missing_units_are_assumed_aloud():
    with pytest.warns(SciInferWarning, match="flux"):
        encode(_one([1.0, 2.0]), infer_schema(_one([1.0, 2.0], "Jy")))


def test_units_table():
    assert factor("h", "min") == 60.0
    assert factor("days", "h") == 24.0
    assert factor("kHz", "Hz") == 1000.0
    assert factor("K", "degC") is None
    assert factor("m", "s") is None


@pytest.mark.parametrize(
    ("values", "support", "code", "index"),
    [
        ([0.0, 3.0, -1.0], "count", "data/negative-count", 2),
        ([0.0, 1.5, 2.0], "count", "data/not-integer", 1),
        ([0.0, 1.0, 2.0], "binary", "data/not-binary", 2),
        ([0.0, 1.0, 2.0], "positive", "data/not-positive", 0),
    ],
)
def test_fault_14_support_is_checked_and_placed(values, support, code, index):
    ds = _one(values)
    with pytest.raises(DataError) as err:
        check_support(ds, infer_schema(ds, scale=False), support)
    assert (err.value.variable, err.value.dim, err.value.index, err.value.code) == ("flux", "time", index, code)


@pytest.mark.parametrize("support", ["real", "count", "binary", "positive"])
def test_values_inside_the_support_pass_with_gaps(support):
    ds = _one([1.0, NAN, 1.0, 1.0])
    check_support(ds, infer_schema(ds, scale=False), support)


def test_fault_14_index_is_in_the_callers_dims():
    ds = xr.Dataset({"n": (("cell", "time"), [[0.0, 1.0, 2.0], [0.0, 1.0, -2.0]])}, coords={"time": [0.0, 1.0, 2.0]})
    with pytest.raises(DataError) as err:
        check_support(ds, infer_schema(ds, scale=False), "count")
    assert ds["n"].values[err.value.index] == -2.0


def test_unknown_support():
    with pytest.raises(ConfigError, match="count"):
        check_support(_one([1.0, 2.0]), infer_schema(_one([1.0, 2.0])), "counts")


def _bands(labels: list[str]) -> xr.Dataset:
    values = np.arange(4.0 * len(labels)).reshape(4, -1)
    return xr.Dataset({"flux": (("time", "band"), values)}, coords={"time": np.arange(4.0), "band": labels})


@pytest.mark.parametrize(
    ("ds", "error", "shown"),
    [
        (_bands(["r", "g"]), ShapeError, ["'band': 3", "'band': 2"]),
        (_bands(["r", "g", "z"]), SchemaError, ["'i'", "'z'"]),
        (_bands(["r", "g", "i"]).rename(flux="mag"), ShapeError, ["['flux']", "['mag']"]),
        (_bands(["r", "g", "i"]).rename(band="filter"), SchemaError, ["['band']", "['filter']"]),
        (_one([1.0, 2.0]), SchemaError, ["['band']", "[]"]),
    ],
)
def test_fault_17_other_channels_list_both(ds, error, shown):
    with pytest.raises(error) as err:
        encode(ds, infer_schema(_bands(["r", "g", "i"])))
    assert isinstance(err.value, SciInferError)
    assert all(text in str(err.value) for text in shown)
    assert err.value.variable == "flux"


def test_channels_are_matched_by_label():
    ds = _bands(["r", "g", "i"])
    schema = infer_schema(ds)
    turned = ds.isel(band=[2, 0, 1])
    assert torch.equal(encode(turned, schema).batch.values, encode(ds, schema).batch.values)


def test_further_variables_do_not_disturb():
    ds = _one([1.0, 2.0])
    assert encode(ds.assign(z=("time", [0.0, 9.0])), infer_schema(ds)).batch.n_channels == 1


def test_data_hash_sees_values_names_and_coords_only():
    ds = _one([1.0, NAN, -0.0])
    assert len(data_hash(ds)) == 64
    assert data_hash(ds) == data_hash(_one([1.0, NAN, 0.0], "Jy"))
    for other in (
        _one([1.0, NAN, 2.0]),
        ds.rename(flux="f"),
        ds.assign_coords(time=[0.0, 1.0, 3.0]),
        ds.set_coords("flux"),
    ):
        assert data_hash(other) != data_hash(ds)
    whole = _one(np.array([1, 2]))
    assert data_hash(whole) == data_hash(_one([1.0, 2.0]))
