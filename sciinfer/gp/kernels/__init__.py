"""Kernels of time with an exact state-space form."""

from .base import Kernel
from .expression import parse_kernel
from .matern import Matern12, Matern32, Matern52
from .periodic import Seasonal
from .sum import Sum
from .trend import Constant, IntegratedWiener, Wiener

__all__ = [
    "Constant",
    "IntegratedWiener",
    "Kernel",
    "Matern12",
    "Matern32",
    "Matern52",
    "Seasonal",
    "Sum",
    "Wiener",
    "parse_kernel",
]
