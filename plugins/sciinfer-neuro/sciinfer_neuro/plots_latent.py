"""Figures of latent trajectories: over time, and in the plane of two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sciinfer.errors import SchemaError, ShapeError
from sciinfer.plots.access import LATENT, PREDICTIVE, Panel, panel, panels
from sciinfer.plots.bands import draw_bands
from sciinfer.plots.style import CYCLE, PALETTE, dress, heading, legend, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUPS = tuple(dict.fromkeys(LATENT + PREDICTIVE))
_NINETY = 2.1459660262893475  # radius that holds 90 % of a standard normal in the plane


def latents(
    tree: xr.DataTree,
    *,
    var: str = "latent",
    ax: Axes | None = None,
    series: int = 0,
    components: int = 3,
    truth: xr.DataArray | None = None,
    title: str | None = None,
) -> Axes:
    """Posterior latents of one trial over time: median, 50 and 90 % bands, in lanes one above the other.

    Args:
        tree: a result with draws of ``var``.
        var: the latent variable, ``(chain, draw, [trial], time, component)``.
        series: position of the trial.
        components: number of lanes, at most 6.
        truth: ``(time, component)`` or ``(trial, time, component)`` in the posterior's gauge, drawn dashed.

    Returns:
        The axes.
    """
    cells = [cell for s, cell in panels(tree, var, _GROUPS) if s == 0][: min(components, len(CYCLE))]
    lanes = [panel(tree, var, series=series, cell=cell, groups=_GROUPS) for cell in cells]
    ax = ax or new_axes((7.6, float(np.clip(1.1 + 0.95 * len(lanes), 2.2, 6.5))), purpose="the plot 'neuro/latents'")
    dress(ax, x=lanes[0].time_label, y="")
    true = [_true_path(truth, one, series, k) for k, one in enumerate(lanes)]
    offsets = _offsets(lanes, true)
    for one, color, offset, path in zip(lanes, CYCLE, offsets, true, strict=False):
        ax.axhline(offset, color=PALETTE["grid"], linewidth=0.8, zorder=0.5)
        draw_bands(ax, one.time, one.sample + offset, color=color, label="_")
        if path is not None:
            ax.plot(*_on(one, path, offset), color=PALETTE["data"], linewidth=1.0, linestyle=(0, (4, 2)), zorder=3.5)
    ax.grid(visible=False, axis="y")
    _lane_labels(ax, lanes, offsets)
    ax.margins(x=0)
    _scale_bar(ax, lanes, offsets)
    if truth is not None:
        ax.plot([], [], color=PALETTE["data"], linewidth=1.0, linestyle=(0, (4, 2)), label="truth")
    _explain(ax)
    heading(ax, lanes[0].where if title is None else title)
    legend(ax)
    return ax


def phase_plane(
    tree: xr.DataTree,
    *,
    var: str = "latent",
    ax: Axes | None = None,
    series: int = 0,
    first: int = 0,
    second: int = 1,
    truth: xr.DataArray | None = None,
    ellipses: int = 24,
    title: str | None = None,
) -> Axes:
    """Two latents against each other: the median path, and ellipses that hold 90 % of the draws at chosen times.

    Args:
        tree, var, series, truth: as in :func:`latents`.
        first, second: positions of the two components.
        ellipses: how many, equally spaced in time.

    Returns:
        The axes.
    """
    cells = [cell for s, cell in panels(tree, var, _GROUPS) if s == 0]
    if not all(0 <= k < len(cells) for k in (first, second)) or len(cells) < 2:
        raise ShapeError(f"there are {len(cells)} components", variable=var, fix="choose two of them; or plot latents")
    x, y = (panel(tree, var, series=series, cell=cells[k], groups=_GROUPS) for k in (first, second))
    ax = ax or new_axes((4.6, 4.2), purpose="the plot 'neuro/phase-plane'")
    dress(ax, x=x.label, y=y.label, grid="both")
    centre = np.median(x.sample, axis=0), np.median(y.sample, axis=0)
    _ellipses(ax, x, y, ellipses)
    ax.plot(*centre, color=PALETTE["band"], linewidth=1.4, label="median", zorder=3)
    if truth is not None:
        known = [_on(one, _true_path(truth, one, series, k), 0.0)[1] for one, k in ((x, first), (y, second))]
        ax.plot(*known, color=PALETTE["data"], linewidth=1.0, linestyle=(0, (4, 2)), label="truth", zorder=3.2)
    for index, name, mark, color in ((0, "start", "o", PALETTE["green"]), (-1, "end", "s", PALETTE["truth"])):
        ax.plot(
            centre[0][index], centre[1][index], mark, color=color, markersize=6, markeredgecolor="white",
            markeredgewidth=0.8, label=name, zorder=4,
        )  # fmt: skip
    heading(ax, x.where if title is None else title)
    legend(ax)
    return ax


def _true_path(truth: xr.DataArray | None, one: Panel, series: int, component: int) -> xr.DataArray | None:
    if truth is None:
        return None
    rows = [str(dim) for dim in truth.dims if dim in ("trial", "series")]
    path = truth.isel(dict.fromkeys(rows, series))
    others = [str(dim) for dim in path.dims if dim != "time"]
    if "time" not in path.dims or len(others) != 1 or component >= path.sizes[others[0]]:
        raise SchemaError(
            f"the truth has dims {list(truth.dims)}", variable=str(truth.name), fix="give it (trial, time, component)"
        )
    return path.isel({others[0]: component})


def _on(one: Panel, path: xr.DataArray | None, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """The truth at the panel's times."""
    if path is None:
        return one.time, np.full(len(one.time), np.nan)
    return one.time, np.interp(one.time, path["time"].values, path.values, left=np.nan, right=np.nan) + offset


