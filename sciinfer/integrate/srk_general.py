"""A stochastic Runge-Kutta step of weak order 2 for noise of any kind."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from .solver import ADDITIVE, GENERAL, Field, Solver

__entries__ = [
    {
        "kind": "solvers",
        "name": "srk-general",
        "target": "GeneralSRK",
        "summary": "SDE, Ito, noise of any kind: weak order 2 (RI6), strong order 1/2",
        "references": ("Roessler (2009), Second order Runge-Kutta methods for Ito SDEs",),
        "options": {"noise_type": "general or additive"},
    },
]


@final
class GeneralSRK(Solver):
    """Roessler's RI6. Iterated integrals of noncommutative noise are not known along a path; the step replaces them by

    I_kl = (dW_k dW_l -+ sqrt(dt) V)/2 (- for k < l with V = V_k, + for k > l with V = V_l),  V_k = sqrt(dt) sign(H_k),

    whose moments are right to second order. Hence the law of the state has order 2, the single path order 1/2.
    A step costs 2 evaluations of the drift and 4 m + 1 of the diffusion, m the number of noises.

    Example:
        >>> import torch
        >>> t, one = torch.tensor(0.0), torch.ones(1)
        >>> z = GeneralSRK().step(lambda t, z: -z, lambda t, z: 0 * z[..., None], t, one, 0.5, torch.zeros(2, 1))
        >>> z.tolist()
        [0.625]
    """

    calculus = "ito"
    order = 0.5
    evaluations = 2
    area = True
    forward_only = True
    accepts = (GENERAL, ADDITIVE)

    def __init__(self, noise_type: str = GENERAL) -> None:
        super().__init__(noise_type)

    def step(self, drift: Field, diffusion: Field, t: Tensor, z: Tensor, dt: float, dw: Tensor) -> Tensor:
        """One step."""
        whole, height = dw.unbind()
        root, later = math.sqrt(dt), t + dt
        f, g = drift(t, z), diffusion(t, z)
        ahead = z + f * dt
        total = z + (f + drift(later, ahead + self.product(g, whole))) * (0.5 * dt) + self.product(g, whole) * 0.5
        twice = _iterated(whole, height, dt)
        for k in range(g.shape[-1]):
            column, increment = g[..., k], whole[..., k : k + 1]
            up = diffusion(later, ahead + column * root)[..., k]
            down = diffusion(later, ahead - column * root)[..., k]
            total = total + (up + down) * (0.25 * increment) + (up - down) * (0.5 / root * twice[..., k, k, None])
            # the other noises as they move the state at the start of the step
            shift = self.product(g, twice[..., k, :] * _others(g, k)) / root
            up, down = diffusion(t, z + shift)[..., k], diffusion(t, z - shift)[..., k]
            total = total + (up + down - 2.0 * column) * (0.25 * increment) + (up - down) * (0.5 * root)
        return total


def _iterated(whole: Tensor, height: Tensor, dt: float) -> Tensor:
    """``[..., m, m]``: the substitutes of the iterated integrals."""
    m = whole.shape[-1]
    signs = torch.where(height < 0, -1.0, 1.0).to(whole) * dt
    order = torch.arange(m, device=whole.device)
    before, after = (order[:, None] < order).to(whole), (order[:, None] > order).to(whole)
    turn = -signs.unsqueeze(-1) * before + signs.unsqueeze(-2) * after
    return 0.5 * (
        whole.unsqueeze(-1) * whole.unsqueeze(-2) + turn - dt * torch.eye(m, dtype=whole.dtype, device=whole.device)
    )


def _others(g: Tensor, k: int) -> Tensor:
    return (torch.arange(g.shape[-1], device=g.device) != k).to(g)
