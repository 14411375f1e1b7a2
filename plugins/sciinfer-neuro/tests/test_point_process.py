"""Unbinned spikes: labels in and out, and the same numbers as the model on plain arrays."""

import numpy as np
import pytest
import torch
import xarray as xr
from sciinfer_neuro.point_process import PointProcessFit, fit_point_process, trials_of
from sciinfer_neuro.ragged import ragged_spikes, select_trials

from sciinfer.errors import ConfigError, DataError, SchemaError

STOPS = np.array([1.5, 0.9, 2.0, 1.2, 0.05])
AT = np.linspace(0.05, 1.95, 20)


def simulated() -> xr.Dataset:
    """Inhomogeneous Poisson trains by thinning; two groups of units in opposite phase, the last trial is silent."""
    g = np.random.default_rng(3)
    time, unit, trial = [], [], []
    for row, stop in enumerate(STOPS[:-1]):
        for c in range(6):
            t = np.sort(g.uniform(0, stop, g.poisson(60 * stop)))
            rate = 20 * np.exp((1 if c < 3 else -1) * np.sin(5 * t + row))
            kept = t[g.uniform(size=len(t)) < rate / 60]
            time.append(kept), unit.append(np.full(len(kept), c)), trial.append(np.full(len(kept), row))
    labels = [f"cell {c}" for c in range(6)]
    names = np.array(labels)[np.concatenate(unit)]
    places = np.array(["p", "q", "r", "s"])[np.concatenate(trial)]
    return ragged_spikes(
        np.concatenate(time), names, places, start=0.0, stop=STOPS, unit_labels=labels, trial_labels=list("pqrst")
    )


@pytest.fixture(scope="module")
def spikes() -> xr.Dataset:
    return simulated()


@pytest.fixture(scope="module")
def fit(spikes: xr.Dataset) -> PointProcessFit:
    return fit_point_process(spikes, latents=1, iterations=8)


def test_same_numbers_as_the_model(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    plain = fit.model
    mean, variance = plain.posterior(trials_of(spikes)).log_rate(AT)
    found = fit.posterior(spikes, AT)
    inside = (STOPS[:, None] > AT)[..., None]
    expected = np.where(inside, mean.numpy(), np.nan)
    np.testing.assert_array_equal(found.log_rate.values, expected)
    np.testing.assert_allclose(found.log_rate_sd.values**2, np.where(inside, variance.numpy(), np.nan), rtol=1e-12)
    torch.testing.assert_close(torch.tensor(found.bound.values), plain.posterior(trials_of(spikes)).bound())


def test_labels_and_units(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    found = fit.posterior(spikes, draws=3)
    assert found.latent.dims == ("trial", "time", "latent_dim")
    assert found.rate_draws.dims == ("chain", "draw", "trial", "time", "unit")
    assert found.unit.values.tolist() == spikes.unit.values.tolist()
    assert found.trial.values.tolist() == list("pqrst")
    assert found.rate.attrs["units"] == "Hz" and found.time.attrs["units"] == "s"
    assert float(found.time[0]) == pytest.approx(0.5 * fit.model.step)
    assert not found.rate.sel(trial="r")[:-1].isnull().any()
    assert (found.rate_draws.isnull() == found.rate.isnull()).all()
    told = fit.parameters()
    eta = (told.loading * found.latent).sum("latent_dim", skipna=False) + told.offset
    np.testing.assert_allclose(eta.transpose("trial", "time", "unit").values, found.log_rate.values, atol=1e-9)
    assert told.attrs["converged"] == 0 and float(told.lengthscale[0]) > 0


def test_finds_the_groups_and_the_rates(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    loading = fit.parameters().loading.values[:, 0]
    assert len(set(np.sign(loading[:3]))) == 1 and (np.sign(loading[:3]) == -np.sign(loading[3:])).all()
    true = np.sin(5 * AT[None] + np.arange(5)[:, None])
    latent = fit.posterior(spikes, AT).latent.values[..., 0] * np.sign(loading[0])
    inside = np.isfinite(latent) & (np.arange(5) < 4)[:, None]
    assert np.corrcoef(latent[inside], true[inside])[0, 1] > 0.85


def test_a_trial_alone_is_the_trial_among_others(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    together, alone = fit.posterior(spikes, AT), fit.posterior(select_trials(spikes, [1]), AT)
    for name in ("latent", "latent_sd", "log_rate", "bound"):
        np.testing.assert_allclose(together[name].values[1], alone[name].values[0], atol=1e-8)


def test_order_of_times(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    turned = fit.posterior(spikes, AT[::-1])
    np.testing.assert_allclose(turned.rate.values[:, ::-1], fit.posterior(spikes, AT).rate.values, atol=1e-10)


def test_milliseconds(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    milli = spikes.assign_coords(
        {n: (spikes[n].dims, spikes[n].values * 1e3, {"units": "ms"}) for n in ("time", "start", "stop")}
    )
    np.testing.assert_allclose(fit.posterior(milli, AT).rate, fit.posterior(spikes, AT).rate, rtol=1e-9)


def test_time_rescaling(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    found = fit.time_rescaling(spikes)
    assert found.spikes.values.tolist() == np.bincount(spikes.unit_index, minlength=6).tolist()
    assert (found.p_value > 0.01).all()
    # every spike twice: no rate can make that a Poisson process
    doubled = spikes.isel(spike=np.repeat(np.arange(spikes.sizes["spike"]), 2)).assign(row_size=2 * spikes.row_size)
    assert (fit.time_rescaling(doubled).p_value < 1e-3).all()


def test_refusals(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    with pytest.raises(SchemaError, match="unit 'cell 0' is in one of them only"):
        fit.posterior(spikes.assign_coords(unit=["x", *spikes.unit.values[1:]]), AT)
    with pytest.raises(SchemaError, match="another order"):
        fit.posterior(spikes.assign_coords(unit=spikes.unit.values[::-1]), AT)
    with pytest.raises(ConfigError, match="finite"):
        fit.posterior(spikes, [np.nan])
    with pytest.raises(DataError, match="no spike"):
        fit_point_process(ragged_spikes([], [], unit_labels=["a"], trial_labels=[0], trial=[], stop=1.0), latents=1)
    with pytest.raises(ConfigError, match="latents"):
        fit_point_process(spikes, latents=7)
    apart = ragged_spikes([0.5, 900.5], ["cell 0"] * 2, [0, 1], start=[0, 900], stop=[1, 901], unit_labels=fit.unit)
    with pytest.raises(DataError, match="lie apart"):
        fit.posterior(apart)


def test_input_is_untouched(spikes: xr.Dataset, fit: PointProcessFit) -> None:
    fit.posterior(spikes, AT, draws=1)
    assert spikes.identical(simulated())
