"""One look for all figures: data in dark dots, bands in one blue, truth in orange; colour-blind safe, no global state.

Figures are made with the object-oriented interface, so neither ``pyplot``'s state nor the caller's rcParams change.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extend import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: role -> colour. Each hex occurs once: the report page replaces them by the page's own variables (dark mode, print).
PALETTE: dict[str, str] = {
    "ink": "#1f2933",
    "muted": "#66717e",
    "rule": "#c3cad2",
    "grid": "#e9ecf0",
    "shade": "#f3f5f8",
    "data": "#2b323b",
    "band": "#0b6fb3",
    "truth": "#d55e01",
    "green": "#06966c",
    "violet": "#8e5ba6",
    "gold": "#b8860c",
    "sky": "#4aa3d8",
}
#: colours of several paths in one figure, in order (after Okabe and Ito, 2008)
CYCLE: tuple[str, ...] = tuple(PALETTE[name] for name in ("band", "truth", "green", "violet", "gold", "sky"))
#: outer and inner predictive intervals and the opacity of their bands
INTERVALS: tuple[tuple[float, float], ...] = ((0.9, 0.16), (0.5, 0.30))
SIZE_WIDE, SIZE_SQUARE = (7.6, 3.1), (4.0, 3.3)
_FONT = 9.0
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def new_axes(size: tuple[float, float] = SIZE_WIDE, *, purpose: str = "a plot") -> Axes:
    """Axes on a fresh figure that belongs to nobody else.

    Example:
        >>> new_axes().figure.get_size_inches().tolist()
        [7.6, 3.1]
    """
    figure_module = require("matplotlib.figure", extra="plots", purpose=purpose)
    agg = require("matplotlib.backends.backend_agg", extra="plots", purpose=purpose)
    figure: Figure = figure_module.Figure(figsize=size, layout="constrained", dpi=150, facecolor="white")
    agg.FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.06)  # type: ignore[union-attr]
    return figure.add_subplot()


def dress(ax: Axes, *, x: str, y: str, grid: str = "y") -> Axes:
    """Axis labels, quiet spines and ticks; returns ``ax``."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set(color=PALETTE["rule"], linewidth=0.8)
    ax.tick_params(colors=PALETTE["muted"], labelsize=_FONT - 0.5, length=3, width=0.8, color=PALETTE["rule"])
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_offset_text().set(color=PALETTE["muted"], fontsize=_FONT - 0.5)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(visible=True, axis=grid, color=PALETTE["grid"], linewidth=0.8)  # type: ignore[arg-type]
    ax.set_xlabel(plain(x), color=PALETTE["ink"], fontsize=_FONT)
    ax.set_ylabel(plain(y), color=PALETTE["ink"], fontsize=_FONT)
    return ax


def legend(ax: Axes, *, inside: str = "") -> None:
    """A frameless legend: one row above the axes, or at the place ``inside`` them (``"best"``, ``"lower right"``)."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": len(handles), "borderaxespad": 0.2}
    place: dict[str, Any] = {"loc": inside} if inside else above
    ax.legend(
        handles,
        labels,
        frameon=False,
        fontsize=_FONT - 0.5,
        labelcolor=PALETTE["ink"],
        handlelength=1.3,
        handletextpad=0.5,
        columnspacing=1.2,
        **place,
    )


def heading(ax: Axes, text: str, *, pad: float = 20.0) -> None:
    """A small bold heading, flush left, above the row that the legend takes."""
    if not text:
        return
    ax.set_title(plain(text), loc="left", fontsize=_FONT + 0.5, fontweight="bold", color=PALETTE["ink"], pad=pad)


def remark(ax: Axes, text: str, *, x: float = 0.02, y: float = 0.97, align: str = "left") -> None:
    """A muted remark inside the axes, at axes coordinates."""
    ax.text(x, y, plain(text), transform=ax.transAxes, ha=align, va="top", fontsize=_FONT - 1, color=PALETTE["muted"])


def time_ticks(ax: Axes, time: np.ndarray) -> None:
    """Concise dates under a datetime axis; numbers are left alone."""
    if np.asarray(time).dtype.kind != "M":
        return
    dates = require("matplotlib.dates", extra="plots", purpose="a time axis")
    locator = dates.AutoDateLocator(minticks=4, maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def plain(text: str, width: int = 90) -> str:
    """Text that matplotlib shows as it is: no mathtext, no line breaks, of bounded length.

    Example:
        >>> plain("cost in $")
        'cost in \\\\$'
    """
    return textwrap.shorten(str(text), width, placeholder=" …").replace("$", r"\$") or str(text).strip()[:width]


def unit_text(units: str | None) -> str | None:
    """Negative powers as superscripts; a unit of one is no unit.

    Example:
        >>> unit_text("m s-1"), unit_text("kg m**-3"), unit_text("1")
        ('m s⁻¹', 'kg m⁻³', None)
    """
    if units is None or not str(units).strip() or str(units).strip() == "1":
        return None
    power = re.compile(r"(?<=[A-Za-z])(?:\*\*|\^)?(-\d+)\b|(?<=[A-Za-z])(?:\*\*|\^)(\d+)\b")
    return power.sub(lambda m: (m.group(1) or m.group(2)).translate(_SUPERSCRIPT), str(units).strip())


def labelled(name: str, units: str | None) -> str:
    """``name (units)``.

    Example:
        >>> labelled("flux", "W m-2")
        'flux (W m⁻²)'
    """
    shown = unit_text(units)
    return f"{name} ({shown})" if shown else name
