"""``sciinfer check`` and ``sciinfer report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import files
from .console import note, say, table, working
from .options import HeldOut, Json, Run

if TYPE_CHECKING:
    import xarray as xr

CHECK_EXAMPLES = ("sciinfer check forecast.nc", "sciinfer check forecast.nc --held-out truth.nc --json")
_FEW = 20
REPORT_EXAMPLES = ("sciinfer report run/", "sciinfer report run/ --held-out truth.nc --out page.html")

Result = Annotated[Path, typer.Argument(metavar="RESULT", help="What predict wrote: .nc or .zarr.")]
Page = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The page. Default: report.html in RUN.")]


def check(result: Result, held_out: HeldOut = None, as_json: Json = False) -> None:
    """Do the predictive intervals hold what they promise? Coverage, PIT and a verdict."""
    from ..diagnostics import check as run_check
    from ..labelled.io import read_tree

    tree = read_tree(result)
    truth = None if held_out is None else _opened(held_out, tree)
    if truth is not None:
        truth = on_grid(truth, tree)
    elif "observed_data" in tree.children:
        tree["observed_data"] = on_grid(tree["observed_data"].to_dataset(), tree)
    report = run_check(tree, held_out=truth)
    if as_json:
        say(json.dumps({"verdict": report.attrs["verdict"], "notes": _notes(report), "variables": _records(report)}))
        return
    probs = report["prob"].values
    head = ["variable", "n", *(f"in {100 * p:g} %" for p in probs), "chi2/datum", "PIT p"]
    rows = [
        [name, str(int(one["n"])), *(f"{100 * float(c):.1f} %" for c in one["coverage"].values), *_numbers(one)]
        for name, one in ((str(v), report.sel(variable=v)) for v in report["variable"].values)
    ]
    table(head, rows)
    good = report.attrs["verdict"] == "calibrated"
    say(f"\n{report.attrs['verdict']}", style="bold green" if good else "bold red")
    for text in _notes(report):
        note(text)
    if int(report["n"].min()) < _FEW:
        note(f"fewer than {_FEW} values at the predicted times: predict at the data's own times to learn more")


def report(run: Run, held_out: HeldOut = None, out: Page = None) -> None:
    """Write the HTML page of a fit: data and bands, loss, calibration, scores, provenance."""
    from ..run_report import REPORT, write_run_report
    from .fit import command_line
    from .scores import print_scores

    fitted = files.load_run(run)
    truth, scores = None, None
    if held_out is not None:
        truth = files.open_for(held_out, fitted.schema)
        with working("scoring"):
            scores = fitted.score(truth)
        print_scores(scores)
    with working("writing the report"):
        path = write_run_report(fitted, out or run / REPORT, scores=scores, held_out=truth, command=command_line())
    say(f"report  {path}")


def _opened(source: str, tree: xr.DataTree) -> xr.Dataset:
    """Held-out data, with the time and series columns that the result names."""
    from ..labelled.frames import as_dataset
    from ..plots.access import group_of, layout_of, variables

    names = variables(tree)
    data = files.open_data(source)
    if not names or not hasattr(data, "columns"):
        return as_dataset(data)
    layout = layout_of(group_of(tree, names[0])[names[0]])
    series = layout.series if layout.series in data.columns else None
    time = layout.time if layout.time in data.columns else None
    return as_dataset(files.needed(data, names, time, series), time=time, series=series)


def on_grid(ds: xr.Dataset, tree: xr.DataTree) -> xr.Dataset:
    """Data of series with their own times (ragged, padded) at the result's labels; data on a grid as they are."""
    import numpy as np

    from ..plots.access import group_of, layout_of, points, variables

    found = {}
    for name in variables(tree):
        da = group_of(tree, name)[name]
        layout, blank = layout_of(da), da.isel(chain=0, draw=0, drop=True)
        if layout.series is None or name not in ds or (layout.series in ds[name].dims and ds[layout.time].ndim == 1):
            continue
        values = np.full(
            (blank.sizes[layout.series], blank.sizes[layout.time], *(blank.sizes[d] for d in layout.extra)), np.nan
        )
        place = {time: k for k, time in enumerate(blank[layout.time].values.tolist())}
        for index in np.ndindex(values.shape[:1] + values.shape[2:]):
            cell = dict(zip(layout.extra, index[1:], strict=True))
            for time, value in zip(*(x.tolist() for x in points(ds, da, layout, index[0], cell)), strict=True):
                if time in place:
                    values[index[0], place[time], *index[1:]] = value
        found[name] = blank.transpose(layout.series, layout.time, *layout.extra).copy(data=values)
    if not found:
        return ds
    import xarray as xr

    return xr.Dataset(found, attrs=ds.attrs)


def _notes(report: xr.Dataset) -> list[str]:
    return [line for line in str(report.attrs.get("notes", "")).splitlines() if line]


def _numbers(one: xr.Dataset) -> list[str]:
    values = [float(one[name]) for name in ("chi2_per_datum", "pit_pvalue")]
    return ["-" if value != value else f"{value:.3g}" for value in values]


def _records(report: xr.Dataset) -> dict[str, Any]:
    return {
        str(name): {
            "n": int(one["n"]),
            "coverage": {f"{p:g}": float(c) for p, c in zip(one["prob"].values, one["coverage"].values, strict=True)},
            **{key: _finite(float(one[key])) for key in ("chi2_per_datum", "pit_pvalue")},
        }
        for name, one in ((v, report.sel(variable=v)) for v in report["variable"].values)
    }


def _finite(value: float) -> float | None:
    return None if value != value else value
