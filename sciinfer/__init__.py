"""Condition learned and known priors on scientific data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import Fitted, check, fit, load, names, open_dataset, solve
    from .backtesting import Backtest, backtest
    from .fields import FittedField, fit_field, load_field

_LAZY = {
    "Backtest": "backtesting",
    "Fitted": "api",
    "FittedField": "fields",
    "backtest": "backtesting",
    "check": "api",
    "fit": "api",
    "fit_field": "fields",
    "load": "api",
    "load_field": "fields",
    "names": "api",
    "open_dataset": "api",
    "solve": "api",
}

__all__ = [
    "Backtest",
    "Fitted",
    "FittedField",
    "__version__",
    "backtest",
    "check",
    "fit",
    "fit_field",
    "load",
    "load_field",
    "names",
    "open_dataset",
    "solve",
]


def __getattr__(name: str) -> Any:
    # public names load on first use, so that ``import sciinfer`` costs milliseconds and imports no torch
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
