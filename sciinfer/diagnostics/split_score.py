"""Scores over several splits: mean and spread, and whether a difference is larger than what another split would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..errors import ConfigError, ShapeError

ERRORS = ("mse", "mse_variable_mean", "crps", "crps_variable_mean")


def split_scores(tables: Sequence[xr.Dataset], *, unit: Any = None) -> xr.Dataset:
    r"""What :func:`sciinfer.diagnostics.evaluate` found on each split, side by side.

    With :math:`d_s` the difference of an error to that of the best baseline (least mean over the splits) on split s, a
    forecaster **wins** if :math:`\bar d < -2\,\mathrm{sd}(d)`, loses if :math:`\bar d > 2\,\mathrm{sd}(d)`, and ties
    otherwise; ``clearly`` asks the same of the spread of the errors themselves, which is larger: splits differ in how
    hard they are, and a paired difference does not see that.

    Args:
        tables: one per split, with the same forecasters and channels.
        unit: ``[C]``, or ``[split, C]``: what an error is divided by, caller's units; None: errors in model units.

    Returns:
        ``score (metric, split, forecaster)``; ``mean``, ``sd``, ``verdict``, ``clearly (metric, forecaster)``;
        ``best_baseline (metric)``. Metrics: mse and crps over all entries and variables first, and the coverage of the
        90 % interval, for which there is no verdict.

    Raises:
        ConfigError: fewer than two splits. ShapeError: tables or units that do not fit together.

    Example:
        >>> import torch
        >>> from sciinfer.diagnostics import evaluate, Forecast
        >>> one = lambda k: Forecast(torch.full((1, 2, 1), float(k)), torch.ones(1, 2, 1))
        >>> y, seen = torch.zeros(1, 2, 1), torch.ones(1, 2, 1, dtype=torch.bool)
        >>> table = evaluate(y, seen, {"model": one(0), "constant": one(2)}, channel_names=["y"], scale=[1.0])
        >>> split_scores([table, table])["mean"].sel(metric="mse").values.tolist()
        [0.0, 4.0]
    """
    if len(tables) < 2:
        raise ConfigError(f"{len(tables)} splits show no spread", fix="pass the scores of several splits")
    names = [str(name) for name in tables[0]["forecaster"].values]
    if any([str(name) for name in table["forecaster"].values] != names for table in tables):
        raise ShapeError("the splits were not scored for the same forecasters", dim="forecaster", fix="score all alike")
    rulers = [None] * len(tables) if unit is None else _rulers(unit, tables)
    score = np.stack([_errors(*pair) for pair in zip(tables, rulers, strict=True)], axis=1)
    ds = xr.Dataset(
        {"score": (("metric", "split", "forecaster"), score)},
        coords={"metric": [*ERRORS, "coverage_90"], "split": np.arange(len(tables)), "forecaster": names},
    )
    ds = ds.assign_coords(is_baseline=("forecaster", tables[0]["is_baseline"].values))
    ds["mean"], ds["sd"] = ds["score"].mean("split"), ds["score"].std("split", ddof=1)
    return _judged(ds)


def _rulers(unit: Any, tables: Sequence[xr.Dataset]) -> np.ndarray:
    """``[split, C]``."""
    given = np.asarray(unit, dtype=np.float64)
    shape = len(tables), tables[0].sizes["channel"] - 2
    if given.shape not in (shape, shape[1:]):
        raise ShapeError(f"units have shape {given.shape}", dim="channel", fix=f"pass {shape[1:]} or {shape}")
    return np.broadcast_to(given, shape)


def _errors(table: xr.Dataset, unit: Any) -> np.ndarray:
    """``[5, forecaster]`` from the channel columns, so that any unit can be had."""
    channels = slice(0, table.sizes["channel"] - 2)
    suffix, ruler = ("_normalised", 1.0) if unit is None else ("", np.asarray(unit, dtype=np.float64))
    squared = (table[f"rmse{suffix}"].values[:, channels] / ruler) ** 2
    crps = table[f"crps{suffix}"].values[:, channels] / ruler
    weight = table["n"].values[channels].astype(np.float64)
    covered = table["coverage_90"].values[:, channels]
    return np.stack([
        _pooled(squared, weight), _per_variable(squared, weight), _pooled(crps, weight), _per_variable(crps, weight),
        _pooled(covered, weight),
    ])  # fmt: skip


def _pooled(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (np.where(weight > 0, values, 0.0) * weight).sum(axis=1) / weight.sum()


def _per_variable(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return values[:, weight > 0].mean(axis=1)


def _judged(ds: xr.Dataset) -> xr.Dataset:
    known = ds["is_baseline"].values
    shape = (ds.sizes["metric"], ds.sizes["forecaster"])
    verdict, clearly, best = np.full(shape, "none", dtype=object), np.zeros(shape, dtype=bool), [""] * shape[0]
    for row, metric in enumerate(ds["metric"].values):
        if metric not in ERRORS or not known.any():
            continue
        mean = np.where(known, ds["mean"].values[row], np.inf)
        column = int(np.argmin(mean))
        best[row] = str(ds["forecaster"].values[column])
        score = ds["score"].values[row]
        difference = score - score[:, column : column + 1]
        verdict[row] = [_verdict(d, d.std(ddof=1)) for d in difference.T]
        spread = np.maximum(score.std(axis=0, ddof=1), score[:, column].std(ddof=1))
        clearly[row] = np.abs(difference.mean(axis=0)) > 2 * spread
    ds["verdict"] = (("metric", "forecaster"), verdict.astype(str))
    ds["clearly"] = (("metric", "forecaster"), clearly)
    ds["best_baseline"] = ("metric", best)
    return ds


def _verdict(difference: np.ndarray, spread: float) -> str:
    mean = float(difference.mean())
    if abs(mean) <= 2 * spread:
        return "ties"
    return "wins" if mean < 0 else "loses"
