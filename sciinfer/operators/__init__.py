"""Forward operators: what an instrument does to a signal. Each knows its dims, its adjoint and whether it is linear."""

from .base import Operator, Spec, adjoint_by_vjp
from .check import as_operator, check_operator
from .combine import Composition, Sum
from .convolution import Convolution
from .function import FunctionOperator, from_function
from .identity import Identity
from .mask import Mask
from .matrix import Matrix
from .subsample import Subsample

__all__ = [
    "Composition",
    "Convolution",
    "FunctionOperator",
    "Identity",
    "Mask",
    "Matrix",
    "Operator",
    "Spec",
    "Subsample",
    "Sum",
    "adjoint_by_vjp",
    "as_operator",
    "check_operator",
    "from_function",
]
