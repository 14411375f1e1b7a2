"""Simulators: the truth is the truth."""

import os
from pathlib import Path

import numpy as np
import pytest
from sciinfer_neuro.simulate import lorenz_spikes, place_cells, van_der_pol_spikes

from sciinfer.errors import ConfigError


def test_rates_follow_latents_and_counts_follow_rates() -> None:
    for ds in (lorenz_spikes(n_trials=4, n_bins=100, n_units=20), van_der_pol_spikes(n_trials=4, n_bins=100)):
        log_rate = ds.latent.dot(ds.loading, dim="latent_dim") + ds.offset
        np.testing.assert_allclose(np.exp(log_rate).transpose(*ds.rate.dims), ds.rate, rtol=1e-12)
        np.testing.assert_allclose(ds.latent.mean(("trial", "time")), 0.0, atol=1e-12)
        np.testing.assert_allclose(ds.latent.std(("trial", "time")), 1.0, rtol=1e-12)
        expected = ds.rate * ds.attrs["bin_width"]
        z = float((ds.counts - expected).sum() / np.sqrt(expected.sum()))
        fit = float((((ds.counts - expected) ** 2) / expected).mean())
        assert abs(z) < 3.5 and abs(fit - 1.0) < 0.05  # mean and variance of a Poisson
        assert ds.latent.attrs["units"] == "1" and ds.rate.attrs["units"] == "Hz"


def test_the_lorenz_path_obeys_its_equation() -> None:
    """Central differences of the unstandardised path against the drift; the scale is fitted, as it is not told."""
    ds = lorenz_spikes(n_trials=1, n_bins=4000, n_units=1, bin_width=0.002)
    x, y, z = ds.latent.values[0].T
    rates = np.gradient(ds.latent.values[0], 0.002, axis=0)[5:-5]
    one = np.ones_like(x)[5:-5]
    x, y, z = x[5:-5], y[5:-5], z[5:-5]
    for column, terms in ((0, [x, y, one]), (1, [x, y, x * z, z, one]), (2, [x * y, x, y, z, one])):
        design = np.stack(terms, axis=1)
        residual = rates[:, column] - design @ np.linalg.lstsq(design, rates[:, column], rcond=None)[0]
        assert residual.std() / rates[:, column].std() < 2e-3
    slope = np.linalg.lstsq(np.stack([x, y, one], axis=1), rates[:, 0], rcond=None)[0][0]
    assert abs(slope + 10.0) < 0.02  # dx/dt = 10 (y - x)


def test_van_der_pol_is_the_recipe() -> None:
    ds = van_der_pol_spikes()
    assert ds.counts.shape == (10, 500, 50) and ds.attrs["bin_width"] == 0.02
    np.testing.assert_allclose(np.linalg.norm(ds.loading, axis=0), 1.0)
    np.testing.assert_allclose(ds.offset, np.log(5.0 / 0.02))
    assert abs(float(ds.counts.mean()) - 5.1) < 0.1


@pytest.mark.skipif(not os.environ.get("SCIINFER_DATA"), reason="SCIINFER_DATA is not set: the staged set is not here")
def test_van_der_pol_resembles_the_staged_set() -> None:
    """Other random numbers, the same recipe: moments and the limit cycle agree."""
    staged = np.load(Path(os.environ["SCIINFER_DATA"]) / "gpvae" / "vdp" / "vdp_poisson.npz", allow_pickle=False)
    ours = van_der_pol_spikes(seed=1)
    assert ours.counts.shape == staged["counts"].shape
    assert abs(float(ours.counts.mean()) - staged["counts"].mean()) < 0.05
    quantiles = np.linspace(0.02, 0.98, 25)
    theirs = np.quantile(staged["latents"], quantiles, axis=(0, 1))
    np.testing.assert_allclose(np.quantile(ours.latent.values, quantiles, axis=(0, 1)), theirs, atol=0.12)


def test_ragged_trials() -> None:
    ds = lorenz_spikes(n_trials=30, n_bins=50, n_units=2, shortest=0.4)
    last = ds.counts.notnull().all("unit").sum("time").values
    assert last.min() >= 20 and last.max() <= 50 and len(set(last)) > 5
    np.testing.assert_array_equal(ds.counts.isnull().any("unit"), ds.exposure == 0)
    assert ds.latent.notnull().all()
    assert lorenz_spikes(n_trials=3, n_bins=50, n_units=2).counts.notnull().all()


def test_place_cells_have_their_fields() -> None:
    ds = place_cells(n_trials=200, n_units=6, direction_gain=0.0, base_rate=0.0)
    where = ds.position.broadcast_like(ds.counts)
    found = (ds.counts * where).sum(("trial", "time")) / ds.counts.sum(("trial", "time"))
    inner = (ds.centre > 20) & (ds.centre < 80)
    assert int(inner.sum()) >= 2
    np.testing.assert_allclose(found[inner], ds.centre[inner], atol=2.5)  # slower at the ends, so a little off
    steps = np.diff(ds.position.values, axis=1) * ds.direction.values[:, None]
    assert (steps > 0).all() and float(ds.position.min()) >= 0 and float(ds.position.max()) <= 100
    directed = place_cells(n_trials=400, n_units=6, direction_gain=1.0, base_rate=0.0)
    up = directed.counts.isel(trial=slice(0, None, 2)).sum(("trial", "time"))
    down = directed.counts.isel(trial=slice(1, None, 2)).sum(("trial", "time"))
    np.testing.assert_allclose(0.5 * np.log(up / down), directed.direction_effect, atol=0.3)


def test_options() -> None:
    with pytest.raises(ConfigError):
        lorenz_spikes(shortest=0.0)
    with pytest.raises(ConfigError):
        van_der_pol_spikes(mu=-1.0)
    with pytest.raises(ConfigError):
        place_cells(length=0.0)
