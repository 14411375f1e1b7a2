"""``sciinfer fit``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError, ConfigError, SciInferError, StateError
from . import files, parse
from .console import console, note, say, working
from .group import INTERRUPTED
from .options import Data, DataOption, Part, Progress, ProgressMode

if TYPE_CHECKING:
    import xarray as xr

    from ..fitted import Fitted

EXAMPLES = (
    "sciinfer fit flux.csv --time t --variables flux --out run/",
    "sciinfer fit co2 --set process=structural --until 1997-01-01 --out run/",
    "sciinfer fit oscillator_gappy --train steps=200 --train learning_rate=0.02 --out run/",
    "sciinfer fit physionet2012 --data-option subset=a+b --part train --train batch_size=256 --out run/",
    "sciinfer fit --resume run/",
)
_DEFAULT_MODEL = "latent-sde"
_MOST_LEARNED = 12
_MANIFEST = "manifest.json"

Model = Annotated[
    str | None, typer.Option("--model", help=f"A registered model (sciinfer names models). Default: {_DEFAULT_MODEL}.")
]
OutFolder = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where model and report go.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of the model (sciinfer names models NAME); repeat."),
]
Training = Annotated[
    list[str] | None,
    typer.Option(
        "--train", metavar="KEY=VALUE", help="Option of training: steps, batch_size, time_limit, ...; repeat."
    ),
]
TimeName = Annotated[str | None, typer.Option("--time", metavar="NAME", help="The time column or coordinate.")]
SeriesName = Annotated[str | None, typer.Option("--series", metavar="NAME", help="The column or dim of the series.")]
Variables = Annotated[str | None, typer.Option("--variables", metavar="A,B", help="What to model; default: all.")]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Train on what lies before this time; score on the rest."),
]
Resume = Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with an interrupted fit.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model that is already in --out.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html into the folder.")]
FitSeed = Annotated[int | None, typer.Option("--seed", help="Seed of every random number. Default: 0.")]


def fit(
    data: Data = None,
    model: Model = None,
    out: OutFolder = None,
    settings: Settings = None,
    train: Training = None,
    data_option: DataOption = None,
    time: TimeName = None,
    series: SeriesName = None,
    variables: Variables = None,
    until: Until = None,
    part: Part = None,
    seed: FitSeed = None,
    resume: Resume = None,
    overwrite: Overwrite = False,
    report: Report = True,
    progress: Progress = ProgressMode.auto,
) -> None:
    """Fit a model to a time series, or to many. NaN means missing; times may be irregular.

    Ctrl-C writes a checkpoint and stops; --resume goes on from there.
    """
    if resume is not None:
        unused = {"DATA": data, "--model": model, "--out": out, "--set": settings, "--seed": seed, "--until": until}
        unused |= {"--data-option": data_option, "--time": time, "--series": series, "--variables": variables}
        unused |= {"--part": part}
        _resume(resume, [name for name, given in unused.items() if given is not None], train, progress, report)
        return
    source, folder = _given(data, out)
    _refuse_occupied(folder, overwrite)
    chosen = parse.names(variables)
    raw = files.open_data(source, parse.pairs(data_option, "--data-option"))
    shared = files.part_of(files.needed(raw, chosen, time, series), part, time=time, series=series)
    ds, rest = _parted(shared, time, series, until)
    choices: dict[str, Any] = {"options": parse.pairs(settings, "--set"), "training": parse.pairs(train, "--train")}
    names: dict[str, Any] = {"time": time, "series": series, "variables": chosen}
    from ..api import fit as run_fit

    fitted = _interruptible(
        folder,
        lambda: run_fit(
            ds, model or _DEFAULT_MODEL, seed=seed or 0, out=folder, progress=progress.value, **choices, **names
        ),
    )
    _finish(fitted, folder, rest, report)


def _given(data: str | None, out: Path | None) -> tuple[str, Path]:
    if data is None:
        raise ConfigError(
            "there are no data to fit", variable="DATA", fix="sciinfer fit DATA --out run/, or --resume run/"
        )
    if out is None:
        raise ConfigError("nowhere to save the model", variable="--out", fix="add --out run/")
    return data, out


def _refuse_occupied(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file", variable="--out", fix="name a folder")
    if overwrite or not (folder / _MANIFEST).exists():
        return
    from ..labelled.storage import load_folder

    try:
        status = str(load_folder(folder).config.get("status", ""))
    except CheckpointError:
        status = "damaged"
    goes_on = "" if status in ("finished", "damaged") else f", or go on with it: sciinfer fit --resume {folder}"
    kind = {"finished": "a finished model", "damaged": "a damaged model"}.get(status, "an unfinished model")
    raise StateError(
        f"{folder} already holds {kind}", code="state/occupied", fix=f"choose another --out, or --overwrite{goes_on}"
    )


def _parted(raw: Any, time: str | None, series: str | None, until: str | None) -> tuple[Any, xr.Dataset | None]:
    """The data to train on and, with ``--until``, what comes after."""
    if until is None:
        return raw, None
    from ..datasets.splits import split_time  # pyright: ignore[reportMissingImports] - lives beside the package
    from ..labelled.frames import as_dataset
    from ..labelled.layouts import find_layout
    from ..labelled.schema import TimeAxis

    ds = as_dataset(raw, time=time, series=series)
    layout = find_layout(ds, time, series)
    kind = "datetime" if ds[layout.time].dtype.kind == "M" else "number"
    at = parse.moment(until, TimeAxis(layout.time, kind, 0.0, 1.0))
    # a text or a plain number, which reads well in messages
    cut = float(at) if kind == "number" else str(at).removesuffix(".000000000").removesuffix("T00:00:00")
    return split_time(ds, cut, time=layout.time, dim=layout.series)


def _resume(folder: Path, unused: list[str], train: list[str] | None, progress: ProgressMode, report: bool) -> None:
    if unused:
        raise ConfigError(
            f"{', '.join(unused)} cannot go with --resume, which takes them from {folder}",
            code="config/resume",
            fix="leave them out; --train may change steps, time_limit, patience, device, ...",
        )
    from ..api import resume

    changes = parse.pairs(train, "--train")
    fitted = _interruptible(folder, lambda: resume(folder, training=changes or None, progress=progress.value))
    _finish(fitted, folder, None, report)


def _interruptible(folder: Path, work: Any) -> Fitted:
    try:
        return work()
    except KeyboardInterrupt:  # before training began, or the second Ctrl-C
        if (folder / _MANIFEST).exists():
            _say_stopped("stopped at once; the last checkpoint is whole", folder)
        raise


def _finish(fitted: Fitted, folder: Path, rest: xr.Dataset | None, report: bool) -> None:
    stopped, steps = fitted.history.stopped, len(fitted.history.loss)
    total = fitted.training.get("steps", "?")
    if stopped == "interrupted":
        _say_stopped(f"interrupted after step {steps} of {total}; a checkpoint has been written", folder)
        raise typer.Exit(INTERRUPTED)
    _say_summary(fitted)
    scores = _score(fitted, rest)
    say(f"\nmodel   {folder}")
    if report:
        _report(fitted, folder, scores, rest)
    if stopped == "time":
        note(f"the time limit ended training after step {steps} of {total}; go on: sciinfer fit --resume {folder}")


def _say_summary(fitted: Fitted) -> None:
    """The summary; of many learned quantities only the first."""
    lines = fitted.summary().splitlines()
    learned = [place for place, line in enumerate(lines) if line.startswith("  ")]
    hidden = learned[_MOST_LEARNED:]
    for place, line in enumerate(lines):
        if place not in hidden:
            say(line)
        elif place == hidden[-1]:
            say(f"  ... and {len(hidden)} more")


def _score(fitted: Fitted, rest: xr.Dataset | None) -> xr.Dataset | None:
    if rest is None:
        return None
    from .scores import print_scores

    with working("scoring the held-out part"):
        scores = fitted.score(rest)
    say("\non the held-out part:")
    print_scores(scores)
    return scores


def _report(fitted: Fitted, folder: Path, scores: xr.Dataset | None, rest: xr.Dataset | None) -> None:
    from ..run_report import REPORT, write_run_report

    try:
        with working("writing the report"):
            path = write_run_report(fitted, folder / REPORT, scores=scores, held_out=rest, command=command_line())
    except SciInferError as err:  # the model is safe; a report can be made later
        note(f"no report was written: {err}")
    else:
        say(f"report  {path}")


def command_line() -> str:
    """What was typed."""
    return shlex.join(["sciinfer", *sys.argv[1:]])


def _say_stopped(text: str, folder: Path) -> None:
    terminal = console(stderr=True)
    terminal.print(f"\n{text}", style="yellow")
    terminal.print(f"go on with: sciinfer fit --resume {folder}", style="yellow")
