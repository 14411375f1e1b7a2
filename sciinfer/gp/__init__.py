"""Gaussian processes: exact in linear time on a line, dense for few points, Vecchia's approximation for many."""

from .dispatch import GP
from .kernels import (
    RBF,
    SHO,
    Constant,
    Coregionalised,
    Cosine,
    Coupled,
    HidaMatern,
    IntegratedWiener,
    Kernel,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    QuasiPeriodic,
    Seasonal,
    Separable,
    Wiener,
    parse_kernel,
)
from .markov import MarkovGP
from .observations import averages, derivatives, differences, join, points
from .posterior import Components, MarkovPosterior

__all__ = [
    "GP",
    "RBF",
    "SHO",
    "Components",
    "Constant",
    "Coregionalised",
    "Cosine",
    "Coupled",
    "HidaMatern",
    "IntegratedWiener",
    "Kernel",
    "Linear",
    "MarkovGP",
    "MarkovPosterior",
    "Matern12",
    "Matern32",
    "Matern52",
    "Periodic",
    "QuasiPeriodic",
    "Seasonal",
    "Separable",
    "Wiener",
    "averages",
    "derivatives",
    "differences",
    "join",
    "parse_kernel",
    "points",
]
