"""A stochastic Runge-Kutta step of strong order 3/2 for additive noise."""

from __future__ import annotations

from typing import final

from torch import Tensor

from .solver import ADDITIVE, DIAGONAL, Field, Solver

__entries__ = [
    {
        "kind": "solvers",
        "name": "srk-additive",
        "target": "AdditiveSRK",
        "summary": "SDE whose noise does not depend on the state: strong order 3/2 (SRA1), two drift evaluations",
        "references": ("Roessler (2010), Runge-Kutta methods for the strong approximation of solutions of SDEs",),
        "options": {"noise_type": "additive, or diagonal with a diffusion that depends on t alone"},
    },
]


@final
class AdditiveSRK(Solver):
    """Roessler's SRA1. With the mean height of the noise over the step, m = dW/2 + H = I_(1,0) / dt:

    z2 = z + 3/4 f dt + 3/2 g(t + dt) m;  z' = z + (f + 2 f(t + 3/4 dt, z2)) dt/3 + g(t + dt) dW + (g(t) - g(t + dt)) m

    g must not depend on z: the step does not look. Ito and Stratonovich are the same there.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = AdditiveSRK("diagonal").step(lambda t, z: -z, lambda t, z: 0 * z, t, one, 0.5, torch.zeros(2, 1))
        >>> z.tolist()
        [0.625]
    """

    calculus = "ito"
    order = 1.5
    evaluations = 2
    area = True
    forward_only = True
    accepts = (ADDITIVE, DIAGONAL)

    def __init__(self, noise_type: str = ADDITIVE) -> None:
        super().__init__(noise_type)

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step; two evaluations of each field."""
        whole, height = dw.unbind()
        mean = height.add(whole, alpha=0.5)
        f, g, late = drift(t, z), diffusion(t, z), diffusion(t + dt, z)
        middle = z.add(f, alpha=0.75 * dt).add_(self.product(late, mean), alpha=1.5)
        slope = f.add(drift(t + 0.75 * dt, middle), alpha=2.0)
        return z.add(slope, alpha=dt / 3.0) + self.product(late, whole - mean) + self.product(g, mean)
