"""The scores as a plain text table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

_MOST_CHANNELS = 6
_SAYS = {
    "wins": "is better than the best baseline",
    "ties": "is within noise of the best baseline",
    "loses": "LOSES to the best baseline",
}


def summary_lines(ds: xr.Dataset) -> list[str]:
    """Aligned lines: per channel in the caller's units (up to six channels), pooled in model units, and the verdict.

    Args:
        ds: what :func:`sciinfer.diagnostics.evaluate` returns.
    """
    overall = ds["overall"].values
    channels = [str(c) for c in ds["channel"].values[~overall]]
    lines: list[str] = []
    for channel in channels[:_MOST_CHANNELS]:
        lines += _block(ds.sel(channel=channel), _title(ds, channel), suffix="")
    if len(channels) > _MOST_CHANNELS:
        lines.append(f"({len(channels) - _MOST_CHANNELS} more channels are not shown)")
    if len(channels) > 1:
        for channel, text in zip(ds["channel"].values[overall], ("all entries", "mean over channels"), strict=True):
            lines += _block(ds.sel(channel=channel), f"{text}, normalised", suffix="_normalised")
    return lines + _verdict_lines(ds)


def _title(ds: xr.Dataset, channel: str) -> str:
    unit = str(ds["units"].sel(channel=channel).item()) if "units" in ds.coords else ""
    return f"{channel} [{unit}]" if unit else channel


def _block(row: xr.Dataset, title: str, *, suffix: str) -> list[str]:
    coverages = [str(k) for k in row.data_vars if str(k).startswith("coverage_") and not str(k).endswith("_se")]
    head = [f"{title} (n = {int(row['n'])})", "CRPS", "+-", "RMSE", "MAE", *(f"cov {c[9:]} %" for c in coverages)]
    keys = [f"crps{suffix}", f"crps{suffix}_se", f"rmse{suffix}", f"mae{suffix}"]
    table = [head]
    best = float(row[f"crps{suffix}"].min())
    for name in row["forecaster"].values:
        one = row.sel(forecaster=name)
        mark = " *" if float(one[f"crps{suffix}"]) == best else ""
        cells = [_number(float(one[key])) for key in keys] + [_percent(float(one[key])) for key in coverages]
        table.append([f"  {name}{mark}", *cells])
    return [*_aligned(table), ""]


def _verdict_lines(ds: xr.Dataset) -> list[str]:
    best = ds.attrs.get("best_baseline")
    if not best:
        return ["no baseline was scored"]
    lines = []
    for name in ds["forecaster"].values[~ds["is_baseline"].values]:
        one = ds.sel(forecaster=name)
        change, error = float(one["crps_difference"]), float(one["crps_difference_se"])
        says = _SAYS[str(one["verdict"].item())]
        lines.append(f"{name} {says} ({best}): CRPS {change:+.3g} +- {error:.2g} (normalised)")
    return lines


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    return lines


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
