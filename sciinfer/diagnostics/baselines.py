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
    index = torch.maximum(query.before, channel.start[:, None])
    lead = (query.time - channel.at(channel.time, index)).abs()
    return channel.at(channel.value, index), increments(channel).at(lead)


def _constant(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    count = channel.counts.clamp(min=1).double()
    mean = channel.per_series(channel.value) / count
    scatter = ((channel.value - mean[channel.series]) ** 2).sum() / (channel.counts - 1).clamp(min=0).sum().clamp(min=1)
    inside = scatter if bool((channel.counts > 1).any()) else second_moment(channel)
    lead = outside(channel, query)
    spread = torch.where(lead > 0, running_lines(channel, degree=0).at(lead), inside)
    return mean[:, None].expand_as(lead), spread * (1 + 1 / count[:, None])


def _linear(channel: Channel, query: Query) -> tuple[Tensor, Tensor]:
    lead = outside(channel, query)
    line, leverage = _line(channel, query.time)
    beyond = running_lines(channel, degree=1).at(lead) * leverage
    between = interpolation_error(channel).at(nearest(channel, query))
    is_out = lead > 0
    return torch.where(is_out, line, interpolate(channel, query)), torch.where(is_out, beyond, between)


def _line(channel: Channel, times: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares line of each series at ``times [S, T]``, and its leverage 1 + 1/n + (t - mean)^2 / S_tt."""
    count = channel.counts.clamp(min=1).double()
    t_mean, y_mean = channel.per_series(channel.time) / count, channel.per_series(channel.value) / count
    dt = channel.time - t_mean[channel.series]
    stt = channel.per_series(dt * dt)
    sty = channel.per_series(dt * (channel.value - y_mean[channel.series]))
    slope = torch.where(stt > 0, sty / stt.clamp(min=1e-300), torch.zeros_like(stt))
    away = times - t_mean[:, None]
    bend = torch.where(stt[:, None] > 0, away**2 / stt[:, None].clamp(min=1e-300), torch.zeros_like(away))
    return y_mean[:, None] + slope[:, None] * away, 1 + 1 / count[:, None] + bend


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
