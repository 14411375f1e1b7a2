"""Labelled fields: numbers of the tensor classes, labels and units kept, misuse named, saved and loaded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from sciinfer.errors import CheckpointError, ConfigError, DataError, SchemaError, SciInferError, UnitsError
from sciinfer.fields import fit_field, load_field
from sciinfer.gp import DKLGP, SparseGP, VecchiaGP
from sciinfer.gp.spatial import Matern
from sciinfer.likelihoods import Poisson

QUICK = {"iterations": 4}


def stations(n: int = 60, seed: int = 0) -> xr.Dataset:
    g = np.random.default_rng(seed)
    x, y = g.uniform(0, 10, n), g.uniform(0, 4, n)
    z = 100.0 + 5 * np.sin(x / 2) * np.cos(y) + 0.5 * g.normal(size=n)
    z[3] = np.nan
    return xr.Dataset(
        {"level": ("site", z, {"units": "m"})},
        coords={
            "x": ("site", x, {"units": "km"}),
            "y": ("site", y, {"units": "km"}),
            "site": [f"s{i}" for i in range(n)],
        },
    )


AT = xr.Dataset(coords={"x": ("x", [1.0, 5.0, 9.0], {"units": "km"}), "y": ("y", [0.5, 3.0], {"units": "km"})})


def grid_of(at: xr.Dataset) -> np.ndarray:
    return np.stack(np.meshgrid(at.x, at.y, indexing="ij"), -1).reshape(-1, 2)


@pytest.mark.parametrize("method", ["dense", "vecchia", "dkl", "sparse"])
def test_numbers_are_those_of_the_tensor_class(method):
    ds = stations()
    options = {"dense": {}, "vecchia": {"neighbours": 8}, "dkl": {"rho": 1.5}, "sparse": {"inducing": 15}}[method]
    before = ds.copy(deep=True)
    fitted = fit_field(ds, inputs=["x", "y"], method=method, options=options, lengthscale=2.0, noise=1.0, fit=QUICK)
    xr.testing.assert_identical(ds, before)
    seen = np.isfinite(ds.level.values)
    X, z = np.stack([ds.x, ds.y], 1)[seen], ds.level.values[seen]
    shift, scale = z.mean(), z.std()
    kernel, noise = Matern(1.5, [2.0, 2.0]), (1.0 / scale) ** 2
    if method in ("dense", "vecchia"):
        gp = VecchiaGP(kernel, noise, "constant", neighbours=options.get("neighbours", 100))
    else:
        gp = (DKLGP if method == "dkl" else SparseGP)(kernel, noise, **options)
    gp = gp.fit(X, (z - shift) / scale, **QUICK)
    post = gp.condition(X, (z - shift) / scale)
    tree = fitted.predict(AT, draws=5)
    where = grid_of(AT)
    np.testing.assert_allclose(
        tree["sample_stats"]["mean"].values.reshape(-1), post.mean(where) * scale + shift, rtol=1e-7
    )
    sd = post.variance(where).sqrt() * scale
    np.testing.assert_allclose(tree["sample_stats"]["sd"].values.reshape(-1), sd, rtol=1e-5)
    draws = post.sample(where, 5, seed=0) * scale + shift
    np.testing.assert_allclose(tree["posterior"]["level"].values.reshape(5, -1), draws, rtol=1e-5)
    assert fitted.spec.method == method
    assert fitted.explain().startswith(method)


def test_labels_and_units_stay():
    fitted = fit_field(stations(), "level", inputs=["x", "y"], fit=QUICK)
    tree = fitted.predict(AT, draws=7)
    for group in ("posterior", "posterior_predictive"):
        level = tree[group]["level"]
        assert (level.dims, level.shape, level.attrs["units"]) == (("chain", "draw", "x", "y"), (1, 7, 3, 2), "m")
        np.testing.assert_array_equal(level.x, AT.x)
        assert level.x.attrs["units"] == "km"
    at_sites = fitted.predict(draws=3)["posterior"]["level"]
    assert at_sites.dims == ("chain", "draw", "site")
    np.testing.assert_array_equal(at_sites.site, fitted.data.site)
    np.testing.assert_array_equal(at_sites.y, fitted.data.y)
    # metres are the same places as kilometres
    metres = AT.assign_coords({name: (name, AT[name].values * 1000, {"units": "m"}) for name in ("x", "y")})
    again = fitted.predict(metres, draws=7)
    np.testing.assert_allclose(again["posterior"]["level"].values, tree["posterior"]["level"].values, rtol=1e-9)
    assert again["posterior"]["level"].x.attrs["units"] == "m"
    assert tree.attrs["model"] == "gp-field" and "dense" in tree.attrs["explanation"]
    spread = tree["posterior_predictive"]["level"].std() / tree["posterior"]["level"].std()
    assert float(spread) > 0.5
    assert set(fitted.parameters) == {"lengthscale[x]", "lengthscale[y]", "sd", "noise"}


def test_a_grid_a_table_and_stations_are_the_same_data():
    x, y = np.linspace(0, 3, 6), np.linspace(0, 2, 5)
    z = np.sin(x)[:, None] + np.cos(2 * y)
    grid = xr.DataArray(z, {"x": x, "y": y}, ("x", "y"), name="z")
    table = grid.to_dataframe().reset_index()
    options = {"inputs": ["x", "y"], "fit": QUICK}
    at = pd.DataFrame({"x": [0.2, 2.9], "y": [0.1, 1.9]})
    found = [fit_field(d, **options).predict(at, draws=2)["sample_stats"]["mean"] for d in (grid, grid.T, table)]
    assert found[0].dims == ("point",)
    for other in found[1:]:
        np.testing.assert_allclose(other.values, found[0].values, rtol=1e-8)
    np.testing.assert_allclose(found[0].values, np.sin(at.x) + np.cos(2 * at.y), atol=0.1)


def test_dates_and_covariates_are_inputs():
    days = pd.date_range("2020-01-01", periods=40, freq="D")
    wind = np.random.default_rng(0).uniform(0, 8, 40)
    ds = xr.Dataset(
        {"ozone": ("time", np.sin(np.arange(40) / 6) + 0.2 * wind), "wind": ("time", wind)}, coords={"time": days}
    )
    fitted = fit_field(ds, "ozone", inputs=["time", "wind"], lengthscale={"time": 10.0}, fit=QUICK)
    assert fitted.spec.lengthscale[0] == 10.0
    at = xr.Dataset({"wind": ("time", [3.0])}, coords={"time": pd.to_datetime(["2020-01-10T12:00"])})
    mean = float(fitted.predict(at, draws=2)["sample_stats"]["mean"][0])
    assert mean == pytest.approx(np.sin(9.5 / 6) + 0.6, abs=0.15)


def test_counts_take_another_method_and_their_own_scale():
    x = np.linspace(0, 6, 40)
    rate = np.exp(1.0 + np.sin(x))
    counts = np.random.default_rng(0).poisson(rate).astype(float)
    ds = xr.Dataset({"n": ("x", counts)}, coords={"x": x})
    fitted = fit_field(ds, inputs=["x"], likelihood="poisson", fit=QUICK)
    assert fitted.spec.method == "dkl"
    assert fitted.spec.level == pytest.approx(np.log(counts.mean()), abs=1e-6)
    tree = fitted.predict(draws=300)
    found = tree["posterior"]["n"].mean(("chain", "draw")).values
    assert np.abs(found / rate - 1).mean() < 0.35
    drawn = tree["posterior_predictive"]["n"].values
    assert (drawn == np.floor(drawn)).all() and (drawn >= 0).all()
    gp = DKLGP(Matern(1.5, fitted.spec.lengthscale), likelihood=Poisson(1), mean=fitted.spec.level).fit(
        x[:, None], counts, **QUICK
    )
    np.testing.assert_allclose(tree["sample_stats"]["mean"], gp.condition(x[:, None], counts).mean(x), rtol=1e-7)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_saved_and_loaded_it_says_the_same(tmp_path, method):
    fitted = fit_field(stations(), "level", inputs=["x", "y"], method=method, fit=QUICK, seed=3)
    fitted.save(tmp_path / "field")
    again = load_field(tmp_path / "field")
    first, second = (f.predict(AT, draws=4) for f in (fitted, again))
    np.testing.assert_allclose(second["posterior"]["level"].values, first["posterior"]["level"].values, rtol=1e-9)
    assert again.spec == fitted.spec
    assert again.explain() == fitted.explain()
    assert again.parameters == fitted.parameters
    assert not any(path.suffix in (".pkl", ".pt") for path in (tmp_path / "field").iterdir())
    config = tmp_path / "field" / "config.toml"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(CheckpointError):
        load_field(tmp_path / "field")


def _with(**changes):
    return stations().assign(**changes)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: fit_field(stations(), inputs=["x", "z"]), SchemaError, "no coordinate or variable 'z'"),
        (lambda: fit_field(stations(), inputs=[]), SchemaError, "inputs are the names"),
        (lambda: fit_field(stations(), inputs=["site"]), DataError, "variable 'site'.*no numbers"),
        (lambda: fit_field(_with(other=("site", np.zeros(60))), inputs=["x"]), SchemaError, "which variable"),
        (lambda: fit_field(_with(level=("site", np.full(60, np.nan))), inputs=["x"]), DataError, "every value"),
        (lambda: fit_field(_with(level=("site", np.full(60, np.inf))), inputs=["x"]), DataError, "index.*infinite"),
        (lambda: fit_field(_with(level=(("site", "k"), np.zeros((60, 2)))), inputs=["x"]), SchemaError, "'k'"),
        (lambda: fit_field(stations(), inputs=["x"], method="magic"), ConfigError, "unknown method"),
        (lambda: fit_field(stations(), inputs=["x"], kernel="cubic"), ConfigError, "unknown kernel"),
        (lambda: fit_field(stations(), inputs=["x"], options={"rho": 1}), ConfigError, "no option rho"),
        (lambda: fit_field(stations(), inputs=["x"], lengthscale={"y": 1.0}), ConfigError, "which is no input"),
        (lambda: fit_field(stations(), inputs=["x"], likelihood="poisson"), DataError, "not whole"),
        (
            lambda: fit_field(stations().round(), inputs=["x"], likelihood="poisson", method="dense"),
            ConfigError,
            "Gaussian noise only",
        ),
        (lambda: fit_field(3.0, inputs=["x"]), DataError, "cannot read a float"),
    ],
)
def test_misuse_of_a_fit_is_named(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call()
    assert isinstance(caught.value, SciInferError) and caught.value.fix


def test_misuse_of_a_prediction_is_named():
    ds = stations()
    ds["x"][5] = np.nan
    with pytest.raises(DataError, match=r"'x', index \(5,\).*missing"):
        fit_field(ds, inputs=["x", "y"])
    fitted = fit_field(stations(), inputs=["x", "y"], fit=QUICK)
    with pytest.raises(SchemaError, match="'y'"):
        fitted.predict(AT.drop_vars("y"))
    with pytest.raises(UnitsError, match="'kg'"):
        fitted.predict(AT.assign_coords(x=("x", [1.0], {"units": "kg"})))
    with pytest.raises(DataError, match="missing or infinite"):
        fitted.predict(AT.assign_coords(x=("x", [np.nan], {"units": "km"})))
    with pytest.raises(ConfigError, match="draws"):
        fitted.predict(AT, draws=0)
    with pytest.raises(SchemaError, match="dim of results"):
        fitted.predict(AT.rename_dims(x="draw"))


def test_missing_values_are_left_out_and_predicted():
    ds = stations()
    whole = fit_field(ds, inputs=["x", "y"], fit=QUICK).predict(AT, draws=2)
    fewer = fit_field(ds.isel(site=np.flatnonzero(np.isfinite(ds.level))), inputs=["x", "y"], fit=QUICK)
    np.testing.assert_array_equal(whole["posterior"]["level"], fewer.predict(AT, draws=2)["posterior"]["level"])
    assert torch.isfinite(torch.as_tensor(whole["posterior"]["level"].values)).all()
