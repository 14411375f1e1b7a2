"""The per-variable linear baseline: a channel's future by ridge regression on its past, fitted on other series."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..labelled.series import SeriesBatch
from .forecast import Forecast
from .lead_error import LeadError, fit_lead_error
from .per_channel import check_times, second_moment, to_sd
from .segments import Channel, channel_of


def per_variable_linear(
    train: SeriesBatch,
    cond: SeriesBatch,
    times: Tensor,
    *,
    cutoff: float | None = None,
    time_constants: Sequence[float] | None = None,
    ridge: float = 1.0,
) -> Forecast:
    """Ridge regression, channel by channel, of what follows ``cutoff`` on features of what precedes it.

    Features: 1, last value, means that forget with each time constant, overall mean, time since the last value, lead
    time since the cutoff, and whether the channel was seen at all.

    Args:
        train: whole series (history and future), model units.
        cond: histories of the series to forecast.
        times: ``[S, T]``, model time units; those at or before ``cutoff`` are taken as lead 0.
        cutoff: time that ends the history; None: the last time in ``cond``.
        time_constants: of the forgetting means, model time units; None: 1/24, 1/8 and 1/2 of the history's length.
        ridge: penalty on standardised features, in entries.

    Returns:
        mean and sd ``[S, T, C]``; the sd is that of the training residuals at that lead time.

    Raises:
        ShapeError: channels or times do not fit. ConfigError: the cutoff leaves nothing to train on.

    Example:
        >>> y = torch.arange(4.0)[:, None]
        >>> b = SeriesBatch.of([torch.arange(4.0)] * 9, [y + k for k in range(9)])
        >>> per_variable_linear(b, b.keep(b.time < 2), torch.full((9, 1), 3.0)).mean.shape
        torch.Size([9, 1, 1])
    """
    check_times(cond, times)
    if train.n_channels != cond.n_channels:
        raise ShapeError(f"training data have {train.n_channels} channels, conditioning data {cond.n_channels}")
    origin = float(cond.time.max()) if cutoff is None else float(cutoff)
    past, future = train.keep(train.time <= origin), train.keep(train.time > origin)
    if future.observed == 0:
        raise ConfigError(f"no training data after the cutoff {origin}", fix="pass whole series, or an earlier cutoff")
    taus = _time_constants(past, origin) if time_constants is None else list(time_constants)
    cond = cond.keep(cond.time <= origin)
    mean = torch.zeros(*times.shape, cond.n_channels, dtype=torch.float64)
    sd = torch.ones_like(mean)
    lead = (times.double() - origin).clamp(min=0.0)
    for index in range(cond.n_channels):
        target = channel_of(future, index)
        if len(target.time):
            known = history_features(channel_of(past, index), origin, taus)
            weights, error = _fit(known[target.series], target, origin, ridge)
            new = history_features(channel_of(cond, index), origin, taus)
            design = torch.cat([new[:, None].expand(-1, times.shape[1], -1), lead[..., None]], dim=-1)
            mean[..., index] = design @ weights
            sd[..., index] = to_sd(error.at(lead), target)
    return Forecast(mean, sd)


def history_features(channel: Channel, origin: float, taus: Sequence[float]) -> Tensor:
    """``[S, F]``: 1, seen, last value, forgetting means, overall mean, time since the last value (0 where unseen)."""
    seen = channel.counts > 0
    columns = [torch.ones(len(seen), dtype=torch.float64), seen.double()]
    if len(channel.time) == 0:
        return torch.stack([*columns, *[torch.zeros_like(columns[0])] * (len(taus) + 3)], dim=1)
    last_time = channel.at(channel.time, channel.stop - 1)
    columns.append(channel.at(channel.value, channel.stop - 1))
    for tau in taus:
        weight = ((channel.time - last_time[channel.series]) / tau).exp()
        columns.append(channel.per_series(weight * channel.value) / channel.per_series(weight).clamp(min=1.0))
    columns.append(channel.per_series(channel.value) / channel.counts.clamp(min=1))
    columns.append(origin - last_time)
    table = torch.stack(columns, dim=1)
    return torch.where(seen[:, None] | (torch.arange(table.shape[1]) == 0), table, 0.0)


def _time_constants(past: SeriesBatch, origin: float) -> list[float]:
    span = origin - float(past.time.min()) if len(past.time) else 0.0
    return [span / 24, span / 8, span / 2] if span > 0 else []


def _fit(known: Tensor, target: Channel, origin: float, ridge: float) -> tuple[Tensor, LeadError]:
    """Weights ``[F + 1]`` of the features and the lead time, and the error by lead."""
    lead = target.time - origin
    design = torch.cat([known, lead[:, None]], dim=1)
    scale = design.std(dim=0, correction=0) if len(design) > 1 else torch.zeros(design.shape[1], dtype=torch.float64)
    scale = torch.where(scale > 1e-9 * (1 + design.abs().amax(dim=0)), scale, 1.0)
    centre = design.mean(dim=0)
    centre[0] = 0.0
    whitened = (design - centre) / scale
    penalty = torch.full((design.shape[1],), float(ridge), dtype=torch.float64)
    penalty[0] = 1e-9
    gram = whitened.T @ whitened + penalty.diag()
    found = torch.linalg.solve(gram, whitened.T @ target.value)
    residual = target.value - whitened @ found
    weights = found / scale
    weights[0] -= (found * centre / scale).sum()
    freedom = len(residual) / max(len(residual) - design.shape[1], 1)
    return weights, fit_lead_error(lead, residual**2 * freedom, slope=0.0, fallback=second_moment(target))
