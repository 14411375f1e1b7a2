"""Explicit Runge-Kutta steps of fixed size."""

from __future__ import annotations

from typing import final

from torch import Tensor

from .solver import Field, OdeSolver

__entries__ = [
    {
        "kind": "solvers",
        "name": "ode-euler",
        "target": "EULER",
        "summary": "ODE: explicit Euler, order 1",
    },
    {
        "kind": "solvers",
        "name": "ode-heun",
        "target": "HEUN",
        "summary": "ODE: Heun's trapezoidal predictor and corrector, order 2",
    },
    {
        "kind": "solvers",
        "name": "ode-rk4",
        "target": "RK4",
        "summary": "ODE: the classical method of Runge and Kutta, order 4",
        "references": ("Kutta (1901), Beitrag zur näherungsweisen Integration totaler Differentialgleichungen",),
    },
]


@final
class RungeKutta(OdeSolver):
    """k_i = f(t + c_i dt, z + dt sum_j a_ij k_j),  z' = z + dt sum_i b_i k_i.

    Args:
        order: of convergence.
        a: rows of the strictly lower triangle, the first stage's row left out.
        b: weights.

    Example:
        >>> import torch
        >>> round(float(RK4.step(lambda t, z: -z, torch.tensor(0.0), torch.ones(1), 0.1)), 5)
        0.90484
    """

    def __init__(self, order: int, a: tuple[tuple[float, ...], ...], b: tuple[float, ...]) -> None:
        self.order, self.a, self.b = order, a, b
        self.c = tuple(sum(row) for row in a)
        self.evaluations = len(b)

    def step(self, drift: Field, t: Tensor, z: Tensor, dt: float) -> Tensor:
        """The state ``[..., d]`` at ``t + dt``."""
        slopes = [drift(t, z)]
        for row, c in zip(self.a, self.c, strict=True):
            slopes.append(drift(t + c * dt, _combine(z, slopes, row, dt)))
        return _combine(z, slopes, self.b, dt)


def _combine(z: Tensor, slopes: list[Tensor], weights: tuple[float, ...], dt: float) -> Tensor:
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            z = z + slope * (weight * dt)
    return z


EULER = RungeKutta(1, (), (1.0,))
HEUN = RungeKutta(2, ((1.0,),), (0.5, 0.5))
RK4 = RungeKutta(4, ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
