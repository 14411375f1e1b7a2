"""Reversible Heun: one evaluation of each field a step, and a step that can be undone exactly."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from .solver import DIAGONAL, Field, Solver, rms

__entries__ = [
    {
        "kind": "solvers",
        "name": "reversible-heun",
        "target": "ReversibleHeun",
        "summary": "SDE, Stratonovich: strong order 1 for additive noise, else 1/2; exact gradients in O(1) memory",
        "references": ("Kidger, Foster, Li, Lyons (2021), Efficient and accurate gradients for neural SDEs",),
        "options": {"noise_type": "diagonal, additive or general"},
    },
]

#: z, y, f and g at (t, y)
Carry = tuple[Tensor, Tensor, Tensor, Tensor]


@final
class ReversibleHeun(Solver):
    """y' = 2 z - y + f dt + g dW;  z' = z + (f + f') dt / 2 + (g + g') dW / 2, with f, g at (t, y), f', g' at (t', y').

    y is a second solution that starts at z. Where the drift is stiff the two part company: take small steps there.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = ReversibleHeun().step(lambda t, z: -z, lambda t, z: 0 * z, t, one, 0.5, one)
        >>> z.tolist()
        [0.625]
    """

    calculus = "stratonovich"
    order = 0.5
    evaluations = 1
    starts = 1
    embeds = 0

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step from a fresh start; inside a loop the second solution is carried on instead."""
        return self.advance(drift, diffusion, t, self.begin(drift, diffusion, t, z), dt, dw)[0]

    def begin(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor) -> Carry:
        """The state twice, and both fields there."""
        return z, z, drift(t, z), self.whole(diffusion(t, z), z)

    def advance(self, drift: Field, diffusion: Field, t: Tensor, carry: Carry, dt: float, dw: Tensor) -> Carry:
        """One step."""
        z, _, f, g = carry
        later, y = t + dt, self.predict(carry, dt, dw)
        f_next, g_next = drift(later, y), self.whole(diffusion(later, y), z)
        return self.correct(z, f, g, f_next, g_next, dt, dw), y, f_next, g_next

    def state(self, carry: Carry) -> Tensor:
        """z."""
        return carry[0]

    def embedded(
        self, drift: Field, diffusion: Field, t: Tensor, carry: Carry, dt: float, dw: Tensor
    ) -> tuple[Carry, Tensor]:
        """The step and its distance to the Euler-Maruyama step with the fields at hand, without further evaluations."""
        z, _, f, g = carry
        after = self.advance(drift, diffusion, t, carry, dt, dw)
        return after, rms(after[0] - (z + f * dt + self.product(g, dw)))

    def predict(self, carry: Carry, dt: float, dw: Tensor) -> Tensor:
        """y'; with ``-dt, -dw`` and the carry at the end of a step, y at its start."""
        z, y, f, g = carry
        return 2.0 * z - y + f * dt + self.product(g, dw)

    def correct(self, z: Tensor, f: Tensor, g: Tensor, f_next: Tensor, g_next: Tensor, dt: float, dw: Tensor) -> Tensor:
        """z'; with ``-dt, -dw``, z at the start of the step that ends at z."""
        return z + (f + f_next) * (0.5 * dt) + self.product(g + g_next, dw) * 0.5

    def whole(self, g: Tensor, z: Tensor) -> Tensor:
        """The diffusion with all its dims, which a constant one may leave to broadcasting."""
        return g.expand_as(z) if self.noise_type == DIAGONAL else g.expand(*z.shape[:-1], *g.shape[-2:])

    def pull(self, g: Tensor, dw: Tensor, slope: Tensor) -> Tensor:
        """Gradient of ``slope . (g dW)`` in g."""
        return slope * dw if self.noise_type == DIAGONAL else torch.mul(slope.unsqueeze(-1), dw.unsqueeze(-2))
