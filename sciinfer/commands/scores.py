"""Scores on the terminal: the table, the verdict, JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from .console import say

if TYPE_CHECKING:
    import xarray as xr


def print_scores(scores: xr.Dataset) -> None:
    """The table of :func:`sciinfer.diagnostics.summary_lines`; a model that loses to its baseline is told so."""
    from ..diagnostics import summary_lines

    for line in summary_lines(scores):
        say(line, style="bold red" if "LOSES" in line else None)
    if scores.attrs.get("model_wins") == "loses":
        best = scores.attrs.get("best_baseline")
        say(f"The model loses to its baseline. Use {best}, or change the model's options.", style="bold red")


def print_json(scores: xr.Dataset) -> None:
    """One JSON object: the attributes, and one row for each forecaster and channel; NaN becomes null."""
    table = scores.reset_coords().to_dataframe().reset_index()
    rows = [{str(k): _plain(v) for k, v in row.items()} for row in table.to_dict(orient="records")]
    attrs = {str(k): _plain(v) for k, v in scores.attrs.items()}
    # plain print would be refused by the linter for good reason elsewhere; say() keeps JSON on one stream, unwrapped
    say(json.dumps({**attrs, "rows": rows}, allow_nan=False))


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
