"""Films of turning digits."""

from __future__ import annotations

import numpy as np
import pytest

import sciinfer as si
from sciinfer.errors import ConfigError

pytest.importorskip("sklearn", reason="the digits ship inside scikit-learn")


def film(**options):
    return si.open_dataset("rotating_digits", **options)


def test_no_turn_and_the_source_again():
    from sciinfer.datasets.simulators.rotating_digits import turned

    image = si.open_dataset("digits")["grey"].values[:2] / 16
    angle = np.array([[0.0, np.pi / 2], [np.pi, 2 * np.pi]])
    out = turned(image, angle, 8)
    still = film(n_series=1, max_angle=0.0, noise_sd=0.0)["y"]
    assert bool((still.diff("time") == 0).all())
    np.testing.assert_allclose(out[0, 1], np.rot90(out[0, 0]), atol=1e-12)
    np.testing.assert_allclose(out[1, 0], np.rot90(out[1, 1], 2), atol=1e-12)


def test_bilinear_at_the_size_of_the_source(monkeypatch):
    from sciinfer.datasets.simulators import rotating_digits as module

    monkeypatch.setattr(module, "_FRAME", 1.0)
    image = np.arange(9.0).reshape(1, 3, 3)
    np.testing.assert_allclose(module.turned(image, np.zeros((1, 1)), 3)[0, 0], image[0], atol=1e-12)


def test_the_motions():
    steps = film(n_series=400, n_times=4, max_angle=10.0, truth=True)["truth_angle"]
    moves = steps.diff("time")
    assert (steps.isel(time=0) == 0).all()
    assert abs(float(moves.std()) / 10 - 1) < 5 / np.sqrt(2 * moves.size)
    smooth = film(n_series=3, motion="smooth", truth=True)["truth_angle"]
    np.testing.assert_allclose(smooth.diff("time").diff("time"), 0, atol=1e-9)


def test_one_digit_and_any_size():
    ds = film(n_series=5, digit=3, n_pixels=14, noise_sd=0.0)
    assert (ds["digit"] == 3).all()
    assert ds["y"].shape == (5, 12, 14, 14)
    assert float(ds["y"].min()) >= 0 and float(ds["y"].max()) <= 1


@pytest.mark.parametrize(("name", "value"), [("digit", 12), ("motion", "jump"), ("n_pixels", 0), ("missing", 1.0)])
def test_bad_options_are_named(name, value):
    with pytest.raises(ConfigError) as caught:
        film(n_series=1, **{name: value})
    assert caught.value.variable == name
