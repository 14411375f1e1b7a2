"""One channel of a ragged batch as compact rows, and exact look-ups in them without a loop over series."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..labelled.series import SeriesBatch


class Channel(NamedTuple):
    """The observed entries of one channel, series after series.

    ``time``, ``value``, ``series [n]``; series ``s`` is the rows ``start[s]:stop[s]``.
    """

    time: Tensor
    value: Tensor
    series: Tensor
    start: Tensor
    stop: Tensor

    @property
    def counts(self) -> Tensor:
        """``[S]``: observed entries of each series."""
        return self.stop - self.start

    def at(self, field: Tensor, index: Tensor) -> Tensor:
        """``field[index]``, any index allowed: one out of range reads some row and must be masked by the caller."""
        return field[index.clamp(0, len(field) - 1)]

    def per_series(self, entry: Tensor) -> Tensor:
        """``[S]``: sums of ``entry [n]`` over each series."""
        return torch.zeros(len(self.start), dtype=entry.dtype).index_add_(0, self.series, entry)


class Query(NamedTuple):
    """Times asked for, seen from one channel.

    ``time``, ``series [q]`` and ``before [q]``, the last row of that series at or before the time, ``start - 1`` where
    there is none. Every series asked about has at least one row.
    """

    time: Tensor
    series: Tensor
    before: Tensor

    def pick(self, which: Tensor) -> Query:
        """Only the queries where ``which [q]`` is True."""
        return Query(self.time[which], self.series[which], self.before[which])


def channel_of(batch: SeriesBatch, index: int) -> Channel:
    """The compact rows of channel ``index``; what is masked leaves no trace."""
    seen = batch.mask[:, index]
    ends = _counts(seen)[batch.offsets]
    return Channel(
        batch.time[seen].double(),
        batch.values[seen, index].double(),
        batch.series_of_row[seen],
        ends[:-1],
        ends[1:],
    )


def queries(batch: SeriesBatch, times: Tensor) -> Iterator[tuple[Query, Tensor]]:
    """For each channel, the times ``[S, T]`` of the series that it was observed in, and which these are ``[S]``.

    The search is done once for all channels: a channel's place follows from the number of its rows up to there.
    """
    times = times.double()
    rows = locate(batch.time.double(), batch.offsets[:-1, None], batch.offsets[1:, None], times)
    index = torch.arange(len(times))[:, None].expand_as(times)
    for channel in range(batch.n_channels):
        counts = _counts(batch.mask[:, channel])
        seen = counts[batch.offsets].diff() > 0
        yield Query(times[seen].flatten(), index[seen].flatten(), counts[rows[seen] + 1].flatten() - 1), seen


def locate(time: Tensor, start: Tensor, stop: Tensor, query: Tensor) -> Tensor:
    """Index of the last row of ``start:stop`` whose time is at or before ``query``; ``start - 1`` where there is none.

    A bisection of all queries at once: exact, and no series is padded to the length of another.
    """
    low, high = torch.broadcast_tensors(start, stop, query)[:2]
    longest = int((high - low).max()) if low.numel() else 0
    for _ in range(math.ceil(math.log2(longest + 1)) + 1 if longest else 0):
        middle = (low + high) // 2
        not_after = time[middle.clamp(max=len(time) - 1)] <= query
        undecided = low < high
        low = torch.where(undecided & not_after, middle + 1, low)
        high = torch.where(undecided & ~not_after, middle, high)
    return low - 1


def interpolate(channel: Channel, query: Query) -> Tensor:
    """Linear between the neighbours, constant outside the data (``[q]``)."""
    left, right = _neighbours(channel, query)
    t0, t1 = channel.time[left], channel.time[right]
    gap = t1 - t0
    weight = torch.where(gap > 0, ((query.time - t0) / gap).clamp(0.0, 1.0), torch.zeros_like(gap))
    return torch.lerp(channel.value[left], channel.value[right], weight)


def nearest(channel: Channel, query: Query) -> Tensor:
    """Distance in time to the nearest row (``[q]``)."""
    left, right = _neighbours(channel, query)
    return torch.minimum((query.time - channel.time[left]).abs(), (channel.time[right] - query.time).abs())


def outside(channel: Channel, query: Query) -> Tensor:
    """Distance in time to the span of the data, 0 inside (``[q]``)."""
    first, last = (t[query.series] for t in ends(channel))
    return torch.maximum(first - query.time, query.time - last).clamp(min=0.0)


def ends(channel: Channel) -> tuple[Tensor, Tensor]:
    """``[S]`` first and ``[S]`` last observed time of each series (any number where it has none)."""
    return channel.at(channel.time, channel.start), channel.at(channel.time, channel.stop - 1)


def lagged(channel: Channel) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of rows ``(i, i + k)`` of the same series, k = 1, 2, 4, ...: the leads at which a rule is tried out."""
    lag, longest = 1, int(channel.counts.max())
    while lag < longest:
        i = torch.arange(len(channel.time) - lag)
        i = i[channel.series[i] == channel.series[i + lag]]
        yield i, i + lag
        lag *= 2


def _counts(seen: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), seen.cumsum(0)])


def _neighbours(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    left = torch.maximum(query.before, channel.start[query.series])
    return left, torch.minimum(query.before + 1, channel.stop[query.series] - 1)
