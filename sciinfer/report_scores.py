"""What the scores of ``sciinfer.diagnostics.evaluate`` say, in words; tolerates gaps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

Level = Literal["good", "fair", "poor", "none"]
MARKS: dict[str, str] = {"good": "✓", "fair": "≈", "poor": "✗", "none": "·"}
TITLES = {
    "rmse": "RMSE",
    "mae": "MAE",
    "crps": "CRPS",
    "coverage_50": "50 % coverage",
    "coverage_90": "90 % coverage",
    "n": "n",
}
_POOLED = ("all", "variable_mean")
_REFERENCE = ("exact", "oracle", "noise")


@dataclass(frozen=True)
class Verdict:
    """One statement: ``good``, ``fair``, ``poor`` or ``none`` (nothing can be said), and its text."""

    level: Level
    headline: str
    text: str = ""


def model_name(scores: xr.Dataset) -> str:
    """Which forecaster is the model: ``attrs["model"]``, ``"model"``, or the first."""
    names = forecasters(scores)
    wanted = (str(scores.attrs.get("model", "")), "model")
    return next((name for name in wanted if name in names), names[0])


def forecasters(scores: xr.Dataset) -> list[str]:
    """Names of the forecasters in order."""
    return [str(name) for name in np.atleast_1d(scores["forecaster"].values)]


def baselines(scores: xr.Dataset) -> list[str]:
    """The forecasters marked ``is_baseline``; unmarked, all but the model and the exact references."""
    model = model_name(scores)
    if "is_baseline" in scores.coords:
        marks = np.atleast_1d(scores["is_baseline"].values)
        return [name for name, mark in zip(forecasters(scores), marks, strict=True) if mark and name != model]
    return [name for name in forecasters(scores) if name != model and not is_reference(name)]


def is_reference(name: str) -> bool:
    """Not a competitor: an exact answer or a noise floor."""
    return name.lower().startswith(_REFERENCE)


def channels(scores: xr.Dataset) -> list[str]:
    """Names of the channels, pooled rows included."""
    return [str(name) for name in np.atleast_1d(scores["channel"].values)] if "channel" in scores.coords else [""]


def value(scores: xr.Dataset, metric: str, forecaster: str, channel: str) -> float:
    """One score, NaN where it is not there."""
    if metric not in scores.data_vars:
        return float("nan")
    da = scores[metric]
    place = {"forecaster": forecasters(scores).index(forecaster), "channel": channels(scores).index(channel)}
    da = da.isel({dim: index for dim, index in place.items() if dim in da.dims})
    return float(da.values) if da.ndim == 0 and da.dtype.kind in "fiub" else float("nan")


def outcome(scores: xr.Dataset, channel: str) -> tuple[str, str, str] | None:
    """``(wins | ties | loses, best baseline, metric)`` of the model on one channel, or None when unknown.

    What ``evaluate`` recorded counts; otherwise the lower score wins.
    """
    metric = _metric(scores, channel)
    if metric is None or not baselines(scores):
        return None
    ours = value(scores, metric, model_name(scores), channel)
    theirs = {name: value(scores, metric, name, channel) for name in baselines(scores)}
    finite = {name: v for name, v in theirs.items() if np.isfinite(v)}
    if not np.isfinite(ours) or not finite:
        return None
    named = str(_recorded(scores, "best_baseline", channel))
    best = named if named in finite else min(finite, key=lambda name: finite[name])
    said = str(_recorded(scores, "model_wins", channel)).lower()
    said = {"true": "wins", "false": "loses", "1": "wins", "0": "loses"}.get(said, said)
    if said not in ("wins", "ties", "loses"):
        said = "wins" if ours < finite[best] else "ties" if ours == finite[best] else "loses"
    return said, best, metric


def _metric(scores: xr.Dataset, channel: str) -> str | None:
    """The best metric that the model has here; channels of several units share only normalised ones."""
    order = ("crps", "crps_normalised", "mae", "rmse")
    return next((m for m in order if np.isfinite(value(scores, m, model_name(scores), channel))), None)


def _recorded(scores: xr.Dataset, name: str, channel: str) -> Any:
    if name in scores.variables:
        da = scores[name]
        da = da.isel(channel=channels(scores).index(channel)) if "channel" in da.dims else da
        return da.values.item() if da.ndim == 0 else ""
    found = scores.attrs.get(name, "")
    if isinstance(found, str) and found.startswith("{"):
        try:
            found = json.loads(found)
        except ValueError:
            return ""
    if isinstance(found, Mapping):
        return found.get(channel, "")
    return found if channel in pooled(scores) or len(single(scores)) == 1 else ""


def pooled(scores: xr.Dataset) -> list[str]:
    """The channels that sum up the others."""
    if "overall" in scores.coords:
        marks = np.atleast_1d(scores["overall"].values)
        return [name for name, mark in zip(channels(scores), marks, strict=True) if mark]
    return [name for name in channels(scores) if name in _POOLED]


def single(scores: xr.Dataset) -> list[str]:
    """The real channels."""
    summed = pooled(scores)
    return [name for name in channels(scores) if name not in summed]


def headline_channel(scores: xr.Dataset) -> str:
    """The only channel, else the pooled one, else the first."""
    real = single(scores)
    return real[0] if len(real) == 1 else (*pooled(scores), *real)[0]


def verdicts(scores: xr.Dataset) -> list[Verdict]:
    """Does the model beat its best baseline, and is its 90 % band honest?"""
    channel = headline_channel(scores)
    out = [_against_baseline(scores, channel), _coverage(scores, channel), *_exact(scores, channel)]
    return [verdict for verdict in out if verdict is not None]


def _against_baseline(scores: xr.Dataset, channel: str) -> Verdict:
    found = outcome(scores, channel)
    if found is None:
        return Verdict(
            "none", "No baseline was scored on the same data.", "Whether the model is worth its cost is open."
        )
    said, best, metric = found
    ours, theirs = (value(scores, metric, name, channel) for name in (model_name(scores), best))
    title = title_of(metric)
    numbers = f"{title} {number(ours)} against {number(theirs)}"
    if theirs > 0:
        change = 100 * (ours / theirs - 1)
        numbers += f" ({abs(change):.0f} % {'lower' if change < 0 else 'higher'})"
    text = {
        "wins": f"The model beats its best baseline, {spoken(best)}.",
        "ties": f"The model ties with its best baseline, {spoken(best)}: the difference is within its noise.",
        "loses": f"The model loses to its baseline, {spoken(best)}. Use the baseline.",
    }[said]
    level: Level = {"wins": "good", "ties": "fair", "loses": "poor"}[said]  # type: ignore[assignment]
    return Verdict(level, text, f"{numbers}. {_by_channel(scores)}".strip())


def _by_channel(scores: xr.Dataset) -> str:
    names = single(scores)
    results = {name: outcome(scores, name) for name in names}
    lost = [name for name, found in results.items() if found and found[0] == "loses"]
    known = sum(found is not None for found in results.values())
    if known < 2:
        return ""
    if not lost:
        return f"It loses on none of {known} channels."
    shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
    return f"It loses to its baseline on {len(lost)} of {known} channels: {shown}."


def _coverage(scores: xr.Dataset, channel: str) -> Verdict | None:
    share = value(scores, "coverage_90", model_name(scores), channel)
    if not np.isfinite(share):
        return None
    return coverage_verdict(share, value(scores, "n", model_name(scores), channel))


def coverage_verdict(share: float, n: float) -> Verdict:
    """Is ``share`` of ``n`` data inside the 90 % band good? Within 3 points or 3 binomial errors yes, beyond 10 no.

    Example:
        >>> coverage_verdict(0.91, 400).level, coverage_verdict(0.6, 400).level
        ('good', 'poor')
    """
    error = 3 * float(np.sqrt(0.09 / n)) if np.isfinite(n) and n > 0 else 0.0
    gap = abs(share - 0.9)
    count = f" of {int(n)} held-out values" if np.isfinite(n) and n > 0 else ""
    text = f"The 90 % band holds {100 * share:.1f} %{count}."
    if gap <= max(0.03, error):
        return Verdict("good", "The uncertainty is calibrated.", text)
    way = "narrow: it is overconfident" if share < 0.9 else "wide: it is underconfident"
    if gap <= 0.10:
        return Verdict("fair", f"The 90 % band is somewhat too {way}.", text)
    return Verdict("poor", f"The 90 % band is far too {way}.", text)


def _exact(scores: xr.Dataset, channel: str) -> list[Verdict]:
    metric = _metric(scores, channel)
    names = [name for name in forecasters(scores) if name.lower().startswith("exact")]
    if metric is None or not names:
        return []
    ours, exact = (value(scores, metric, name, channel) for name in (model_name(scores), names[0]))
    if not np.isfinite(ours) or not np.isfinite(exact):
        return []
    text = f"{title_of(metric)} {number(ours)}; the exact answer scores {number(exact)}."
    return [Verdict("none", "A closed form exists for these data.", text)]


def title_of(metric: str) -> str:
    """A metric's name in a heading.

    Example:
        >>> title_of("crps"), title_of("crps_normalised"), title_of("log_score")
        ('CRPS', 'CRPS (scaled)', 'log score')
    """
    base = metric.removesuffix("_normalised")
    name = TITLES.get(base, spoken(base))
    return name if base == metric else f"{name} (scaled)"


def spoken(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def number(x: float) -> str:
    """Three significant digits.

    Example:
        >>> number(0.012345), number(1234.5), number(float("nan"))
        ('0.0123', '1230', '–')
    """
    if not np.isfinite(x):
        return "–"
    if x != 0 and (abs(x) >= 1e5 or abs(x) < 1e-3):
        return f"{x:.2e}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(x))))) if x else 0
    return f"{float(f'{x:.3g}'):.{digits}f}"
