"""Seasonal naive forecast with drift."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.series import SeriesBatch
from .forecast import Forecast
from .lead_error import LeadError
from .per_channel import fit_pairs, per_channel
from .segments import Channel, Query, ends, interpolate, locate, nearest, outside
from .tryout import increments, interpolation_error

_TOLERANCE = 1e-9  # of a season: a time exactly k seasons later must not become k + 1 by rounding
_ENOUGH = 30  # forecasts to be tried out with the drift known at their time, else the drift is taken in hindsight


def seasonal_naive_drift(batch: SeriesBatch, times: Tensor, *, season: float | None = None) -> Forecast:
    """The value k seasons earlier plus k seasons of drift, k the least that lands inside the data.

    The drift is the mean difference of values one season apart. Before the data it runs the other way; inside, the data
    are interpolated linearly; a series shorter than a season is held constant at its nearest end.

    Args:
        batch: conditioning data.
        times: ``[S, T]``, model time units.
        season: length of the season, model time units.

    Returns:
        mean and sd ``[S, T, C]``; the sd is that of the same forecasts from within the data, with the drift known then.

    Raises:
        ConfigError: no or a non-positive season.

    Example:
        >>> y = torch.tensor([[1.0], [2.0], [2.0], [3.0]])
        >>> b = SeriesBatch.of([torch.tensor([0.0, 1.0, 2.0, 3.0])], [y])
        >>> seasonal_naive_drift(b, torch.tensor([[4.0, 7.0]]), season=2.0).mean[0, :, 0].tolist()
        [3.0, 5.0]
    """
    if season is None or not season > 0:
        raise ConfigError(
            f"a seasonal baseline needs the season's length, got {season}", fix="pass season=1.0 or another"
        )
    length = float(season)
    return per_channel(batch, times, lambda channel, query: _rule(channel, query, length))


def _rule(channel: Channel, query: Query, season: float) -> tuple[Tensor, Tensor]:
    first, last = (t[query.series] for t in ends(channel))
    ahead, back = _whole((query.time - last) / season), _whole((first - query.time) / season)
    full = (last - first) >= season * (1 - _TOLERANCE)
    cycles = torch.where(full, ahead - back, torch.zeros_like(ahead))
    at = torch.minimum(torch.maximum(query.time - cycles * season, first), last)
    before = locate(channel.time, channel.start[query.series], channel.stop[query.series], at)
    drift = _drift(channel, season)[query.series]
    mean = interpolate(channel, Query(at, query.series, before)) + cycles * season * drift
    return mean, _variance(channel, query, cycles, season)


def _variance(channel: Channel, query: Query, cycles: Tensor, season: float) -> Tensor:
    beyond = outside(channel, query)
    moved, held = cycles != 0, (cycles == 0) & (beyond > 0)
    between = ~moved & ~held
    variance = torch.empty_like(beyond)
    variance[moved] = _errors(channel, season).at(cycles[moved].abs() * season)
    variance[held] = increments(channel).at(beyond[held])
    variance[between] = interpolation_error(channel).at(nearest(channel, query.pick(between)))
    return variance


def _whole(seasons: Tensor) -> Tensor:
    """The number of whole seasons to go back; 0 inside the data, at least 1 outside."""
    return torch.where(seasons > 0, (seasons - _TOLERANCE).ceil().clamp(min=1.0), torch.zeros_like(seasons))


def _seasonal_pairs(channel: Channel, season: float, cycles: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``j`` with data ``cycles`` seasons earlier, the value there (interpolated), and the row at or before it."""
    first = ends(channel)[0][channel.series]
    at = channel.time - cycles * season
    rows = (at >= first - _TOLERANCE * season).nonzero()[:, 0]
    at = torch.maximum(at[rows], first[rows])
    series = channel.series[rows]
    before = locate(channel.time, channel.start[series], channel.stop[series], at)
    left, right = before, torch.minimum(before + 1, channel.stop[series] - 1)
    gap = (channel.time[right] - channel.time[left]).clamp(min=torch.finfo(at.dtype).tiny)
    weight = torch.where(right > left, (at - channel.time[left]) / gap, torch.zeros_like(at)).clamp(0.0, 1.0)
    return rows, torch.lerp(channel.value[left], channel.value[right], weight), before


def _drift(channel: Channel, season: float) -> Tensor:
    """``[S]``: mean seasonal difference per unit of time, 0 where there is none."""
    rows, earlier, _ = _seasonal_pairs(channel, season, 1)
    total, count = (torch.zeros(len(channel.start), dtype=torch.float64) for _ in range(2))
    total.index_add_(0, channel.series[rows], (channel.value[rows] - earlier) / season)
    count.index_add_(0, channel.series[rows], torch.ones(len(rows), dtype=torch.float64))
    return total / count.clamp(min=1.0)


def _running_drift(channel: Channel, season: float) -> tuple[Tensor, Tensor]:
    """``[n]``: the drift known from the rows up to each row, and from how many differences."""
    rows, earlier, _ = _seasonal_pairs(channel, season, 1)
    both = torch.zeros(len(channel.time), 2, dtype=torch.float64)
    both[rows, 0] = (channel.value[rows] - earlier) / season
    both[rows, 1] = 1.0
    total = both.cumsum(0)
    base = torch.cat([total.new_zeros(1, 2), total])[channel.start]
    known = total - base[channel.series]
    return known[:, 0] / known[:, 1].clamp(min=1.0), known[:, 1]


def _errors(channel: Channel, season: float) -> LeadError:
    drift, known = _running_drift(channel, season)
    overall = _drift(channel, season)
    honest, hindsight = [], []
    span = float((ends(channel)[1] - ends(channel)[0])[channel.counts > 0].max())
    cycles = 1
    while cycles * season <= span * (1 + _TOLERANCE):
        rows, earlier, before = _seasonal_pairs(channel, season, cycles)
        lead = torch.full((len(rows),), cycles * season, dtype=torch.float64)
        change = channel.value[rows] - earlier
        usable = known[before] >= 1
        honest.append((lead[usable], (change - lead * drift[before])[usable] ** 2))
        # tried on the very differences that gave the drift: its own error is of the same size once more
        hindsight.append((lead, 2 * (change - lead * overall[channel.series[rows]]) ** 2))
        cycles *= 2
    enough = sum(len(lead) for lead, _ in honest) >= _ENOUGH
    return fit_pairs(honest if enough else hindsight, channel, slope=1.0)
