"""The explicit method of Dormand and Prince, order 5(4)."""

from __future__ import annotations

from .tableau import EmbeddedRK, Tableau

__entries__ = [
    {
        "kind": "solvers",
        "name": "ode-dopri5",
        "target": "DOPRI5",
        "summary": "ODE: Dormand-Prince 5(4), explicit, adaptive with a step of its own for each series, dense output",
        "references": (
            "Dormand, Prince (1980), A family of embedded Runge-Kutta formulae",
            "Shampine (1986), Some practical Runge-Kutta formulas",
        ),
    },
]

DOPRI5 = EmbeddedRK(
    Tableau(
        order=5,
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        error=(
            35 / 384 - 5179 / 57600,
            0.0,
            500 / 1113 - 7571 / 16695,
            125 / 192 - 393 / 640,
            -2187 / 6784 + 92097 / 339200,
            11 / 84 - 187 / 2100,
            -1 / 40,
        ),
        dense=(
            (1.0, -2.8535800653862835, 3.0717434641059, -1.1270175653862837),
            (0.0, 0.0, 0.0, 0.0),
            (0.0, 4.023133379230304, -6.249321565289, 2.675424484351598),
            (0.0, -3.7324019615885042, 10.068970589843675, -5.685526961588504),
            (0.0, 2.5548038301849423, -6.399112377351017, 3.5219323679207912),
            (0.0, -1.3744241142186024, 3.272657752246729, -1.7672812570757455),
            (0.0, 1.3824689317781438, -3.7649378635562876, 2.382468931778144),
        ),
    )
)
