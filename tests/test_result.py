"""Labels on: draws in the caller's variables, dims, coordinates and units; files and ArviZ take them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from sciinfer.errors import ConfigError, ShapeError
from sciinfer.labelled import as_dataset, build_tree, encode, infer_schema, interval, query_times

DRAWS = 6


def _data() -> xr.Dataset:
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {
            "temp": (("id", "time", "y", "x"), rng.normal(280, 5, (2, 4, 2, 3)), {"units": "K", "long_name": "air"}),
            "wind": (("id", "time"), rng.normal(size=(2, 4))),
        },
        coords={
            "id": ["north", "south"],
            "time": pd.date_range("2020-01-01", periods=4, freq="7D"),
            "x": [1.5, 2.5, 3.5],
            "y": ["low", "high"],
        },
        attrs={"title": "two stations"},
    )


def _tree(ds: xr.Dataset, **extra) -> tuple[xr.DataTree, np.ndarray]:
    """A tree whose every draw is the data themselves."""
    schema = infer_schema(ds)
    encoded = encode(ds, schema)
    values = encoded.batch.padded().values
    signal = values[None].expand(DRAWS, *values.shape)
    latent = torch.randn(DRAWS, *values.shape[:2], 2, generator=torch.Generator().manual_seed(0))
    tree = build_tree(
        schema,
        caller_time=ds["time"].values,
        series_labels=encoded.series_labels,
        groups={"posterior": {"signal": signal, "latent": latent}, "posterior_predictive": {"observation": signal}},
        **extra,
    )
    return tree, latent.numpy()


def test_draws_come_back_in_the_callers_own_words():
    ds = _data()
    tree, latent = _tree(ds)
    for group in ("posterior", "posterior_predictive"):
        temp = tree[group]["temp"]
        assert temp.dims == ("chain", "draw", "id", "time", "x", "y")
        assert dict(temp.sizes) == {"chain": 1, "draw": DRAWS, "id": 2, "time": 4, "x": 3, "y": 2}
        assert temp.attrs == {"units": "K"}
        for name in ("temp", "wind"):
            back = tree[group][name].isel(chain=0, draw=3).transpose(*ds[name].dims)
            np.testing.assert_allclose(back.values, ds[name].values, rtol=1e-14)
            for dim in ds[name].dims:
                np.testing.assert_array_equal(back[dim].values, ds[dim].values)
    assert tree["posterior"]["latent"].dims == ("chain", "draw", "id", "time", "latent_dim")
    np.testing.assert_array_equal(tree["posterior"]["latent"][0], latent)
    assert "latent" not in tree["posterior_predictive"].data_vars
    assert tree["posterior"]["draw"].values.tolist() == list(range(DRAWS))
    assert tree["posterior"]["chain"].values.tolist() == [0]


def test_one_series_has_no_series_dim():
    ds = _data().isel(id=0, drop=True)[["wind"]]
    tree, _ = _tree(ds)
    assert tree["posterior"]["wind"].dims == ("chain", "draw", "time")
    assert tree["posterior"]["latent"].dims == ("chain", "draw", "time", "latent_dim")


def test_generated_series_have_no_label_and_no_dim():
    schema = infer_schema(_data())
    groups = {"prior": {"signal": np.zeros((3, 1, 2, 7))}, "prior_predictive": {"observation": np.zeros((3, 1, 2, 7))}}
    times, _ = query_times(schema, ["2020-02-02", "2020-01-01"])
    tree = build_tree(schema, caller_time=times, series_labels=None, groups=groups)
    assert tree["prior"]["wind"].dims == ("chain", "draw", "time")
    np.testing.assert_array_equal(tree["prior"]["time"].values, times)
    np.testing.assert_allclose(tree["prior"]["wind"].values, schema.shift[-1])


def test_order_and_ties_of_the_callers_times_are_kept():
    ds = _data().isel(id=0, drop=True)[["wind"]]
    schema = infer_schema(ds)
    times, _ = query_times(schema, ["2020-03-01", "2020-01-01", "2020-01-01"])
    groups = {"posterior": {"signal": np.arange(3.0).reshape(1, 1, 3, 1)}}
    tree = build_tree(schema, caller_time=times, series_labels=None, groups=groups)
    np.testing.assert_array_equal(tree["posterior"]["time"].values, times)
    got = (tree["posterior"]["wind"].values.ravel() - schema.shift[0]) / schema.scale[0]
    np.testing.assert_allclose(got, [0.0, 1.0, 2.0], atol=1e-14)


def test_observed_data_are_an_independent_copy():
    ds = _data()
    before = ds.copy(deep=True)
    tree, _ = _tree(ds, observed=ds)
    xr.testing.assert_identical(tree["observed_data"].to_dataset(), ds)
    tree["observed_data"]["wind"].values[:] = 0.0
    tree["observed_data"].attrs["title"] = "changed"
    xr.testing.assert_identical(ds, before)


def test_stats_and_attrs():
    stats = {
        "seconds": 1.5,
        "logp": np.arange(float(DRAWS)),
        "curve": np.zeros(3),
        "class": "exact",
        "steps": torch.tensor(4),
    }
    attrs = {
        "seed": 3,
        "config": {"lr": 0.1, "path": np.float64(2.0)},
        "note": None,
        "flag": True,
        "versions": ["1", "2"],
    }
    tree, _ = _tree(_data(), stats=stats, attrs=attrs)
    group = tree["sample_stats"]
    assert group["logp"].dims == ("chain", "draw")
    assert group["curve"].dims == ("curve_dim_0",)
    assert float(group["seconds"]) == 1.5
    assert int(group["steps"]) == 4
    assert group.attrs["class"] == "exact"
    assert tree.attrs["seed"] == 3
    assert json.loads(tree.attrs["config"]) == {"lr": 0.1, "path": 2.0}
    assert json.loads(tree.attrs["versions"]) == ["1", "2"]
    assert all(isinstance(value, (int, float, str)) for value in tree.attrs.values())


@pytest.mark.parametrize("layout", ["grid", "ragged"])
def test_round_trip_through_a_file(tmp_path, layout):
    ds = _data()
    ds["wind"].attrs = {"flags": {"a": 1}, "none": None, "checked": True}
    ragged = as_dataset(_data()["wind"].to_dataframe().reset_index())
    tree, _ = _tree(
        ds, observed=ds if layout == "grid" else ragged, stats={"lp": np.arange(float(DRAWS))}, attrs={"a": {}}
    )
    path = tmp_path / "result.nc"
    tree.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as back:
        back.load()
    assert set(back.children) == {"posterior", "posterior_predictive", "sample_stats", "observed_data"}
    for name in back.children:
        xr.testing.assert_equal(back[name].to_dataset(), tree[name].to_dataset())
    assert back["posterior"]["temp"].attrs["units"] == "K"
    assert back.attrs == tree.attrs


def test_a_stacked_index_can_be_written(tmp_path):
    ds = _data().stack(cell=("x", "y"))
    tree, _ = _tree(ds.drop_vars(["cell", "x", "y"]), observed=ds)
    tree.to_netcdf(tmp_path / "result.nc", engine="h5netcdf")
    assert tree["observed_data"]["temp"].shape == ds["temp"].shape


def test_arviz_accepts_the_tree():
    azb = pytest.importorskip("arviz_base")
    tree, _ = _tree(_data(), observed=_data())
    accepted = azb.convert_to_datatree(tree)
    assert set(accepted.children) >= {"posterior", "posterior_predictive", "observed_data"}
    flat = azb.extract(accepted, group="posterior", var_names="wind")
    assert dict(flat.sizes)["sample"] == DRAWS


def test_interval():
    ds = _data()
    schema = infer_schema(ds[["wind"]])
    noise = np.random.default_rng(0).normal(size=(20000, 2, 4, 1))
    tree = build_tree(
        schema,
        caller_time=ds["time"].values,
        series_labels=ds["id"].values,
        groups={"posterior": {"signal": noise}},
    )
    lo, hi = interval(tree["posterior"]["wind"], 0.9)
    assert lo.dims == hi.dims == ("id", "time")
    width = (hi - lo).values / schema.scale[0]
    np.testing.assert_allclose(width, 2 * 1.6448536, rtol=0.03)
    np.testing.assert_allclose(((hi + lo) / 2 - schema.shift[0]).values, 0, atol=0.05 * schema.scale[0])
    with pytest.raises(ConfigError):
        interval(tree["posterior"]["wind"], 90)


def test_a_variable_called_latent_keeps_its_name():
    ds = _data()[["wind"]].rename(wind="latent")
    tree, latent = _tree(ds)
    np.testing.assert_allclose(tree["posterior"]["latent"][0, 0].values, ds["latent"].values, rtol=1e-14)
    np.testing.assert_array_equal(tree["posterior"]["latent_path"][0], latent)


@pytest.mark.parametrize(
    "groups",
    [
        {"posterior": {"signal": np.zeros((2, 2, 4, 3))}},
        {"posterior": {"signal": np.zeros((2, 2, 5, 7))}},
        {"posterior": {"signal": np.zeros((2, 3, 4, 7))}},
        {"posterior": {"signal": np.zeros((2, 2, 4))}},
        {"posterior": {"signal": np.zeros((2, 2, 4, 7)), "latent": np.zeros((3, 2, 4, 1))}},
    ],
)
def test_arrays_that_do_not_fit_are_refused(groups):
    ds = _data()
    with pytest.raises(ShapeError, match="expected") as err:
        build_tree(infer_schema(ds), caller_time=ds["time"].values, series_labels=ds["id"].values, groups=groups)
    assert err.value.fix


def test_tensors_with_gradients_are_taken():
    ds = _data()[["wind"]]
    signal = torch.zeros(1, 2, 4, 1, requires_grad=True)
    tree = build_tree(
        infer_schema(ds),
        caller_time=ds["time"].values,
        series_labels=ds["id"].values,
        groups={"posterior": {"signal": signal}},
    )
    assert tree["posterior"]["wind"].dtype == np.float64
