"""Data and predictive bands over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .access import Panel, group_of, layout_of, panel, points
from .style import CYCLE, INTERVALS, PALETTE, dress, heading, legend, new_axes, time_ticks

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__entries__ = [
    {
        "kind": "plots",
        "name": "bands",
        "target": "bands",
        "summary": "data, median, 50 and 90 % predictive bands over time; gaps and forecast marked",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
    {
        "kind": "plots",
        "name": "forecast",
        "target": "forecast",
        "summary": "the end of the record and the forecast, with baselines and held-out truth",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
]

#: more points than this are drawn as one raster image inside a vector figure
RASTER_ABOVE = 3000


def bands(
    tree: xr.DataTree,
    *,
    var: str,
    ax: Axes | None = None,
    series: int = 0,
    cell: Mapping[str, int] | None = None,
    truth: xr.Dataset | None = None,
    draws: int = 3,
    shade_forecast: bool = True,
    title: str | None = None,
) -> Axes:
    """Data and predictive bands of one series: the median, 50 % and 90 % equal-tailed bands and a few draws.

    Missing data are ticks at the bottom edge; times after the last datum are shaded as forecast.

    Args:
        tree: a result.
        var: the variable.
        series: position of the series. ``cell``: position along each extra dim (default the first).
        truth: held-out data in any layout that the result's own data may have, drawn in orange.
        draws: number of sample paths.
        title: heading; default the series' label.

    Returns:
        The axes.

    Raises:
        SchemaError, ShapeError: no such variable, series or cell.

    Example:
        >>> from sciinfer.plots import bands, example_tree
        >>> bands(example_tree(), var="flux").get_ylabel()
        'flux (W m⁻²)'
    """
    one = panel(tree, var, series=series, cell=cell)
    ax = ax or new_axes(purpose="the plot 'bands'")
    dress(ax, x=one.time_label, y=one.label)
    if shade_forecast:
        _shade(ax, one)
    draw_bands(ax, one.time, one.sample, paths=draws)
    _held_out(ax, tree, var, truth, series, cell)
    _data(ax, one)
    time_ticks(ax, one.time)
    _extent(ax, one)
    heading(ax, one.where if title is None else title)
    legend(ax)
    return ax


def forecast(
    tree: xr.DataTree,
    *,
    var: str,
    ax: Axes | None = None,
    series: int = 0,
    cell: Mapping[str, int] | None = None,
    truth: xr.Dataset | None = None,
    baselines: Mapping[str, xr.Dataset | xr.DataArray] | None = None,
    history: float = 2.0,
    title: str | None = None,
) -> Axes:
    """The forecast with as much of the past as ``history`` times its length (the last quarter where there is none).

    Args:
        tree, var, series, cell, truth, title: as in :func:`bands`.
        baselines: name -> point forecast, with the variable on the result's time axis.
        history: length of the past that is shown, in lengths of the forecast.

    Returns:
        The axes.

    Example:
        >>> from sciinfer.plots import example_tree, forecast
        >>> forecast(example_tree(), var="flux").get_ylabel()
        'flux (W m⁻²)'
    """
    ax = bands(tree, var=var, ax=ax, series=series, cell=cell, truth=truth, draws=0, title=title)
    one = panel(tree, var, series=series, cell=cell)
    da = group_of(tree, var)[var]
    for number, (name, ds) in enumerate((baselines or {}).items()):
        table = ds if hasattr(ds, "data_vars") else ds.to_dataset(name=var)  # type: ignore[union-attr]
        time, value = points(table, da, layout_of(da), series, cell or {})  # type: ignore[arg-type]
        look = {"color": CYCLE[2 + number % 4], "linestyle": ("--", "-.", ":")[number % 3]}
        ax.plot(_x(time), value, linewidth=1.2, label=name, zorder=4, **look)  # type: ignore[arg-type]
    _zoom(ax, one, history)
    legend(ax)
    return ax


def draw_bands(
    ax: Axes,
    time: np.ndarray,
    sample: np.ndarray,
    *,
    paths: int = 0,
    color: str | None = None,
    label: str | None = None,
) -> None:
    """Bands and median of ``sample [n, T]``; ``label`` names the median instead of the usual legend."""
    color = color or PALETTE["band"]
    x = _x(time)
    raster = len(time) > RASTER_ABOVE
    for prob, alpha in INTERVALS:
        low, high = quantiles(sample, (0.5 - prob / 2, 0.5 + prob / 2))
        name = None if label else f"{100 * prob:.0f} % band"
        ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0, label=name, zorder=1.5, rasterized=raster)
    chosen = np.linspace(0, len(sample) - 1, min(paths, len(sample))).astype(int)
    for path in sample[chosen]:
        ax.plot(x, path, color=color, alpha=0.5, linewidth=0.6, zorder=1.8)
    ax.plot(x, quantiles(sample, (0.5,))[0], color=color, linewidth=1.4, label=label or "median", zorder=3)


def quantiles(sample: np.ndarray, probs: tuple[float, ...]) -> np.ndarray:
    """``[P, T]`` quantiles over the finite draws; NaN where there is none."""
    out = np.full((len(probs), sample.shape[1]), np.nan)
    some = np.isfinite(sample).any(axis=0)
    if some.any():
        finite = np.where(np.isfinite(sample[:, some]), sample[:, some], np.nan)
        out[:, some] = np.nanquantile(finite, probs, axis=0)
    return out


def _x(time: np.ndarray) -> Any:
    # matplotlib converts datetime64 itself; milliseconds keep its float days exact enough
    return time.astype("datetime64[ms]") if time.dtype.kind == "M" else time


def _data(ax: Axes, one: Panel) -> None:
    seen = np.isfinite(one.data)
    crowd = int(seen.sum())
    if crowd:
        size = float(np.clip(60 / np.sqrt(crowd), 1.6, 4.0))
        ax.plot(
            _x(one.data_time[seen]), one.data[seen], linestyle="", marker="o", markersize=size, markeredgewidth=0,
            color=PALETTE["data"], alpha=0.85, label="data", zorder=3.5, rasterized=crowd > RASTER_ABOVE,
        )  # fmt: skip
    if (~seen).any():
        ticks = _x(one.data_time[~seen])
        ax.plot(
            ticks, np.full(len(ticks), 0.012), transform=ax.get_xaxis_transform(), linestyle="", marker="|",
            markersize=5, markeredgewidth=0.8, color=PALETTE["muted"], label="missing", zorder=2.5,
        )  # fmt: skip


def _held_out(
    ax: Axes, tree: xr.DataTree, var: str, truth: xr.Dataset | None, series: int, cell: Mapping[str, int] | None
) -> None:
    da = group_of(tree, var)[var]
    layout = layout_of(da)
    cells = {dim: (cell or {}).get(dim, 0) for dim in layout.extra}
    time, value = points(truth, da, layout, series, cells)
    if np.isfinite(value).any():
        size = 2.2 if len(time) <= 150 else 0.0
        ax.plot(
            _x(time), value, color=PALETTE["truth"], linewidth=0.9, marker="o", markersize=size, markeredgewidth=0,
            label="held-out truth", zorder=3.2, rasterized=len(time) > RASTER_ABOVE,
        )  # fmt: skip


def _shade(ax: Axes, one: Panel) -> None:
    last = one.last
    if last is None or not len(one.time) or not one.time.max() > last:
        return
    start, end = _x(np.array([last, one.time.max()]))
    ax.axvspan(start, end, facecolor=PALETTE["shade"], edgecolor="none", zorder=0)
    ax.axvline(start, color=PALETTE["rule"], linewidth=0.9, zorder=0.5)
    corner = (ax.convert_xunits(start), 0.97)  # annotate does not convert dates by itself
    note = ax.annotate(
        "forecast", corner, xycoords=ax.get_xaxis_transform(), xytext=(5, 0), textcoords="offset points",
        va="top", fontsize=8, color=PALETTE["muted"],
    )  # fmt: skip
    note.set_in_layout(False)


def _extent(ax: Axes, one: Panel) -> None:
    times = np.concatenate([one.time, one.data_time]) if len(one.data_time) else one.time
    if len(times) and times.min() < times.max():
        low, high = _x(np.array([times.min(), times.max()]))
        ax.set_xlim(low, high)


def _zoom(ax: Axes, one: Panel, history: float) -> None:
    if not len(one.time):
        return
    start, end = one.time.min(), one.time.max()
    last = one.last
    ahead = end - last if last is not None and end > last else (end - start) / 4
    if one.time.dtype.kind == "M":
        past = np.timedelta64(int(ahead / np.timedelta64(1, "ms") * history), "ms")
    else:
        past = ahead * history
    left = max(start, (last if last is not None and end > last else end) - past)
    if left < end:
        low, high = _x(np.array([left, end]))
        ax.set_xlim(low, high)
        _fit_height(ax, one, left)


def _fit_height(ax: Axes, one: Panel, left: Any) -> None:
    low, high = quantiles(one.sample[:, one.time >= left], (0.05, 0.95))
    values = np.concatenate([low, high, one.data[one.data_time >= left] if len(one.data) else low[:0]])
    for line in ax.get_lines():  # held-out truth and baselines drawn so far
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata(), dtype=np.float64)
        if line.get_transform() == ax.transData and x.dtype.kind == _x(one.time).dtype.kind:
            values = np.concatenate([values, y[x >= left]])
    values = values[np.isfinite(values)]
    if len(values) and values.min() < values.max():
        margin = 0.08 * (values.max() - values.min())
        ax.set_ylim(values.min() - margin, values.max() + margin)
