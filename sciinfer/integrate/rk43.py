"""The classical method of order 4 with an embedded one of order 3, and a cubic between the steps."""

from __future__ import annotations

from .tableau import EmbeddedRK, Tableau

__entries__ = [
    {
        "kind": "solvers",
        "name": "ode-rk43",
        "target": "RK43",
        "summary": "ODE: the classical Runge-Kutta method 4(3), explicit, adaptive; cheap where tolerances are loose",
        "references": ("Hairer, Norsett, Wanner (1993), Solving ordinary differential equations I, exercise II.4.1",),
    },
]

# the slope at the end takes the place of the fourth one in the embedded method; dense output by Hermite's cubic
RK43 = EmbeddedRK(
    Tableau(
        order=4,
        a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
        error=(0.0, 0.0, 0.0, 1 / 6, -1 / 6),
        dense=((1.0, -1.5, 2 / 3), (0.0, 1.0, -2 / 3), (0.0, 1.0, -2 / 3), (0.0, 0.5, -1 / 3), (0.0, -1.0, 1.0)),
    )
)
