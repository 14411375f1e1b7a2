"""Kernels of time with an exact state-space form."""

from .base import Kernel
from .carma import CARMA
from .expression import parse_kernel
from .matern import Matern12, Matern32, Matern52
from .multi import Coregionalised, Coupled, Separable
from .oscillation import Cosine, HidaMatern, Periodic, QuasiPeriodic
from .periodic import Seasonal
from .product import Product, Scaled
from .rbf import RBF
from .sho import SHO
from .sum import Sum
from .trend import Constant, IntegratedWiener, Linear, Wiener

__all__ = [
    "CARMA",
    "RBF",
    "SHO",
    "Constant",
    "Coregionalised",
    "Cosine",
    "Coupled",
    "HidaMatern",
    "IntegratedWiener",
    "Kernel",
    "Linear",
    "Matern12",
    "Matern32",
    "Matern52",
    "Periodic",
    "Product",
    "QuasiPeriodic",
    "Scaled",
    "Seasonal",
    "Separable",
    "Sum",
    "Wiener",
    "parse_kernel",
]
