"""Runs a forecasting rule over the channels of a batch and fills in what was never observed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ShapeError, TimeError
from ..labelled.series import SeriesBatch
from .forecast import Forecast
from .lead_error import LeadError, fit_lead_error
from .segments import Channel, Query, channel_of, queries

Rule = Callable[[Channel, Query], tuple[Tensor, Tensor]]
#: smallest sd, relative to the channel's own root mean square and absolute
_RELATIVE_FLOOR, _ABSOLUTE_FLOOR = 1e-3, 1e-8


def per_channel(batch: SeriesBatch, times: Tensor, rule: Rule) -> Forecast:
    """``rule(channel, query) -> mean, variance [q]`` for each channel.

    Args:
        batch: conditioning data.
        times: ``[S, T]``, model time units, any order.
        rule: called for channels with an observation, and asked about series with one.

    Raises:
        ShapeError: ``times`` has not one row per series. TimeError: a time is not finite.
    """
    check_times(batch, times)
    mean = torch.zeros(*times.shape, batch.n_channels, dtype=torch.float64)
    sd = torch.ones_like(mean)
    for index, (query, seen) in enumerate(queries(batch, times)):
        channel = channel_of(batch, index)
        if len(channel.time):
            sd[..., index] = second_moment(channel) ** 0.5
            found, variance = rule(channel, query)
            mean[seen, :, index] = found.view(-1, times.shape[1])
            sd[seen, :, index] = to_sd(variance, channel).view(-1, times.shape[1])
    return Forecast(mean, sd)


def to_sd(variance: Tensor, channel: Channel) -> Tensor:
    """Square root, kept above a thousandth of the channel's root mean square."""
    floor = _RELATIVE_FLOOR * second_moment(channel) ** 0.5 + _ABSOLUTE_FLOOR
    return variance.clamp(min=0.0).sqrt().clamp(min=floor)


def second_moment(channel: Channel) -> float:
    """Mean square of the observed values: the variance about 0, the mean in model units."""
    return float((channel.value**2).mean()) or 1.0


def fit_pairs(pairs: Sequence[tuple[Tensor, Tensor]], channel: Channel, *, slope: float) -> LeadError:
    """Error by lead from ``(leads, squared errors)`` collected in pieces."""
    leads = torch.cat([lead for lead, _ in pairs]) if pairs else channel.time.new_zeros(0)
    squares = torch.cat([square for _, square in pairs]) if pairs else channel.time.new_zeros(0)
    return fit_lead_error(leads, squares, slope=slope, fallback=second_moment(channel))


def check_times(batch: SeriesBatch, times: Tensor) -> None:
    """Raise unless ``times`` is finite and ``[S, T]``."""
    if times.ndim != 2 or times.shape[0] != batch.n_series:
        raise ShapeError(
            f"times have shape {tuple(times.shape)}, the batch has {batch.n_series} series",
            dim="time",
            fix="pass one row of times for each series",
        )
    if not bool(times.isfinite().all()):
        index = tuple(int(i) for i in (~times.isfinite()).nonzero()[0])
        raise TimeError("a requested time is not finite", dim="time", index=index, fix="drop or repair it")
