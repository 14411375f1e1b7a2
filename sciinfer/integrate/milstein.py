"""Milstein: Euler-Maruyama plus the term that the variation of the noise across a step adds."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from .solver import ADDITIVE, DIAGONAL, Field, Solver

__entries__ = [
    {
        "kind": "solvers",
        "name": "milstein",
        "target": "Milstein",
        "summary": "SDE, Ito: strong order 1 for diagonal noise; the diffusion is differentiated",
        "references": ("Milstein (1975), Approximate integration of stochastic differential equations",),
        "options": {"noise_type": "diagonal or additive"},
    },
]


@final
class Milstein(Solver):
    """z' = z + f dt + g dW + g (dg/dz) (dW^2 - dt) / 2, component by component.

    Additive noise has dg/dz = 0, and the step is Euler-Maruyama's.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = Milstein().step(lambda t, z: 0 * z, lambda t, z: z, t, one, 0.5, one)
        >>> z.tolist()
        [2.25]
    """

    calculus = "ito"
    order = 1.0
    evaluations = 1
    accepts = (DIAGONAL, ADDITIVE)

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step; for diagonal noise the derivative of g along g is one reverse-mode product."""
        if self.noise_type == ADDITIVE:
            return z + drift(t, z) * dt + self.product(diffusion(t, z), dw)
        g = diffusion(t, z).expand_as(z)
        pull = torch.func.vjp(lambda x: diffusion(t, x).expand_as(x), z)[1]
        return z + drift(t, z) * dt + g * dw + pull(g)[0] * ((dw * dw - dt) * 0.5)
