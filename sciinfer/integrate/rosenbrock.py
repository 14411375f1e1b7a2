"""A linearly implicit step for stiff equations: stable at any step size, without iterations."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from .solver import Field, OdeSolver

__entries__ = [
    {
        "kind": "solvers",
        "name": "ode-rosenbrock",
        "target": "ROSENBROCK",
        "summary": "ODE: Rosenbrock's method ROS2, order 2, L-stable; for stiff equations of few dims",
        "references": ("Verwer, Spee, Blom, Hundsdorfer (1999), A second-order Rosenbrock method",),
    },
]

_GAMMA = 1.0 - 1.0 / math.sqrt(2.0)


@final
class Rosenbrock(OdeSolver):
    """(1 - gamma dt J) k1 = f(t, z),  (1 - gamma dt J) k2 = f(t + dt, z + dt k1) - 2 k1,  z' = z + dt (3 k1 + k2) / 2.

    J = df/dz of each series, by one reverse pass for each of the d components; series must not act on one another.
    Order 2 holds for any J; L-stability for gamma = 1 - 1/sqrt(2).

    Example:
        >>> import torch
        >>> z = ROSENBROCK.step(lambda t, z: -1e6 * z, torch.tensor(0.0), torch.ones(1, dtype=torch.float64), 1.0)
        >>> bool(z.abs() < 1e-5)
        True
    """

    order = 2
    evaluations = 2

    def step(self, drift: Field, t: Tensor, z: Tensor, dt: float) -> Tensor:
        """One step: two evaluations, d reverse passes and one factorisation of ``[d, d]`` for each series."""
        f, jacobian = linearised(drift, t, z)
        matrix = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device) - (_GAMMA * dt) * jacobian
        first = _solve(matrix, f)
        second = _solve(matrix, drift(t + dt, z + dt * first) - 2.0 * first)
        return z + dt * (1.5 * first + 0.5 * second)


def linearised(drift: Field, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """f ``[..., d]`` and df/dz ``[..., d, d]``."""
    value, pull = torch.func.vjp(lambda x: drift(t, x), z)[:2]
    ones = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return value, torch.stack([pull(row.expand_as(z))[0] for row in ones.unbind()], dim=-2)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    # a NaN in the matrix must reach the check of the states, which says where it came from
    return torch.linalg.solve_ex(matrix, right.unsqueeze(-1)).result.squeeze(-1)


ROSENBROCK = Rosenbrock()
