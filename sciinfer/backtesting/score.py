"""Scores of all forecasters on the same entries: overall, by lead, by window; and against the best baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ..diagnostics.quantile_scores import LEVELS_9, LEVELS_19, crps_quantile, mase_scale
from ..errors import DataError
from ..labelled.scaling import standardise
from .compare import Difference, diebold_mariano
from .forecasters import Question
from .panel import Panel
from .predicted import LEVELS, PROBS, Predicted

#: the pooled row of the channel dim
POOLED = "all"
_AT_9, _AT_19 = ([LEVELS.index(p) for p in levels] for levels in (LEVELS_9, LEVELS_19))
_MIDDLE = LEVELS.index(0.5)
#: scores in the caller's units, which only add up over channels of one unit
_IN_UNITS = ("crps", "crps_quantile_9", "crps_quantile_19", "mae", "rmse")


class Entries(NamedTuple):
    """Rows of all windows end to end: ``window``, ``series``, ``lead [N]``, ``truth``, ``seen``, ``mase [N, C]``.

    ``scale [C]``: standard deviation before the first origin.
    """

    window: np.ndarray
    series: np.ndarray
    lead: np.ndarray
    truth: np.ndarray
    seen: np.ndarray
    mase: np.ndarray
    scale: np.ndarray


def entries_of(panel: Panel, asked: Sequence[Question], season: int, first: int) -> Entries:
    """What is to be scored. ``first``: windows before it only calibrate. ``season``: rows, of the scaled error.

    Raises:
        DataError: nothing was observed.
    """
    join = lambda name: np.concatenate([getattr(one, name) for one in asked])  # noqa: E731
    truth = join("truth")
    window = np.concatenate([np.full(len(one.row), one.number) for one in asked])
    seen = np.isfinite(truth) & (window >= first)[:, None]
    if not seen.any():
        raise DataError("nothing was observed after any origin", code="data/empty", fix="use more or earlier windows")
    scales = np.concatenate([_mase_scales(panel, one, season)[one.series] for one in asked])
    return Entries(window, join("series"), join("lead"), truth, seen, scales, _channel_scale(panel, asked[0]))


def _mase_scales(panel: Panel, asked: Question, season: int) -> np.ndarray:
    """``[S, C]`` from every known row."""
    known = zip(panel.starts[:-1], panel.starts[:-1] + asked.window.origin, strict=True)
    return np.stack([mase_scale(panel.rows.values[a:b], season) for a, b in known])


def _channel_scale(panel: Panel, asked: Question) -> np.ndarray:
    known = zip(panel.starts[:-1], panel.starts[:-1] + asked.window.origin, strict=True)
    values = np.concatenate([panel.rows.values[a:b] for a, b in known])
    columns = [column[np.isfinite(column)] for column in values.T]
    return np.array([standardise(column)[1] if len(column) else 1.0 for column in columns])


def score_table(
    panel: Panel, found: Mapping[str, Predicted], entries: Entries, baselines: Sequence[str], lag: int
) -> xr.Dataset:
    """All scores; dims ``model, channel`` and ``lead`` or ``window``.

    Args:
        found: label -> forecasts of all rows. baselines: which labels are. lag: windows that overlap, for the test.
    """
    units = [channel.units or "" for channel in panel.schema.channels]
    one_unit = len(set(units)) == 1
    names = [channel.label or channel.variable for channel in panel.schema.channels]
    many = len(names) > 1
    losses = {label: _losses(forecast, entries) for label, forecast in found.items()}
    data: dict[str, Any] = {}
    windows = np.arange(entries.window.max() + 1)
    groups = {"": np.zeros_like(entries.lead), "lead": entries.lead - 1, "window": entries.window}
    for dim, group in groups.items():
        tables = [_grouped(losses[label], entries, group, many, one_unit) for label in found]
        dims = ("model", "channel", dim) if dim else ("model", "channel")
        suffix = f"_by_{dim}" if dim else ""
        for key in tables[0]:
            stacked = np.stack([table[key] for table in tables])
            stacked = stacked if dim else stacked[..., 0]
            data[f"{key}{suffix}"] = (dims[1:], stacked[0]) if key == "n" else (dims, stacked)
    coords = {
        "model": list(found),
        "channel": [*names, POOLED if POOLED not in names else f"({POOLED})"] if many else names,
        "lead": np.arange(1, entries.lead.max() + 1),
        "window": windows,
        "is_baseline": ("model", [label in baselines for label in found]),
        "units": ("channel", [*units, units[0] if one_unit else ""] if many else units),
    }
    ds = xr.Dataset(data, coords=coords)
    return _judged(ds, losses, entries, lag)


def _losses(forecast: Predicted, entries: Entries) -> dict[str, np.ndarray]:
    """``[N, C]`` each, 0 where there is no truth."""
    y = np.where(entries.seen, entries.truth, 0.0)
    error = np.abs(forecast.quantile[..., _MIDDLE] - y)
    found = {
        "crps": forecast.crps,
        "crps_normalised": forecast.crps / entries.scale,
        "crps_quantile_9": crps_quantile(y, forecast.quantile[..., _AT_9], LEVELS_9),
        "crps_quantile_19": crps_quantile(y, forecast.quantile[..., _AT_19], LEVELS_19),
        "mase": error / entries.mase,
        "mae": error,
        "rmse": (forecast.mean - y) ** 2,
    }
    found |= {f"coverage_{100 * prob:g}": forecast.covered[..., k] for k, prob in enumerate(PROBS)}
    return {key: np.where(entries.seen, value, 0.0) for key, value in found.items()}


def _grouped(
    losses: Mapping[str, np.ndarray], entries: Entries, group: np.ndarray, many: bool, one_unit: bool
) -> dict[str, np.ndarray]:
    """``[C (+ 1), G]`` each."""
    size = int(group.max()) + 1

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.stack([np.bincount(group, weights=column, minlength=size) for column in values.T])
        return np.concatenate([sums, sums.sum(axis=0, keepdims=True)]) if many else sums

    count = total(entries.seen.astype(np.float64))
    magnitude = total(np.abs(np.where(entries.seen, entries.truth, 0.0)))
    scaled = entries.seen & np.isfinite(entries.mase)
    out: dict[str, np.ndarray] = {"n": count.astype(np.int64)}
    with np.errstate(invalid="ignore", divide="ignore"):
        for key, loss in losses.items():
            whole = total(np.where(scaled, loss, 0.0)) if key == "mase" else total(loss)
            mean = whole / (total(scaled.astype(np.float64)) if key == "mase" else count)
            out[key] = np.sqrt(mean) if key == "rmse" else mean
            if key.startswith("crps_quantile"):
                out[f"{key}_normalised"] = np.where(magnitude > 0, whole / magnitude, np.nan)
    if many and not one_unit:
        for key in _IN_UNITS:
            out[key][-1] = np.nan
    return out


def _judged(ds: xr.Dataset, losses: Mapping[str, dict[str, np.ndarray]], entries: Entries, lag: int) -> xr.Dataset:
    """Differences to the best baseline, paired by window and series."""
    pooled = ds["crps_normalised"].isel(channel=-1)
    base = pooled.where(ds["is_baseline"], np.inf)
    best = str(ds["model"].values[int(np.argmin(base.values))]) if bool(ds["is_baseline"].any()) else ""
    found = {}
    for label in losses:
        none = Difference(np.nan, np.nan, np.nan)
        found[label] = none if not best or label == best else _difference(losses[label], losses[best], entries, lag)
    rows = list(found.values())
    ds["crps_difference"] = ("model", [d.mean for d in rows])
    ds["crps_difference_se"] = ("model", [d.se for d in rows])
    ds["p_value"] = ("model", [d.p for d in rows])
    ds["verdict"] = ("model", [d.verdict for d in rows])
    scored = len(np.unique(entries.window[entries.seen.any(axis=1)]))
    pairs = len(_pairs(entries))
    test = "Diebold-Mariano over windows, Bartlett weights, small-sample correction"
    ds.attrs = {"best_baseline": best, "windows": scored, "pairs": pairs, "test": test}
    return ds


def _pairs(entries: Entries) -> np.ndarray:
    seen = entries.seen.any(axis=1)
    return np.unique(np.stack([entries.window[seen], entries.series[seen]], axis=1), axis=0)


def _difference(
    own: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], entries: Entries, lag: int
) -> Difference:
    """Series weigh alike within a window, windows are the sample."""
    change = (own["crps_normalised"] - other["crps_normalised"]).sum(axis=1)
    count = entries.seen.sum(axis=1)
    n_series = int(entries.series.max()) + 1
    key = entries.window * n_series + entries.series
    size = (int(entries.window.max()) + 1) * n_series
    total = np.bincount(key, weights=change, minlength=size).reshape(-1, n_series)
    entered = np.bincount(key, weights=count, minlength=size).reshape(-1, n_series)
    rows = entered.sum(axis=1) > 0
    paired = np.where(entered > 0, total / np.maximum(entered, 1), 0.0)[rows]
    return diebold_mariano(paired.sum(axis=1) / (entered[rows] > 0).sum(axis=1), lag)
