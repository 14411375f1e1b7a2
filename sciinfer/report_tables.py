"""The scores as tables, one for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .plots.style import labelled
from .report_html import Html, el, join
from .report_scores import (
    TITLES,
    channels,
    forecasters,
    is_reference,
    model_name,
    number,
    outcome,
    pooled,
    single,
    spoken,
    title_of,
    value,
)

if TYPE_CHECKING:
    import xarray as xr

MAX_OPEN, MAX_CHANNELS = 4, 60


def tables(scores: xr.Dataset) -> Html:
    """One table per channel, the summary rows first; further ones are folded away, and beyond 60 counted."""
    real = single(scores)
    names = real if len(real) == 1 else [*pooled(scores), *real]
    made = [_table(scores, name) for name in names[:MAX_CHANNELS]]
    folded, rest = made[MAX_OPEN:], len(names) - len(made)
    more = el("details", el("summary", f"{len(folded)} more channels"), join(folded)) if folded else ""
    note = el("p", f"{rest} more channels are not shown.", class_="note") if rest > 0 else ""
    return join([*made[:MAX_OPEN], more, note])


def _metrics(scores: xr.Dataset, channel: str) -> list[str]:
    """Columns: the known metrics (normalised where the channels share no unit), a few others, the count."""
    known = [name for name in TITLES if name in scores.data_vars and name != "n"]
    shown = [name if _any(scores, name, channel) else f"{name}_normalised" for name in known]
    helpers = ("_se", "_normalised")
    wide = [str(n) for n, da in scores.data_vars.items() if set(da.dims) == {"forecaster", "channel"}]
    other = [n for n in wide if n not in TITLES and not n.endswith(helpers) and scores[n].dtype.kind in "fiu"]
    return [name for name in [*shown, *other[:6], "n"] if _any(scores, name, channel)]


def _any(scores: xr.Dataset, metric: str, channel: str) -> bool:
    return any(np.isfinite(value(scores, metric, name, channel)) for name in forecasters(scores))


def _table(scores: xr.Dataset, channel: str) -> Html:
    metrics = _metrics(scores, channel)
    rows = {name: [value(scores, metric, name, channel) for metric in metrics] for name in forecasters(scores)}
    competing = [row for name, row in rows.items() if not is_reference(name)]
    best = [_best(metric, [row[i] for row in competing]) for i, metric in enumerate(metrics)]
    head = el("tr", el("th", "forecaster", scope="col"), *(el("th", title_of(m), scope="col") for m in metrics))
    body = [_row(scores, channel, name, dict(zip(metrics, row, strict=True)), best) for name, row in rows.items()]
    found = outcome(scores, channel)
    loses = found is not None and found[0] == "loses"
    said = f"Here the model loses to its baseline, {spoken(found[1])}." if found and loses else ""
    table = el("table", el("thead", head), el("tbody", *body))
    loss = el("p", said, class_="loses") if said else ""
    return join([el("h3", _title(scores, channel)), loss, el("div", table, class_="scroll")])


def _title(scores: xr.Dataset, channel: str) -> str:
    if channel in pooled(scores):
        return "Mean over channels" if "variable_mean" in channel else "All channels pooled"
    units = scores["units"].values[channels(scores).index(channel)] if "units" in scores.coords else ""
    return labelled(channel or "Scores", str(units))


def _best(metric: str, column: list[float]) -> float:
    finite = [v for v in column if np.isfinite(v)]
    if not finite or metric == "n":
        return float("nan")
    if metric.startswith("coverage_"):
        nominal = float(metric.removeprefix("coverage_")) / 100
        return min(finite, key=lambda v: abs(v - nominal))
    return min(finite) if metric.removesuffix("_normalised") in TITLES else float("nan")


def _row(scores: xr.Dataset, channel: str, name: str, row: Mapping[str, float], best: list[float]) -> Html:
    cells = []
    for (metric, x), top in zip(row.items(), best, strict=True):
        is_best = x == top and not is_reference(name)
        error = value(scores, f"{metric}_se", name, channel)
        tag = el("span", "best", class_="tag") if is_best else ""
        noise = el("span", f" ± {_shown(metric, error)}", class_="noise") if np.isfinite(error) else ""
        cells.append(el("td", tag, _shown(metric, x), noise, class_="best" if is_best else None))
    role = "model" if name == model_name(scores) else "reference" if is_reference(name) else None
    return el("tr", el("th", spoken(name), scope="row"), *cells, class_=role)


def _shown(metric: str, x: float) -> str:
    if not np.isfinite(x):
        return "–"
    if metric == "n":
        return str(int(x))
    return f"{100 * x:.1f} %" if metric.startswith("coverage_") else number(x)
