"""What a backtest found: forecasts, scores, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .forecasters import Question
from .panel import Panel
from .predicted import LEVELS, Predicted

if TYPE_CHECKING:
    import pandas as pd

_MOST_CHANNELS = 6
_COLUMNS = {"crps": "CRPS", "crps_quantile_9": "CRPS_q9", "crps_quantile_19": "CRPS_q19", "mase": "MASE"}
_COVERAGES = {"coverage_80": "cov 80 %", "coverage_95": "cov 95 %"}
_COLUMNS |= {"mae": "MAE", "rmse": "RMSE", **_COVERAGES}
#: of channels whose units differ
_WITHOUT_UNITS = {"crps_normalised": "CRPS/sd", "crps_quantile_9_normalised": "CRPS_q9/|y|"}
_WITHOUT_UNITS |= {"crps_quantile_19_normalised": "CRPS_q19/|y|", "mase": "MASE", **_COVERAGES}


@dataclass(frozen=True, repr=False)
class Backtest:
    """Made by :func:`sciinfer.backtest`.

    Args:
        forecasts: ``forecast (model, window, [series], lead, channel, quantile)``, ``mean`` and ``observed`` in the
            caller's units; coordinates ``cutoff`` (last known time) and the time that each lead stands for. NaN where
            a series has fewer rows in a window than others.
        scores: see :func:`sciinfer.backtest`.
    """

    forecasts: xr.Dataset
    scores: xr.Dataset

    def __repr__(self) -> str:
        return self.summary()

    @property
    def best(self) -> str:
        """The forecaster with the least CRPS, baselines included."""
        pooled = self.scores["crps_normalised"].isel(channel=-1)
        return str(self.scores["model"].values[int(np.argmin(pooled.values))])

    def frame(self) -> pd.DataFrame:
        """A long table: one row for each model, window, series, time and channel.

        Columns: series and time as the caller calls them (``unique_id`` and ``ds`` where a single series has no name),
        ``cutoff``, ``model``, ``variable`` (if there are several channels), the observed value under the variable's
        name (``y`` for several), ``mean``, and ``q0.025`` to ``q0.975``.
        """
        import pandas as pd

        ds = self.forecasts
        series, time = ds.attrs["series"], ds.attrs["time"]
        lead = ["model", "window", *([series] if series in ds.dims else []), "lead", "channel"]
        wide = ds["forecast"].transpose(*lead, "quantile")
        flat = wide.values.reshape(-1, wide.sizes["quantile"])
        blank = wide.isel(quantile=0, drop=True)
        column = lambda da: da.broadcast_like(blank).transpose(*lead).values.ravel()  # noqa: E731
        several = ds.sizes["channel"] > 1
        observed = "y" if several else str(ds["channel"].values[0])
        table = {series: column(ds[series]) if series in ds.dims else np.zeros(len(flat), dtype=np.int64)}
        table |= {time: column(ds[time]), "cutoff": column(ds["cutoff"]), "model": column(ds["model"])}
        table |= {"variable": column(ds["channel"])} if several else {}
        table |= {observed: column(ds["observed"]), "mean": column(ds["mean"])}
        table |= {f"q{level:g}": flat[:, k] for k, level in enumerate(LEVELS)}
        keep = np.isfinite(flat[:, 0])
        return pd.DataFrame({name: values[keep] for name, values in table.items()})

    def summary(self) -> str:
        """Scores as a table and what they mean; a model that loses to its baseline is told so."""
        return "\n".join([*self._head(), "", *self._tables(), *self._verdicts()])

    def _head(self) -> list[str]:
        attrs = self.scores.attrs
        scored, made = attrs["windows"], self.forecasts.sizes["window"]
        head = f"{_counted(scored, 'window')} scored, horizon {attrs['horizon']}, step {attrs['step']}, "
        head += f"{attrs['n_series']} series, {attrs['refit']}"
        if scored < made:
            head += f"; {made - scored} more only calibrate or hold nothing observed"
        return [head]

    def _tables(self) -> list[str]:
        ds, lines = self.scores, []
        names = [str(name) for name in ds["channel"].values]
        shown = names if len(names) <= _MOST_CHANNELS else names[-1:]
        for name in shown:
            one = ds.sel(channel=name)
            unit = str(one["units"].item())
            n = int(one["n"])
            columns = _WITHOUT_UNITS if bool(np.isnan(one["crps"]).all()) else _COLUMNS
            head = [f"{name} [{unit}] (n = {n})" if unit else f"{name} (n = {n})", *columns.values()]
            rows = [
                [self._marked(str(m)), *(_cell(one.sel(model=m), key) for key in columns)] for m in ds["model"].values
            ]
            lines += [*_aligned([head, *rows]), ""]
        if len(shown) < len(names):
            lines = [*lines[:-1], f"({len(names) - len(shown)} channels are in .scores)", ""]
        return lines

    def _marked(self, label: str) -> str:
        kind = " (baseline)" if bool(self.scores["is_baseline"].sel(model=label)) else ""
        return f"  {label}{kind}{' *' if label == self.best else ''}"

    def _verdicts(self) -> list[str]:
        ds = self.scores
        best = ds.attrs["best_baseline"]
        if not best:
            return ["no baseline was scored, so nothing can be said of the models"]
        models = [str(m) for m in ds["model"].values[~ds["is_baseline"].values]]
        return [self._verdict(label, best) for label in models]

    def _verdict(self, label: str, best: str) -> str:
        one, windows = self.scores.sel(model=label), int(self.scores.attrs["windows"])
        change, se, p = (float(one[key]) for key in ("crps_difference", "crps_difference_se", "p_value"))
        ahead = change < 0
        if not math.isfinite(p):
            why = "one window" if windows < 2 else "differences without variance"
            who = f"{label} is ahead of {best}" if ahead else f"the baseline wins on the score, {best} over {label}"
            return f"{who}: normalised CRPS {change:+.3g}; {why}: no claim can be made"
        numbers = f"normalised CRPS {change:+.3g} +- {se:.2g}, p = {p:.2g}, {_counted(windows, 'window')}"
        verdict = str(one["verdict"].item())
        if verdict == "wins":
            return f"{label} beats the best baseline, {best}: {numbers}"
        if verdict == "loses":
            return f"the baseline wins: {label} LOSES to {best}: {numbers}. Use {best}, or change the model"
        if ahead:
            return f"no difference can be told: {label} is ahead of the best baseline, {best}, within noise: {numbers}"
        return f"the baseline wins on the score, within noise: {label} is behind {best}: {numbers}"


def forecasts_dataset(panel: Panel, asked: Sequence[Question], found: Mapping[str, Sequence[Predicted]]) -> xr.Dataset:
    """The box of all forecasts; NaN (NaT) where a series has no such row."""
    schema, leads = panel.schema, max(int(one.lead.max()) for one in asked)
    box = (len(asked), panel.n_series, leads)
    n_channels = schema.n_channels
    time = np.full(box, np.datetime64("NaT", "ns") if panel.rows.time.dtype.kind == "M" else np.nan)
    cutoff, observed = time[..., 0].copy(), np.full((*box, n_channels), np.nan)
    quantile = np.full((len(found), *box, n_channels, len(LEVELS)), np.nan)
    mean = np.full((len(found), *box, n_channels), np.nan)
    for w, one in enumerate(asked):
        place = (w, one.series, one.lead - 1)
        time[place], observed[place] = panel.rows.time[one.row], one.truth
        active = np.flatnonzero(one.window.active)
        cutoff[w, active] = panel.rows.time[panel.starts[active] + one.window.origin[active] - 1]
        for m, label in enumerate(found):
            quantile[m][place], mean[m][place] = found[label][w].quantile, found[label][w].mean
    series, name = schema.series or "unique_id", _free(schema.time.name)
    rows = ("window", series, "lead")
    ds = xr.Dataset(
        {
            "forecast": (("model", *rows, "channel", "quantile"), quantile),
            "mean": (("model", *rows, "channel"), mean),
            "observed": ((*rows, "channel"), observed),
        },
        coords={
            "model": list(found),
            "window": np.arange(len(asked)),
            series: np.arange(panel.n_series) if panel.labels is None else panel.labels,
            "lead": np.arange(1, leads + 1),
            "channel": [channel.label or channel.variable for channel in schema.channels],
            "quantile": list(LEVELS),
            "units": ("channel", [channel.units or "" for channel in schema.channels]),
            name: (rows, time, {"units": schema.time.units} if schema.time.units else {}),
            "cutoff": (("window", series), cutoff),
        },
        attrs={"series": series, "time": name},
    )
    return ds.isel({series: 0}, drop=True) if panel.labels is None else ds


def _free(name: str) -> str:
    taken = ("model", "window", "lead", "channel", "quantile", "forecast", "mean", "observed", "cutoff", "units")
    return name if name not in taken else f"{name}_"


def _cell(one: xr.Dataset, key: str) -> str:
    value = float(one[key])
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" if key.startswith("coverage") else f"{value:.4g}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in table
    ]


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
