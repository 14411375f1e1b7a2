"""Forecasts that need no model. Whatever is fitted is shown beside them on the same split.

Each is ``baseline(batch, times [S, T], *, season=None) -> Forecast`` in model units. The mean uses the series itself
only, so a series alone gets the same mean as in a batch; the sd of a channel is pooled over the series, by trying the
same rule out on the conditioning data. A channel never observed in a series gets mean 0, the training mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..errors import NameNotFoundError
from ..labelled.series import SeriesBatch
from .forecast import Forecast
from .per_channel import per_channel, second_moment
from .seasonal import seasonal_naive_drift
from .segments import Channel, Query, interpolate, nearest, outside
from .tryout import increments, interpolation_error, running_lines


def persistence(batch: SeriesBatch, times: Tensor, *, season: float | None = None) -> Forecast:
    """The last value at or before t; before the first, the first. Variance: of increments at that lead time.

    Args:
        batch: conditioning data.
        times: ``[S, T]``, model time units.
        season: not used.

    Returns:
        mean and sd ``[S, T, C]``.

    Example:
        >>> b = SeriesBatch.of([torch.tensor([0.0, 1.0])], [torch.tensor([[1.0], [3.0]])])
        >>> persistence(b, torch.tensor([[-1.0, 0.5, 5.0]])).mean[0, :, 0].tolist()
        [1.0, 1.0, 3.0]
    """
    return per_channel(batch, times, _persist)


def constant(batch: SeriesBatch, times: Tensor, *, season: float | None = None) -> Forecast:
    """The mean of the series, channel by channel (arguments as for :func:`persistence`).

    Variance inside the data: of leave-one-out errors; outside: of the running mean's errors at that lead time.

    Example:
        >>> b = SeriesBatch.of([torch.tensor([0.0, 1.0])], [torch.tensor([[1.0], [3.0]])])
        >>> constant(b, torch.tensor([[9.0]])).mean.item()
        2.0
    """
    return per_channel(batch, times, _constant)


def linear(batch: SeriesBatch, times: Tensor, *, season: float | None = None) -> Forecast:
    """Linear interpolation inside the data, the series' least-squares line outside (as :func:`persistence`).

    Variance inside: of leave-one-out errors at that distance to the data; outside: of lines fitted to the data so far,
    at that lead time, times the line's own leverage 1 + 1/n + (t - mean t)^2 / S_tt.

    Example:
        >>> b = SeriesBatch.of([torch.tensor([0.0, 1.0])], [torch.tensor([[1.0], [3.0]])])
        >>> linear(b, torch.tensor([[0.5, 2.0]])).mean[0, :, 0].tolist()
        [2.0, 5.0]
    """
    return per_channel(batch, times, _linear)


def _persist(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    index = torch.maximum(query.before, channel.start[query.series])
    lead = (query.time - channel.time[index]).abs()
    return channel.value[index], increments(channel).at(lead)


def _constant(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    counts = channel.counts.clamp(min=1).double()
    mean = channel.per_series(channel.value) / counts
    squares = ((channel.value - mean[channel.series]) ** 2).sum()
    freedom = int((channel.counts - 1).clamp(min=0).sum())
    spread = torch.full_like(query.time, float(squares) / freedom if freedom else second_moment(channel))
    lead = outside(channel, query)
    spread[lead > 0] = running_lines(channel, degree=0).at(lead[lead > 0])
    return mean[query.series], spread * (1 + 1 / counts)[query.series]


def _linear(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    lead = outside(channel, query)
    out = lead > 0
    mean, variance = torch.empty_like(lead), torch.empty_like(lead)
    inside = query.pick(~out)
    mean[~out] = interpolate(channel, inside)
    variance[~out] = interpolation_error(channel).at(nearest(channel, inside))
    mean[out], leverage = _line(channel, query.pick(out))
    variance[out] = running_lines(channel, degree=1).at(lead[out]) * leverage
    return mean, variance


def _line(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    """Least-squares line of each series (``[q]``), and its leverage 1 + 1/n + (t - mean)^2 / S_tt."""
    counts = channel.counts.clamp(min=1).double()
    t_mean, y_mean = channel.per_series(channel.time) / counts, channel.per_series(channel.value) / counts
    dt = channel.time - t_mean[channel.series]
    stt = channel.per_series(dt * dt)
    sty = channel.per_series(dt * (channel.value - y_mean[channel.series]))
    inverse = torch.where(stt > 0, 1 / stt.clamp(min=1e-300), torch.zeros_like(stt))
    series = query.series
    away = query.time - t_mean[series]
    line = y_mean[series] + (sty * inverse)[series] * away
    return line, (1 + 1 / counts)[series] + away**2 * inverse[series]


#: name -> baseline; all have the signature of :func:`persistence`
BASELINES: dict[str, Callable[..., Forecast]] = {
    "persistence": persistence,
    "constant": constant,
    "linear": linear,
    "seasonal_naive_drift": seasonal_naive_drift,
}


def run_baselines(
    batch: SeriesBatch, times: Tensor, *, season: float | None = None, names: Iterable[str] | None = None
) -> dict[str, Forecast]:
    """All baselines that apply (the seasonal one needs ``season``), or the named ones.

    Example:
        >>> b = SeriesBatch.of([torch.tensor([0.0, 1.0])], [torch.tensor([[1.0], [3.0]])])
        >>> list(run_baselines(b, torch.tensor([[2.0]])))
        ['persistence', 'constant', 'linear']
    """
    applicable = [name for name in BASELINES if season is not None or name != "seasonal_naive_drift"]
    chosen = applicable if names is None else list(names)
    for name in chosen:
        if name not in BASELINES:
            raise NameNotFoundError(f"no baseline is called {name!r}", fix=f"one of {', '.join(BASELINES)}")
    return {name: BASELINES[name](batch, times, season=season) for name in chosen}
