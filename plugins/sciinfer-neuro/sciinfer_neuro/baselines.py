"""What a new method must beat: smoothing, PSTHs, factor models and linear decoders, on one split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError, ShapeError

from .arrays import bin_width, counts_of, disjoint, exposure_along, positions
from .cosmoothing import both_nulls, cosmooth
from .features import Feature, LatentMoments, SmoothedRates
from .ridge import fit_ridge
from .smoothing import smooth

#: sets of features by name; the numbers are standard deviations in milliseconds
FEATURES: Mapping[str, tuple[Feature, ...]] = {
    "smoothing-30": (SmoothedRates((0.03,), log=True),),
    "smoothing-50": (SmoothedRates((0.05,), log=True),),
    "smoothing-80": (SmoothedRates((0.08,), log=True),),
    "gpfa": (LatentMoments("gpfa", {"latent": 6, "transform": "sqrt"}),),
    "poisson-gpfa": (LatentMoments("poisson-gpfa", {"latent": 6}),),
    "lds": (LatentMoments("latent-sde", {"process": "linear", "latent": 6}, root=True),),
}
#: those that need no model to be fitted
QUICK = ("psth", "smoothing-30", "smoothing-50", "smoothing-80")


def smoothed_psth(counts: xr.DataArray | xr.Dataset, *, train: Any, width: float = 0.05) -> xr.DataArray:
    """Mean course of each unit over the ``train`` trials, smoothed: ``time, unit``, expected counts per whole bin.

    Args:
        counts: ``trial, time, unit``. train: positions along ``trial``. width: standard deviation, seconds.

    Example:
        >>> y = xr.DataArray(np.ones((2, 5, 1)), dims=("trial", "time", "unit"), attrs={"bin_width": 0.02})
        >>> smoothed_psth(y, train=slice(None)).values.ravel().round(9).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    y = counts_of(counts)
    y = y[positions(train, y.sizes["trial"], "train")]
    share, seen = exposure_along(y), np.isfinite(y.values)
    total = np.where(seen, y.values, 0.0).sum(0)
    watched = (seen * share[..., None]).sum(0)
    wide, units = width / bin_width(y), range(y.sizes["unit"])
    columns = [smooth(total[None, :, [j]], wide, exposure=watched[None, :, j])[0] for j in units]
    course = y.isel(trial=0).reset_coords(drop=True)
    return course.drop_vars("trial", errors="ignore").copy(data=np.concatenate(columns, -1)).rename("psth")


def co_smoothing_baselines(
    counts: xr.DataArray | xr.Dataset,
    *,
    held_out: Any,
    train: Any,
    test: Any,
    names: Iterable[str] = QUICK,
    **options: Any,
) -> xr.Dataset:
    """Bits per spike of baselines on the test trials, under both nulls.

    Args:
        counts, held_out, train, test: as for :func:`sciinfer_neuro.cosmoothing.cosmooth`; ``options`` go there.
        names: ``psth`` (smoothed with a standard deviation of 50 ms) and keys of ``FEATURES``.

    Returns:
        ``co_bps(baseline, null)``, ``co_bps_unit(baseline, null, unit)``.

    Raises:
        ConfigError: an unknown name.

    Example:
        >>> y = np.random.default_rng(0).poisson(1.0, (8, 20, 3)).astype(float)
        >>> y = xr.DataArray(y, dims=("trial", "time", "unit"), attrs={"bin_width": 0.02})
        >>> split = {"held_out": [2], "train": slice(0, 6), "test": slice(6, 8)}
        >>> co_smoothing_baselines(y, **split, names=["psth"]).sizes["null"]
        2
    """
    y = counts_of(counts)
    chosen = list(names)
    unknown = [name for name in chosen if name != "psth" and name not in FEATURES]
    if unknown:
        raise ConfigError(f"there is no baseline {unknown[0]!r}", variable="names", fix=f"psth, {', '.join(FEATURES)}")
    split = {"held_out": held_out, "train": train, "test": test}
    found = []
    for name in chosen:
        one = _psth(y, **split) if name == "psth" else cosmooth(y, **split, features=FEATURES[name], **options).scores
        found.append(one)
    joined: xr.Dataset = xr.concat(found, "baseline")  # pyright: ignore[reportAssignmentType] - Datasets give a Dataset
    return joined.assign_coords(baseline=chosen)


