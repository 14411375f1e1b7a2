"""``lstnet``: a convolution over all channels, recurrences at two rates, and a linear autoregression beside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..labelled.schema import Schema
from ..random import generator
from .window_model import require_whole
from .window_net import WindowNet, dense, draw_weights

__entries__ = [
    {
        "kind": "models",
        "name": "lstnet",
        "target": "lstnet",
        "summary": "convolution over channels, recurrences at two rates, and a linear autoregression beside",
        "references": [
            "Lai, Chang, Yang, Liu (2018), Modeling long- and short-term temporal patterns with deep neural networks",
        ],
        "options": {
            "context": "cells read",
            "horizon": "cells answered at once",
            "skip": "cells between the steps of the second recurrence, for example a day",
            "width": "of convolution and recurrence",
        },
    },
]

_KERNEL, _LINEAR = 6, 24


def lstnet(
    schema: Schema, *, seed: int = 0, context: int = 96, horizon: int = 24, skip: int = 24, width: int = 24
) -> LSTNet:
    r"""Build a long- and short-term network for regular data of this schema.

    :math:`\hat y = W [\mathrm{GRU}(c), \mathrm{GRU}_{skip}(c)] + \mathrm{AR}(x)`, ``c`` a convolution over six cells
    of all channels; the autoregression has the same weights for every channel and follows changes of scale.

    Args:
        schema: channels and time scale. seed: of the weights. context, horizon: ``L, H``. skip: cells. width: units.

    Raises:
        ConfigError: an option out of its range.

    References:
        Lai, Chang, Yang, Liu (2018), Modeling long- and short-term temporal patterns with deep neural networks

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> lstnet(Schema(axis, None, (Variable("a"),), (Channel("a"),)), context=48).skip
        24
    """
    require_whole(width, "width", 1, 24)
    require_whole(skip, "skip", 1, 24)
    return LSTNet(schema.n_channels, context, horizon, skip, width, seed)


class LSTNet(WindowNet):
    """See :func:`lstnet`."""

    def __init__(self, channels: int, context: int, horizon: int, skip: int, width: int, seed: int) -> None:
        super().__init__("lstnet", channels, context, horizon)
        g = generator(seed, "weights")
        self.skip, small = min(skip, context), max(width // 4, 1)
        self.convolve = nn.utils.skip_init(nn.Conv1d, channels, width, _KERNEL, dtype=torch.float64)
        self.recur, self.leap = _recurrence(width, width), _recurrence(width, small)
        for part in (self.convolve, self.recur, self.leap):
            draw_weights(part, g)
        self.head = dense(width + self.skip * small, horizon * channels, g, 0.1)
        self.linear = dense(min(_LINEAR, context), horizon, g, 0.1)

    def shape_of(self, context: Tensor) -> Tensor:
        """All channels together, and each alone by the autoregression."""
        first = nn.functional.pad(context.mT, (_KERNEL - 1, 0), mode="replicate")
        seen = torch.relu(self.convolve(first)).mT
        short = self.recur(seen)[1][0]
        whole = seen[:, -(seen.shape[1] // self.skip) * self.skip :]
        # one short series for each phase of the season
        phases = whole.unflatten(1, (-1, self.skip)).transpose(1, 2).flatten(0, 1)
        long = self.leap(phases)[1][0].unflatten(0, (-1, self.skip)).flatten(1)
        joint = self.head(torch.cat([short, long], dim=1)).unflatten(1, (self.horizon, self.channels))
        return joint + self.linear(context[:, -self.linear.in_features :].mT).mT


def _recurrence(inputs: int, units: int) -> nn.GRU:
    """Without starting weights: those of the library come from the global random state."""
    return nn.GRU(inputs, units, batch_first=True, dtype=torch.float64, device="meta").to_empty(device="cpu")
