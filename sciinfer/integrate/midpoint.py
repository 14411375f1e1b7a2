"""The stochastic midpoint rule, in the sense of Stratonovich."""

from __future__ import annotations

from typing import final

from torch import Tensor

from .solver import Field, Solver

__entries__ = [
    {
        "kind": "solvers",
        "name": "midpoint",
        "target": "Midpoint",
        "summary": "SDE, Stratonovich: strong order 1 for diagonal noise, order 2 without noise; any noise type",
        "references": ("Kloeden, Platen (1992), Numerical solution of stochastic differential equations",),
        "options": {"noise_type": "diagonal, additive or general"},
    },
]


@final
class Midpoint(Solver):
    """m = z + f dt / 2 + g dW / 2;  z' = z + f(t + dt/2, m) dt + g(t + dt/2, m) dW.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = Midpoint().step(lambda t, z: -z, lambda t, z: 0 * z, t, one, 0.5, one)
        >>> z.tolist()
        [0.625]
    """

    calculus = "stratonovich"
    order = 1.0
    evaluations = 2

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step, two evaluations of each field."""
        middle = z + drift(t, z) * (0.5 * dt) + self.product(diffusion(t, z), dw) * 0.5
        later = t + 0.5 * dt
        return z + drift(later, middle) * dt + self.product(diffusion(later, middle), dw)
