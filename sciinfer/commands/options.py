"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ProgressMode(StrEnum):
    """How progress is shown."""

    auto = "auto"
    bar = "bar"
    lines = "lines"
    silent = "silent"


Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a fitted model, the --out of sciinfer fit.")]
Data = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help="A file (.nc .zarr .csv .parquet) or a data set's name.", show_default=False),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data-option", metavar="KEY=VALUE", help="Option of a data set; repeat for more."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to: .nc or .zarr.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the draws; default: that of the fit.")]
Draws = Annotated[int, typer.Option("--draws", min=1, help="Number of draws.")]
Times = Annotated[
    str | None,
    typer.Option(
        "--time", metavar="TIMES", help='"START:STOP:COUNT" or "T1,T2,...": numbers or ISO dates, as the data.'
    ),
]


class SeriesPart(StrEnum):
    """A share of the series: 60, 20 and 20 %."""

    train = "train"
    validation = "validation"
    test = "test"


Part = Annotated[
    SeriesPart | None,
    typer.Option("--part", help="Of many series only these: a fixed split of whole series, 60/20/20 %."),
]
Progress = Annotated[ProgressMode, typer.Option("--progress", help="A bar, plain lines, nothing; auto: by terminal.")]
HeldOut = Annotated[
    str | None, typer.Option("--held-out", metavar="DATA", help="Data that the model has not seen: file or name.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of text.")]
