"""An encoder of the first few rows: where a path is, how fast it moves, how it bends."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch
from .encoder import Encoder
from .mlp import linear

#: directions of the channels that are looked at: this share of their variance, at most so many
_SHARE, _MOST = 0.975, 16


class PrefixEncoder(Encoder):
    """Level, slope and bend of the leading directions, by least squares over the rows, and a layer of tanh units.

    One context for the whole prefix: ``(f, tanh(W f + b))`` with ``f [3 r]`` of unit variance over the training data.

    Args:
        channels, width: of the data, and units of the layer. generator: starting weights.
    """

    def __init__(self, channels: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        directions = min(channels, _MOST)
        self.width = 3 * directions + width
        self.register_buffer("directions", torch.eye(channels, directions, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(3, directions, dtype=torch.float64))
        self.layer = linear(3 * directions, width, generator=generator)

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch, history: int) -> None:
        """Directions and scales from windows of ``history`` rows of the training data; of a series without as many
        rows, from all it has."""
        padded = batch.drop_empty().padded()
        T = padded.values.shape[1]
        wide = torch.arange(0, max(T - history, 0) + 1, max(history // 2, 1), device=padded.time.device)
        wide = wide[:, None] + torch.arange(min(history, T), device=padded.time.device)
        cut = Padded(*(part[:, wide].flatten(0, 1) for part in padded))
        level, slope, bend = self._fit(cut)
        kept = cut.rows.all(1).view(len(padded.time), -1)
        # of each series the first window is what an answer reads, however short it is
        kept[:, 0] = cut.rows.view(*kept.shape, -1)[:, 0].any(-1)
        kept = kept.flatten()
        if int(kept.sum()) < 2:
            return
        _, size, axes = torch.linalg.svd(level[kept] - level[kept].mean(0), full_matrices=False)
        share = size.square().cumsum(0) / size.square().sum().clamp(min=1e-12)
        chosen = self.get_buffer("directions")
        count = min(int((share < _SHARE).sum()) + 1, chosen.shape[1], len(axes))
        chosen.zero_()
        chosen[:, :count] = axes[:count].mT
        spread = torch.stack([(part[kept] @ chosen).std(0) for part in (level, slope, bend)])
        self.get_buffer("scale").copy_(torch.where(spread > 1e-9, 1 / spread.clamp(min=1e-9), torch.zeros_like(spread)))

    def forward(self, padded: Padded) -> Tensor:
        """The same context at each row, zero in padding."""
        chosen = self.get_buffer("directions")
        parts = torch.stack([part @ chosen for part in self._fit(padded)], dim=-2)
        f = (parts * self.get_buffer("scale")).flatten(-2)
        context = torch.cat([f, torch.tanh(self.layer(f))], dim=-1)
        return context[:, None] * padded.rows[..., None]

    def _fit(self, padded: Padded) -> tuple[Tensor, Tensor, Tensor]:
        """Level, slope and bend ``[S, C]`` of each channel, about the middle of the prefix.

        A little ridge keeps one row, or rows at one time, from having a slope.
        """
        rows = padded.rows.to(padded.values.dtype)
        count = rows.sum(1, keepdim=True).clamp(min=1)
        centre = (padded.time * rows).sum(1, keepdim=True) / count
        t = (padded.time - centre) * rows
        X = torch.stack([rows, t, t.square()], dim=-1)
        weight = padded.mask.to(X.dtype)
        gram = torch.einsum("stc,sti,stj->scij", weight, X, X)
        ridge = torch.diag(torch.tensor([1e-6, 1e-3, 1e-3], dtype=X.dtype, device=X.device))
        moment = torch.einsum("stc,sti->sci", weight * padded.values, X)
        found = torch.linalg.solve(gram + ridge, moment.unsqueeze(-1)).squeeze(-1)
        return found[..., 0], found[..., 1], found[..., 2]
