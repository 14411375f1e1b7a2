"""Latent paths over time and in phase space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import SchemaError
from .access import LATENT, PREDICTIVE, Panel, group_of, layout_of, panel, panels
from .bands import draw_bands, quantiles
from .style import CYCLE, PALETTE, dress, heading, labelled, legend, new_axes, time_ticks

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__entries__ = [
    {
        "kind": "plots",
        "name": "latent",
        "target": "latent",
        "summary": "posterior paths of a latent variable over time, one colour per component",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
    {
        "kind": "plots",
        "name": "phase",
        "target": "phase",
        "summary": "two components or two variables against each other",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
]

_GROUPS = tuple(dict.fromkeys(LATENT + PREDICTIVE))


def latent(
    tree: xr.DataTree,
    *,
    var: str = "latent",
    ax: Axes | None = None,
    series: int = 0,
    most: int = 4,
    title: str | None = None,
) -> Axes:
    """Posterior paths with their bands; each component (cell of the extra dims) has its own colour.

    Args:
        tree: a result.
        var: a variable of the group ``posterior`` (or ``prior``).
        series: position of the series.
        most: number of components that are drawn (at most 6).

    Returns:
        The axes.

    Example:
        >>> from sciinfer.plots import example_tree, latent
        >>> latent(example_tree()).get_xlabel()
        'time (d)'
    """
    cells = [cell for s, cell in panels(tree, var, _GROUPS) if s == 0]
    shown = cells[: min(most, len(CYCLE))]
    many = [panel(tree, var, series=series, cell=cell, groups=_GROUPS) for cell in shown]
    ax = ax or new_axes(purpose="the plot 'latent'")
    name, units = _base(tree, var)
    dress(ax, x=many[0].time_label, y=labelled(name, units))
    for one, color in zip(many, CYCLE, strict=False):
        draw_bands(ax, one.time, one.sample, paths=2, color=color, label=one.name.removeprefix(f"{name} · "))
    time_ticks(ax, many[0].time)
    ax.margins(x=0)
    rest = f"{len(shown)} of {len(cells)} components" if len(cells) > len(shown) else ""
    heading(ax, " · ".join(filter(None, [many[0].where, rest])) if title is None else title)
    legend(ax)
    return ax


def phase(
    tree: xr.DataTree,
    *,
    var: str = "latent",
    against: str | None = None,
    ax: Axes | None = None,
    series: int = 0,
    draws: int = 12,
) -> Axes:
    """Paths in phase space: the posterior median in one dark line over faint draws.

    The second axis is the first of these that exists: the variable ``against``, the second component of ``var``, the
    rate of change of ``var``.

    Args:
        tree: a result.
        var: the variable on the first axis.
        against: another variable at the same times.
        series: position of the series.
        draws: number of sample paths.

    Returns:
        The axes.

    Example:
        >>> from sciinfer.plots import example_tree, phase
        >>> phase(example_tree(), var="flux").get_xlabel()
        'flux (W m⁻²)'
    """
    first, second, second_label = _pair(tree, var, against, series)
    ax = ax or new_axes((4.2, 3.8), purpose="the plot 'phase'")
    dress(ax, x=first.label, y=second_label, grid="both")
    for x, y in zip(first.sample[:draws], second[:draws], strict=True):
        ax.plot(x, y, color=PALETTE["band"], alpha=0.22, linewidth=0.6)
    x, y = quantiles(first.sample, (0.5,))[0], quantiles(second, (0.5,))[0]
    ax.plot(x, y, color=PALETTE["band"], linewidth=1.5, label="median path")
    seen = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(seen):
        a, b = seen[0], seen[-1]
        ax.plot(x[a], y[a], "o", color=PALETTE["data"], markersize=5, markeredgewidth=0, label="start", zorder=4)
        ax.plot(x[b], y[b], "s", color=PALETTE["truth"], markersize=5, markeredgewidth=0, label="end", zorder=4)
    heading(ax, first.where)
    legend(ax)
    return ax


def _pair(tree: xr.DataTree, var: str, against: str | None, series: int) -> tuple[Panel, np.ndarray, str]:
    cells = [cell for s, cell in panels(tree, var, _GROUPS) if s == 0]
    first = panel(tree, var, series=series, cell=cells[0], groups=_GROUPS)
    if against is None and len(cells) == 1:
        return first, *_rate(tree, var, first)
    target, cell = (var, cells[1]) if against is None else (against, None)
    other = panel(tree, target, series=series, cell=cell, groups=_GROUPS)
    if other.sample.shape != first.sample.shape:
        raise SchemaError(
            f"{var!r} has draws x times {first.sample.shape}, {target!r} {other.sample.shape}",
            variable=target,
            fix="choose two variables of the same group",
        )
    return first, other.sample, other.label


def _rate(tree: xr.DataTree, var: str, first: Panel) -> tuple[np.ndarray, str]:
    time, per = first.time, "time"
    da = group_of(tree, var, _GROUPS)[var]
    if time.dtype.kind == "M":
        time, per = (time - time[:1]) / np.timedelta64(1, "D"), "d"
    elif layout_of(da).time in da.coords:
        per = str(da[layout_of(da).time].attrs.get("units") or "time")
    name, units = _base(tree, var)
    keep = np.concatenate([[True], np.diff(time) > 0])  # tied times have no rate
    rate = np.full_like(first.sample, np.nan)
    if keep.sum() > 1:
        rate[:, keep] = np.gradient(first.sample[:, keep], time[keep], axis=1)
    return rate, labelled(f"rate of change of {name}", f"{labelled('', units).strip(' ()') or '1'} / {per}")


def _base(tree: xr.DataTree, var: str) -> tuple[str, str | None]:
    da = group_of(tree, var, _GROUPS)[var]
    return str(da.attrs.get("long_name") or var), da.attrs.get("units")
