"""States between the steps, by the polynomials that come with a method."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .plan import StepPlan


def interpolate(dense: Tensor, theta: Tensor, z: Tensor, moves: Tensor) -> Tensor:
    """``z + sum_i b_i(theta) h k_i``: ``[N, d]``.

    Args:
        dense: ``[s, m]``. theta: ``[N]``. z: ``[N, d]``. moves: h k_i, ``[s, N, d]``.
    """
    powers = theta[:, None] ** torch.arange(1, dense.shape[1] + 1, device=theta.device)
    b = powers @ dense.mT
    return z + (b.mT[..., None] * moves).sum(0)


def fraction(times: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Where ``times`` lie in steps from t of size h, in [0, 1]; 0 in a step without length."""
    return ((times - t) / torch.where(h > 0, h, torch.ones_like(h))).clamp(0.0, 1.0)


class DenseOutput(NamedTuple):
    """The whole solution: ``plan``, states ``z [S, K, d]`` and moves ``[s, S, K, d]`` of all steps; ``reached [S]``:
    where each series ends, in upward time (an event lies inside its step)."""

    plan: StepPlan
    z: Tensor
    moves: Tensor
    weights: Tensor
    sign: Tensor
    batch: torch.Size
    reached: Tensor

    def __call__(self, times: Tensor) -> Tensor:
        """``[..., Q, d]`` at ``times [Q]`` or ``[..., Q]``; outside the span, the state at its end."""
        S = len(self.sign)
        asked = times if times.dim() > 1 else times.expand(S, -1)
        asked = asked.reshape(S, times.shape[-1]).to(self.z) * self.sign[:, None]
        asked = torch.minimum(asked, self.reached[:, None])
        place = self.plan.place(asked)
        row = torch.arange(S, device=place.device)[:, None].expand_as(place).reshape(-1)
        step = place.reshape(-1)
        t, h = self.plan.t[row, step], self.plan.h[row, step]
        theta = fraction(asked.reshape(-1), t, h)
        found = interpolate(self.weights, theta, self.z[row, step], self.moves[:, row, step])
        return found.reshape(*self.batch, times.shape[-1], self.z.shape[-1])
