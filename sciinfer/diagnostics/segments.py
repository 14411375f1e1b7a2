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
    """Times asked for, seen from one channel: ``time [S, T]`` and ``before [S, T]``, the last row at or before it.

    ``before`` is ``start - 1`` where there is none.
    """

    time: Tensor
    before: Tensor


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


def queries(batch: SeriesBatch, times: Tensor) -> Iterator[Query]:
    """For each channel, the times ``[S, T]`` placed among its rows; the search itself is done once for all channels."""
    times = times.double()
    start, stop = batch.offsets[:-1, None], batch.offsets[1:, None]
    rows = locate(batch.time.double(), start, stop, times)
    for index in range(batch.n_channels):
        yield Query(times, _counts(batch.mask[:, index])[rows + 1] - 1)


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
    """Linear between the neighbours, constant outside the data (``[S, T]``)."""
    start, stop = _like(channel.start, query), _like(channel.stop, query)
    left = torch.maximum(query.before, start)
    right = torch.minimum(query.before + 1, stop - 1)
    t0, t1 = channel.at(channel.time, left), channel.at(channel.time, right)
    y0, y1 = channel.at(channel.value, left), channel.at(channel.value, right)
    weight = ((query.time - t0) / (t1 - t0).clamp(min=torch.finfo(t0.dtype).tiny)).clamp(0.0, 1.0)
    return torch.lerp(y0, y1, torch.where(t1 > t0, weight, torch.zeros_like(weight)))


def nearest(channel: Channel, query: Query) -> Tensor:
    """Distance in time to the nearest row (``[S, T]``)."""
    start, stop = _like(channel.start, query), _like(channel.stop, query)
    left = (query.time - channel.at(channel.time, torch.maximum(query.before, start))).abs()
    right = (query.time - channel.at(channel.time, torch.minimum(query.before + 1, stop - 1))).abs()
    return torch.minimum(left, right)


def outside(channel: Channel, query: Query) -> Tensor:
    """Distance in time to the span of the data, 0 inside (``[S, T]``)."""
    first, last = ends(channel)
    return torch.maximum(first[:, None] - query.time, query.time - last[:, None]).clamp(min=0.0)


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


def _like(per_series: Tensor, query: Query) -> Tensor:
    return per_series[:, None].expand_as(query.before)
