"""What the past of every channel says at one row, in a few numbers, advanced row by row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: memories of the forgetting means, how fast a value goes stale, and the decays of the lead time: typical gaps
MEMORIES, STALE, LEADS = (2.0, 8.0, 32.0), 16.0, (1.5, 5.0, 15.0, 50.0)
#: numbers per channel
WIDTH = 9
#: pseudo-count that draws a short mean to the channel's own, and the least gap of a slope
_SHRINK, _LEAST_GAP = 0.3, 0.5


class History(NamedTuple):
    """After a row: ``time [S]``, and per channel ``known, last, slope, when [S, C]``, ``sums, counts [S, C, 3]``."""

    time: Tensor
    known: Tensor
    last: Tensor
    slope: Tensor
    when: Tensor
    sums: Tensor
    counts: Tensor

    @classmethod
    def blank(cls, series: int, channels: int, like: Tensor) -> History:
        """Before any row."""
        flat = like.new_zeros(series, channels)
        deep = like.new_zeros(series, channels, len(MEMORIES))
        return cls(like.new_zeros(series), flat.bool(), flat, flat, flat, deep, deep)

    def read(self, time: Tensor, values: Tensor, seen: Tensor) -> History:
        """Take in rows at ``time [S]``, ``values, seen [S, C]``; a row without data changes nothing but the clock."""
        started = self.known.any(dim=1)
        step = torch.where(started, time - self.time, 0.0)[:, None, None]
        fade = (-step / step.new_tensor(MEMORIES)).exp()
        gap = (time[:, None] - self.when).clamp(min=_LEAST_GAP)
        slope = torch.where(self.known, (values - self.last) / gap, 0.0)
        return History(
            torch.where(started | seen.any(dim=1), time, self.time),
            self.known | seen,
            torch.where(seen, values, self.last),
            torch.where(seen, slope, self.slope),
            torch.where(seen, time[:, None], self.when),
            self.sums * fade + torch.where(seen, values, 0.0)[..., None],
            self.counts * fade + seen[..., None],
        )

    def features(self) -> Tensor:
        """``[S, C, 9]``: known, last, slope, last less two short means, long mean, freshness, fresh value, staleness.

        All are 0 for a channel that was never seen.
        """
        since = torch.where(self.known, self.time[:, None] - self.when, 0.0)
        fresh = (-since / STALE).exp() * self.known
        means = self.sums / (self.counts + _SHRINK)
        columns = [
            self.known.to(self.last.dtype), self.last, self.slope, self.last - means[..., 0], self.last - means[..., 1],
            means[..., 2], fresh, self.last * fresh, since.log1p(),
        ]  # fmt: skip
        return torch.stack(columns, dim=-1)


def features_of(time: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """``[S, T + 1, 9 C]`` before the first row and after each, from ``time [S, T]``, ``values, seen [S, T, C]``."""
    history = History.blank(len(time), values.shape[2], values)
    found = [history.features()]
    for row in range(time.shape[1]):
        history = history.read(time[:, row], values[:, row], seen[:, row])
        found.append(history.features())
    return torch.stack(found, dim=1).flatten(2)


def lead_features(lead: Tensor) -> Tensor:
    """``[..., 5]``: 1 and four decays of the time since the row."""
    return torch.stack([torch.ones_like(lead), *((-lead / scale).exp() for scale in LEADS)], dim=-1)
