"""Rates with intervals: peri-stimulus histograms and tuning curves, exposure included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, SchemaError, ShapeError

_LEVELS = (0.0, 1.0)


def psth(binned: xr.Dataset, *, var: str = "counts", level: float = 0.95) -> xr.Dataset:
    r"""Mean rate over trials in each bin, with an interval.

    With ``N`` spikes in the watched time ``E`` (exposure included) and the unit's dispersion ``phi`` (Pearson, at
    least 1), the interval is that of :math:`\lambda \sim \mathrm{Gamma}((N + 1/2) / \phi, E / \phi)`; where no
    spike was seen it still has a width.

    Args:
        binned: ``counts(trial, time, unit)``, NaN = not watched.
        level: probability of the interval.

    Returns:
        ``rate``, ``low``, ``high`` ``(time, unit)`` in Hz (NaN in bins that no trial watched), ``dispersion(unit)``.

    References:
        Kass, Eden, Brown (2014), Analysis of neural data.

    Example:
        >>> from sciinfer_neuro.simulate import place_cells
        >>> bool((psth(place_cells(n_trials=4, n_units=2)).high > 0).all())
        True
    """
    counts, seconds = _counts(binned, var)
    rates = _rates(counts, seconds, level)
    return _dataset(rates, {"time": binned["time"]}, binned["unit"], level)


def tuning_curve(
    binned: xr.Dataset,
    along: str | xr.DataArray,
    *,
    bins: int | Sequence[float] = 20,
    var: str = "counts",
    level: float = 0.95,
    least: float = 0.0,
) -> xr.Dataset:
    """Rate as a function of a covariate (place, direction, ...), with an interval as in :func:`psth`.

    Args:
        binned: ``counts(trial, time, unit)``.
        along: the covariate, a variable of ``binned`` or an array, over ``trial``, ``time`` or both; NaN = unknown.
        bins: number of equal bins, or their edges. The last edge belongs to the last bin.
        level: probability of the interval.
        least: seconds; bins watched for less get NaN.

    Returns:
        ``rate``, ``low``, ``high`` ``(bin, unit)`` in Hz, ``occupancy(bin)`` in seconds, ``dispersion(unit)``; the dim
        is called like the covariate.

    Example:
        >>> from sciinfer_neuro.simulate import place_cells
        >>> tuning_curve(place_cells(n_trials=4, n_units=2), "position", bins=10).rate.dims
        ('position', 'unit')
    """
    if isinstance(along, str) and along not in binned.variables:
        raise SchemaError("there is no such covariate", variable=along, fix="add it to the data, or pass an array")
    given = binned[along] if isinstance(along, str) else along
    extra = [str(dim) for dim in given.dims if dim not in ("trial", "time")]
    if extra:
        raise ShapeError(f"the covariate has dims {list(given.dims)}", dim=extra[0], fix="select trial and time")
    binned = binned if "trial" in binned.dims else binned.expand_dims("trial")
    counts, seconds = _counts(binned, var)
    frame = binned[var].isel(unit=0, drop=True).transpose("trial", "time")
    covariate = np.asarray(given.broadcast_like(frame).transpose("trial", "time").values, dtype=np.float64)
    edges = _edges(covariate[seconds > 0], bins)
    sums, time = _gathered(counts, seconds, covariate, edges)
    rates = _rates(sums, time, level)
    occupancy = time.sum(axis=0)
    for values in rates[:3]:
        values[occupancy < least] = np.nan
    name = str(along if isinstance(along, str) else given.name or "covariate")
    centre = xr.DataArray(0.5 * (edges[1:] + edges[:-1]), dims=(name,), attrs=dict(given.attrs))
    found = _dataset(rates, {name: centre}, binned["unit"], level)
    found["occupancy"] = (name, occupancy, {"units": "s", "long_name": "time spent there"})
    return found


def _counts(binned: xr.Dataset, var: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts ``[trial, time, unit]`` without NaN, and the seconds ``[trial, time]`` that were watched."""
    dims = set(map(str, binned[var].dims)) if var in binned.data_vars else set()
    if not {"time", "unit"} <= dims <= {"trial", "time", "unit"}:
        raise SchemaError("no counts with the dims trial, time, unit", variable=var, fix="make them with bin_spikes")
    if "bin_width" not in binned[var].attrs:
        raise SchemaError("the width of the bins is not told", variable=var, fix="set attrs['bin_width'], in seconds")
    ordered = binned[var]
    if "trial" not in ordered.dims:
        ordered = ordered.expand_dims("trial")
    values = ordered.transpose("trial", "time", "unit").values.astype(np.float64)
    share: np.ndarray | float = 1.0
    if "exposure" in binned.coords:
        share = binned["exposure"].transpose(..., "time").values.reshape(values.shape[:2])
    seen = np.isfinite(values).all(axis=2)
    seconds = float(binned[var].attrs["bin_width"]) * np.where(seen, share, 0.0)
    return np.where((seconds > 0)[..., None], np.nan_to_num(values), 0.0), seconds


