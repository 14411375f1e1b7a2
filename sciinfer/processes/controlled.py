"""Neural controlled differential equations solved by the log-ODE method: few steps for a path of any length."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..nets.mlp import linear
from ..nets.signature import Signature

#: increments of a window are limited softly to this size, so that a rough path cannot throw the state far away
LIMIT = 8.0


class Push(NamedTuple):
    """What a window does to a state: ``step [..., c]`` and Lévy ``area [..., c, c]``."""

    step: Tensor
    area: Tensor


def push_of(log: Signature, scale: Tensor, *, depth: int = 2) -> Push:
    """A log-signature in units of ``1 / scale [..., c]``, softly limited: ``x / sqrt(1 + |x|^2 / LIMIT^2)``."""
    step = log.one * scale
    area = log.two * scale[..., :, None] * scale[..., None, :] if depth > 1 else torch.zeros_like(log.two)
    return Push(_limited(step, 1), _limited(area, 2))


def _limited(x: Tensor, dims: int) -> Tensor:
    size = x.flatten(-dims).square().sum(-1)
    return x / (1 + size / LIMIT**2).sqrt()[(..., *[None] * dims)]


class ControlledField(nn.Module):
    """``dz = F(z) dX`` with ``F(z) [d, c]`` a net, advanced over a window by its log-ODE of depth two.

    The columns are bounded; that of time, the first channel, also forgets: ``F_0 = -r z + bounded``. Without it a
    nearly constant field would add increments up to nothing but the path's last value.

    ``dz/ds = F(z) Delta + sum_b DF_b(z) (F(z) A)_b`` for ``s`` in [0, 1], ``Delta`` the increment and ``A`` the Lévy
    area; the sum is ``sum_{a<b} A_ab [F_a, F_b]``, the Lie brackets of the columns. Its derivatives are written out, so
    that no nested differentiation is needed.

    Args:
        channels: ``c``. dim: ``d``. hidden: width. sign: -1 where time runs backwards. generator: starting weights.

    References:
        Morrill et al. (2021), Neural rough differential equations for long time series.
        Walker et al. (2024), Log neural controlled differential equations: the Lie brackets make a difference.
    """

    def __init__(self, channels: int, dim: int, hidden: int, *, sign: float = 1.0, generator: torch.Generator) -> None:
        super().__init__()
        self.channels, self.dim, self.sign = channels, dim, sign
        self.log_rate = nn.Parameter(torch.linspace(math.log(0.03), math.log(1.0), dim, dtype=torch.float64))
        self.into = linear(dim, hidden, generator=generator)
        self.out = linear(hidden, channels * dim, generator=generator)

    @property
    def leak(self) -> Tensor:
        """``-r [d]``, with the sign that forgets in the direction in which time runs."""
        return -self.sign * self.log_rate.clamp(max=0.5).exp()

    def columns(self, z: Tensor) -> Tensor:
        """``F^T [..., c, d]``."""
        return self._columns(z)[0]

    def _columns(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``F^T``, its bounded part, and the preactivation it comes from ``[..., hidden]``."""
        a = self.into(z)
        bounded = torch.tanh(self.out(nn.functional.silu(a))).unflatten(-1, (self.channels, self.dim))
        return torch.cat([bounded[..., :1, :] + (self.leak * z)[..., None, :], bounded[..., 1:, :]], dim=-2), bounded, a

    def velocity(self, z: Tensor, push: Push) -> Tensor:
        """``dz/ds``, ``[..., d]``."""
        F, bounded, a = self._columns(z)
        gate = torch.sigmoid(a)
        slope = gate * (1 + a * (1 - gate))
        # v_b = sum_a F_a A_ab moves column b of the field along itself
        along = push.area.mT @ F
        moved = (along @ self.into.weight.mT) * slope[..., None, :]
        weight = self.out.weight.unflatten(0, (self.channels, self.dim))
        turned = torch.einsum("bdh,...bh->...bd", weight, moved) * (1 - bounded.square())
        return (push.step[..., None, :] @ F)[..., 0, :] + turned.sum(-2) + self.leak * along[..., 0, :]

    def advance(self, z: Tensor, push: Push, steps: int = 1) -> Tensor:
        """Heun's method over the window, ``steps`` times, the forgetting solved exactly: stable however long it is.

        References:
            Cox, Matthews (2002), Exponential time differencing for stiff systems.
        """
        part = Push(push.step / steps, push.area / steps)
        fall = self.leak * part.step[..., :1]
        one, two = _weights(fall)
        for _ in range(steps):
            first = self.velocity(z, part)
            # e^L z + one (first - L z) = z + one first
            there = z + one * first
            z = there + two * (self.velocity(there, part) - first - fall * (there - z))
        return z


def _weights(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(e^x - 1) / x`` and ``(e^x - 1 - x) / x^2``."""
    small = x.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(x), x)
    one = torch.where(small, 1 + x / 2 + x.square() / 6, torch.expm1(safe) / safe)
    return one, torch.where(small, 0.5 + x / 6 + x.square() / 24, (one - 1) / safe)
