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

import pandas as pd

from ...errors import ReadError
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


def read_csv(path: Path, *, limits: Limits) -> pd.DataFrame:
    """Read a text table with one header line; columns of ISO dates become datetimes.

    Args:
        path: the file, UTF-8.
        limits: checked against the size of the text (unzipped piece by piece, so that a gzip bomb is met early).

    Raises:
        ReadError: too large, not text, damaged gzip, repeated column names, or a last line that breaks off.
    """
    raw = _contents(path, limits)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise damaged(path, f"byte {err.start} is not UTF-8 text", "save it as UTF-8 text") from err
    if "\x00" in text:
        raise damaged(path, "it holds zero bytes, so it is not text", "give it the suffix of its real format")
    header, separator = _header(path, text)
    _check_last_line(path, text, len(header), separator)
    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # lines longer than the header would be cut silently
        sep = r"\s+" if separator == " " else separator
        table = pd.read_csv(io.StringIO(text), sep=sep, index_col=False, low_memory=False)
    return _dates(table)


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


def _header(path: Path, text: str) -> tuple[list[str], str]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise ReadError(f"{path} is empty", code="read/empty", fix="check how it was made")
    counts = {mark: first.count(mark) for mark in ",;\t"}
    separator = max(counts, key=lambda mark: counts[mark])
    if not counts[separator]:
        separator = " " if " " in first.strip() and path.name.lower().endswith((".txt", ".txt.gz")) else ","
    names = first.split() if separator == " " else next(csv.reader([first], delimiter=separator))
    repeated = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if repeated:
        raise ReadError(
            f"{path} has more than one column {repeated[0]!r}",
            variable=repeated[0],
            code="read/columns",
            fix="rename one",
        )
    return names, separator


def _check_last_line(path: Path, text: str, expected: int, separator: str) -> None:
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    if '"' in last or '"' in text[-4096:]:
        return  # a quoted field may run over several lines
    found = len(last.split()) if separator == " " else last.count(separator) + 1
    if found < expected:
        raise damaged(path, f"its last line has {found} of {expected} fields, so it breaks off")


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
