"""Stochastic Heun: predictor and trapezoidal corrector, in the sense of Stratonovich."""

from __future__ import annotations

from typing import final

from torch import Tensor

from .solver import Carry, Field, Solver, rms

__entries__ = [
    {
        "kind": "solvers",
        "name": "heun",
        "target": "Heun",
        "summary": "SDE, Stratonovich: strong order 1 for diagonal noise, order 2 without noise; any noise type",
        "references": ("Kloeden, Platen (1992), Numerical solution of stochastic differential equations",),
        "options": {"noise_type": "diagonal, additive or general"},
    },
]


@final
class Heun(Solver):
    """z~ = z + f dt + g dW;  z' = z + (f + f~) dt / 2 + (g + g~) dW / 2, with f~, g~ at (t + dt, z~).

    The drift is the Stratonovich drift: for diagonal noise, the Ito drift minus g dg/dz / 2.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = Heun().step(lambda t, z: -z, lambda t, z: 0 * z, t, one, 0.5, one)
        >>> z.tolist()
        [0.625]
    """

    calculus = "stratonovich"
    order = 1.0
    evaluations = 2
    embeds = 0

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step, two evaluations of each field."""
        return self._both(drift, diffusion, t, z, dt, dw)[0]

    def embedded(
        self, drift: Field, diffusion: Field, t: Tensor, carry: Carry, dt: float, dw: Tensor
    ) -> tuple[Carry, Tensor]:
        """The step and its distance to the predictor, without further evaluations."""
        after, guess = self._both(drift, diffusion, t, carry, dt, dw)
        return after, rms(after - guess)

    def _both(
        self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor
    ) -> tuple[Tensor, Tensor]:
        f, g, later = drift(t, z), diffusion(t, z), t + dt
        guess = z + f * dt + self.product(g, dw)
        ahead = drift(later, guess), diffusion(later, guess)
        return z + (f + ahead[0]) * (0.5 * dt) + self.product(g + ahead[1], dw) * 0.5, guess
