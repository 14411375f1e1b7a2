"""Time rescaling: do spikes fall as the rates say? Kolmogorov-Smirnov tests with bands, by unit or by trial.

Under the right rate the integral of the rate between two spikes is exponential with mean 1, so that
``u = 1 - exp(-integral)`` is uniform. Trials are put end to end; the open interval after the last spike is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError, ShapeError

from .arrays import counts_of

_BAND = 1.3581  # of sqrt(n) D at 95 %, for large n


def rescale_times(spikes: np.ndarray, times: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """``1 - exp(-int rate)`` between the spikes of one unit in continuous time, by the trapezoid rule.

    Args:
        spikes: sorted, seconds. times: ``[n]`` increasing, seconds, covering the spikes. rates: ``[n]``, per second.

    Returns:
        ``[number of spikes]`` in (0, 1), uniform under the right rate; the first interval starts at ``times[0]``.

    Raises:
        DataError: unsorted spikes, spikes outside ``times``, negative rates.

    References:
        Brown et al. (2002), The time-rescaling theorem and its application to neural spike train data analysis.

    Example:
        >>> rescale_times(np.array([1.0, 2.0]), np.array([0.0, 4.0]), np.array([2.0, 2.0])).round(6).tolist()
        [0.864665, 0.864665]
    """
    s, t, r = (np.asarray(a, dtype=np.float64) for a in (spikes, times, rates))
    if t.shape != r.shape or t.ndim != 1 or len(t) < 2:
        raise ShapeError(f"times have shape {t.shape}, rates {r.shape}", fix="pass one rate per time, two or more")
    if not (np.isfinite(r).all() and (r >= 0).all() and (np.diff(t) > 0).all()):
        raise DataError("rates must be >= 0 at increasing times", variable="rates", fix="sort the times")
    wrong = np.flatnonzero(~((s >= t[0]) & (s <= t[-1])) | (np.diff(s, prepend=-np.inf) < 0))
    if len(wrong):
        raise DataError(
            "a spike is out of order or outside the times", variable="spikes", index=int(wrong[0]), fix="sort"
        )
    whole = np.concatenate([[0.0], np.cumsum(0.5 * (r[1:] + r[:-1]) * np.diff(t))])
    left = np.clip(np.searchsorted(t, s, side="right") - 1, 0, len(t) - 2)
    into = s - t[left]
    slope = (r[left + 1] - r[left]) / (t[left + 1] - t[left])
    return -np.expm1(-np.diff(whole[left] + r[left] * into + 0.5 * slope * into**2, prepend=0.0))


def time_rescaling(
    counts: xr.DataArray | xr.Dataset,
    rates: xr.DataArray,
    *,
    by: Literal["unit", "trial"] = "unit",
    kind: Literal["poisson", "bernoulli"] = "poisson",
    seed: int = 0,
) -> xr.Dataset:
    """Kolmogorov-Smirnov test of binned counts against rates.

    Within a bin the spikes are placed at random, which makes the test exact for the bin's model: ``poisson`` counts
    with a steady rate inside the bin, or ``bernoulli`` bins of at most one spike (probability ``1 - exp(-rate)``).

    Args:
        counts: ``trial, time, unit``; NaN bins are left out. rates: the same dims, expected counts per bin.
        by: one test for each unit (its trials end to end), or for each trial (its units end to end).
        kind: of the counts in a bin. seed: of the places within the bins.

    Returns:
        By unit or trial: ``statistic`` (NaN without a spike), ``p_value``, ``spikes``, ``band`` (95 %, large numbers),
        ``inside`` the band.

    Raises:
        DataError: negative or missing rates; two spikes in a bin under ``bernoulli``.

    References:
        Haslinger, Pipa, Brown (2010), Discrete time rescaling theorem.

    Example:
        >>> y = xr.DataArray(np.ones((1, 500, 1)), dims=("trial", "time", "unit"))
        >>> float(time_rescaling(y, y).p_value[0]) < 0.05  # regular as a clock
        True
    """
    from sciinfer.random import numpy_generator

    y = counts_of(counts)
    if by not in ("unit", "trial") or kind not in ("poisson", "bernoulli"):
        raise ConfigError(f"by={by!r}, kind={kind!r}", fix="by unit or trial; kind poisson or bernoulli")
    if set(rates.dims) != set(y.dims) or any(rates.sizes[d] != y.sizes[d] for d in y.dims):
        raise ShapeError(f"rates have sizes {dict(rates.sizes)}", variable="rates", fix=f"match {dict(y.sizes)}")
    other = "unit" if by == "trial" else "trial"
    order = (by, other, "time")
    r = rates.transpose(*order).values.astype(np.float64)
    rng = numpy_generator(seed, "time rescaling")
    samples = [rescaled(*pair, kind=kind, rng=rng) for pair in zip(y.transpose(*order).values, r, strict=True)]
    return uniformity(samples, by, {by: y[by]} if by in y.coords else {}).assign_attrs(kind=kind)


def uniformity(samples: Sequence[np.ndarray], dim: str, labels: Mapping[str, Any]) -> xr.Dataset:
    """Kolmogorov-Smirnov tests of rescaled intervals against the uniform law, one along ``dim`` for each sample.

    Example:
        >>> int(uniformity([np.linspace(0.05, 0.95, 10)], "unit", {"unit": ["a"]}).spikes.sel(unit="a"))
        10
    """
    columns = zip(*map(_test, samples), strict=True)
    found = {name: (dim, np.array(column)) for name, column in zip(_COLUMNS, columns, strict=True)}
    return xr.Dataset(found, coords=labels, attrs={"null": "spikes follow the rates"})


_COLUMNS = ("statistic", "p_value", "spikes", "band", "inside")


def rescaled(counts: np.ndarray, rates: np.ndarray, *, rng: np.random.Generator, kind: str = "poisson") -> np.ndarray:
    """``1 - exp(-integral)`` between the spikes of bins put end to end, uniform under the right rates.

    Args:
        counts, rates: any equal shape, in order; bins whose count is NaN are left out.
        rng: places the spikes within their bins.

    Example:
        >>> u = rescaled(np.array([0.0, 3.0]), np.array([1.0, 2.0]), rng=np.random.default_rng(0))
        >>> len(u), bool((u > 0).all())
        (3, True)
    """
    seen = np.isfinite(counts)
    y, r = counts[seen], rates[seen]
    if not (np.isfinite(r).all() and (r >= 0).all()):
        raise DataError("a rate is negative or missing", variable="rates", fix="predict every counted bin")
    if kind == "bernoulli":
        return _bernoulli(y, r, rng)
    bin_of = np.repeat(np.arange(len(y)), y.astype(int))
    before = np.concatenate([[0.0], np.cumsum(r)])[:-1]
    place = np.sort(before[bin_of] + rng.uniform(size=len(bin_of)) * r[bin_of])
    return -np.expm1(-np.diff(place, prepend=0.0))


def _bernoulli(y: np.ndarray, r: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if (y > 1).any():
        first = int(np.flatnonzero(y > 1)[0])
        raise DataError("two spikes in a bin", variable="counts", index=first, fix="use kind='poisson' or shorter bins")
    hits = np.flatnonzero(y == 1)
    whole = np.concatenate([[0.0], np.cumsum(r)])
    start = np.concatenate([[0.0], whole[hits + 1]])[:-1]  # the next interval begins after the bin of the last spike
    inside = -np.log1p(rng.uniform(size=len(hits)) * np.expm1(-r[hits]))
    return -np.expm1(-(whole[hits] - start + inside))


def _test(u: np.ndarray) -> tuple[float, float, int, float, bool]:
    from scipy.stats import kstest

    if not len(u):
        return float("nan"), float("nan"), 0, float("nan"), False
    found = kstest(u, "uniform")
    band = _BAND / np.sqrt(len(u))
    return float(found.statistic), float(found.pvalue), len(u), band, bool(found.statistic <= band)