def _offsets(lanes: list[Panel], true: list[xr.DataArray | None]) -> list[float]:
    """Lanes from top to bottom, so far apart that they do not meet."""
    spans = []
    for one, path in zip(lanes, true, strict=True):
        low, high = np.nanquantile(one.sample, [0.02, 0.98])
        values = [low, high] if path is None else [low, high, float(path.min()), float(path.max())]
        spans.append((min(values), max(values)))
    offsets, floor = [], 0.0
    gap = 0.12 * max(high - low for low, high in spans)
    for low, high in spans:
        offsets.append(floor - gap - high)
        floor = offsets[-1] + low
    return offsets


def _lane_labels(ax: Axes, lanes: list[Panel], offsets: list[float]) -> None:
    names = [one.name.rpartition(" · ")[2] for one in lanes]
    if len(set(names)) < len(names):  # components without labels
        names = [str(number) for number in range(len(lanes))]
    ax.set_yticks(offsets, names)
    for tick, color in zip(ax.get_yticklabels(), CYCLE, strict=False):
        tick.set_color(color)
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel(lanes[0].name.partition(" · ")[0], color=PALETTE["ink"], fontsize=9.0)


def _scale_bar(ax: Axes, lanes: list[Panel], offsets: list[float]) -> None:
    """How much a length in a lane is: a bar of 1, 2 or 5 times a power of ten beside the lowest lane."""
    aim = 0.6 * (np.nanquantile(lanes[-1].sample, 0.98) - np.nanquantile(lanes[-1].sample, 0.02))
    if not aim > 0:
        return
    power = 10.0 ** np.floor(np.log10(aim))
    length = power * max(step for step in (1, 2, 5) if step * power <= aim)
    place = ax.get_yaxis_transform()
    ends = [offsets[-1] - 0.5 * length, offsets[-1] + 0.5 * length]
    ax.plot([1.012, 1.012], ends, transform=place, color=PALETTE["ink"], linewidth=1.6, clip_on=False)
    ax.text(
        1.02, offsets[-1], f"{length:g}", transform=place, va="center", fontsize=8, color=PALETTE["ink"], clip_on=False
    )


def _explain(ax: Axes) -> None:
    ax.fill_between([], [], [], color=PALETTE["muted"], alpha=0.4, linewidth=0, label="50 %")
    ax.fill_between([], [], [], color=PALETTE["muted"], alpha=0.18, linewidth=0, label="90 %")


def _ellipses(ax: Axes, x: Panel, y: Panel, count: int) -> None:
    chosen = np.unique(np.linspace(0, len(x.time) - 1, min(count, len(x.time))).round().astype(int))
    turn = np.linspace(0.0, 2 * np.pi, 49)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    for number, t in enumerate(chosen):
        pair = np.stack([x.sample[:, t], y.sample[:, t]])
        pair = pair[:, np.isfinite(pair).all(axis=0)]
        if pair.shape[1] < 3:
            continue
        values, vectors = np.linalg.eigh(np.cov(pair))
        ring = vectors @ (np.sqrt(np.maximum(values, 0.0))[:, None] * circle) * _NINETY + pair.mean(axis=1)[:, None]
        label = "90 % of draws" if number == 0 else None
        ax.fill(*ring, facecolor=PALETTE["band"], alpha=0.07, edgecolor="none", label=label, zorder=1.5)
        ax.plot(*ring, color=PALETTE["band"], alpha=0.35, linewidth=0.6, zorder=1.6)
