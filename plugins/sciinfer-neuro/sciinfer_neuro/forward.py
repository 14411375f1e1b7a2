"""Forward prediction: spikes after a cut from all units before it, shrunk so that it does not lose to the mean rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError

from .arrays import bin_width, counts_of, disjoint, exposure_along, folds_of, positions
from .cosmoothing import both_nulls, rates_of
from .features import bumps
from .rate_model import RIDGES, fit_rates, likelihood


@dataclass(frozen=True)
class ForwardPrediction:
    """What forward prediction found.

    Attributes:
        rates: expected counts per whole bin after the cut in test trials, ``trial, time, unit``.
        scores: ``co_bps`` and ``co_bps_unit`` of these bins (fp-bps) for the nulls ``train`` and ``evaluation``.
        weight: ``unit``; 0 is the unit's mean rate, 1 the regression as it came, chosen on folds of training trials.
        validation: bits per spike over those folds against the training means; not below 0.
    """

    rates: xr.DataArray
    scores: xr.Dataset
    weight: xr.DataArray
    validation: float


def forward_predict(
    counts: xr.DataArray | xr.Dataset,
    *,
    after: float,
    train: Any,
    test: Any,
    windows: Sequence[float] = (0.1, 0.4),
    number: int = 8,
    ridges: Sequence[float] = RIDGES,
    folds: int = 5,
    seed: int = 0,
) -> ForwardPrediction:
    r"""Predict the bins later than ``after`` from the counts of all units up to then.

    The log-rate is a basis of time plus, for each unit and window before the cut, its mean count, fading over the
    window's own length: what was seen just before the cut matters just after it. Then
    ``rate = mean (regression / mean)^w`` with each unit's ``w`` in [0, 1] chosen on folds.

    Args:
        counts: ``trial, time, unit``; NaN = missing. after: seconds, on the coordinate ``time``: the cut.
        train, test: positions along ``trial``. windows: seconds before the cut. number: bumps of the time basis.
        ridges, folds, seed: as for co-smoothing.

    Raises:
        ConfigError: no bin before or after the cut. DataError: a unit without spikes after it.

    Example:
        >>> y = np.random.default_rng(0).poisson(1.0, (12, 20, 2)).astype(float)
        >>> y = xr.DataArray(y, dims=("trial", "time", "unit"), coords={"time": np.arange(20) * 0.1})
        >>> found = forward_predict(y, after=0.95, train=slice(0, 8), test=slice(8, 12), number=3, folds=2)
        >>> found.rates.sizes["time"], found.validation >= 0
        (10, True)
    """
    y = counts_of(counts)
    first, last = (positions(g, y.sizes["trial"], n) for g, n in ((train, "train"), (test, "test")))
    disjoint(first, last)
    cut = int((y["time"].values <= after).sum())
    if not 0 < cut < y.sizes["time"]:
        raise ConfigError("no bin lies before, or none after the cut", variable="after", fix="cut inside the trial")
    goal, target = y[first, cut:], y[last, cut:]
    _need_spikes(goal)
    share, fold = exposure_along(goal), folds_of(len(first), folds, seed)
    described = [_history(y[part], cut, windows, number) for part in (first, last)]
    model = fit_rates(described[0], goal.values, share, fold, ridges)
    mean = rates_of(goal).values
    weight = _weights(goal.values, model.held_rates, mean, share)
    held, new = (mean * (r / mean) ** weight for r in (model.held_rates, model.rates(described[1])))
    rates = target.copy(data=new).rename("rates").assign_attrs(units="1", long_name="expected count per bin")
    seen = both_nulls(goal, goal.copy(data=held), goal)["co_bps"].sel(null="train")
    labels = {"unit": y["unit"]} if "unit" in y.coords else {}
    shrunk = xr.DataArray(weight, dims="unit", coords=labels)
    return ForwardPrediction(rates, both_nulls(target, rates, goal), shrunk, float(seen))


def _history(counts: xr.DataArray, cut: int, windows: Sequence[float], number: int) -> np.ndarray:
    width, share = bin_width(counts), exposure_along(counts)
    later = counts.sizes["time"] - cut
    lead = (np.arange(later) + 0.5) * width
    parts = [np.broadcast_to(bumps(later, number), (counts.sizes["trial"], later, number))]
    for window in windows:
        start = max(cut - max(round(window / width), 1), 0)
        past, seen = counts.values[:, start:cut], np.isfinite(counts.values[:, start:cut])
        watched = (seen * share[:, start:cut, None]).sum(1)
        mean = np.where(seen, past, 0.0).sum(1) / np.maximum(watched, 1e-9)
        parts.append(mean[:, None] * np.exp(-lead / window)[:, None])
    return np.concatenate(parts, -1)


def _weights(counts: np.ndarray, held: np.ndarray, mean: np.ndarray, share: np.ndarray) -> np.ndarray:
    grid = np.linspace(0.0, 1.0, 11)
    gains = [likelihood(counts, mean * (held / mean) ** w, share).sum((0, 1)) for w in grid]
    return grid[np.argmax(gains, 0)]  # the first of equals: the mean rate


def _need_spikes(goal: xr.DataArray) -> None:
    silent = np.flatnonzero(~(np.nansum(goal.values, (0, 1)) > 0))
    if len(silent):
        what = "a unit has no spike after the cut in the training trials"
        raise DataError(what, dim="unit", index=int(silent[0]), fix="leave the unit out")
