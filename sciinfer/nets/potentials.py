"""An encoder of one modality's rows: Gaussian potentials on the latent values, nothing where nothing was observed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..statespace.sites import Sites
from .mlp import MLP, linear


class PotentialEncoder(nn.Module):
    """``t(z_k) = exp(shift_k z_k - precision_k z_k^2 / 2)`` for each row, from its values and its mask.

    ``(m, a) = A x + net(x)`` with ``x`` the observed values and the mask; ``precision = softplus(a)``,
    ``shift = precision m``: a pseudo-observation ``m`` of ``z`` with a precision of its own. Rows without any
    observation give zeros, so that potentials of several modalities add and a missing one says nothing.

    Args:
        channels, latents: ``C``, ``K``. hidden: widths of the net. generator: starting weights.
        counts: read ``log(1 + y)`` in place of ``y``, of all channels or of those named True.
        precision: at the start.

    References:
        Johnson et al. (2016), Composing graphical models with neural networks for structured representations.

    Example:
        >>> from sciinfer.random import generator
        >>> encoder = PotentialEncoder(3, 2, generator=generator(0, "encoder"))
        >>> y = torch.ones(1, 4, 3, dtype=torch.float64)
        >>> found = encoder(y, torch.tensor([1, 1, 0, 1])[None, :, None].expand(1, 4, 3) > 0)
        >>> found.precision.shape, bool((found.precision[0, 2] == 0).all())
        (torch.Size([1, 4, 2]), True)
    """

    def __init__(
        self,
        channels: int,
        latents: int,
        hidden: tuple[int, ...] = (64,),
        *,
        generator: torch.Generator,
        counts: bool | Sequence[bool] = False,
        precision: float = 1.0,
    ) -> None:
        super().__init__()
        self.latents = latents
        self.counts = [counts] * channels if isinstance(counts, bool) else list(counts)
        self.linear = linear(2 * channels, 2 * latents, generator=generator)
        self.net = MLP(2 * channels, 2 * latents, hidden, generator=generator, zero=True)
        with torch.no_grad():
            self.linear.weight[latents:] = 0.0
            self.linear.bias[:latents], self.linear.bias[latents:] = 0.0, math.log(math.expm1(precision))

    def features(self, values: Tensor, mask: Tensor) -> Tensor:
        """What the net reads, ``[S, T, 2 C]``: nothing of what lies under the mask."""
        seen = torch.where(mask, values, torch.zeros_like(values))
        if any(self.counts):
            logs = seen.clamp(min=0.0).log1p()
            seen = logs if all(self.counts) else torch.where(torch.tensor(self.counts, device=seen.device), logs, seen)
        return torch.cat([seen, mask.to(values.dtype)], dim=-1)

    def forward(self, values: Tensor, mask: Tensor) -> Sites:
        """``values, mask [S, T, C]`` to ``Sites [S, T, K]``."""
        x = self.features(values, mask)
        return row_potentials(self.linear(x) + self.net(x), mask)


def row_potentials(found: Tensor, mask: Tensor) -> Sites:
    """``Sites [S, T, K]`` from means and raw precisions ``[S, T, 2 K]``; zero in rows without any observation."""
    mean, raw = found.chunk(2, dim=-1)
    precision = nn.functional.softplus(raw) * mask.any(dim=-1, keepdim=True)
    return Sites(precision, precision * mean)
