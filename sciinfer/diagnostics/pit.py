"""Probability integral transform and its uniformity: is the truth a typical draw?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from ..errors import DataError
from . import cores
from .align import Dims, entries

#: fewest expected counts in a bin of the chi-square test
_EXPECTED = 5


class Uniformity(NamedTuple):
    """Chi-square test of a PIT histogram: ``statistic``, ``pvalue``, ``counts [bins]``."""

    statistic: float
    pvalue: float
    counts: np.ndarray


def pit(
    truth: xr.DataArray, sample: xr.DataArray, *, dim: Dims = "draw", generator: np.random.Generator
) -> xr.DataArray:
    """Probability integral transform by randomised ranks: (r + U) / (m + 1), r = draws below the truth, U uniform.

    Exactly uniform on [0, 1] when truth and draws are exchangeable, for any number of draws; ties are randomised too.

    Args:
        truth: any dims; NaN = ignored.
        sample: the truth's dims and ``dim``.
        dim: the dims of the draws.
        generator: the source of U (``sciinfer.random.numpy_generator(seed, "pit")``).

    Returns:
        The truth's dims, NaN where the truth is.

    Raises:
        DataError: fewer than two draws, or non-finite ones.

    References:
        Czado, Gneiting & Held (2009), Predictive model assessment for count data.

    Example:
        >>> u = pit(xr.DataArray(5.0), xr.DataArray([0.0, 1.0], dims="draw"), generator=np.random.default_rng(0))
        >>> 2 / 3 <= float(u) <= 1
        True
    """

    def core(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        m = cores.need_draws(x)
        low, high = cores.ranks(y, x)
        return (low + generator.random(y.shape) * (high - low + 1)) / (m + 1)

    return entries(core, truth, sample, dim)


def pit_uniformity(values: xr.DataArray | np.ndarray, *, bins: int = 10) -> Uniformity:
    """Chi-square test that PIT values are uniform; fewer bins are used when there are fewer than 5 values for each.

    The test takes the entries as independent; neighbours in time often are not, and the p-value is then too small.

    Args:
        values: PIT values in [0, 1]; NaN = ignored.
        bins: largest number of bins.

    Raises:
        DataError: fewer than 10 values, or values outside [0, 1].

    Example:
        >>> pit_uniformity(np.linspace(0.005, 0.995, 100)).statistic
        0.0
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    flat = flat[~np.isnan(flat)]
    if len(flat) < 2 * _EXPECTED:
        raise DataError(f"a test of uniformity needs at least 10 values, got {len(flat)}", fix="score more entries")
    if flat.min() < 0 or flat.max() > 1:
        raise DataError("PIT values lie in [0, 1]", fix="pass what pit() returns")
    counts = np.histogram(flat, bins=min(bins, len(flat) // _EXPECTED), range=(0.0, 1.0))[0]
    expected = len(flat) / len(counts)
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return Uniformity(statistic, cores.chi2_tail(statistic, len(counts) - 1), counts)
