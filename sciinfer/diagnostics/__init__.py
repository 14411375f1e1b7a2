"""Is the answer any good: proper scores, calibration, baselines that need no model, and the noise of a score."""

from .baselines import BASELINES, constant, linear, persistence, run_baselines
from .check import check
from .ess import bulk_ess
from .evaluate import best_baseline, evaluate, model_wins
from .forecast import Forecast, Samples
from .noise import noise_floor
from .pit import Uniformity, pit, pit_uniformity
from .scores import (
    coverage,
    coverage_error,
    crps,
    crps_gaussian,
    energy_score,
    interval_score,
    mae,
    nlpd,
    nlpd_gaussian,
    rmse,
)
from .seasonal import seasonal_naive_drift
from .split_score import split_scores
from .summary import summary_lines
from .variable_linear import per_variable_linear

__all__ = [
    "BASELINES",
    "Forecast",
    "Samples",
    "Uniformity",
    "best_baseline",
    "bulk_ess",
    "check",
    "constant",
    "coverage",
    "coverage_error",
    "crps",
    "crps_gaussian",
    "energy_score",
    "evaluate",
    "interval_score",
    "linear",
    "mae",
    "model_wins",
    "nlpd",
    "nlpd_gaussian",
    "noise_floor",
    "per_variable_linear",
    "persistence",
    "pit",
    "pit_uniformity",
    "rmse",
    "run_baselines",
    "seasonal_naive_drift",
    "split_scores",
    "summary_lines",
]
