"""Multi-layer perceptrons with an explicit generator for their starting weights."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """``inputs -> hidden -> ... -> outputs`` with a smooth activation (SiLU: drifts must be differentiable).

    Args:
        inputs, outputs: sizes. hidden: widths of the hidden layers.
        zero: start with the last layer at zero, so that the net begins as a correction of nothing.
        generator: source of the starting weights.

    Example:
        >>> from sciinfer.random import generator
        >>> MLP(2, 1, (8,), generator=generator(0, "net"))(torch.zeros(3, 2, dtype=torch.float64)).shape
        torch.Size([3, 1])
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: tuple[int, ...], *, generator: torch.Generator, zero: bool = False
    ) -> None:
        super().__init__()
        sizes = (inputs, *hidden, outputs)
        self.layers = nn.ModuleList(linear(a, b, generator=generator) for a, b in itertools.pairwise(sizes))
        if zero:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs] -> [..., outputs]``."""
        for layer in list(self.layers)[:-1]:
            x = nn.functional.silu(layer(x))
        return self.layers[-1](x)


def linear(inputs: int, outputs: int, *, generator: torch.Generator) -> nn.Linear:
    """A float64 linear layer, weights uniform within ``1/sqrt(inputs)``, drawn from ``generator``."""
    # built on "meta" so that the constructor's own draw never touches the global random state
    layer = nn.Linear(inputs, outputs, dtype=torch.float64, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(max(inputs, 1))
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
