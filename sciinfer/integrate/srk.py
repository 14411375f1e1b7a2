"""``srk``: the stochastic Runge-Kutta method that suits the noise."""

from __future__ import annotations

from .solver import ADDITIVE, DIAGONAL, Solver
from .srk_additive import AdditiveSRK
from .srk_diagonal import DiagonalSRK
from .srk_general import GeneralSRK

__entries__ = [
    {
        "kind": "solvers",
        "name": "srk",
        "target": "srk",
        "summary": "SDE, Ito: srk-diagonal, srk-additive or srk-general, by the noise type",
        "references": ("Roessler (2010), Runge-Kutta methods for the strong approximation of solutions of SDEs",),
        "options": {"noise_type": "diagonal, additive or general"},
    },
]


def srk(noise_type: str = DIAGONAL) -> Solver:
    """Roessler's method for the noise type: strong order 3/2 for diagonal and additive noise, weak order 2 otherwise.

    Example:
        >>> type(srk("additive")).__name__
        'AdditiveSRK'
    """
    if noise_type == ADDITIVE:
        return AdditiveSRK(noise_type)
    return DiagonalSRK(noise_type) if noise_type == DIAGONAL else GeneralSRK(noise_type)
