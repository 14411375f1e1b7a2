"""``sciinfer backtest``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from . import files, parse
from .console import say, working
from .fit import SeriesName, Settings, TimeName, Training, Variables
from .options import DataOption, Json, Out, Part, Progress, ProgressMode
from .scores import plain

if TYPE_CHECKING:
    from ..backtesting import Backtest

EXAMPLES = (
    "sciinfer backtest co2 gp --horizon 12 --season 12 --windows 4",
    "sciinfer backtest sales.csv latent-sde random-walk --horizon 30D --refit --out backtest.nc",
    "sciinfer backtest flux.nc run/ --horizon 24 --conformal --table forecasts.csv",
)
_DEFAULT_MODEL = "latent-sde"

Series = Annotated[str, typer.Argument(metavar="DATA", help="A file (.nc .zarr .csv .parquet) or a data set's name.")]
Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help=f"Registered models, or folders of fitted ones. Default: {_DEFAULT_MODEL}.",
        show_default=False,
    ),
]
Horizon = Annotated[
    str, typer.Option("--horizon", metavar="LENGTH", help='How far ahead: rows (24) or a duration ("30D").')
]
Windows = Annotated[int, typer.Option("--windows", min=1, help="Number of origins; the last window ends the data.")]
Step = Annotated[str | None, typer.Option("--step", metavar="LENGTH", help="Between origins. Default: the horizon.")]
Context = Annotated[
    str | None, typer.Option("--context", metavar="LENGTH", help="How much of the past a forecast is given; all.")
]
Refit = Annotated[bool, typer.Option("--refit", help="Fit at every origin, not once before the first.")]
Season = Annotated[
    str | None, typer.Option("--season", metavar="LENGTH", help="Adds the seasonal baseline; the lag of MASE.")
]
Baselines = Annotated[
    str | None,
    typer.Option("--baselines", metavar="A,B", help="Baselines or models; default: all simple ones."),
]
Conformal = Annotated[bool, typer.Option("--conformal", help="Also recalibrate by the errors of earlier windows.")]
Draws = Annotated[int, typer.Option("--draws", min=2, help="Draws of models without closed-form predictions.")]
BacktestSeed = Annotated[int, typer.Option("--seed", help="Seed of every random number.")]
Table = Annotated[
    Path | None, typer.Option("--table", metavar="FILE", help="All forecasts as a long table: .csv or .parquet.")
]


def backtest(
    data: Series,
    models: Models = None,
    horizon: Horizon = ...,  # type: ignore[assignment] # what typer takes for "required"
    windows: Windows = 5,
    step: Step = None,
    context: Context = None,
    refit: Refit = False,
    season: Season = None,
    baselines: Baselines = None,
    conformal: Conformal = False,
    draws: Draws = 100,
    seed: BacktestSeed = 0,
    settings: Settings = None,
    train: Training = None,
    time: TimeName = None,
    series: SeriesName = None,
    variables: Variables = None,
    data_option: DataOption = None,
    part: Part = None,
    out: Out = None,
    table: Table = None,
    progress: Progress = ProgressMode.silent,
    as_json: Json = False,
) -> None:
    """Forecast from rolling origins, as one would have at the time, and score against baselines.

    A model that loses to its baseline is told so.
    """
    files.check_output(out)
    _check_table(table)
    chosen = parse.names(variables)
    raw = files.open_data(data, parse.pairs(data_option, "--data-option"))
    ds = files.part_of(files.needed(raw, chosen, time, series), part, time=time, series=series)
    named = _models(models or [_DEFAULT_MODEL])
    lengths = {"horizon": horizon, "step": step, "context": context, "season": season}
    options: dict[str, Any] = {key: None if text is None else parse.value(text) for key, text in lengths.items()}
    from ..backtesting import backtest as run

    with working("backtesting"):
        found = run(
            named,
            ds,
            **options,
            windows=windows,
            refit=refit,
            options=parse.pairs(settings, "--set"),
            training=parse.pairs(train, "--train"),
            baselines=parse.names(baselines),
            conformal=conformal,
            draws=draws,
            seed=seed,
            time=time,
            series=series,
            variables=chosen,
            progress=progress.value,
        )
    _show(found, as_json)
    _write(found, out, table, quiet=as_json)


def _models(names: list[str]) -> dict[str, Any]:
    """Names of models, and folders of fitted ones under the folder's name."""
    found: dict[str, Any] = {}
    for name in names:
        path = Path(name)
        label, model = (
            (path.resolve().name, files.load_run(path)) if (path / "manifest.json").exists() else (name, name)
        )
        if label in found:
            raise ConfigError(f"two models are called {label!r}", variable="MODEL", fix="name each once")
        found[label] = model
    return found


def _check_table(path: Path | None) -> None:
    if path is not None and path.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(f"cannot write tables called {path.name!r}", variable="--table", fix="use .csv or .parquet")


def _show(found: Backtest, as_json: bool) -> None:
    if not as_json:
        for line in found.summary().splitlines():
            say(line, style="bold red" if "baseline wins" in line else None)
        return
    # by lead and by window they are in --out
    keep = [name for name, var in found.scores.data_vars.items() if {"lead", "window"}.isdisjoint(var.dims)]
    table = found.scores[keep].reset_coords().to_dataframe().reset_index()
    rows = [{str(k): plain(v) for k, v in row.items()} for row in table.to_dict(orient="records")]
    say(json.dumps({**{str(k): plain(v) for k, v in found.scores.attrs.items()}, "rows": rows}, allow_nan=False))


def _write(found: Backtest, out: Path | None, table: Path | None, *, quiet: bool) -> None:
    if out is not None:
        import xarray as xr

        tree = xr.DataTree.from_dict({"forecasts": found.forecasts, "scores": found.scores})
        files.save(tree, out, quiet=quiet)
    if table is not None:
        frame = found.frame()
        frame.to_csv(table, index=False) if table.suffix.lower() == ".csv" else frame.to_parquet(table)
        if not quiet:
            say(f"wrote {table}")
