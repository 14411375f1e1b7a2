"""``k2-koopman``: patches advanced by a linear operator, corrected by a learned Kalman filter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..nets import MLP
from ..random import generator
from .k2_koopman_parts import LearnedFilter, bounded, local_operator
from .window_model import Answer, require_whole
from .window_net import WindowNet

__entries__ = [
    {
        "kind": "models",
        "name": "k2-koopman",
        "target": "k2_koopman",
        "summary": "patches advanced by a linear operator and a learned filter (far ahead, nlinear is better)",
        "references": [
            "Wu, Qiu, Gao, Hu, Yang, Guo (2025), K2VAE: a Koopman-Kalman enhanced variational autoencoder for "
            "probabilistic time series forecasting",
        ],
        "options": {
            "context": "cells read, on the data's grid",
            "horizon": "cells answered at once",
            "patch": "cells of a patch; best a period of the data",
            "dim": "measurement functions; default patch + 8",
            "width": "hidden units of encoder and decoder",
        },
    },
]


def k2_koopman(
    schema: Schema,
    *,
    seed: int = 0,
    context: int = 192,
    horizon: int = 96,
    patch: int = 24,
    dim: int | None = None,
    width: int = 64,
) -> K2Koopman:
    r"""Build a Koopman forecaster for regular data of this schema.

    Patches ``x_n`` of the window (last value and spread taken out) become :math:`z_n = g(x_n)`;
    :math:`\hat z_{N+i} = z_N K^i` with ``K`` a mixture of the window's own least-squares operator and a learned one,
    its radius at most 1; a learned filter reads :math:`\hat z` and gives states and covariances; a decoder the patches.

    Args:
        schema: channels and time scale. seed: of the weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option out of its range.

    References:
        Wu et al. (2025), K2VAE: a Koopman-Kalman enhanced variational autoencoder.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> k2_koopman(Schema(axis, None, (Variable("a"),), (Channel("a"),)), patch=4).dim
        12
    """
    for name, value, example in (("context", context, 192), ("horizon", horizon, 96), ("patch", patch, 24)):
        require_whole(value, name, 1, example)
    require_whole(width, "width", 1, 64)
    if context < 2 * patch:
        raise ConfigError(
            f"context={context} holds fewer than two patches of {patch}", variable="context", fix=f"context={8 * patch}"
        )
    dim = patch + 8 if dim is None else dim
    require_whole(dim, "dim", 1, patch + 8)
    return K2Koopman(schema.n_channels, context, horizon, patch, dim, width, seed)


class K2Koopman(WindowNet):
    """See :func:`k2_koopman`. Every channel alone, the same weights.

    Args:
        channels, context, horizon: ``C, L, H``. patch: ``P``. dim: ``d``. width: hidden units. seed: of the weights.
    """

    def __init__(self, channels: int, context: int, horizon: int, patch: int, dim: int, width: int, seed: int) -> None:
        super().__init__("k2-koopman", channels, context, horizon)
        self.patch, self.dim = patch, dim
        g = generator(seed, "weights")
        turn = _orthogonal(max(dim, patch), g)
        self.encode = nn.Parameter(turn[:patch, :dim].contiguous())
        self.decode = nn.Parameter(turn[:patch, :dim].mT.contiguous())
        self.lift = MLP(patch, dim, (width,), generator=g, zero=True)
        self.lower = MLP(dim, patch, (width,), generator=g, zero=True)
        # of all orthogonal starts the one that repeats the last patch
        self.operator = nn.Parameter(torch.eye(dim, dtype=torch.float64))
        self.mix = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.filter = LearnedFilter(dim)

    def patches(self, context: Tensor) -> Tensor:
        """``[B C, N, P]`` of ``[B, L, C]``; the first value stands for what is missing of the first patch."""
        rows = context.permute(0, 2, 1).flatten(0, 1)
        short = -rows.shape[1] % self.patch
        whole = torch.cat([rows[:, :1].expand(-1, short), rows], dim=1)
        return whole.unflatten(1, (-1, self.patch))

    def advance(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[B, M, d]`` and covariances ``[M, d, d]`` after the patches ``z [B, N, d]``."""
        share = torch.sigmoid(self.mix)
        k = bounded(share * local_operator(z) + (1 - share) * self.operator)
        now, rolled = z[:, -1:], []
        for _ in range(-(-self.horizon // self.patch)):
            now = now @ k
            rolled.append(now)
        return self.filter(z[:, -1], torch.cat(rolled, dim=1))

    def _ahead(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[B, H, C]`` of a standardised context, and the filter's variance ``[H]``."""
        x = self.patches(context)
        states, covariances = self.advance(x @ self.encode + self.lift(x))
        mean = (states @ self.decode + self.lower(states)).flatten(1)[:, : self.horizon]
        decode = self.decode.double()
        variance = torch.einsum("ep,mef,fp->mp", decode, covariances, decode).flatten()[: self.horizon]
        return mean.unflatten(0, (-1, self.channels)).permute(0, 2, 1), variance.to(mean.dtype)

    def shape_of(self, context: Tensor) -> Tensor:
        """The mean alone."""
        return self._ahead(context)[0]

    def raw(self, context: Tensor) -> Answer:
        """Last value and spread put back; scale from the filter's covariance and the noise of each lead."""
        local, last = self._local(context), context[:, -1:]
        change, variance = self._ahead((context - last) / local)
        scale = (variance[:, None] + (2 * self.log_spread).exp()).sqrt()
        return Answer(last + local * change, local * scale)

    def training_defaults(self, batch: Any) -> dict[str, Any]:
        """A step is 256 windows."""
        return {"optimiser": "adam", "steps": 400, "learning_rate": 3e-3, "validation": 0.0, "batch_size": 64}

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        """Held-out error over that of the last value, and what the operators are."""
        learned = torch.linalg.eigvals(self.operator.double()).abs().amax()
        found = {"own_operator_share": float(torch.sigmoid(self.mix)), "learned_operator_radius": float(learned)}
        return super().summary() | found


def _orthogonal(size: int, g: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0)
