"""Calibration report of a result tree, and the effective sample size."""

import numpy as np
import pytest
import xarray as xr

from sciinfer.diagnostics import bulk_ess, check
from sciinfer.errors import DataError, SchemaError

N = 400
TIME = np.datetime64("2001-01-01", "ns") + np.arange(N) * np.timedelta64(1, "D")


def tree(scale: float = 1.0, chains: int = 1, seed: int = 0, time=TIME, **attrs) -> xr.DataTree:
    rng = np.random.default_rng(seed)
    dims = ("chain", "draw", "site", "time")
    x = xr.DataArray(scale * rng.normal(size=(chains, 50, 2, N)), dims=dims, coords={"time": time, "site": ["p", "q"]})
    y = xr.DataArray(rng.normal(size=(2, N)), dims=("site", "time"), coords={"time": time, "site": ["p", "q"]})
    observed = xr.Dataset({"y": y, "station": ("site", ["P", "Q"])}, attrs=attrs)
    return xr.DataTree.from_dict({"posterior_predictive": xr.Dataset({"y": x}), "observed_data": observed})


def test_a_calibrated_result_passes():
    ds = check(tree(held_out=1))
    assert ds.attrs["verdict"] == "calibrated" and ds.attrs["notes"] == ""
    assert ds["n"].item() == ds["pit_count"].sum().item() == 2 * N
    assert float(ds["chi2_per_datum"].item()) == pytest.approx(1.0, abs=0.2)
    assert float(ds["pit_pvalue"].item()) > 0.01
    assert bool((abs(ds["coverage"] - ds["prob"]) < 4 * ds["coverage_se"]).all())


@pytest.mark.parametrize(("scale", "verdict"), [(0.7, "overconfident"), (1.5, "underconfident")])
def test_a_wrong_spread_is_called_by_name(scale, verdict):
    ds = check(tree(scale, held_out=1))
    assert ds.attrs["verdict"] == verdict
    assert ds.attrs["notes"].startswith(f"y: {verdict}: the ") and "binomial error" in ds.attrs["notes"]


def test_conditioned_data_are_called_in_sample():
    ds = check(tree())
    assert ds.attrs["in_sample"] == 1 and "in-sample" in ds.attrs["notes"]
    other = check(tree(), held_out=tree(seed=9)["observed_data"].to_dataset())
    assert other.attrs["in_sample"] == 0 and "in-sample" not in other.attrs["notes"]


def test_only_exactly_equal_times_are_compared():
    result = tree()
    shifted = result["observed_data"].to_dataset().isel(time=slice(100, 150))
    assert check(result, held_out=shifted)["n"].item() == 100
    moved = shifted.assign_coords(time=shifted["time"] + np.timedelta64(1, "s"))
    with pytest.raises(SchemaError, match="at the same labels") as caught:
        check(result, held_out=moved)
    assert caught.value.fix and caught.value.details["predicted"] == ["y"]


def test_series_with_their_own_times_are_matched_entry_by_entry():
    result = tree()
    own = np.tile(np.arange(N, dtype=float), (2, 1))
    predictive = result["posterior_predictive"].to_dataset().drop_vars("time").rename(time="obs")
    observed = result["observed_data"].to_dataset().drop_vars("time").rename(time="obs")
    predictive = predictive.assign_coords(time=(("site", "obs"), own))
    late = own.copy()
    late[1, 300:] += 0.5
    late[0, 390:] = np.nan
    observed = observed.assign_coords(time=(("site", "obs"), late))
    made = xr.DataTree.from_dict({"posterior_predictive": predictive, "observed_data": observed})
    assert check(made)["n"].item() == 390 + 300


def test_missing_data_are_ignored_and_the_tree_left_alone():
    result = tree()
    result["observed_data"]["y"][:, :30] = np.nan
    before = result.copy(deep=True)
    assert check(result)["n"].item() == 2 * (N - 30)
    assert before.identical(result)


def test_two_variables_of_different_size():
    result = tree()
    predictive, observed = (result[g].to_dataset() for g in ("posterior_predictive", "observed_data"))
    predictive["z"] = 0.3 * predictive["y"].isel(site=0, drop=True)
    observed["z"] = observed["y"].isel(site=0, drop=True)
    ds = check(xr.DataTree.from_dict({"posterior_predictive": predictive, "observed_data": observed}))
    assert ds["variable"].values.tolist() == ["y", "z"] and ds["n"].values.tolist() == [2 * N, N]
    assert ds.attrs["verdict"] == "overconfident" and "z: overconfident" in ds.attrs["notes"]
    assert ds["pit_count"].sum("bin").values.tolist() == [2 * N, N]


def test_effective_sample_size_with_several_chains():
    ds = check(tree(chains=4))
    assert 100 < float(ds["ess_min"].item()) <= float(ds["ess_median"].item()) < 300
    assert "ess_min" not in check(tree())


def test_same_seed_same_report_and_netcdf(tmp_path):
    first = check(tree(), seed=3)
    assert first.identical(check(tree(), seed=3))
    first.to_netcdf(tmp_path / "check.nc", engine="h5netcdf")


@pytest.mark.parametrize("group", ["posterior_predictive", "observed_data"])
def test_a_missing_group_is_named(group):
    parts = {g: tree()[g].to_dataset() for g in ("posterior_predictive", "observed_data") if g != group}
    with pytest.raises(SchemaError, match=group):
        check(xr.DataTree.from_dict(parts))


def ar1(phi: float, chains: int = 4, n: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros((chains, n))
    noise = rng.normal(size=(chains, n))
    x[:, 0] = noise[:, 0] / np.sqrt(1 - phi**2)
    for i in range(1, n):
        x[:, i] = phi * x[:, i - 1] + noise[:, i]
    return x


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.4])
def test_bulk_ess_of_an_autoregression(phi):
    # of the process itself the ratio is (1 - phi) / (1 + phi); ranks change it by a few per cent
    want = 8000 * (1 - phi) / (1 + phi)
    assert float(bulk_ess(ar1(phi))) == pytest.approx(want, rel=0.2)


def test_bulk_ess_sees_chains_that_disagree_and_constant_ones():
    x = ar1(0.0)
    assert float(bulk_ess(x + 3 * np.arange(4)[:, None])) < 20
    both = np.stack([x, np.ones_like(x)], axis=-1)
    got = bulk_ess(both)
    assert got[0] == pytest.approx(float(bulk_ess(x))) and np.isnan(got[1])
    with pytest.raises(DataError, match="at least 4"):
        bulk_ess(x[:, :3])