def _edges(covariate: np.ndarray, bins: int | Sequence[float]) -> np.ndarray:
    known = covariate[np.isfinite(covariate)]
    if isinstance(bins, int):
        if bins < 1 or not known.size or known.min() == known.max():
            raise ConfigError(f"cannot make {bins} bins of this covariate", variable="bins", fix="pass the edges")
        return np.linspace(known.min(), known.max(), bins + 1)
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ConfigError("edges of bins must rise", variable="bins", fix="pass at least two, in rising order")
    return edges


def _gathered(
    counts: np.ndarray, seconds: np.ndarray, covariate: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    trials, _, units = counts.shape
    place = np.searchsorted(edges, covariate, side="right") - 1
    place[covariate == edges[-1]] = len(edges) - 2
    inside = np.isfinite(covariate) & (place >= 0) & (place < len(edges) - 1)
    row = np.broadcast_to(np.arange(trials)[:, None], place.shape)
    sums, time = np.zeros((trials, len(edges) - 1, units)), np.zeros((trials, len(edges) - 1))
    np.add.at(sums, (row[inside], place[inside]), counts[inside])
    np.add.at(time, (row[inside], place[inside]), seconds[inside])
    return sums, time


def _rates(counts: np.ndarray, seconds: np.ndarray, level: float) -> tuple[np.ndarray, ...]:
    from scipy.special import gammaincinv

    if not _LEVELS[0] < level < _LEVELS[1]:
        raise ConfigError(f"level is {level}", variable="level", fix="pass a probability, as 0.95")
    total, time = counts.sum(axis=0), seconds.sum(axis=0)[:, None]
    watched = time > 0
    safe = np.where(watched, time, 1.0)
    rate = np.where(watched, total / safe, np.nan)
    phi = _dispersion(counts, seconds, np.nan_to_num(rate))
    shape = (total + 0.5) / phi
    low, high = (
        np.where(watched, gammaincinv(shape, p) * phi / safe, np.nan) for p in (0.5 - level / 2, 0.5 + level / 2)
    )
    return rate, np.minimum(low, rate), high, phi


def _dispersion(counts: np.ndarray, seconds: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Pearson's ``chi^2 / dof`` over trials and bins, one number per unit, at least 1."""
    mean = rate * seconds[..., None]
    used = mean > 0
    chi = np.where(used, (counts - mean) ** 2 / np.where(used, mean, 1.0), 0.0).sum(axis=(0, 1))
    freedom = used.sum(axis=(0, 1)) - used.any(axis=0).sum(axis=0)
    return np.maximum(chi / np.maximum(freedom, 1), 1.0)


def _dataset(
    rates: tuple[np.ndarray, ...], axis: dict[str, xr.DataArray], unit: xr.DataArray, level: float
) -> xr.Dataset:
    rate, low, high, phi = rates
    (name,) = axis
    about = {
        "rate": (rate, "firing rate"),
        "low": (low, f"lower end of the {level:.0%} interval"),
        "high": (high, f"upper end of the {level:.0%} interval"),
    }
    variables = {key: ((name, "unit"), v, {"units": "Hz", "long_name": text}) for key, (v, text) in about.items()}
    coords = {name: (name, axis[name].values, dict(axis[name].attrs)), "unit": ("unit", unit.values)}
    ds = xr.Dataset(variables, coords, {"level": level})
    ds["dispersion"] = ("unit", phi, {"units": "1", "long_name": "variance over mean"})
    return ds
