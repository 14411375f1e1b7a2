"""Spikes and images with a process in common."""

from __future__ import annotations

import numpy as np
import pytest

import sciinfer as si
from sciinfer.errors import ConfigError

pytest.importorskip("sklearn", reason="the digits ship inside scikit-learn")


def simulate(**options):
    return si.open_dataset("two_modalities", **options)


def test_processes_have_the_published_covariance():
    z = simulate(n_series=400, n_units=1, n_pixels=2, truth=True)["truth_latent"]
    assert z.dims == ("trial", "time", "latent") and list(z["latent"].values) == ["shared", "spikes", "image"]
    for name, variance in (("shared", 0.3), ("spikes", 0.5), ("image", 0.8)):
        one = z.sel(latent=name).values
        for lag in (0, 10, 20):
            found = np.mean(one[:, 20] * one[:, 20 + lag])
            expected = variance * np.exp(-0.5 * (lag / 10) ** 2)
            # the standard error of a product of two normal numbers
            error = np.sqrt((variance**2 + expected**2) / 400)
            assert abs(found - expected) < 4 * error


def test_counts_are_poisson_with_log_linear_rates():
    from sciinfer.datasets.simulators.two_modalities import RECIPE

    ds = simulate(n_series=200, n_units=3, n_pixels=2, truth=True, seed=2)
    rng = RECIPE.stream(2, "readout")
    W, b = 1.5 * rng.uniform(-1, 1, (2, 3)), 0.5 * rng.uniform(-1, 1, 3)
    rate = np.exp(ds["truth_latent"].values[..., :2] @ W + b)
    y = ds["spikes"].values
    assert (y == y.round()).all() and (y >= 0).all()
    chi = ((y - rate) ** 2 / rate).mean()
    assert abs(chi - 1) < 0.05
    for c in range(3):
        slope = np.sum((y[..., c] - rate[..., c]) * ds["truth_latent"].values[..., 0])
        assert abs(slope) < 4 * np.sqrt(np.sum(rate[..., c] * ds["truth_latent"].values[..., 0] ** 2))


def test_images_turn_and_zoom():
    from sciinfer.datasets.simulators.two_modalities import drawn

    image = np.zeros((1, 1, 8, 8))
    image[..., 1:3, 4:6] = 1.0
    still = drawn(image, np.zeros((1, 1)), np.ones((1, 1)), 36)[0, 0]
    turned = drawn(image, np.full((1, 1), np.pi / 2), np.ones((1, 1)), 36)[0, 0]
    np.testing.assert_allclose(turned, np.rot90(still), atol=1e-12)
    small = drawn(image, np.zeros((1, 1)), np.full((1, 1), 0.5), 36)[0, 0]
    assert small.sum() == pytest.approx(still.sum() / 4, rel=0.05)
    assert drawn(image, np.zeros((1, 1)), np.zeros((1, 1)), 36).max() == 0.0
    # the source again, where the frame is the digit's own
    grid = drawn(np.arange(64.0).reshape(1, 1, 8, 8), np.zeros((1, 1)), np.full((1, 1), 36 / 28), 8)[0, 0]
    np.testing.assert_allclose(grid, np.arange(64.0).reshape(8, 8), atol=1e-9)


def test_styles():
    options = {"n_series": 3, "n_times": 4, "n_units": 1, "noise_sd": 0.0, "truth": True}
    frames, single = (simulate(style=style, **options) for style in ("frame", "single"))
    assert frames["truth_latent"].equals(single["truth_latent"]) and frames["spikes"].equals(single["spikes"])
    assert not frames["image"].equals(single["image"])
    assert single["image"].shape == (3, 4, 12, 12)
    assert float(single["image"].min()) >= 0.0 and float(single["image"].max()) <= 1.0


def test_noise_and_gaps_are_as_asked():
    ds = simulate(n_series=5, n_times=20, missing=0.3, noise_sd=0.2, truth=True)
    error = (ds["image"] - ds["truth_image"]).values
    assert abs(np.nanstd(error) / 0.2 - 1) < 0.03
    for name in ("spikes", "image"):
        assert abs(float(ds[name].isnull().mean()) - 0.3) < 0.02


@pytest.mark.parametrize(
    ("name", "value"), [("style", "none"), ("n_units", 0), ("missing", 1.0), ("lengthscale", -1.0)]
)
def test_bad_options_are_named(name, value):
    with pytest.raises(ConfigError) as caught:
        simulate(n_series=1, n_times=2, **{name: value})
    assert caught.value.variable == name
