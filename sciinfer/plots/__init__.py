"""Figures of results: ``plot(tree, *, var, ax=None) -> Axes``; needs the extra ``plots`` (matplotlib)."""

from .bands import bands, forecast
from .calibration import coverage, pit, residuals
from .example import example_tree
from .latent import latent, phase
from .style import CYCLE, PALETTE
from .training import loss_curve

__all__ = [
    "CYCLE",
    "PALETTE",
    "bands",
    "coverage",
    "example_tree",
    "forecast",
    "latent",
    "loss_curve",
    "phase",
    "pit",
    "residuals",
]
