"""Forecasting rules tried out inside the conditioning data: their squared errors by lead time."""

from __future__ import annotations

import torch
from torch import Tensor

from .lead_error import LeadError
from .per_channel import fit_pairs
from .segments import Channel, ends, lagged


def increments(channel: Channel) -> LeadError:
    """Errors of persistence at all leads that the data hold."""
    pairs = [
        (channel.time[j] - channel.time[i], (channel.value[j] - channel.value[i]) ** 2) for i, j in lagged(channel)
    ]
    return fit_pairs(pairs, channel, slope=1.0)


def interpolation_error(channel: Channel) -> LeadError:
    """Errors of a row interpolated from the k-th rows before and after it, by the distance to the nearer one."""
    pairs = []
    for i, j in lagged(channel):
        middle, right = j, 2 * j - i
        inside = (right < len(channel.time)) & (channel.at(channel.series, right) == channel.series[i])
        i, middle, right = i[inside], middle[inside], right[inside]
        before, after = channel.time[middle] - channel.time[i], channel.time[right] - channel.time[middle]
        weight = before / (before + after).clamp(min=torch.finfo(before.dtype).tiny)
        error = channel.value[middle] - torch.lerp(channel.value[i], channel.value[right], weight)
        pairs.append((torch.minimum(before, after), error**2))
    return fit_pairs(pairs, channel, slope=1.0)


def running_lines(channel: Channel, *, degree: int) -> LeadError:
    """Errors, divided by their leverage, of the mean (0) or line (1) through all rows so far, at later rows."""
    t = channel.time - ends(channel)[0][channel.series]
    y = channel.value - channel.at(channel.value, channel.start)[channel.series]
    rank = (torch.arange(len(t)) - channel.start[channel.series] + 1).double()
    sum_t, sum_y, sum_tt, sum_ty = (_running(channel, x) for x in (t, y, t * t, t * y))
    t_mean, y_mean = sum_t / rank, sum_y / rank
    stt = sum_tt - sum_t * t_mean
    usable = (stt > 1e-9 * sum_tt) & (rank >= 2) if degree else rank >= 1
    slope = (
        torch.where(usable, (sum_ty - sum_t * y_mean) / stt.clamp(min=1e-300), 0.0) if degree else torch.zeros_like(t)
    )
    pairs = []
    for i, j in lagged(channel):
        i, j = i[usable[i]], j[usable[i]]
        away = t[j] - t_mean[i]
        leverage = 1 + 1 / rank[i] + (away**2 / stt[i] if degree else 0.0)
        pairs.append((t[j] - t[i], (y[j] - y_mean[i] - slope[i] * away) ** 2 / leverage))
    return fit_pairs(pairs, channel, slope=0.0)


def _running(channel: Channel, entry: Tensor) -> Tensor:
    """Cumulative sums that start anew with each series."""
    total = entry.cumsum(0)
    base = torch.cat([total.new_zeros(1), total])[channel.start]
    return total - base[channel.series]
