"""Labels off, labels on: between ``xarray`` and tensors."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .frames import as_dataset
    from .hashing import data_hash
    from .ingest import Encoded, encode, infer_schema
    from .result import build_tree, interval
    from .schema import Channel, Schema, TimeAxis, Variable
    from .series import Padded, SeriesBatch
    from .support import check_support
    from .times import query_times

# by name and lazily: the numeric core imports ``labelled.series`` and must not pay for xarray and pandas
_LAZY = {
    "Channel": "schema",
    "Encoded": "ingest",
    "Padded": "series",
    "Schema": "schema",
    "SeriesBatch": "series",
    "TimeAxis": "schema",
    "Variable": "schema",
    "as_dataset": "frames",
    "build_tree": "result",
    "check_support": "support",
    "data_hash": "hashing",
    "encode": "ingest",
    "infer_schema": "ingest",
    "interval": "result",
    "query_times": "times",
}

__all__ = [
    "Channel",
    "Encoded",
    "Padded",
    "Schema",
    "SeriesBatch",
    "TimeAxis",
    "Variable",
    "as_dataset",
    "build_tree",
    "check_support",
    "data_hash",
    "encode",
    "infer_schema",
    "interval",
    "query_times",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
