"""``sciinfer predict``, ``generate`` and ``score``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from . import files, parse
from .console import say, table, working
from .options import Data, DataOption, Draws, Json, Out, Part, Run, Seed, Times

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from ..fitted import Fitted
    from ..labelled.schema import Schema

PREDICT_EXAMPLES = (
    'sciinfer predict run/ --time "2001-01-01:2006-01-01:261" --out forecast.nc',
    "sciinfer predict run/ --to 2006-01-01 --count 500 --draws 500 --out paths.zarr",
    'sciinfer predict run/ new_star.csv --time "0.5,1.5,2.5"',
)
GENERATE_EXAMPLES = ('sciinfer generate run/ --time "0:20:201" --draws 50 --out made.nc',)
SCORE_EXAMPLES = (
    "sciinfer score run/ held_out.nc",
    "sciinfer score run/ co2 --after 1997-01-01 --season 365.25D",
    "sciinfer score run/ physionet2012 --part test --after 24",
    "sciinfer score run/ new_series.nc --given their_past.nc --json",
)
_COUNT, _ROWS = 300, 10

Start = Annotated[str | None, typer.Option("--from", metavar="TIME", help="With --to: start. Default: first datum.")]
Stop = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Instead of --time: even times up to this one.")]
Count = Annotated[int | None, typer.Option("--count", help=f"With --to: how many times. Default: {_COUNT}.")]


def predict(
    run: Run,
    data: Data = None,
    time: Times = None,
    start: Start = None,
    to: Stop = None,
    count: Count = None,
    draws: Draws = 200,
    out: Out = None,
    seed: Seed = None,
    data_option: DataOption = None,
    part: Part = None,
) -> None:
    """Posterior at any times: what happened in the gaps, and what comes next.

    Given DATA, the model conditions on them instead of what it was fitted to. Without --time and --to the times are
    those of the data.
    """
    files.check_output(out)
    fitted = files.load_run(run)
    options = parse.pairs(data_option, "--data-option")
    given = None if data is None else files.open_for(data, fitted.schema, options, part)
    wanted = _wanted(fitted, given, time, start, to, count)
    with working("predicting"):
        tree = fitted.predict(given, time=wanted, draws=draws, seed=seed)
    _show(tree, fitted.schema, "posterior_predictive", draws)
    if out is not None:
        files.save(tree, out)


def generate(run: Run, time: Times = None, draws: Draws = 100, out: Out = None, seed: Seed = None) -> None:
    """New series like the data: draws from the learned prior."""
    files.check_output(out)
    fitted = files.load_run(run)
    wanted = fitted.grid(_COUNT) if time is None else parse.times(time, fitted.schema.time)
    with working("generating"):
        tree = fitted.generate(time=wanted, draws=draws, seed=seed)
    _show(tree, fitted.schema, "prior_predictive", draws)
    if out is not None:
        files.save(tree, out)


TestData = Annotated[str, typer.Argument(metavar="DATA", help="What is to be predicted: a file or a data set's name.")]
Given = Annotated[
    str | None,
    typer.Option("--given", metavar="DATA", help="Condition on these; default: what the model was fitted to."),
]
After = Annotated[
    str | None, typer.Option("--after", metavar="TIME", help="Condition on DATA up to here and predict the rest.")
]
Season = Annotated[
    str | None,
    typer.Option(
        "--season", metavar="LENGTH", help="Adds the seasonal baseline: 12, or 365.25D where times are dates."
    ),
]


def score(
    run: Run,
    data: TestData,
    given: Given = None,
    after: After = None,
    season: Season = None,
    draws: Draws = 200,
    out: Out = None,
    seed: Seed = None,
    data_option: DataOption = None,
    part: Part = None,
    as_json: Json = False,
) -> None:
    """The model and trivial baselines on the same held-out data: CRPS, RMSE, coverage.

    A model that loses to its best baseline is told so.
    """
    from .scores import print_json, print_scores, warn_seen

    files.check_output(out)
    fitted = files.load_run(run)
    test = files.open_for(data, fitted.schema, parse.pairs(data_option, "--data-option"), part)
    options: dict[str, Any] = {"draws": draws, "seed": seed}
    if given is not None:
        options["given"] = files.open_for(given, fitted.schema)
    if after is not None:
        options["after"] = parse.moment(after, fitted.schema.time)
    if season is not None:
        options["season"] = parse.duration(season, fitted.schema.time)
    if after is None:
        warn_seen(fitted, test, options.get("given"))
    with working("scoring"):
        scores = fitted.score(test, **options)
    (print_json if as_json else print_scores)(scores)
    if out is not None:
        files.save(scores, out, quiet=as_json)


def _wanted(
    fitted: Fitted, given: xr.Dataset | None, time: str | None, start: str | None, to: str | None, count: int | None
) -> Any:
    if time is not None and (start, to, count) != (None, None, None):
        raise ConfigError("--time cannot go with --from, --to and --count", variable="--time", fix="use one way")
    axis = fitted.schema.time
    if time is not None:
        return parse.times(time, axis)
    if to is None:
        if start is not None or count is not None:
            raise ConfigError("--from and --count need --to", variable="--to", fix="add --to TIME")
        return None
    return parse.span(
        start or first_time(given if given is not None else fitted.data, axis.name), to, count or _COUNT, axis
    )


def first_time(ds: xr.Dataset, name: str) -> Any:
    """The earliest time of a data set in any layout."""
    return ds[name].min().values[()]


def _show(tree: xr.DataTree, schema: Schema, group: str, draws: int) -> None:
    """The median and the 90 % band of the first series at a few times."""
    import numpy as np

    ds = tree[group].to_dataset()
    time, name = ds[schema.time.name].values, schema.variables[0].name
    series = schema.series if schema.series in ds[name].dims else None
    cells = {d: 0 for d in ds[name].dims if d not in ("chain", "draw", schema.time.name)}
    sample = ds[name].isel(cells).transpose("chain", "draw", schema.time.name).values.reshape(-1, len(time))
    chosen = np.unique(np.linspace(0, len(time) - 1, min(_ROWS, len(time))).round().astype(int))
    low, mid, high = np.quantile(sample[:, chosen], [0.05, 0.5, 0.95], axis=0)
    head = f"{_counted(draws, 'draw')} at {_counted(len(time), 'time')}"
    head += f" of {ds.sizes[series]} series" if series else ""
    say(f"{head}; {_first(ds, name, series, cells)}, median and 90 % band:")
    label = f"{name} [{schema.variables[0].units}]" if schema.variables[0].units else name
    rows = [
        [_time(t), f"{m:.5g}", f"{a:.5g}", f"{b:.5g}"] for t, m, a, b in zip(time[chosen], mid, low, high, strict=True)
    ]
    table([schema.time.name, label, "5 %", "95 %"], rows, indent="  ")


def _first(ds: xr.Dataset, name: str, series: str | None, cells: dict[Any, int]) -> str:
    extra = [str(dim) for dim in cells if dim != series]
    where = [f"{series} {ds[series].values[0] if series in ds.coords else 0}"] if series else []
    where += [f"{dim} {ds[dim].values[0] if dim in ds.coords else 0}" for dim in extra]
    return " of ".join([name, ", ".join(where)]) if where else name


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _time(time: np.generic) -> str:
    import numpy as np

    if np.issubdtype(time.dtype, np.datetime64):
        return str(time.astype("datetime64[s]")).removesuffix("T00:00:00")
    return f"{float(time):.8g}"
