"""Drift-implicit Euler: stable for stiff drifts, with the Jacobian of each series."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ..errors import ConfigError
from .rosenbrock import linearised
from .solver import DIAGONAL, Field, Solver

__entries__ = [
    {
        "kind": "solvers",
        "name": "implicit-euler",
        "target": "ImplicitEuler",
        "summary": "SDE, Ito: order of Euler-Maruyama, implicit drift (theta, Newton); for stiff drifts of few dims",
        "references": (
            "Kloeden, Platen (1992), Numerical solution of stochastic differential equations, chapter 12",
            "Higham (2000), Mean-square and asymptotic stability of the stochastic theta method",
        ),
        "options": {
            "noise_type": "diagonal, additive or general",
            "theta": "1 (implicit, damps fast modes) to 1/2 (trapezoidal, order 2 without noise)",
            "newton": "Newton iterations; 1 is the linearly implicit (Rosenbrock) step",
        },
    },
]


@final
class ImplicitEuler(Solver):
    """z' = z + (theta f(t', z') + (1 - theta) f(t, z)) dt + g(t, z) dW, t' = t + dt, by Newton's method from z.

    Each iteration solves (1 - theta dt J) dz = -residual with J = df/dz of each series, by d reverse passes; series
    must not act on one another. Mean-square stable at any step size for theta >= 1/2 where the equation itself is.

    Args:
        noise_type: see :class:`~sciinfer.integrate.Solver`.
        theta: in [1/2, 1].
        newton: at least 1.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1, dtype=torch.float64)
        >>> z = ImplicitEuler().step(lambda t, z: -1e6 * z, lambda t, z: 0 * z, t, one, 1.0, one)
        >>> bool(z.abs() < 1e-5)
        True
    """

    calculus = "ito"
    order = 0.5
    evaluations = 1
    forward_only = True

    def __init__(self, noise_type: str = DIAGONAL, *, theta: float = 1.0, newton: int = 1) -> None:
        super().__init__(noise_type)
        if not 0.5 <= theta <= 1.0:
            raise ConfigError(f"theta must lie in [1/2, 1], got {theta}", fix="use 1.0, or euler-maruyama for 0")
        if newton < 1:
            raise ConfigError(f"newton must be at least 1, got {newton}", fix="use 1")
        self.theta, self.newton = theta, newton
        self.evaluations = newton + (theta < 1.0)

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step: ``newton`` Jacobians and factorisations of ``[d, d]`` for each series."""
        known, later, weight = z + self.product(diffusion(t, z), dw), t + dt, self.theta * dt
        if self.theta < 1.0:
            known = known + drift(t, z) * (dt - weight)
        found = z
        for _ in range(self.newton):
            f, jacobian = linearised(drift, later, found)
            matrix = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device) - weight * jacobian
            # a NaN in the matrix must reach the check of the states, which says where it came from
            residual = (known + weight * f - found).unsqueeze(-1)
            found = found + torch.linalg.solve_ex(matrix, residual).result.squeeze(-1)
        return found
