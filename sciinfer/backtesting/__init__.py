"""Forecasts from rolling origins, scored against baselines, without a look at the future."""

from .result import Backtest
from .run import backtest

__all__ = ["Backtest", "backtest"]
