"""How large the error of a forecasting rule is, as a function of its lead time; measured on the conditioning data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_PER_BIN, _MOST_BINS = 30, 12


class LeadError(NamedTuple):
    """``variance [K]`` at the leads ``lead [K]``, ascending; beyond the last it grows like ``lead ** slope``."""

    lead: Tensor
    variance: Tensor
    slope: float

    def at(self, lead: Tensor) -> Tensor:
        """Variance at any lead: linear in log lead between the bins, constant before the first."""
        if len(self.lead) == 1:
            inside = self.variance.expand_as(lead)
        else:
            x = lead.clamp(self.lead[0], self.lead[-1]).log()
            knots = self.lead.log()
            right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
            # leads of an even grid differ by rounding: two bins may have one and the same mean
            width = (knots[right] - knots[right - 1]).clamp(min=torch.finfo(knots.dtype).tiny)
            weight = (x - knots[right - 1]) / width
            inside = torch.lerp(self.variance[right - 1], self.variance[right], weight.clamp(0.0, 1.0))
        return inside * (lead / self.lead[-1]).clamp(min=1.0) ** self.slope


def fit_lead_error(lead: Tensor, squares: Tensor, *, slope: float, fallback: float) -> LeadError:
    """Bin squared errors by lead.

    Args:
        lead: ``[n]`` lead times of the tried-out forecasts.
        squares: ``[n]`` their squared errors.
        slope: growth beyond the last bin when the bins are too few to show it (1 for a random walk).
        fallback: variance where nothing could be tried out.

    Example:
        >>> fit_lead_error(torch.tensor([1.0]), torch.tensor([4.0]), slope=1.0, fallback=1.0).at(torch.tensor([2.0]))
        tensor([8.])
    """
    usable = lead > 0
    lead, squares = lead[usable], squares[usable]
    if len(lead) == 0:
        return LeadError(torch.ones(1, dtype=lead.dtype), torch.full((1,), fallback, dtype=lead.dtype), 0.0)
    bin_of = _bins(lead)
    count = torch.bincount(bin_of).to(lead.dtype)
    mean_lead = torch.zeros_like(count).index_add_(0, bin_of, lead) / count
    variance = torch.zeros_like(count).index_add_(0, bin_of, squares) / count
    return LeadError(mean_lead, variance, _growth(mean_lead, variance, slope))


def _bins(lead: Tensor) -> Tensor:
    wanted = min(max(len(lead) // _PER_BIN, 1), _MOST_BINS)
    ordered = lead.sort().values
    edges = ordered[torch.linspace(0, len(lead) - 1, wanted + 1).long()[1:-1]].unique()
    return torch.unique(torch.bucketize(lead, edges, right=True), return_inverse=True)[1]


def _growth(lead: Tensor, variance: Tensor, default: float) -> float:
    upper = slice(len(lead) // 2, None)
    x, y = lead[upper].log(), variance[upper].clamp(min=1e-300).log()
    if len(x) < 3 or float(x[-1] - x[0]) < 0.5:
        return default
    x = x - x.mean()
    return min(max(float((x * y).sum() / (x * x).sum()), 0.0), 2.0)
