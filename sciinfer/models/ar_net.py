"""``ar-net``: a long sparse autoregression trained by gradient steps, iterated."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from .window_model import require_whole
from .window_net import WindowNet

__entries__ = [
    {
        "kind": "models",
        "name": "ar-net",
        "target": "ar_net",
        "summary": "a long, sparse autoregression trained on windows and iterated ahead",
        "references": ["Triebe, Laptev, Rajagopal (2019), AR-Net: a simple auto-regressive neural network"],
        "options": {
            "order": "lags read",
            "horizon": "cells answered at once",
            "sparsity": "pull of weak lags to zero",
        },
    },
]


def ar_net(schema: Schema, *, seed: int = 0, order: int = 48, horizon: int = 24, sparsity: float = 1e-3) -> ARNet:
    r"""Build an autoregression for regular data of this schema.

    :math:`y_{t+1} - y_t = \sum_j w_j (y_{t-j} - y_t)`, the same weights for every channel, iterated to the horizon;
    the penalty is the mean of :math:`2 / (1 + \exp(-3 |w|^{1/3})) - 1`.

    Args:
        schema: channels and time scale. seed: unused. order: ``p``. horizon: ``H``. sparsity: weight of the penalty.

    Raises:
        ConfigError: an option out of its range.

    References:
        Triebe, Laptev, Rajagopal (2019), AR-Net: a simple auto-regressive neural network for time-series

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> ar_net(Schema(axis, None, (Variable("a"),), (Channel("a"),)), order=12).weight.shape
        torch.Size([12])
    """
    require_whole(order, "order", 1, 48)
    if not isinstance(sparsity, int | float) or isinstance(sparsity, bool) or not 0 <= sparsity < math.inf:
        raise ConfigError(f"sparsity must be >= 0, got {sparsity!r}", variable="sparsity", fix="sparsity=1e-3")
    return ARNet(schema.n_channels, order, horizon, float(sparsity))


class ARNet(WindowNet):
    """See :func:`ar_net`."""

    def __init__(self, channels: int, order: int, horizon: int, sparsity: float) -> None:
        super().__init__("ar-net", channels, order, horizon)
        self.sparsity = sparsity
        self.weight = nn.Parameter(torch.zeros(order, dtype=torch.float64))

    def shape_of(self, context: Tensor) -> Tensor:
        """One cell after the other."""
        window, found = context, []
        for _ in range(self.horizon):
            last = window[:, -1]
            fresh = last + torch.einsum("blc,l->bc", window - last[:, None], self.weight)
            found.append(fresh)
            window = torch.cat([window[:, 1:], fresh[:, None]], dim=1)
        return torch.stack(found, dim=1)

    def penalty(self) -> Tensor:
        """Concave in each weight: many become small, few stay."""
        root = (self.weight.abs() + 1e-6) ** (1 / 3)
        return super().penalty() + self.sparsity * (2 * torch.sigmoid(3 * root) - 1).mean()
