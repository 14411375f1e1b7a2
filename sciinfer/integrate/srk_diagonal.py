"""A stochastic Runge-Kutta step of strong order 3/2 for diagonal noise."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor

from .solver import DIAGONAL, Field, Solver

__entries__ = [
    {
        "kind": "solvers",
        "name": "srk-diagonal",
        "target": "DiagonalSRK",
        "summary": "SDE, Ito, diagonal noise: strong order 3/2 (SRI1W1), two drift evaluations, no derivatives",
        "references": ("Roessler (2010), Runge-Kutta methods for the strong approximation of solutions of SDEs",),
        "options": {"noise_type": "diagonal"},
    },
]


@final
class DiagonalSRK(Solver):
    """Roessler's SRI1W1: stages z2 for the drift and y2, y3, y4 for the diffusion, with r = sqrt(dt), m = dW/2 + H:

    y2 = z + f dt/4 + g r/2,   z2 = z + 3/4 f dt + 3/2 g m
    y3 = z + f dt - g r,       y4 = z + f dt/4 + (3 g2 - 5 g + g3/2) r
    z' = z + (f + 2 f2) dt/3 + sum_i b_i g_i

    with weights b_i made of dW, (dW^2 - dt)/(2 r), m and (dW^3 - 3 dt dW)/(6 dt).

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = DiagonalSRK().step(lambda t, z: -z, lambda t, z: 0 * z, t, one, 0.5, torch.zeros(2, 1))
        >>> z.tolist()
        [0.625]
    """

    calculus = "ito"
    order = 1.5
    evaluations = 2
    area = True
    forward_only = True
    accepts = (DIAGONAL,)

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step: two evaluations of the drift, four of the diffusion."""
        whole, height = dw.unbind()
        root, mean = math.sqrt(dt), height.add(whole, alpha=0.5)
        quarter, later = t + 0.25 * dt, t + dt
        f, g = drift(t, z), diffusion(t, z)
        near = z.add(f, alpha=0.25 * dt)
        g2 = diffusion(quarter, near.add(g, alpha=0.5 * root))
        g3 = diffusion(later, z.add(f, alpha=dt).sub_(g, alpha=root))
        g4 = diffusion(quarter, near.add(g2, alpha=3.0 * root).sub_(g, alpha=5.0 * root).add_(g3, alpha=0.5 * root))
        f2 = drift(t + 0.75 * dt, z.add(f, alpha=0.75 * dt).addcmul_(g, mean, value=1.5))
        first, second, third, fourth = _weights(whole, mean, dt, root)
        moved = z.add(f.add(f2, alpha=2.0), alpha=dt / 3.0)
        return moved.addcmul_(g, first).addcmul_(g2, second).addcmul_(g3, third).addcmul_(g4, fourth)


def _weights(whole: Tensor, mean: Tensor, dt: float, root: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of g, g2, g3, g4.

    With I = dW, J = (dW^2 - dt)/(2 r), K = (dW^3 - 3 dt dW)/(6 dt): -I - J + 2 m - 2 K, 4/3 (I + J - m) + 5/3 K,
    2/3 (I - m - K) - J/3, K.
    """
    square = whole * whole
    turn = (square - dt).mul_(0.5 / root)
    cube = (square - 3.0 * dt).mul_(whole).mul_(1.0 / (6.0 * dt))
    rest = whole - mean
    first = (mean - turn).sub_(rest).sub_(cube, alpha=2.0)
    second = (rest + turn).mul_(4.0 / 3.0).add_(cube, alpha=5.0 / 3.0)
    third = (rest - cube).mul_(2.0 / 3.0).sub_(turn, alpha=1.0 / 3.0)
    return first, second, third, cube
