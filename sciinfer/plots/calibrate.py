"""Numbers behind the calibration figures; deterministic (the PIT's mass is spread, not drawn)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .access import Panel, group_of, layout_of, panel, panels, points

if TYPE_CHECKING:
    import xarray as xr

MAX_PANELS = 256


def matched(one: Panel, time: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(time [N], value [N], draws [N, n])`` of the finite values whose time is among the panel's, exactly."""
    if not len(one.time) or one.time.dtype.kind != time.dtype.kind:
        return time[:0], value[:0], one.sample.T[:0]
    spot = np.searchsorted(one.time, time).clip(max=len(one.time) - 1)
    draws = one.sample.T[spot]
    keep = (one.time[spot] == time) & np.isfinite(value) & np.isfinite(draws).all(axis=1)
    return time[keep], value[keep], draws[keep]


def pit_spans(tree: xr.DataTree, var: str, held_out: xr.Dataset | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""Lower and upper ends ``[N]`` of each datum's PIT interval, pooled over series and cells.

    With ``l`` of ``n`` draws below and ``e`` equal to the datum: ``[l / (n + 1), (l + e + 1) / (n + 1)]``; a calibrated
    datum is uniform once its mass is spread over its interval. At most 256 series are read.

    Args:
        held_out: score these data instead of the observed ones.

    Raises:
        DataError: no datum lies exactly at a time of the result.

    References:
        C. Czado, T. Gneiting, L. Held (2009), Predictive model assessment for count data.
    """
    da = group_of(tree, var)[var]
    layout = layout_of(da)
    spans: list[tuple[np.ndarray, np.ndarray]] = []
    for _, (series, cell) in zip(range(MAX_PANELS), panels(tree, var), strict=False):
        one = panel(tree, var, series=series, cell=cell)
        time, value = (one.data_time, one.data) if held_out is None else points(held_out, da, layout, series, cell)
        spans.append(_span(*matched(one, time, value)[1:]))
    low, high = (np.concatenate(ends) for ends in zip(*spans, strict=True)) if spans else (np.zeros(0), np.zeros(0))
    if not len(low):
        raise DataError(
            "no datum lies at a time of the result", variable=var, fix="predict at the data's own times as well"
        )
    return low, high


def _span(value: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below = (draws < value[:, None]).sum(axis=1)
    upto = (draws <= value[:, None]).sum(axis=1)
    return below / (draws.shape[1] + 1), (upto + 1) / (draws.shape[1] + 1)


def mass(low: np.ndarray, high: np.ndarray, a: float, b: float) -> float:
    """Mean share of the PIT intervals that lies in ``[a, b]``.

    Example:
        >>> mass(np.array([0.0]), np.array([0.5]), 0.25, 1.0)
        0.5
    """
    return float(((np.minimum(high, b) - np.maximum(low, a)).clip(min=0.0) / (high - low)).mean())


def central_coverage(low: np.ndarray, high: np.ndarray, prob: float) -> float:
    """Empirical coverage of the equal-tailed interval of probability ``prob``; unbiased for any number of draws.

    Example:
        >>> central_coverage(np.array([0.4]), np.array([0.6]), 0.5)
        1.0
    """
    return mass(low, high, 0.5 - prob / 2, 0.5 + prob / 2)


def binomial_range(n: int, p: float, level: float = 0.99) -> tuple[int, int]:
    """Central range of a binomial count that holds at least ``level`` of its probability.

    Example:
        >>> binomial_range(100, 0.1)
        (3, 18)
    """
    if p <= 0.0 or p >= 1.0:
        return (0, 0) if p <= 0.0 else (n, n)
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))]) if n else np.zeros(1)
    log_pmf = log_factorial[n] - log_factorial - log_factorial[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    total = np.cumsum(np.exp(log_pmf))
    tail = (1.0 - level) / 2
    return int(np.searchsorted(total, tail)), min(int(np.searchsorted(total, 1.0 - tail)), n)
