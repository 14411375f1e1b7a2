"""Checks of metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ..extend.records import Case, Entry, MetricEntry
from . import toys
from .compare import same
from .failures import expect, load, skip_unless


def _score(case: Case, entry: Entry, truth: xr.DataArray, sample: xr.DataArray) -> xr.DataArray:
    _, kwargs = case.make()
    return load(entry)(truth, sample, **{"dim": "draw", **kwargs})


def _mean(score: Any) -> float:
    return float(np.nanmean(np.asarray(score)))


def check_metrics_returns_array(case: Case, entry: Entry) -> None:
    """A DataArray without the draws."""
    score = _score(case, entry, *toys.forecast())
    expect(isinstance(score, xr.DataArray), f"it returns a {type(score).__name__}", fix="return an xarray.DataArray")
    expect("draw" not in score.dims, "the draws are still there")


def check_metrics_finite(case: Case, entry: Entry) -> None:
    """Finite on finite data."""
    score = _score(case, entry, *toys.forecast())
    expect(bool(np.isfinite(score.values).all()), "it is not finite on finite data")


def check_metrics_orientation(case: Case, entry: MetricEntry) -> None:
    """Orientation is declared."""
    expect(entry.orientation in ("lower", "higher", "target"), f"orientation is {entry.orientation!r}")


def check_metrics_dims_by_name(case: Case, entry: Entry) -> None:
    """Transposing the draws changes nothing."""
    truth, sample = toys.forecast()
    a, b = _score(case, entry, truth, sample), _score(case, entry, truth, sample.transpose("time", "draw"))
    expect(bool(np.allclose(a, b, rtol=0, atol=1e-12)), "transposed draws give another score", fix="use dims by name")


def check_metrics_order_of_draws(case: Case, entry: Entry) -> None:
    """The order of the draws does not matter."""
    truth, sample = toys.forecast()
    a, b = _score(case, entry, truth, sample), _score(case, entry, truth, sample.isel(draw=slice(None, None, -1)))
    expect(bool(np.allclose(a, b, rtol=0, atol=1e-10)), "reversed draws give another score")


def check_metrics_dim_argument(case: Case, entry: Entry) -> None:
    """``dim`` names the draws."""
    truth, sample = toys.forecast()
    _, kwargs = case.make()
    renamed = load(entry)(truth, sample.rename(draw="member"), **{**kwargs, "dim": "member"})
    expect(bool(np.allclose(renamed, _score(case, entry, truth, sample), rtol=0, atol=1e-12)), "dim= is not obeyed")


def check_metrics_leaves_inputs(case: Case, entry: Entry) -> None:
    """The inputs are not written to."""
    truth, sample = toys.forecast()
    kept = truth.copy(deep=True), sample.copy(deep=True)
    _score(case, entry, truth, sample)
    expect(same(truth, kept[0]) and same(sample, kept[1]), "an input was changed")


def check_metrics_missing_is_deleted(case: Case, entry: Entry) -> None:
    """A missing truth counts as if its entry were deleted."""
    truth, sample = toys.forecast()
    gappy = truth.where(truth.time % 3 != 0)
    a = _score(case, entry, gappy, sample)
    b = _score(case, entry, truth[truth.time % 3 != 0], sample[:, truth.time.values % 3 != 0])
    expect(bool(np.isclose(_mean(a), _mean(b), rtol=1e-10)), f"a masked truth gives {_mean(a)}, deleted {_mean(b)}")


def check_metrics_batch_equals_loop(case: Case, entry: Entry) -> None:
    """A score per series is the score of each series alone."""
    truth, sample = toys.forecast()
    two = xr.concat([truth, truth + 1.0], dim="series")
    both = _score(case, entry, two, sample)
    skip_unless("series" in both.dims, "it pools all dims")
    alone = _score(case, entry, two.isel(series=1), sample)
    expect(bool(np.allclose(both.isel(series=1), alone, rtol=0, atol=1e-10)), "a series alone scores differently")


def check_metrics_proper(case: Case, entry: MetricEntry) -> None:
    """A proper score prefers the true distribution to shifted, too wide and too narrow ones."""
    skip_unless(entry.proper, "it is not declared proper")
    sign = 1.0 if entry.orientation == "lower" else -1.0
    best = sign * _mean(_score(case, entry, *toys.forecast(120, 600)))
    for label, change in {
        "shifted": {"shift": 1.0},
        "too wide": {"spread": 2.5},
        "too narrow": {"spread": 0.3},
    }.items():
        other = sign * _mean(_score(case, entry, *toys.forecast(120, 600, **change)))
        expect(best < other, f"a {label} forecast scores {other:.4g}, the true one {best:.4g}", fix="set proper=False")
