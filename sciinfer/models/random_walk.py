"""``random-walk``: the last value, and what the last increments say about how far it may go."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..random import generator
from .base import Draws, Loss, Model
from .grids import pad_for
from .window_grid import grid_step, one_by_one
from .window_paths import between

__entries__ = [
    {
        "kind": "models",
        "name": "random-walk",
        "target": "random_walk",
        "summary": "random walk by bootstrap of the last increments, channels drawn together; hard to beat on prices",
        "references": [
            "Meese, Rogoff (1983), Empirical exchange rate models of the seventies: do they fit out of sample"
        ],
        "options": {
            "increments": "how many of a series' last increments are drawn from",
            "drift": "whether their mean is kept",
        },
    },
]

#: fewest increments of its own that a series is trusted with, cells of a path, shortest time in steps
_FEWEST, _CELLS, _SHORT = 20, 2000, 0.01


def random_walk(schema: Schema, *, seed: int = 0, increments: int = 250, drift: bool = True) -> RandomWalk:
    r"""Build a random walk for data of this schema.

    :math:`y(t + h) = y(t) + \sum_{j \le h} e_j`, ``e_j`` drawn with replacement from the last rows of increments, all
    channels of a row together. Times may be irregular: an increment over ``d`` steps counts as ``sqrt(d)`` of one.

    Args:
        schema: channels and time scale. seed: unused. increments: rows of increments to draw from.
        drift: keep the mean of the increments.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> random_walk(Schema(axis, None, (Variable("a"),), (Channel("a"),)), increments=30).pool.shape
        torch.Size([30, 1])
    """
    if not isinstance(increments, int) or isinstance(increments, bool) or increments < 1:
        raise ConfigError(
            f"increments must be a whole number >= 1, got {increments!r}", variable="increments", fix="increments=250"
        )
    if not isinstance(drift, bool):
        raise ConfigError(f"drift must be true or false, got {drift!r}", variable="drift", fix="drift=True")
    return RandomWalk(schema.n_channels, increments, drift)


class RandomWalk(Model):
    """See :func:`random_walk`. Between rows it is a Brownian bridge, without noise of its own."""

    pool: Tensor
    counts: Tensor
    step: Tensor
    sd: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, channels: int, increments: int, drift: bool) -> None:
        super().__init__()
        self.channels, self.increments, self.drift = channels, increments, drift
        f64 = torch.float64
        known = {
            "pool": torch.randn(increments, channels, generator=generator(0, "pool"), dtype=f64),
            "counts": torch.ones(channels, dtype=f64) * increments, "step": torch.ones((), dtype=f64),
            "sd": torch.ones(channels, dtype=f64), "centre": torch.zeros(channels, dtype=f64),
            "spread": torch.ones(channels, dtype=f64),
        }  # fmt: skip
        for name, value in known.items():
            self.register_buffer(name, value)
        self.log_scale = nn.Parameter(torch.zeros(channels, dtype=f64))

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """Step, pool of increments and scales."""
        batch = batch.to(self.pool.device, self.pool.dtype).drop_empty()
        if batch.observed == 0:
            return
        self.step.fill_(grid_step(batch))
        padded = pad_for(batch)
        rows, counts = self._increments(padded)
        # the last increments of all series, the latest of each first, so that none is left out
        for c in range(self.channels):
            own = torch.arange(self.increments, device=rows.device)[:, None] < counts[:, c]
            found = rows[:, :, c].mT[own]
            if len(found):
                self.pool[:, c] = found[torch.arange(self.increments, device=rows.device) % len(found)]
                self.sd[c] = found.square().mean().sqrt().clamp(min=1e-9)
            seen = batch.values[:, c][batch.mask[:, c]]
            if len(seen):
                self.centre[c], self.spread[c] = seen.mean(), seen.std(correction=0).clamp(min=1e-9)

    def _increments(self, padded: Padded) -> tuple[Tensor, Tensor]:
        """Increments per root step, the latest first: ``[S, R, C]``, and how many of each channel, ``[S, C]``.

        Whole rows where there are enough in which every channel was seen, else every channel's own.
        """
        R, like = self.increments, padded.values
        rows, counts = like.new_zeros(like.shape[0], R, self.channels), like.new_zeros(like.shape[0], self.channels)
        for s in range(like.shape[0]):
            full = padded.mask[s].all(dim=1)
            joint = full.sum() > _FEWEST
            for c in range(self.channels):
                seen = full if joint else padded.mask[s, :, c]
                time, value = padded.time[s][seen], padded.values[s, :, c][seen]
                gap = (time.diff() / self.step)[-R:]
                found = (value.diff()[-R:] / gap.clamp(min=_SHORT).sqrt())[gap > _SHORT].flip(0)
                rows[s, : len(found), c], counts[s, c] = found, len(found)
        return rows, counts

    def _source(self, padded: Padded) -> tuple[Tensor, Tensor]:
        """What each series draws from: its own increments, or the pool."""
        rows, counts = self._increments(padded)
        enough = (counts >= min(_FEWEST, self.increments)).all(dim=1)
        rows = torch.where(enough[:, None, None], rows, self.pool)
        counts = torch.where(enough[:, None], counts, self.counts)
        if not self.drift:
            used = torch.arange(self.increments, device=rows.device)[None, :, None] < counts[:, None]
            rows = rows - (rows * used).sum(1, keepdim=True) / counts[:, None]
        return rows * self.log_scale.exp(), counts

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws; up to the last row the data and bridges between them."""
        padded = pad_for(batch, times)
        sd = self.sd * self.log_scale.exp() / self.step.sqrt()
        known = between(padded, times, sd, self.centre, self.spread, draws=draws, generator=generator)
        lead = (times - padded.time[:, -1:]).clamp(min=0.0) / self.step
        path = known + self._walk(padded, lead, draws, generator)
        return Draws(path, path)

    def _walk(self, padded: Padded, lead: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Sums of drawn increments over ``lead [S, Q]`` steps: ``[n, S, Q, C]``."""
        rows, counts = self._source(padded)
        S, C = counts.shape
        cells = max(math.ceil(float(lead.max())), 1) + 1 if lead.numel() else 1
        stride = -(-cells // _CELLS)
        u = torch.rand(draws, S, -(-cells // stride), 1, generator=generator, dtype=lead.dtype, device=lead.device)
        index = (u * counts[:, None]).long().clamp(max=self.increments - 1)
        drawn = rows.expand(draws, -1, -1, -1).gather(2, index.expand(-1, -1, -1, C)) * math.sqrt(stride)
        total = torch.cat([torch.zeros_like(drawn[:, :, :1]), drawn.cumsum(2)], dim=2)
        whole = (lead / stride).floor()
        part = (lead / stride - whole).sqrt()[None, ..., None]
        at = whole.long().clamp(max=drawn.shape[2] - 1)[None, ..., None].expand(draws, -1, -1, C)
        return total.gather(2, at) + part * drawn.gather(2, at)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Walks from a start like the data's values."""
        blank = self.pool.new_zeros(1, self.channels)
        start = SeriesBatch(times[:1], blank, blank.bool(), torch.tensor([0, 1], device=times.device))
        return self.predict(start, times[None], draws=draws, generator=generator)

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``sum log p`` of each series, Gaussian increments, channel by channel, ``[S]``."""
        alone = one_by_one(batch.drop_empty())
        channel = alone.series_of_row % self.channels
        inner = torch.cat([channel.new_zeros(1).bool(), alone.series_of_row.diff() == 0])[: len(channel)]
        value, time = alone.values[:, 0], alone.time
        shift = torch.cat([value[:1] * 0, value.diff()])[: len(value)]
        gap = (torch.cat([time[:1] * 0, time.diff()])[: len(time)] / self.step).clamp(min=_SHORT)
        sd = self.log_scale.exp() * self.sd
        scale = torch.where(inner, sd[channel] * gap.sqrt(), (self.spread * self.log_scale.exp())[channel])
        error = torch.where(inner, shift, value - self.centre[channel])
        entries = -0.5 * (error / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
        found = entries.new_zeros(batch.n_series)
        return found.index_add(0, alone.series_of_row // self.channels, entries)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative log-likelihood per entry; only a factor of the scales is left to train."""
        value = -self.log_likelihood(batch).sum() / max(batch.observed, 1)
        return Loss(value, {"ahead": value.detach()})

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """No steps: :meth:`initialise` knows everything."""
        return {"optimiser": "adam", "steps": 0, "learning_rate": 0.01, "validation": 0.0, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Root mean square increment over one step by channel."""
        return {f"step_sd[{c}]": float(v) for c, v in enumerate(self.sd * self.log_scale.detach().exp())}
