"""Potentials of low rank from data: one of each row, one of all that comes after it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..nets import MLP, linear
from ..statespace import linear_recurrence
from .xfads_steps import Potentials


class LocalEncoder(nn.Module):
    """``alpha(y_t)``: shift ``[d]`` and factor ``[d, r]`` of each row by a perceptron of values and mask.

    Args:
        channels, dim, rank, hidden: sizes. generator: starting weights.
    """

    def __init__(self, channels: int, dim: int, rank: int, hidden: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.dim, self.rank = dim, rank
        self.net = MLP(2 * channels, dim * (1 + rank), (hidden,), generator=generator)

    def forward(self, values: Tensor, mask: Tensor, kept: Tensor) -> Potentials:
        """``values, mask [S, T, C]``; ``kept [S, T]``: rows that are read, the others say nothing."""
        return _split(self.net(torch.cat([values, mask.to(values.dtype)], -1)) * kept[..., None], self.dim)


class BackwardEncoder(nn.Module):
    """``beta(alpha_{t+1:T})``: a recurrence that runs back over irregular gaps, then a perceptron.

    ``h_t = u(alpha_t) + exp(-r (t_{k+1} - t_k)) h_{t+1}`` with learned complex rates ``r``; row ``k`` sees
    ``exp(-r gap) h_{k+1}`` only.

    Args:
        dim, inner, rank, hidden: sizes of the state, of the local rank, of this rank, of the recurrence.
        generator: starting weights.
    """

    def __init__(self, dim: int, inner: int, rank: int, hidden: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.dim, states = dim, max(hidden // 2, 1)
        self.into = linear(dim * (1 + inner), 2 * states, generator=generator)
        self.log_decay = nn.Parameter(torch.linspace(math.log(0.02), math.log(3.0), states, dtype=torch.float64))
        self.frequency = nn.Parameter(torch.rand(states, generator=generator, dtype=torch.float64))
        self.head = MLP(2 * states, dim * (1 + rank), (hidden,), generator=generator)

    def forward(self, time: Tensor, alpha: Potentials, kept: Tensor) -> Potentials:
        """``time [S, T]`` ascending; nothing is said where no kept row comes after."""
        rate = torch.complex(-self.log_decay.exp(), self.frequency)
        flat = torch.cat([alpha.shift, alpha.factor.flatten(-2)], -1)
        u = torch.view_as_complex(self.into(flat).unflatten(-1, (-1, 2)))
        # scaling by the memory's length keeps slow states from dwarfing fast ones
        u = u * (-torch.expm1(2 * rate.real)).sqrt() * kept[..., None]
        gate = (rate * time.diff(dim=1)[..., None]).exp()
        after = torch.cat([gate, torch.ones_like(gate[:, :1]) if gate.shape[1] else torch.ones_like(u)], 1)
        state = linear_recurrence(after, u, reverse=True)
        seen = torch.cat([gate * state[:, 1:], torch.zeros_like(state[:, :1])], 1)
        some = kept.to(time.dtype)
        later = some.flip(1).cumsum(1).flip(1) - some > 0
        found = self.head(torch.view_as_real(seen).flatten(-2))
        return _split(found * later[..., None], self.dim)


def add(first: Potentials, second: Potentials) -> Potentials:
    """The product of two potentials."""
    return Potentials(first.shift + second.shift, torch.cat([first.factor, second.factor], -1))


def _split(flat: Tensor, dim: int) -> Potentials:
    return Potentials(flat[..., :dim], flat[..., dim:].unflatten(-1, (dim, -1)))
