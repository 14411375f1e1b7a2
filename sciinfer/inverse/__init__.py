"""Posterior samplers for indirect measurements: one file per method."""

from .budget import Budget
from .exact import Solution, solve_exact
from .field import GaussianField
from .guided import Guided
from .laplace import solve_laplace
from .mixture import condition_mixture
from .observation import Observation
from .prior import Gaussian, GaussianPrior
from .select import choose_method
from .smc import solve_smc

__all__ = [
    "Budget",
    "Gaussian",
    "GaussianField",
    "GaussianPrior",
    "Guided",
    "Observation",
    "Solution",
    "choose_method",
    "condition_mixture",
    "solve_exact",
    "solve_laplace",
    "solve_smc",
]
