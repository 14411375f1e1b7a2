"""What the data say before training: time scales, weak priors, the best fractional Ornstein-Uhlenbeck process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..gp.kernels.fractional import FractionalKernel
from ..labelled.series import SeriesBatch
from .fractional_posterior import Density, Lanes, Prior, find_mode, log_likelihood_of, log_scale_of
from .grids import pad_for
from .structural import melt

#: the mode is a start: so much data is enough
_SERIES, _ROWS = 16, 150


def gap_and_span(batch: SeriesBatch) -> tuple[float, float]:
    """The short gaps (their lowest tenth) and the longest span, model time; ones where there are none."""
    time = pad_for(batch).time
    gaps = time.diff(dim=1)
    gaps = gaps[gaps > 0][:100_000]
    if not len(gaps):
        return 1.0, 1.0
    return float(torch.quantile(gaps, 0.1)), float((time[:, -1] - time[:, 0]).max())


def weak_prior(batch: SeriesBatch) -> Prior:
    """Rates between the span and the gaps, sizes around the data's own, noise around a tenth of it."""
    gap, span = gap_and_span(batch)
    rows = []
    for c in range(batch.n_channels):
        y = batch.values[:, c][batch.mask[:, c]]
        size = math.log(float(y.std())) if len(y) > 2 and float(y.std()) > 0 else 0.0
        rows.append([-0.5 * math.log(gap * span), size, size + math.log(0.1)])
    spread = torch.full((len(rows), 3), 1.5, dtype=torch.float64)
    spread[:, 0] = max(1.5, math.log(span / gap) / 3)
    return Prior(torch.tensor(rows, dtype=torch.float64), spread)


def posterior_density(batch: SeriesBatch, prior: Prior, *, terms: int) -> tuple[Density, Tensor]:
    """Log-posterior ``[n, C, 4] -> [n, C]`` of every channel's raw coordinates, and where to start, ``[C, 4]``."""
    flat, channel = melt(batch)
    kernel = FractionalKernel(terms=terms)
    gap, span = gap_and_span(batch)
    kernel.resolve(span, gap)
    lanes = Lanes(pad_for(flat), channel, kernel.get_buffer("rates"), kernel.get_buffer("horizon"), 1.0)
    start = torch.cat([torch.full_like(prior.centre[:, :1], -0.2), prior.centre], dim=1)
    return lambda raw: log_likelihood_of(lanes, raw) + prior.log_prob(raw), start


def start_at_mode(batch: SeriesBatch, *, terms: int) -> tuple[Tensor, Tensor]:
    """Raw coordinates ``[C, 4]`` of the mode, and ``log sigma [C]``, from some of the data."""
    batch = batch.to(device="cpu", dtype=torch.float64).drop_empty()
    batch = batch.select(torch.arange(min(batch.n_series, _SERIES)))
    position = torch.arange(len(batch.time)) - batch.offsets[:-1][batch.series_of_row]
    batch = batch.keep(position < _ROWS)
    density, start = posterior_density(batch, weak_prior(batch), terms=terms)
    raw = find_mode(density, start, 30)
    return raw, log_scale_of(raw)
