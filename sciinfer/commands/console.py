"""What a terminal sees: plain lines, aligned tables, one-line notices and errors. Colour only where it is wanted."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import SciInferError, SciInferWarning

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """A console that never wraps, marks up or highlights; ``NO_COLOR`` and pipes are respected by rich."""
    from rich.console import Console

    # made anew each time: a test or a caller may have replaced sys.stdout
    return Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)


def say(text: str = "", style: str | None = None) -> None:
    """One or more lines on standard output."""
    console().print(text, style=style)


def note(text: str) -> None:
    """One yellow line on standard error."""
    console(stderr=True).print(f"note: {one_line(text)}", style="yellow")


def fail(err: SciInferError) -> None:
    """The error in red and its fix, on standard error."""
    terminal = console(stderr=True)
    terminal.print(error_line(err), style="red")
    if err.fix:
        terminal.print(f"fix: {one_line(err.fix)}", style="red")


def error_line(err: SciInferError) -> str:
    """``error [code] where: what`` on one line.

    Example:
        >>> from sciinfer.errors import DataError
        >>> error_line(DataError("value is inf", variable="flux", dim="time", index=3, fix="mask it"))
        "error [data] variable 'flux', dim 'time', index 3: value is inf"
    """
    named = (("variable", err.variable), ("dim", err.dim))
    where = [f"{label} {value!r}" for label, value in named if value is not None]
    if err.index is not None:
        where.append(f"index {err.index}")
    place = f" {', '.join(where)}:" if where else ""
    return f"error [{err.code}]{place} {one_line(err.what)}"


def one_line(text: str) -> str:
    """Line breaks and runs of blanks become one blank."""
    return " ".join(str(text).split())


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "") -> None:
    """Aligned columns: on a terminal the last one is folded to its width, elsewhere every row is one line."""
    if not sys.stdout.isatty():
        for line in aligned([headers, *rows]):
            say(indent + line)
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, header in enumerate(headers):
        last = place == len(headers) - 1
        grid.add_column(header, no_wrap=not last, overflow="fold" if last else "ignore")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(Padding(grid, (0, 0, 0, len(indent))))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns padded to equal width.

    Example:
        >>> aligned([["a", "bb"], ["ccc", "d"]])
        ['a    bb', 'ccc  d']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner on standard error while something long runs; nothing where that is no terminal."""
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        yield
        return
    with terminal.status(text):
        yield


@contextlib.contextmanager
def notices() -> Iterator[None]:
    """Every :class:`SciInferWarning` becomes one yellow line, said once; other warnings are shown as ever."""
    former, seen = warnings.showwarning, set()

    def show(message: Any, category: Any, *place: Any, **options: Any) -> None:
        if not issubclass(category, SciInferWarning):
            former(message, category, *place, **options)
        elif str(message) not in seen:
            seen.add(str(message))
            note(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", SciInferWarning)  # also under python -W error
        warnings.showwarning = show
        yield
