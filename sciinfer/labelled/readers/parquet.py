"""Parquet tables, through pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ...extend import require
from .common import Limits, damaged, reading

__entries__ = [
    {
        "kind": "readers",
        "name": "parquet",
        "target": "read_parquet",
        "summary": "Parquet tables",
        "suffixes": (".parquet", ".pq"),
        "magic": (b"PAR1",),
        "requires": ("pyarrow",),
        "extra": "io",
    },
]

_TEXT_BYTES = 16
_WIDTHS = {"BOOLEAN": 1, "INT32": 8, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def read_parquet(path: Path, *, limits: Limits) -> pd.DataFrame:
    """Read a Parquet table into memory.

    Args:
        path: the file.
        limits: checked against the sizes in the footer before any data are read.

    Raises:
        ReadError: too large or damaged (page checksums are verified where the writer made them).
    """
    require("pyarrow", extra="io", purpose="reading Parquet")
    import pyarrow.parquet as pq

    with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        rows = file.metadata.num_rows
        limits.check(path, _declared(file.metadata))
        table = file.read().to_pandas()
        if len(table) != rows:
            raise damaged(path, f"its footer promises {rows} rows, {len(table)} are there")
    return table


def _declared(metadata: Any) -> int:
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    stored = sum(group.total_byte_size for group in groups)
    widths = (metadata.schema.column(index).physical_type for index in range(metadata.num_columns))
    return max(stored, metadata.num_rows * sum(_WIDTHS.get(kind, _TEXT_BYTES) for kind in widths))
