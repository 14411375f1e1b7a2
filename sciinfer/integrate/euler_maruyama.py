"""Euler-Maruyama: the plain Ito step."""

from __future__ import annotations

from typing import final

from torch import Tensor

from .solver import Carry, Field, Solver, rms

__entries__ = [
    {
        "kind": "solvers",
        "name": "euler-maruyama",
        "target": "EulerMaruyama",
        "summary": "SDE, Ito: strong order 1/2 (1 for additive noise), weak order 1; any noise type",
        "references": ("Maruyama (1955), Continuous Markov processes and stochastic equations",),
        "options": {"noise_type": "diagonal, additive or general"},
    },
]


@final
class EulerMaruyama(Solver):
    """z' = z + f(t, z) dt + g(t, z) dW.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = EulerMaruyama().step(lambda t, z: -z, lambda t, z: 0 * z, t, one, 0.5, one)
        >>> z.tolist()
        [0.5]
    """

    calculus = "ito"
    order = 0.5
    evaluations = 1

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step; separate products and sums, so that a row has the same bits in any batch."""
        # sums in place: for large batches, fresh memory would cost more than the arithmetic
        return (drift(t, z) * dt).add_(z).add_(self.product(diffusion(t, z), dw))

    def embedded(
        self, drift: Field, diffusion: Field, t: Tensor, carry: Carry, dt: float, dw: Tensor
    ) -> tuple[Carry, Tensor]:
        """The step and its distance to the one with a trapezoidal drift."""
        f = drift(t, carry)
        ahead = carry + f * dt + self.product(diffusion(t, carry), dw)
        return ahead, rms((drift(t + dt, ahead) - f) * (0.5 * dt))
