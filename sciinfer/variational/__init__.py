"""Variational inference: families, objectives, fits that say whether they are to be believed."""

from .family import Family, frozen_log_prob
from .fit import VariationalFit, fit_variational
from .flows import Flow
from .gaussian import FullRank, LowRank, MeanField
from .last_layer import BayesianLastLayer
from .objectives import OBJECTIVES, dreg, elbo, forward_kl, iwae, log_chi2
from .pathfinder import PathfinderFit, pathfinder
from .psis import Smoothed, fit_generalised_pareto, psis
from .target import LogDensity, one_at_a_time
from .transforms import Blocks, Interval, Positive, Real, Simplex, Transform

__all__ = [
    "BayesianLastLayer",
    "Blocks",
    "Family",
    "Flow",
    "FullRank",
    "Interval",
    "LogDensity",
    "LowRank",
    "MeanField",
    "OBJECTIVES",
    "PathfinderFit",
    "Positive",
    "Real",
    "Simplex",
    "Smoothed",
    "Transform",
    "VariationalFit",
    "dreg",
    "elbo",
    "fit_generalised_pareto",
    "fit_variational",
    "forward_kl",
    "frozen_log_prob",
    "iwae",
    "log_chi2",
    "one_at_a_time",
    "pathfinder",
    "psis",
]