def _psth(y: xr.DataArray, *, held_out: Any, train: Any, test: Any) -> xr.Dataset:
    out = positions(held_out, y.sizes["unit"], "held_out")
    first, last = (positions(g, y.sizes["trial"], n) for g, n in ((train, "train"), (test, "test")))
    disjoint(first, last)
    course = smoothed_psth(y[..., out], train=first).values
    target = y[last][..., out]
    return both_nulls(target, target.copy(data=np.broadcast_to(course, target.shape)), y[first][..., out])


@dataclass(frozen=True)
class Decoded:
    """A quantity of each trial, decoded.

    Attributes:
        prediction: ``trial`` of the test trials. r2: on the test trials. validation_r2: over folds of training trials.
        windows: those chosen, seconds. ridge: the one chosen.
    """

    prediction: xr.DataArray
    r2: float
    validation_r2: float
    windows: tuple[float, ...]
    ridge: float


def decode_trials(
    counts: xr.DataArray | xr.Dataset,
    target: np.ndarray | xr.DataArray,
    *,
    train: Any,
    test: Any,
    windows: Sequence[Sequence[float]] = ((0.04, 0.08, 0.1, 0.2, 0.4),),
    folds: int = 10,
    repeats: int = 3,
    seed: int = 0,
) -> Decoded:
    """Decode one number of each trial by ridge regression on its counts in windows of several lengths side by side.

    Args:
        counts: ``trial, time, unit``; NaN counts are taken as the mean of their window. target: ``[trial]``.
        train, test: positions along ``trial``. windows: sets of window lengths, seconds; of several the best on folds
            of training trials is taken, and so is the ridge. folds, repeats, seed: of these folds.

    Example:
        >>> y = np.random.default_rng(0).poisson(np.linspace(1, 5, 40)[:, None, None] * np.ones((10, 3)))
        >>> y = xr.DataArray(y.astype(float), dims=("trial", "time", "unit"), attrs={"bin_width": 0.02})
        >>> even, odd = slice(0, None, 2), slice(1, None, 2)
        >>> decode_trials(y, np.linspace(1, 5, 40), train=even, test=odd, windows=[[0.1]], folds=5).r2 > 0.8
        True
    """
    y, goal = counts_of(counts), np.asarray(target, dtype=np.float64)
    if goal.shape != (y.sizes["trial"],):
        raise ShapeError(f"the target has shape {goal.shape}", variable="target", fix="pass one number per trial")
    first, last = (positions(g, y.sizes["trial"], n) for g, n in ((train, "train"), (test, "test")))
    disjoint(first, last)
    fits = []
    for lengths in windows:
        x = _windowed(y, lengths, first)
        fit = fit_ridge(x[first], goal[first], folds=folds, repeats=repeats, seed=seed)
        fits.append((float(fit.validation_r2.max()), tuple(lengths), fit, x))
    score, lengths, fit, x = max(fits, key=lambda item: item[0])
    guess = fit.predict(x[last])[:, 0]
    r2 = 1 - ((guess - goal[last]) ** 2).sum() / ((goal[last] - goal[last].mean()) ** 2).sum()
    labels = {"trial": y["trial"][last]} if "trial" in y.coords else {}
    return Decoded(xr.DataArray(guess, dims="trial", coords=labels), float(r2), score, lengths, fit.ridge)


def _windowed(y: xr.DataArray, lengths: Sequence[float], train: np.ndarray) -> np.ndarray:
    width, parts = bin_width(y), []
    for length in lengths:
        size = max(round(length / width), 1)
        number = y.sizes["time"] // size
        if not number:
            raise ConfigError(f"a window of {length} s is longer than a trial", variable="windows", fix="shorten it")
        blocks = y.values[:, : number * size].reshape(y.sizes["trial"], number, size, -1)
        seen = np.isfinite(blocks)
        mean = np.where(seen, blocks, 0.0).sum(2) / np.where(seen.any(2), seen.sum(2), np.nan)
        flat = mean.reshape(len(mean), -1)
        known = np.isfinite(flat[train])
        usual = np.where(known, flat[train], 0.0).sum(0) / np.maximum(known.sum(0), 1)
        parts.append(np.where(np.isfinite(flat), flat, usual))
    return np.concatenate(parts, -1)
