"""Decoders: from a latent state to the likelihood's predictor."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from .mlp import MLP


class Decoder(nn.Module, ABC):
    """``z [..., d] -> eta [..., C]``."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """The predictor."""


class LinearDecoder(Decoder):
    """``eta = W z + b``.

    Args:
        dim, channels: sizes. generator: starting weights.
    """

    def __init__(self, dim: int, channels: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, dim, generator=generator, dtype=torch.float64) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        """``[..., C]``."""
        return z @ self.weight.mT + self.bias

    def moments(self, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[..., C]`` of ``eta`` when ``z ~ N(mean, cov)``."""
        return self(mean), ((self.weight @ cov) * self.weight).sum(-1)


class MLPDecoder(Decoder):
    """``eta = W z + b + net(z)``, the net starting at zero.

    Args:
        dim, channels: sizes. hidden: widths. generator: starting weights.
    """

    def __init__(self, dim: int, channels: int, hidden: tuple[int, ...], *, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = LinearDecoder(dim, channels, generator=generator)
        self.net = MLP(dim, channels, hidden, generator=generator, zero=True)

    def forward(self, z: Tensor) -> Tensor:
        """``[..., C]``."""
        return self.linear(z) + self.net(z)
