"""A quick fit of the channel-by-channel anchor, from which the nets start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..labelled.series import SeriesBatch
from ..nets.parameters import flatten, unflatten, value_and_slopes
from .grids import pad_for

if TYPE_CHECKING:
    from .s5_anchor import Anchor

#: data used to find the start
_SERIES, _ROWS, _ITERATIONS = 96, 120, 40
#: shares of the past from which each row is predicted
_SHARES = (0.3, 0.7, 1.0)


def fit_anchor(anchor: Anchor, batch: SeriesBatch) -> None:
    """Set the anchor's parameters in place: moments first, then L-BFGS on Gaussian forecasts from several distances."""
    from scipy.optimize import minimize

    if batch.observed == 0:
        return
    with torch.no_grad():
        counts = batch.mask.sum(0).clamp(min=1)
        mean = batch.values.sum(0) / counts
        spread = ((batch.values - mean) * batch.mask).square().sum(0) / counts
        anchor.mean.copy_(mean)
        anchor.log_variance.copy_(spread.clamp(min=1e-4).log())
    sample = _subset(batch)
    parameters = list(anchor.parameters())

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        unflatten(x, parameters)
        # a weak pull keeps channels that are hardly ever seen near their start
        pull = torch.stack([(p - s).square().sum() for p, s in zip(parameters, start, strict=True)]).sum()
        number, slopes = value_and_slopes(_miss(anchor, sample) + 1e-3 * pull / sample.n_channels, parameters)
        return number, flatten(slopes)

    start = [p.detach().clone() for p in parameters]
    found = minimize(objective, flatten(parameters), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    unflatten(found.x if np.isfinite(found.x).all() else flatten(start), parameters)


def _subset(batch: SeriesBatch) -> SeriesBatch:
    """Series spread over the batch, each cut to its first rows."""
    chosen = torch.linspace(0, batch.n_series - 1, min(batch.n_series, _SERIES)).round().long()
    picked = batch.select(chosen.to(batch.offsets.device))
    number = torch.arange(len(picked.time), device=picked.time.device) - picked.offsets[:-1][picked.series_of_row]
    return picked.keep(number < _ROWS)


def _miss(anchor: Anchor, batch: SeriesBatch) -> Tensor:
    """Negative Gaussian log-density per entry (up to a constant) of each row, given shares of its past."""
    padded = pad_for(batch)
    clock = torch.cat([padded.time[:, :1], padded.time], dim=1)
    memory = anchor.remember(padded.time, clock.diff(dim=1), padded.values, padded.mask, None)
    number = torch.arange(padded.time.shape[1], device=padded.time.device).expand(padded.rows.shape)
    total = padded.values.new_zeros(())
    for share in _SHARES:
        past = (number * share).long() - 1
        has, at = past >= 0, past.clamp(min=0)
        gap = (padded.time - padded.time.gather(1, at)) * has
        mean, variance = anchor.join([anchor.recall(memory, at, has, gap, padded.time)])
        entries = 0.5 * (padded.values - mean).square() / variance + 0.5 * variance.log()
        total = total + torch.where(padded.mask, entries, 0.0).sum()
    return total / (len(_SHARES) * max(batch.observed, 1))
