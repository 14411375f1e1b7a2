"""PIT: uniform for calibrated draws of any number and for discrete data, not for wrong ones."""

import numpy as np
import pytest
import xarray as xr

from sciinfer.diagnostics import pit, pit_uniformity
from sciinfer.errors import DataError
from sciinfer.random import numpy_generator

N = 5000


def draws(rng: np.random.Generator, m: int, scale: float = 1.0, shift: float = 0.0):
    return xr.DataArray(shift + scale * rng.normal(size=(N, m)), dims=("i", "draw"))


@pytest.mark.parametrize("m", [2, 7, 40])
def test_calibrated_draws_are_uniform(m):
    rng = np.random.default_rng(m)
    u = pit(xr.DataArray(rng.normal(size=N), dims="i"), draws(rng, m), generator=numpy_generator(0, "pit"))
    assert pit_uniformity(u).pvalue > 0.01
    assert abs(float(u.mean()) - 0.5) < 4 / np.sqrt(12 * N)


def test_discrete_data_are_uniform_too():
    rng = np.random.default_rng(1)
    x = xr.DataArray(rng.poisson(1.0, (N, 30)), dims=("i", "draw"))
    u = pit(xr.DataArray(rng.poisson(1.0, N), dims="i"), x, generator=numpy_generator(0, "pit"))
    assert pit_uniformity(u).pvalue > 0.01


@pytest.mark.parametrize(("scale", "shift"), [(0.7, 0.0), (1.4, 0.0), (1.0, 0.2)])
def test_wrong_draws_are_not(scale, shift):
    rng = np.random.default_rng(2)
    truth = xr.DataArray(rng.normal(size=N), dims="i")
    u = pit(truth, draws(rng, 40, scale, shift), generator=numpy_generator(0, "pit"))
    assert pit_uniformity(u).pvalue < 1e-6


def test_pvalues_of_uniform_values_are_uniform():
    rng = np.random.default_rng(3)
    pvalues = np.array([pit_uniformity(rng.random(500)).pvalue for _ in range(400)])
    assert abs((pvalues < 0.1).mean() - 0.1) < 4 * np.sqrt(0.09 / 400)


def test_same_generator_same_values_and_missing_stays_missing():
    rng = np.random.default_rng(4)
    truth = xr.DataArray([np.nan, 0.0], dims="i")
    x = xr.DataArray(rng.normal(size=(2, 5)), dims=("i", "draw"))
    first, second = (pit(truth, x, generator=numpy_generator(1, "pit")) for _ in range(2))
    xr.testing.assert_identical(first, second)
    assert np.isnan(first[0]) and 0 <= float(first[1]) <= 1


def test_bins_shrink_with_the_data_and_bad_values_are_refused():
    assert len(pit_uniformity(np.linspace(0, 1, 20)).counts) == 4
    with pytest.raises(DataError, match="at least 10"):
        pit_uniformity(np.full(9, 0.5))
    with pytest.raises(DataError, match="lie in"):
        pit_uniformity(np.linspace(0, 2, 50))
