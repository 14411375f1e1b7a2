"""Is the uncertainty right? PIT histogram, coverage curve, residuals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .access import group_of, layout_of, panel, points
from .bands import RASTER_ABOVE, _x
from .calibrate import binomial_range, central_coverage, mass, matched, pit_spans
from .style import PALETTE, SIZE_SQUARE, dress, heading, labelled, legend, new_axes, remark, time_ticks

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__entries__ = [
    {
        "kind": "plots",
        "name": "pit",
        "target": "pit",
        "summary": "PIT histogram with the 99 % range of a calibrated forecast",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
    {
        "kind": "plots",
        "name": "coverage",
        "target": "coverage",
        "summary": "empirical against nominal coverage of the central intervals",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
    {
        "kind": "plots",
        "name": "residuals",
        "target": "residuals",
        "summary": "standardised residuals over time",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
]


def pit(
    tree: xr.DataTree, *, var: str, ax: Axes | None = None, truth: xr.Dataset | None = None, bins: int = 10
) -> Axes:
    """PIT histogram, pooled over series and cells, with the 99 % binomial range of each bin.

    A U shape means bands too narrow, a hump too wide, a slope a bias. The range takes the data as independent.

    Args:
        tree: a result with predictive draws at the data's times.
        var: the variable.
        truth: held-out data; default the observed data, which the result has usually seen.
        bins: number of bins.

    Returns:
        The axes.

    Raises:
        DataError: no datum lies at a time of the result.

    References:
        T. Gneiting, F. Balabdaoui, A. Raftery (2007), Probabilistic forecasts, calibration and sharpness.

    Example:
        >>> from sciinfer.plots import example_tree, pit
        >>> pit(example_tree(), var="flux").get_ylabel()
        'data per bin'
    """
    low, high = pit_spans(tree, var, truth)
    edges = np.linspace(0.0, 1.0, bins + 1)
    counts = np.array([mass(low, high, a, b) for a, b in itertools.pairwise(edges)]) * len(low)
    ax = ax or new_axes(SIZE_SQUARE, purpose="the plot 'pit'")
    dress(ax, x="probability integral transform", y="data per bin")
    floor, ceiling = binomial_range(len(low), 1.0 / bins)
    ax.bar(
        edges[:-1],
        counts,
        1.0 / bins,
        align="edge",
        color=PALETTE["band"],
        alpha=0.55,
        edgecolor="white",
        linewidth=0.8,
    )
    ax.axhspan(floor, ceiling, facecolor=PALETTE["muted"], alpha=0.16, linewidth=0, label="99 % range if calibrated")
    ax.axhline(len(low) / bins, color=PALETTE["ink"], linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set(xlim=(0.0, 1.0), ylim=(0.0, 1.22 * max(float(counts.max()), ceiling, 1.0)))
    legend(ax, inside="best")
    _describe(ax, tree, var, truth, len(low))
    return ax


def coverage(tree: xr.DataTree, *, var: str, ax: Axes | None = None, truth: xr.Dataset | None = None) -> Axes:
    """Share of the data inside the central interval, against the interval's nominal probability.

    Args:
        tree, var, truth: as in :func:`pit`.

    Returns:
        The axes.

    Raises:
        DataError: no datum lies at a time of the result.

    Example:
        >>> from sciinfer.plots import coverage, example_tree
        >>> coverage(example_tree(), var="flux").get_xlabel()
        'nominal coverage (%)'
    """
    low, high = pit_spans(tree, var, truth)
    nominal = np.linspace(0.0, 1.0, 41)
    empirical = np.array([central_coverage(low, high, p) for p in nominal])
    ax = ax or new_axes(SIZE_SQUARE, purpose="the plot 'coverage'")
    dress(ax, x="nominal coverage (%)", y="empirical coverage (%)", grid="both")
    ranges = np.array([binomial_range(len(low), p) for p in nominal]) / len(low)
    ax.fill_between(
        100 * nominal, 100 * ranges[:, 0], 100 * ranges[:, 1], color=PALETTE["muted"], alpha=0.16, linewidth=0,
        label="99 % range if calibrated",
    )  # fmt: skip
    ax.plot([0, 100], [0, 100], color=PALETTE["ink"], linewidth=0.9, linestyle=(0, (4, 3)))
    ax.plot(100 * nominal, 100 * empirical, color=PALETTE["band"], linewidth=1.8, label="this result")
    for prob in (0.5, 0.9):
        ax.plot(100 * prob, 100 * central_coverage(low, high, prob), "o", color=PALETTE["band"], markersize=4.5)
    ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    legend(ax, inside="lower right")
    _describe(ax, tree, var, truth, len(low))
    return ax


def residuals(
    tree: xr.DataTree,
    *,
    var: str,
    ax: Axes | None = None,
    series: int = 0,
    cell: Mapping[str, int] | None = None,
    truth: xr.Dataset | None = None,
) -> Axes:
    """Standardised residuals ``(y - mean) / sd`` of the predictive draws over time; the band holds 90 % of a Gaussian.

    Args:
        tree, var, truth: as in :func:`pit`.
        series, cell: as in :func:`sciinfer.plots.bands`.

    Returns:
        The axes.

    Raises:
        DataError: no datum of this series lies at a time of the result.

    Example:
        >>> from sciinfer.plots import example_tree, residuals
        >>> residuals(example_tree(), var="flux").get_xlabel()
        'time (d)'
    """
    one = panel(tree, var, series=series, cell=cell)
    time, value = one.data_time, one.data
    if truth is not None:
        da = group_of(tree, var)[var]
        layout = layout_of(da)
        time, value = points(truth, da, layout, series, {d: (cell or {}).get(d, 0) for d in layout.extra})
    time, value, draws = matched(one, time, value)
    if not len(time):
        raise DataError("no datum lies at a time of the result", variable=var, fix="predict at the data's times too")
    spread = draws.std(axis=1, ddof=1) if draws.shape[1] > 1 else np.zeros(len(time))
    scaled = np.divide(value - draws.mean(axis=1), spread, out=np.full(len(time), np.nan), where=spread > 0)
    ax = ax or new_axes((7.6, 2.4), purpose="the plot 'residuals'")
    dress(ax, x=one.time_label, y=labelled("residual", "sd"))
    ax.axhspan(-1.645, 1.645, facecolor=PALETTE["band"], alpha=0.12, linewidth=0, label="90 % of a Gaussian")
    ax.axhline(0.0, color=PALETTE["ink"], linewidth=0.9)
    ax.plot(
        _x(time), scaled, "o", markersize=2.8, markeredgewidth=0, color=PALETTE["data"], alpha=0.8,
        label=one.name, rasterized=len(time) > RASTER_ABOVE,
    )  # fmt: skip
    time_ticks(ax, time)
    ax.margins(x=0.01)
    heading(ax, one.where)
    legend(ax)
    return ax


def _describe(ax: Axes, tree: xr.DataTree, var: str, truth: xr.Dataset | None, n: int) -> None:
    name = str(group_of(tree, var)[var].attrs.get("long_name") or var)
    heading(ax, name, pad=6)
    kind = "conditioning data (in-sample)" if truth is None else "held-out data"
    if ax.name == "rectilinear":
        remark(ax, f"{n:,} {kind}".replace(",", " "), x=1.0, y=-0.2, align="right")
