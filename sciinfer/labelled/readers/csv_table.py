"""Comma-, semicolon-, tab- or blank-separated text, also gzipped, through pandas."""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...errors import ReadError, SciInferWarning
from .common import Limits, damaged, reading, too_large

__entries__ = [
    {
        "kind": "readers",
        "name": "csv",
        "target": "read_csv",
        "summary": "delimited text with one header line, also gzipped",
        "suffixes": (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz"),
    },
]

_PIECE = 1 << 20
_DATE = re.compile(r"\d{4}-\d{2}(-\d{2}.*)?")


class Head(NamedTuple):
    """``names`` of the columns, the ``separator``, and the offset in the text at which the data ``start``."""

    names: list[str]
    separator: str
    start: int


def read_csv(path: Path, *, limits: Limits) -> pd.DataFrame:
    """Read a text table with one header line; columns of ISO dates become datetimes.

    Lines that begin with ``#`` before the table are comments; the last of them is the header where it names each column
    and the table begins with numbers at once. A table without header gets ``column_0, column_1, ...`` and a warning.

    Args:
        path: the file, UTF-8.
        limits: checked against the size of the text (unzipped piece by piece, so that a gzip bomb is met early).

    Raises:
        ReadError: too large, not text, damaged gzip, repeated column names, a line longer than the header, or a last
            line that breaks off.
    """
    text = _text(path, limits)
    head = _head(path, text)
    body = text[head.start :]
    _check_lines(path, body, head)
    sep = r"\s+" if head.separator == " " else head.separator
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # lines longer than the header would be cut silently
        stream = io.StringIO(body)
        options = {"index_col": False, "low_memory": False, "skipinitialspace": True}
        table = pd.read_csv(stream, sep=sep, names=head.names, header=None, **options)  # type: ignore[call-overload]
    return _dates(table)


def _text(path: Path, limits: Limits) -> str:
    try:
        text = _contents(path, limits).decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise damaged(path, f"byte {err.start} is not UTF-8 text", "save it as UTF-8 text") from err
    if "\x00" in text:
        raise damaged(path, "it holds zero bytes, so it is not text", "give it the suffix of its real format")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _contents(path: Path, limits: Limits) -> bytes:
    limit, pieces, total = limits.bytes, [], 0
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            while piece := stream.read(_PIECE):
                total += len(piece)
                if total > limit:
                    raise too_large(path, total, limit)
                pieces.append(piece)
    except (EOFError, OSError, zlib.error) as err:
        raise damaged(path, f"{type(err).__name__}: {err}") from err
    return b"".join(pieces)


def _head(path: Path, text: str) -> Head:
    comment, first, start, after = "", "", 0, 0
    for line in io.StringIO(text):
        start, after = after, after + len(line)
        if line.startswith("#"):
            comment = line[1:].strip()
        elif line.strip():
            first = line.strip("\n")
            break
    if not first:
        raise ReadError(f"{path} is empty", code="read/empty", fix="check how it was made")
    separator = _separator(first, blanks=path.name.lower().endswith((".txt", ".txt.gz")))
    names = _split(first, separator)
    if not all(map(_is_value, names)):
        return Head(_names(path, names), separator, after)
    names, width = _split(comment, separator), len(names)
    if len(names) != width or all(map(_is_value, names)):
        names = [f"column_{index}" for index in range(width)]
        text = f"{path} has no header line: its columns are called {names[0]} to {names[-1]}"
        warnings.warn(text, SciInferWarning, stacklevel=2)
    return Head(_names(path, names), separator, start)


def _separator(line: str, *, blanks: bool) -> str:
    counts = {mark: line.count(mark) for mark in ",;\t"}
    best = max(counts, key=lambda mark: counts[mark])
    if counts[best]:
        return best
    return " " if blanks and " " in line.strip() else ","


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    return [name.strip() for name in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


def _is_value(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return not field or bool(_DATE.fullmatch(field))
    return True


def _names(path: Path, names: list[str]) -> list[str]:
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise ReadError(
            f"{path} has more than one column {repeated[0]!r}",
            variable=repeated[0],
            code="read/columns",
            fix="rename one",
        )
    return [name or f"Unnamed: {index}" for index, name in enumerate(names)]


def _check_lines(path: Path, body: str, head: Head) -> None:
    """A last line that breaks off is an error; shorter lines before it are told, since they read as missing values."""
    if '"' in body:
        return  # a quoted field may run over several lines
    short = [number for number, line in enumerate(io.StringIO(body)) if 0 < _fields(line, head) < len(head.names)]
    if not short:
        return
    last = body.rstrip().rpartition("\n")[2]
    if _fields(last, head) < len(head.names):
        raise damaged(path, f"its last line has {_fields(last, head)} of {len(head.names)} fields, so it breaks off")
    warnings.warn(
        f"{path}: {len(short)} lines have fewer fields than the header (the first is data line {short[0]}); "
        "the rest of them is read as missing",
        SciInferWarning,
        stacklevel=2,
    )


def _fields(line: str, head: Head) -> int:
    if not line.strip():
        return 0
    return len(line.split()) if head.separator == " " else line.count(head.separator) + 1


def _dates(table: pd.DataFrame) -> pd.DataFrame:
    for name in table.columns:
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) or column.dropna().empty:
            continue
        if _DATE.fullmatch(str(column.dropna().iloc[0])):
            try:
                table[name] = pd.to_datetime(column, format="ISO8601")
            except (ValueError, TypeError):  # dates only in part: stays text, and the schema will say so
                continue
    return table
