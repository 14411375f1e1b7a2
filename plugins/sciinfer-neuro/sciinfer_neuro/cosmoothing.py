"""Co-smoothing without leaks: held-out units from held-in units and the trial's clock.

1. Features learn from held-in units of training trials. 2. Held-out units of training trials are regressed on them, the
ridge (and, among several sets of features, the set) chosen by folds of training trials. 3. Test trials are described
by their held-in units alone, and scored on their held-out units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, DataError

from .arrays import counts_of, disjoint, exposure_along, folds_of, positions
from .features import Feature, SmoothedRates, TimeBasis, describe
from .metrics import co_bps, train_null
from .rate_model import RIDGES, fit_rates

Candidates = Sequence[Feature] | Mapping[str, Sequence[Feature]]
#: smoothed rates at three widths and the trial's clock
DEFAULT: tuple[Feature, ...] = (SmoothedRates(), TimeBasis())


@dataclass(frozen=True)
class CoSmoothing:
    """What co-smoothing found.

    Attributes:
        rates: expected counts per whole bin of held-out units in test trials, ``trial, time, unit``.
        scores: ``co_bps(null)`` and ``co_bps_unit(null, unit)`` on test trials for the nulls ``train`` (the means of
            the training trials) and ``evaluation`` (the benchmark's, the means of the test trials themselves).
        validation: ``bits(candidate)`` per spike over folds of training trials, against their means.
        choice: the candidate or ``"average"``. ridge: ``candidate, unit``.
    """

    rates: xr.DataArray
    scores: xr.Dataset
    validation: xr.DataArray
    choice: str
    ridge: xr.DataArray


def cosmooth(
    counts: xr.DataArray | xr.Dataset,
    *,
    held_out: Any,
    train: Any,
    test: Any,
    features: Candidates = DEFAULT,
    combine: Literal["auto", "best", "average"] = "auto",
    ridges: Sequence[float] = RIDGES,
    folds: int = 5,
    seed: int = 0,
) -> CoSmoothing:
    """Predict held-out units of test trials from their held-in units.

    Args:
        counts: ``trial, time, unit``, NaN = missing; a coordinate ``exposure(trial, time)`` is used if there.
        held_out, train, test: slices, positions or masks along ``unit`` and ``trial``; trials must not be in both.
        features: one set, or several by name.
        combine: of several sets, the ``best`` on folds of training trials, the geometric ``average`` of all rates, or
            ``auto``: what those folds prefer.
        ridges: penalties to choose from, for each unit. folds: of training trials. seed: of the folds.

    Returns:
        Rates, scores on the test trials under both nulls, and how the choice was made.

    Raises:
        ConfigError: nothing is held in, trials in both sets. DataError: negative counts, units without spikes.

    References:
        Pei et al. (2021), Neural Latents Benchmark '21.

    Example:
        >>> rate = np.exp(np.sin(np.arange(40) / 6.0))[None, :, None] * np.linspace(0.5, 2, 60)[:, None, None]
        >>> y = np.random.default_rng(0).poisson(rate * np.ones(6)).astype(float)
        >>> y = xr.DataArray(y, dims=("trial", "time", "unit"), attrs={"bin_width": 0.02})
        >>> found = cosmooth(y, held_out=[5], train=slice(0, None, 2), test=slice(1, None, 2), folds=3, ridges=[30.0])
        >>> float(found.scores.co_bps.sel(null="train")) > 0.2
        True
    """
    y = counts_of(counts)
    out, first, last = _parts(y, held_out, train, test)
    held_in = y.isel(unit=np.setdiff1d(np.arange(y.sizes["unit"]), out))
    goal = y.isel(unit=out, trial=first)
    fold, share = folds_of(len(first), folds, seed), exposure_along(goal)
    sets = dict(features) if isinstance(features, Mapping) else {"features": features}
    held, guess, chosen = {}, {}, {}
    for name, blocks in sets.items():
        transforms = [block.fit(held_in.isel(trial=first)) for block in blocks]
        model = fit_rates(describe(transforms, held_in.isel(trial=first)), goal.values, share, fold, ridges)
        held[name], chosen[name] = model.held_rates, model.ridge
        guess[name] = model.rates(describe(transforms, held_in.isel(trial=last)))
    if len(sets) > 1:
        held["average"], guess["average"] = (np.exp(np.mean([np.log(a) for a in g.values()], 0)) for g in (held, guess))
    bits = {name: _bits(goal, held[name], share) for name in held}
    choice = _choice(bits, combine)
    target = y.isel(unit=out, trial=last)
    rates = target.copy(data=guess[choice]).rename("rates").assign_attrs(units="1", long_name="expected count per bin")
    ridge = xr.DataArray(np.stack(list(chosen.values())), dims=("candidate", "unit"), coords={"candidate": list(sets)})
    validation = xr.DataArray(list(bits.values()), dims="candidate", coords={"candidate": list(bits)}, name="bits")
    return CoSmoothing(rates, both_nulls(target, rates, goal), validation, choice, ridge)


def both_nulls(counts: xr.DataArray, rates: xr.DataArray, train: xr.DataArray) -> xr.Dataset:
    """Bits per spike, in all and by unit, against the training means and against the evaluated means.

    Args:
        counts: evaluated, ``trial, time, unit``; a coordinate ``exposure`` scales rates and nulls.
        rates: expected counts per whole bin. train: training counts of the same units.

    Example:
        >>> y = xr.DataArray(np.ones((2, 3, 1)), dims=("trial", "time", "unit"))
        >>> both_nulls(y, y, 2 * y).co_bps.round(3).values.tolist()
        [0.443, 0.0]
    """
    share = xr.DataArray(exposure_along(counts), dims=("trial", "time"))
    y, r = (a.reset_coords(drop=True) for a in (counts.where(share.values[..., None] > 0), rates))
    y, r = y.drop_vars(["trial", "time"], errors="ignore"), (r * share).drop_vars(["trial", "time"], errors="ignore")
    rate = rates_of(train)
    own = rates_of(counts)
    parts = []
    for base in (rate, own):
        null = base * share
        pair = [co_bps(y, r, null=null, over=over).reset_coords(drop=True) for over in (None, ("trial", "time"))]
        parts.append(xr.Dataset({"co_bps": pair[0], "co_bps_unit": pair[1]}))
    joined: xr.Dataset = xr.concat(parts, "null")  # pyright: ignore[reportAssignmentType] - Datasets give a Dataset
    return joined.assign_coords(null=["train", "evaluation"])


def rates_of(counts: xr.DataArray) -> xr.DataArray:
    """Each unit's mean count per watched bin; the mean count where exposure is whole.

    Example:
        >>> rates_of(xr.DataArray([[[1.0], [3.0]]], dims=("trial", "time", "unit"))).values.tolist()
        [2.0]
    """
    share = exposure_along(counts)
    if (share == 1).all():
        return train_null(counts).reset_coords(drop=True)
    seen = np.isfinite(counts.values)
    spikes = np.where(seen, counts.values, 0.0).sum((0, 1))
    watched = (seen * share[..., None]).sum((0, 1))
    labels = {"unit": counts["unit"]} if "unit" in counts.coords else {}
    return xr.DataArray(spikes / np.maximum(watched, 1e-300), dims="unit", coords=labels)


def _parts(y: xr.DataArray, held_out: Any, train: Any, test: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    out = positions(held_out, y.sizes["unit"], "held_out")
    first, last = (positions(g, y.sizes["trial"], n) for g, n in ((train, "train"), (test, "test")))
    disjoint(first, last)
    if len(out) == y.sizes["unit"]:
        raise ConfigError("no unit is held in", variable="held_out", fix="leave some units out of held_out")
    silent = np.flatnonzero(~(np.nansum(y.values[first][..., out], (0, 1)) > 0))
    if len(silent):
        raise DataError(
            "a held-out unit has no spike in the training trials",
            dim="unit",
            index=int(out[silent[0]]),
            fix="hold out another unit",
        )
    return out, first, last


def _bits(goal: xr.DataArray, rates: np.ndarray, share: np.ndarray) -> float:
    scores = both_nulls(goal, goal.copy(data=rates), goal)
    return float(scores["co_bps"].sel(null="train"))


def _choice(bits: Mapping[str, float], combine: str) -> str:
    if combine not in ("auto", "best", "average"):
        raise ConfigError(f"combine={combine!r}", variable="combine", fix="auto, best or average")
    if combine == "average" and "average" in bits:
        return "average"
    return max((name for name in bits if combine == "auto" or name != "average"), key=lambda name: bits[name])
