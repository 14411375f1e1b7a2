"""The report of one fit: predictions on a fine grid and at the data's times, scores, how training went."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SciInferWarning

if TYPE_CHECKING:
    import xarray as xr

    from .fitted import Fitted
    from .labelled.schema import Schema

MOST_SERIES, MOST_FIGURES, MOST_DATA_TIMES = 4, 12, 1500
GRID, DRAWS = 300, 100
#: numbers of one prediction; beyond it fewer series, then fewer times, then fewer draws are taken
_BUDGET = 1.5e7
REPORT = "report.html"


def write_run_report(
    fitted: Fitted,
    path: str | Path,
    *,
    scores: xr.Dataset | None = None,
    held_out: xr.Dataset | None = None,
    command: str | None = None,
) -> Path:
    """Write ``report.html`` for a fitted model.

    Args:
        fitted: the model; of many series at most the first four are drawn.
        path: the HTML file.
        scores: of :meth:`Fitted.score`.
        held_out: data that the model has not seen, drawn and used for calibration.
        command: what made the run, for the provenance.

    Returns:
        The path.

    Raises:
        DependencyError: matplotlib is missing. ResourceError: the file cannot be written. StateError: not trained.

    Example:
        >>> import sciinfer as si, tempfile
        >>> fitted = si.fit(si.open_dataset("nile"), options={"process": "linear"}, progress="silent")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run_report(fitted, folder + "/report.html").stat().st_size > 10_000
        True
    """
    from .report import write_report

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SciInferWarning)  # said once, at the fit
        data = first_series(fitted.data, fitted.schema, most_series(fitted.schema))
        tree, truth, notes = _prediction(fitted, data, held_out)
        return write_report(
            path,
            title=f"{fitted.name} on {', '.join(v.name for v in fitted.schema.variables[:4])}",
            trees=tree,
            scores=scores,
            history=history_of(fitted),
            provenance=_provenance(fitted, command),
            held_out=truth,
            notes=[*fitted.history.notices, *notes],
        )


def first_series(ds: xr.Dataset, schema: Schema, count: int) -> xr.Dataset:
    """The first series of a data set in any layout; a data set without series as it is.

    Example:
        >>> import sciinfer as si
        >>> from sciinfer.labelled import infer_schema
        >>> ds = si.open_dataset("oscillator_gappy")
        >>> first_series(ds, infer_schema(ds), 2).sizes["series"]
        2
    """
    from .labelled.layouts import find_layout

    layout = find_layout(ds, schema.time.name, schema.series if schema.series in ds.dims else None)
    if layout.series is None or layout.series not in ds.dims:
        return ds
    chosen: dict[str, slice] = {layout.series: slice(0, count)}
    if layout.row_size is not None:
        chosen[layout.dim] = slice(0, int(ds[layout.row_size].values[:count].sum()))
    return ds.isel(chosen)


def most_series(schema: Schema) -> int:
    """How many series are drawn: each figure takes time, so of many variables fewer."""
    return max(1, min(MOST_SERIES, MOST_FIGURES // max(len(schema.variables), 1), MOST_FIGURES // schema.n_channels))


def history_of(fitted: Fitted) -> dict[str, Sequence[float]] | None:
    """Loss lists as the report draws them; None where nothing was trained."""
    history = fitted.history
    if not history.loss:
        return None
    found: dict[str, Sequence[float]] = {"steps": list(history.steps), "loss": list(history.loss)}
    if history.validation:
        found["validation"] = [loss for _, loss in history.validation]
        found["validation_steps"] = [step for step, _ in history.validation]
    return found


def _prediction(fitted: Fitted, data: xr.Dataset, held_out: xr.Dataset | None) -> tuple[Any, xr.Dataset | None, list]:
    """The result to be drawn, the held-out data of the same series, and what was left out."""
    from .labelled.frames import as_fitted

    schema = fitted.schema
    truth = None if held_out is None else as_fitted(held_out, schema)
    whole = fitted._conditioning().batch.n_series
    series, grid, draws = min(whole, most_series(schema)), GRID, DRAWS
    while True:
        part = first_series(data, schema, series)
        shown = None if truth is None else same_series(truth, part, schema)
        time, dropped = _times(schema, part, shown, grid)
        cost = series * len(time) * max(schema.n_channels, 1) * draws
        if cost <= _BUDGET or (series, grid, draws) == (1, GRID // 3, DRAWS // 2):
            break
        series, grid, draws = _cheaper(series, grid, draws)
    notes = []
    if whole > series:
        notes.append(f"Drawn and checked here are the first {series} of {whole} series.")
    if dropped:
        notes.append(f"Calibration is checked at an even selection of the times; {dropped} further times are left out.")
    return fitted.predict(part, time=time, draws=draws), shown, notes


def _cheaper(series: int, grid: int, draws: int) -> tuple[int, int, int]:
    if series > 1:
        return series - 1, grid, draws
    return (series, GRID // 3, draws) if grid > GRID // 3 else (series, grid, DRAWS // 2)


def same_series(truth: xr.Dataset, part: xr.Dataset, schema: Schema) -> xr.Dataset:
    """The series of ``truth`` that ``part`` has, by label; where there are no labels, as many from the front."""
    from .labelled.layouts import find_layout

    series = schema.series
    if series is None or series not in truth.dims or series not in part.dims:
        return truth
    if series not in truth.coords or series not in part.coords:
        return first_series(truth, schema, part.sizes[series])
    keep = np.isin(truth[series].values, part[series].values)
    layout = find_layout(truth, schema.time.name, series)
    chosen = {series: np.flatnonzero(keep)}
    if layout.row_size is not None:
        chosen[layout.dim] = np.flatnonzero(np.repeat(keep, truth[layout.row_size].values.astype(int)))
    return truth.isel(chosen)


def _times(schema: Schema, data: xr.Dataset, truth: xr.Dataset | None, grid: int) -> tuple[np.ndarray, int]:
    """An even grid from the first to the last time, and the data's own; how many of those are left out."""
    known = np.unique(np.concatenate([_present(ds[schema.time.name].values) for ds in (data, truth) if ds is not None]))
    step = -(-len(known) // MOST_DATA_TIMES)
    kept = known[::step]
    model = schema.time.to_model(known[[0, -1]])
    even = schema.time.from_model(np.linspace(model[0], model[-1], grid))
    return np.union1d(kept, even.astype(kept.dtype)), len(known) - len(kept)


def _present(times: np.ndarray) -> np.ndarray:
    flat = times.astype("datetime64[ns]").ravel() if times.dtype.kind == "M" else times.astype(np.float64).ravel()
    return flat[~(np.isnat(flat) if flat.dtype.kind == "M" else np.isnan(flat))]


def _provenance(fitted: Fitted, command: str | None) -> Mapping[str, Any]:
    history = fitted.history
    seconds = {"seconds": f"{history.seconds[-1]:.1f}"} if history.seconds else {}
    return {
        **({"command": command} if command else {}),
        "model": fitted.name,
        "seed of the fit": fitted.seed,
        "training": f"{len(history.loss)} steps, ended by {history.stopped or fitted.status}",
        **seconds,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
