"""How the fit went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SchemaError
from .style import PALETTE, dress, legend, new_axes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__entries__ = [
    {
        "kind": "plots",
        "name": "loss_curve",
        "target": "loss_curve",
        "summary": "training and validation loss over the steps",
        "requires": ("matplotlib",),
        "extra": "plots",
    },
]

_STEPS = ("steps", "step", "iteration")
_LOSSES = {"loss": "training loss", "validation": "validation loss"}
GROUP = "training"


def loss_curve(
    source: Mapping[str, Sequence[float]] | xr.DataTree, *, var: str | None = None, ax: Axes | None = None
) -> Axes:
    """Training and validation loss; the best validation step is marked, a steep first tenth does not set the scale.

    Args:
        source: history ``{"steps": [...], "loss": [...], "validation": [...]}`` or a result with a group ``training``.
            A list shorter than ``steps`` is spread evenly over them unless ``<name>_steps`` gives its steps.
        var: not used; all plots are called alike.

    Returns:
        The axes.

    Raises:
        SchemaError: there is no loss.

    Example:
        >>> from sciinfer.plots import loss_curve
        >>> loss_curve({"loss": [3.0, 2.0, 1.5]}).get_ylabel()
        'loss per observed value'
    """
    history = history_of(source)
    if not any(len(history.get(name, ())) for name in _LOSSES):
        raise SchemaError("the history holds no 'loss'", fix="pass the history that the fit returned")
    ax = ax or new_axes((7.6, 2.6), purpose="the plot 'loss_curve'")
    dress(ax, x="step", y="loss per observed value")
    for name, color in zip(_LOSSES, (PALETTE["band"], PALETTE["truth"]), strict=True):
        steps, values = _curve(history, name)
        if len(steps):
            marker = None if len(steps) > 60 else "o"
            ax.plot(
                steps,
                values,
                color=color,
                linewidth=1.3,
                marker=marker,
                markersize=2.5,
                label=_LOSSES[name],
            )
    _mark_best(ax, *_curve(history, "validation"))
    _limit(ax, history)
    ax.margins(x=0.01)
    legend(ax)
    return ax


def history_of(source: Mapping[str, Sequence[float]] | xr.DataTree) -> dict[str, np.ndarray]:
    """Lists of a history as arrays; of a result the variables of its group ``training``."""
    lists = _group_lists(source) if hasattr(source, "children") else {k: np.asarray(v) for k, v in source.items()}
    return {str(k): v.astype(np.float64) for k, v in lists.items() if v.ndim == 1 and v.dtype.kind in "fiub"}


def _group_lists(tree: Any) -> dict[str, np.ndarray]:
    if GROUP not in tree.children:
        raise SchemaError("the result holds no group 'training'", fix="pass the history that the fit returned")
    return {str(k): v.values for k, v in tree[GROUP].to_dataset(inherit=False).variables.items()}


def _curve(history: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    values = history.get(name, np.zeros(0))
    own = [history[key] for key in (f"{name}_steps", f"{name}_step", *_STEPS) if key in history]
    fitting = [steps for steps in own if len(steps) == len(values)]
    if fitting:
        steps = fitting[0]
    else:
        end = own[-1].max() if own and len(own[-1]) else max(len(history.get("loss", values)), 1)
        steps = np.linspace(end / max(len(values), 1), end, len(values))
    keep = np.isfinite(values)
    return steps[keep], values[keep]


def _mark_best(ax: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    if len(values) > 1:
        best = int(values.argmin())
        ax.plot(
            steps[best], values[best], "o", markersize=6, markerfacecolor="none", markeredgecolor=PALETTE["truth"],
            markeredgewidth=1.3, label="best validation",
        )  # fmt: skip


def _limit(ax: Axes, history: Mapping[str, np.ndarray]) -> None:
    tails = [values[len(values) // 10 :] for _, values in (_curve(history, name) for name in _LOSSES)]
    tail = np.concatenate(tails)
    if len(tail) > 20:
        low, high = tail.min(), np.quantile(tail, 0.995)
        if high > low:
            ax.set_ylim(low - 0.07 * (high - low), high + 0.15 * (high - low))
