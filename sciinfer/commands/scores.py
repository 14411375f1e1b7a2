"""Scores on the terminal: the table, the verdict, JSON."""

from __future__ import annotations

import json
import math
import warnings
from typing import TYPE_CHECKING, Any

from ..errors import SciInferWarning
from .console import note, say

if TYPE_CHECKING:
    import xarray as xr

    from ..fitted import Fitted
    from ..labelled.ingest import Encoded


def print_scores(scores: xr.Dataset) -> None:
    """The table of :func:`sciinfer.diagnostics.summary_lines`; a model that loses to its baseline is told so."""
    from ..diagnostics import summary_lines

    for line in summary_lines(scores):
        say(line, style="bold red" if "LOSES" in line else None)
    if scores.attrs.get("model_wins") == "loses":
        best = scores.attrs.get("best_baseline")
        say(f"The model loses to its baseline. Use {best}, or change the model's options.", style="bold red")


def warn_seen(fitted: Fitted, test: xr.Dataset, given: xr.Dataset | None = None) -> None:
    """Say so where data to be scored are also among those that the prediction is conditioned on."""
    from ..labelled.ingest import encode

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SciInferWarning)
        known = _places(fitted._conditioning() if given is None else encode(given, fitted.schema))
        asked = _places(encode(test, fitted.schema))
    seen = len(known & asked)
    if seen:
        note(
            f"{seen} of {len(asked)} rows to be scored are among the data that the prediction is conditioned on, "
            "so these scores flatter all but the constant; give held-out data, or --after TIME"
        )


def _places(encoded: Encoded) -> set[tuple[Any, float]]:
    """``(series, time)`` of every row with something observed."""
    batch = encoded.batch
    labels = encoded.series_labels.tolist() if encoded.series_labels is not None else list(range(batch.n_series))
    ends = batch.offsets.tolist()
    owner = [label for label, low, high in zip(labels, ends, ends[1:], strict=False) for _ in range(high - low)]
    rows = zip(owner, batch.time.tolist(), batch.mask.any(dim=1).tolist(), strict=True)
    # rounded: the same time may have been counted from another unit
    return {(label, round(time, 9)) for label, time, observed in rows if observed}


def print_json(scores: xr.Dataset) -> None:
    """One JSON object: the attributes, and one row for each forecaster and channel; NaN becomes null."""
    table = scores.reset_coords().to_dataframe().reset_index()
    rows = [{str(k): plain(v) for k, v in row.items()} for row in table.to_dict(orient="records")]
    attrs = {str(k): plain(v) for k, v in scores.attrs.items()}
    say(json.dumps({**attrs, "rows": rows}, allow_nan=False))


def plain(value: Any) -> Any:
    """A number of numpy as Python's own; what is not finite as None, which JSON can hold."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
