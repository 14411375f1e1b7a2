"""``n-hits``: blocks that read and answer at several rates, each what those before left over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..labelled.schema import Schema
from ..random import generator
from .window_model import require_whole
from .window_net import WindowNet, perceptron

__entries__ = [
    {
        "kind": "models",
        "name": "n-hits",
        "target": "n_hits",
        "summary": "blocks that pool the past and interpolate the future at several rates",
        "references": [
            "Challu et al. (2023), N-HiTS: neural hierarchical interpolation for time series forecasting",
        ],
        "options": {
            "context": "cells read",
            "horizon": "cells answered at once",
            "width": "of the hidden layers",
        },
    },
]

#: pooling of the past, and leads for one number of the future, by block
_POOLS, _RATES = (8, 4, 1), (12, 4, 1)


def n_hits(schema: Schema, *, seed: int = 0, context: int = 96, horizon: int = 24, width: int = 64) -> NHiTS:
    r"""Build a hierarchical interpolator for regular data of this schema.

    Block ``l`` pools what is left of the window by its rate, maps it by a perceptron to a few numbers of past and
    future, interpolates both linearly; :math:`x \leftarrow x - \hat x_l`, :math:`\hat y = \sum_l \hat y_l`.

    Args:
        schema: channels and time scale. seed: of the weights. context, horizon: ``L, H``. width: hidden units.

    Raises:
        ConfigError: an option out of its range.

    References:
        Challu et al. (2023), N-HiTS: neural hierarchical interpolation for time series forecasting

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> len(n_hits(Schema(axis, None, (Variable("a"),), (Channel("a"),))).blocks)
        3
    """
    require_whole(width, "width", 1, 64)
    return NHiTS(schema.n_channels, context, horizon, width, seed)


class NHiTS(WindowNet):
    """See :func:`n_hits`."""

    def __init__(self, channels: int, context: int, horizon: int, width: int, seed: int) -> None:
        super().__init__("n-hits", channels, context, horizon)
        g = generator(seed, "weights")
        self.blocks = nn.ModuleList(
            _Block(context, horizon, width, p, r, g) for p, r in zip(_POOLS, _RATES, strict=True)
        )

    def shape_of(self, context: Tensor) -> Tensor:
        """Every channel alone, the same weights."""
        left = context.permute(0, 2, 1).flatten(0, 1)
        total = left.new_zeros(len(left), self.horizon)
        for block in self.blocks:
            past, future = block(left)
            left, total = left - past, total + future
        return total.unflatten(0, (-1, self.channels)).permute(0, 2, 1)


class _Block(nn.Module):
    def __init__(self, context: int, horizon: int, width: int, pool: int, rate: int, g: torch.Generator) -> None:
        super().__init__()
        self.context, self.horizon, self.pool = context, horizon, min(pool, context)
        self.past, self.future = max(context // rate, 1), max(horizon // rate, 1)
        inputs = -(-context // self.pool)
        self.net = perceptron([inputs, width, width, self.past + self.future], g)

    def forward(self, left: Tensor) -> tuple[Tensor, Tensor]:
        short = -self.context % self.pool
        whole = nn.functional.pad(left[:, None], (short, 0), mode="replicate")
        numbers = self.net(nn.functional.max_pool1d(whole, self.pool)[:, 0])
        past, future = numbers.split([self.past, self.future], dim=1)
        return _stretched(past, self.context), _stretched(future, self.horizon)


def _stretched(numbers: Tensor, width: int) -> Tensor:
    """``[B, K]`` to ``[B, width]``, linear between the numbers."""
    return nn.functional.interpolate(numbers[:, None], size=width, mode="linear", align_corners=False)[:, 0]
