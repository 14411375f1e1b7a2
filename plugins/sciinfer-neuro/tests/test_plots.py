"""Rates with intervals, and the figures' contents."""

from typing import Any

import numpy as np
import pytest
import xarray as xr
from sciinfer_neuro.binned import bin_spikes, binned_dataset
from sciinfer_neuro.events import align
from sciinfer_neuro.plots import psth as draw_psth
from sciinfer_neuro.plots import raster, tuning
from sciinfer_neuro.plots_latent import latents, phase_plane
from sciinfer_neuro.ragged import ragged_spikes
from sciinfer_neuro.rates import psth, tuning_curve
from sciinfer_neuro.simulate import place_cells, van_der_pol_spikes

from sciinfer.errors import ConfigError, SchemaError, ShapeError


def spikes() -> xr.Dataset:
    ds = ragged_spikes([0.01, 0.05, 0.08, 0.02, 0.03], [1, 1, 2, 2, 1], [0, 0, 0, 1, 1], start=0.0, stop=[0.1, 0.06])
    return ds.assign(cue=("trial", [0.05, 0.03], {"units": "s"}))


def posterior(truth: xr.DataArray, draws: int = 40, sd: float = 0.2) -> xr.DataTree:
    noise = np.random.default_rng(0).normal(size=(1, draws, *truth.shape)) * sd
    coords = {"chain": [0], "draw": np.arange(draws), **{str(d): truth[d] for d in truth.dims}}
    ds = xr.Dataset({"latent": (("chain", "draw", *map(str, truth.dims)), truth.values + noise)}, coords)
    return xr.DataTree.from_dict({"/posterior": ds})


def test_psth_intervals_cover() -> None:
    """Overdispersed trials: 95 % intervals hold the true mean rate in 95 % of the bins."""
    rng = np.random.default_rng(0)
    rate = 8.0 + 6.0 * np.sin(np.linspace(0, 6, 40))
    gains = rng.gamma(4.0, 0.25, (20, 40, 50))  # variance over mean above 1
    counts = rng.poisson(rate[None, :, None] * 0.1 * gains).astype(float)
    found = psth(binned_dataset(counts, np.arange(20), np.arange(40) * 0.1, np.arange(50), 0.1, np.ones((20, 40))))
    assert (found.dispersion > 1.0).all() and float(found.dispersion.mean()) == pytest.approx(1 + 0.25 * 0.8, abs=0.1)
    inside = (found.low <= rate[:, None]) & (rate[:, None] <= found.high)
    assert 0.93 < float(inside.mean()) < 0.97


def test_psth_uses_the_exposure() -> None:
    counts = np.array([[[4.0], [1.0]], [[6.0], [np.nan]]])
    share = np.array([[1.0, 0.25], [1.0, 0.0]])
    found = psth(binned_dataset(counts, [0, 1], [0.05, 0.15], ["a"], 0.1, share))
    np.testing.assert_allclose(found.rate.values.ravel(), [10 / 0.2, 1 / 0.025])
    assert (found.low < found.rate).all() and (found.rate < found.high).all()
    silent = psth(binned_dataset(np.zeros((2, 2, 1)), [0, 1], [0.05, 0.15], ["a"], 0.1, share))
    assert (silent.rate == 0).all() and (silent.low == 0).all() and (silent.high > 0).all()
    with pytest.raises(ConfigError):
        psth(binned_dataset(counts, [0, 1], [0.05, 0.15], ["a"], 0.1, share), level=1.0)
    with pytest.raises(SchemaError):
        psth(spikes(), var="unit_index")


def test_tuning_curves_find_the_fields() -> None:
    ds = place_cells(n_trials=120, n_units=8, direction_gain=0.0)
    found = tuning_curve(ds, "position", bins=25, least=0.1)
    x = found.position.values[:, None]
    true = 0.5 + 20.0 * np.exp(-0.5 * ((x - ds.centre.values) / 8.0) ** 2)
    inside = (found.low <= true * 1.02 + 0.1) & (true * 0.98 - 0.1 <= found.high)
    assert float(inside.mean()) > 0.93
    assert found.position.attrs["units"] == "cm"
    np.testing.assert_allclose(float(found.occupancy.sum()), 120 * 4.0)
    by_direction = tuning_curve(ds, "direction", bins=[-1.5, 0.0, 1.5])
    np.testing.assert_allclose(by_direction.occupancy, 240.0)
    masked = tuning_curve(ds, ds.position.where(ds.position > 50), bins=[0.0, 50.0, 100.0])
    assert float(masked.occupancy[0]) == 0.0 and masked.rate[0].isnull().all()
    with pytest.raises(SchemaError):
        tuning_curve(ds, "speed")
    with pytest.raises(ConfigError):
        tuning_curve(ds, "position", bins=[1.0, 0.0])


