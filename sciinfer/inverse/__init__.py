"""Posterior samplers for indirect measurements: one file per method."""

from .budget import Budget
from .exact import Solution, solve_exact
from .field import GaussianField
from .observation import Observation
from .prior import Gaussian, GaussianPrior
from .select import choose_method

__all__ = [
    "Budget",
    "Gaussian",
    "GaussianField",
    "GaussianPrior",
    "Observation",
    "Solution",
    "choose_method",
    "solve_exact",
]
