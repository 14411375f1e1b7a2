"""Data in and results out, for all commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, NameNotFoundError, SchemaError
from ..extend.registry import registry
from .console import note, say
from .options import SeriesPart

if TYPE_CHECKING:
    import xarray as xr

    from ..fitted import Fitted
    from ..labelled.schema import Schema

#: formats of results
_SUFFIXES = (".nc", ".nc4", ".h5", ".zarr")


def open_data(source: str, options: Mapping[str, Any] | None = None) -> Any:
    """A registered data set or simulator by name, else a file.

    Args:
        source: a name such as ``nile``, or a path (``./nile`` for a file that is called like a data set).
        options: of the data set's loader.

    Raises:
        NameNotFoundError: neither. ReadError: the file cannot be read. ConfigError: options with a file.
    """
    if any(source in registry().names(kind) for kind in ("datasets", "simulators")):
        from ..api import open_dataset

        return open_dataset(source, **dict(options or {}))
    if options:
        raise ConfigError(f"--data-option belongs to data sets, {source} is a file", fix="leave it out")
    from ..labelled.io import read

    path = Path(source)
    if not path.exists() and not path.suffix and path.name == source:
        _no_such_name(source)
    return read(path)


def _no_such_name(source: str) -> None:
    try:
        registry().entry("datasets", source)
    except NameNotFoundError as err:
        raise NameNotFoundError(
            f"{source!r} is neither a file nor a data set",
            code=err.code,
            fix=f"{err.fix}; sciinfer datasets lists them" if err.fix and "did you mean" in err.fix else
            "give a path with its suffix (.nc, .zarr, .csv, .parquet), or a name that sciinfer datasets lists",
        ) from err  # fmt: skip


def open_for(
    source: str, schema: Schema, options: Mapping[str, Any] | None = None, part: SeriesPart | None = None
) -> xr.Dataset:
    """Data for a fitted model: columns are read as at its fit."""
    from ..labelled.frames import as_fitted

    names = [variable.name for variable in schema.variables]
    ds = as_fitted(needed(open_data(source, options), names, schema.time.name, schema.series), schema)
    return part_of(ds, part, time=schema.time.name)


def needed(data: Any, variables: Sequence[str] | None, time: str | None, series: str | None) -> Any:
    """Of a table with chosen variables only their columns and those of time and series; anything else as it is.

    A file may well have columns of text beside those that are modelled.
    """
    import pandas as pd

    if variables is None or not isinstance(data, pd.DataFrame) or not set(variables) <= set(data.columns):
        return data
    from ..labelled.tables import SERIES_NAMES, TIME_NAMES

    keep = {*variables, *((time,) if time else TIME_NAMES), *((series,) if series else SERIES_NAMES)}
    return data[[column for column in data.columns if column in keep]]


def part_of(data: Any, part: SeriesPart | None, *, time: str | None = None, series: str | None = None) -> Any:
    """The series of one part of the fixed split (60/20/20, seed 0); everything where no part is named.

    Raises:
        SchemaError: there is only one series.
    """
    if part is None:
        return data
    from ..datasets.splits import split_series  # pyright: ignore[reportMissingImports] - lives beside the package
    from ..labelled.frames import as_dataset
    from ..labelled.layouts import find_layout

    ds = as_dataset(data, time=time, series=series)
    layout = find_layout(ds, time, series)
    if layout.series is None:
        raise SchemaError("a single series has no parts", variable="--part", fix="use --until to split in time")
    return split_series(ds, dim=layout.series)[list(SeriesPart).index(part)]


def load_run(run: Path) -> Fitted:
    """The model in a folder."""
    from ..api import load

    fitted = load(run)
    if fitted.status == "interrupted":
        steps, total = len(fitted.history.loss), fitted.training.get("steps", "?")
        note(f"this fit was interrupted after step {steps} of {total}; go on: sciinfer fit --resume {run}")
    return fitted


def check_output(path: Path | None) -> None:
    """Refuse a file name that cannot be written before the work is done, not after it."""
    if path is not None and path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"cannot write files called {path.name!r}", variable="--out", fix="use .nc or .zarr")


def save(obj: xr.Dataset | xr.DataTree, path: Path, *, quiet: bool = False) -> None:
    """Write a result and, unless ``quiet``, say so.

    Raises:
        ResourceError: no room, or not writable; what was there is intact.
    """
    from ..labelled.write import write

    write(obj, path)
    if not quiet:
        say(f"wrote {path}")