def _ticks(ax: Any) -> np.ndarray:
    """Start points of the spikes' ticks, as ``(time, row)``."""
    lines = ax.collections[-1] if not ax.containers else ax.collections[0]
    return np.array([[path[0, 0], path[:, 1].mean()] for path in lines.get_segments()])


def test_raster_draws_each_spike_once() -> None:
    by_unit = _ticks(raster(spikes()))
    np.testing.assert_allclose(by_unit, [[0.01, 0], [0.05, 0], [0.08, 1]])
    axes = raster(spikes(), unit=0)
    np.testing.assert_allclose(_ticks(axes), [[0.01, 0], [0.05, 0], [0.03, 1]])
    (shade,) = axes.containers  # the second trial ends before the first
    np.testing.assert_allclose([(p.get_x(), p.get_width(), p.get_y() + 0.5) for p in shade], [(0.06, 0.04, 1.0)])
    binned = raster(bin_spikes(spikes(), 0.02), var="counts", unit=0)
    np.testing.assert_allclose(_ticks(binned), [[0.01, 0], [0.05, 0], [0.03, 1]])
    tree = xr.DataTree.from_dict({"/observed_data": spikes()})
    np.testing.assert_allclose(_ticks(raster(tree)), by_unit)


def test_raster_events_and_errors() -> None:
    assert raster(spikes(), unit=0, events="cue").get_legend() is not None
    assert "cue" in {line.get_label() for line in raster(spikes(), trial=1, events="cue").lines}
    with pytest.raises(SchemaError, match="no such events"):
        raster(spikes(), events="tap")
    with pytest.raises(SchemaError, match="no such variable"):
        raster(spikes(), var="counts")
    with pytest.raises(ShapeError):
        raster(spikes(), unit=2)


def test_rate_figures() -> None:
    ds = place_cells(n_trials=6, n_units=8)
    axes = draw_psth(ds, units=[1, 4])
    assert [line.get_label() for line in axes.lines] == ["unit 1", "unit 4"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), psth(ds).rate[:, 1])
    assert axes.get_ylabel() == "firing rate (Hz)" and axes.get_xlabel() == "time (s)"
    axes = tuning(ds, units=[0, 3], bins=12)
    assert axes.get_xlabel() == "position on the track (cm)"
    np.testing.assert_allclose(axes.lines[1].get_ydata(), tuning_curve(ds, "position", bins=12).rate[:, 3])
    around = bin_spikes(align(spikes(), [0.03, 0.03], (-0.02, 0.02)), 0.01)
    assert any(line.get_linestyle() == ":" for line in draw_psth(around).lines)
    with pytest.raises(ShapeError):
        draw_psth(ds, units=range(7))


def test_latents_keep_their_lanes_apart() -> None:
    ds = van_der_pol_spikes(n_trials=2, n_bins=60, n_units=3)
    axes = latents(posterior(ds.latent), truth=ds.latent, series=1)
    offsets = axes.get_yticks()
    dashed = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata()) > 2]
    for line, offset, k in zip(dashed, offsets, range(2), strict=True):
        np.testing.assert_allclose(np.asarray(line.get_ydata()) - offset, ds.latent[1, :, k].values, atol=1e-12)
    assert np.min(dashed[0].get_ydata()) > np.max(dashed[1].get_ydata())
    assert [t.get_text() for t in axes.get_yticklabels()] == ["position", "velocity"]
    with pytest.raises(SchemaError):
        latents(posterior(ds.latent), truth=ds.latent.isel(latent_dim=0))


def test_phase_plane_ellipses_hold_ninety_percent() -> None:
    ds = van_der_pol_spikes(n_trials=1, n_bins=40, n_units=3)
    tree = posterior(ds.latent, draws=4000)
    axes = phase_plane(tree, truth=ds.latent, ellipses=3)
    draws = tree["posterior"]["latent"].values[0, :, 0]
    for patch, t in zip(axes.patches, (0, 20, 39), strict=True):
        inside = patch.get_path().contains_points(draws[:, t])
        assert 0.88 < inside.mean() < 0.92
    with pytest.raises(ShapeError):
        phase_plane(tree, second=5)
