"""Encoders read a whole ragged series and give a context vector at each of its rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.series import Padded
from ..statespace.recurrence import linear_recurrence
from .mlp import MLP, linear


class Encoder(nn.Module, ABC):
    """``Padded -> [S, T, width]``; a row's context does not depend on padding nor on other series."""

    width: int

    @abstractmethod
    def forward(self, padded: Padded) -> Tensor:
        """Context of each row, zero in padding."""


def row_features(padded: Padded) -> Tensor:
    """Values, mask, and the logarithms of the steps before and after: ``[S, T, 2 C + 2]``."""
    step = padded.time.diff(dim=1)
    zero = torch.zeros_like(padded.time[:, :1])
    before, after = torch.cat([zero, step], 1), torch.cat([step, zero], 1)
    steps = torch.stack([before, after], dim=-1).clamp(min=0.0).log1p()
    return torch.cat([padded.values, padded.mask.to(padded.values.dtype), steps], dim=-1)


class ScanEncoder(Encoder):
    """Layers of two-sided diagonal linear recurrences over irregular steps, by an associative scan.

    ``h_k = exp(-r (t_k - t_{k-1})) h_{k-1} + u_k`` with learned complex rates ``r``, once in each direction.

    References:
        Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling.
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 1, *, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.embed = linear(2 * channels + 2, width, generator=generator)
        self.layers = nn.ModuleList(_ScanLayer(width, generator=generator) for _ in range(layers))

    def forward(self, padded: Padded) -> Tensor:
        """``[S, T, width]``."""
        rows = padded.rows[..., None].to(padded.values.dtype)
        x = self.embed(row_features(padded)) * rows
        for layer in self.layers:
            x = layer(x, padded.time, rows) * rows
        return x


class _ScanLayer(nn.Module):
    """Norm, two-sided recurrence, gated mixing, residual."""

    def __init__(self, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        states = max(width // 2, 1)
        self.norm = nn.LayerNorm(width, dtype=torch.float64)
        self.into = linear(width, 2 * states, generator=generator)
        # memory from a fraction of a typical gap up to hundreds of gaps
        self.log_decay = nn.Parameter(torch.linspace(math.log(0.005), math.log(3.0), states, dtype=torch.float64))
        self.frequency = nn.Parameter(torch.rand(states, generator=generator, dtype=torch.float64))
        self.out = linear(4 * states, 2 * width, generator=generator)

    def forward(self, x: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        u = torch.view_as_complex(self.into(self.norm(x)).unflatten(-1, (-1, 2)))
        rate = torch.complex(-self.log_decay.exp(), self.frequency)
        # unit-variance scaling keeps slow states from dwarfing fast ones
        # and padding must not drive the states
        u = u * (-torch.expm1(2 * rate.real)).sqrt() * rows
        step = torch.cat([torch.zeros_like(time[:, :1]), time.diff(dim=1)], dim=1)[..., None]
        gate = (rate * step).exp()
        ahead = linear_recurrence(gate, u)
        after = torch.cat([gate[:, 1:], torch.ones_like(gate[:, :1])], dim=1)
        back = linear_recurrence(after, u, reverse=True)
        both = torch.view_as_real(torch.cat([ahead, back], dim=-1)).flatten(-2)
        value, control = self.out(both).chunk(2, dim=-1)
        return x + value * control.sigmoid()


class AttentionEncoder(Encoder):
    """Self-attention over rows with continuous-time features; padded rows are invisible.

    References:
        Vaswani et al. (2017), Attention is all you need. Shukla, Marlin (2021), Multi-time attention networks.
    """

    def __init__(
        self, channels: int, width: int = 32, layers: int = 2, heads: int = 4, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"width {width} cannot be shared by {heads} heads", variable="width", fix=f"a multiple of {heads}"
            )
        self.width = width
        self.frequencies = nn.Parameter(torch.logspace(-2, 0.5, width // 2, dtype=torch.float64))
        self.embed = linear(2 * channels + 2 + 2 * (width // 2), width, generator=generator)
        self.layers = nn.ModuleList(_AttentionLayer(width, heads, generator=generator) for _ in range(layers))

    def forward(self, padded: Padded) -> Tensor:
        """``[S, T, width]``."""
        rows = padded.rows[..., None].to(padded.values.dtype)
        angle = (padded.time - padded.time[:, :1])[..., None] * self.frequencies
        x = self.embed(torch.cat([row_features(padded), angle.sin(), angle.cos()], dim=-1)) * rows
        for layer in self.layers:
            x = layer(x, padded.rows) * rows
        return x


class _AttentionLayer(nn.Module):
    """Norm, masked attention, residual; norm, perceptron, residual."""

    def __init__(self, width: int, heads: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, dtype=torch.float64) for _ in range(2))
        self.qkv = linear(width, 3 * width, generator=generator)
        self.out = linear(width, width, generator=generator)
        self.mlp = MLP(width, width, (2 * width,), generator=generator)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        score = q @ k.mT / math.sqrt(q.shape[-1])
        score = score.masked_fill(~rows[:, None, None, :], -1e30)
        x = x + self.out((score.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))
