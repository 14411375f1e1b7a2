"""Marginals of a copula: values to normal scores and back through quantiles, and the covariance of the scores."""

from __future__ import annotations

import torch
from torch import Tensor

_COUNT = 101
#: probabilities of the knots; the outermost are the least and the largest value seen
LEVELS = (2.3e-4, *((k + 0.5) / _COUNT for k in range(_COUNT)), 1 - 2.3e-4)
#: least distance of two knots, in units of the range
_APART = 1e-6


def margins(values: Tensor, seen: Tensor) -> Tensor:
    """Quantiles ``[T, C, K]`` of windows ``[N, T, C]``, strictly ascending; of the channel where a cell was never seen.

    Example:
        >>> y = torch.arange(1000.0, dtype=torch.float64).view(1000, 1, 1)
        >>> margins(y, torch.ones_like(y).bool())[0, 0, [0, 51, -1]].round()
        tensor([  0., 500., 999.], dtype=torch.float64)
    """
    level = torch.tensor(LEVELS[1:-1], dtype=values.dtype, device=values.device)
    ordered = torch.where(seen, values, torch.inf).sort(dim=0).values
    count = seen.sum(0)
    place = level * (count - 1).clamp(min=0)[..., None]
    low = place.floor().long()
    high = torch.minimum(low + 1, (count - 1).clamp(min=0)[..., None])
    rows = torch.where(ordered.isinf(), 0.0, ordered).permute(1, 2, 0)
    inner = rows.gather(2, low) * (1 - (place - low)) + rows.gather(2, high) * (place - low)
    ends = [rows[..., :1], rows.gather(2, (count - 1).clamp(min=0)[..., None])]
    found = torch.cat([ends[0], inner, ends[1]], dim=2)
    usual = (found * (count > 0)[..., None]).sum(0) / (count > 0).sum(0).clamp(min=1)[:, None]
    found = torch.where((count > 1)[..., None], found, usual)
    width = (found[..., -1:] - found[..., :1]).clamp(min=1e-6)
    return found + _APART * width * torch.arange(len(LEVELS), dtype=found.dtype, device=found.device)


def scores_like(knots: Tensor) -> Tensor:
    """Normal scores of the knots, ``[K]``."""
    return torch.special.ndtri(torch.tensor(LEVELS, dtype=knots.dtype, device=knots.device))


def to_normal(values: Tensor, knots: Tensor) -> Tensor:
    """Normal scores of ``values [..., T, C]``; beyond the outermost knots they stay at those."""
    low, slope, score = _line(values, knots)
    found = score + (values - low) * slope
    outermost = scores_like(knots)
    return found.clamp(outermost[0], outermost[-1])


def slopes_of(values: Tensor, knots: Tensor) -> Tensor:
    """Derivative of :func:`to_normal`; that of the last stretch beyond it."""
    return _line(values, knots)[1]


def _line(values: Tensor, knots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, slope and score at the knot below each value."""
    score = scores_like(knots)
    lines = values.reshape(-1, *knots.shape[:2]).permute(1, 2, 0).contiguous()
    at = (torch.searchsorted(knots.contiguous(), lines) - 1).clamp(0, knots.shape[2] - 2)
    low, high = knots.gather(2, at), knots.gather(2, at + 1)
    slope = (score[at + 1] - score[at]) / (high - low)
    shape = values.shape
    back = lambda x: x.permute(2, 0, 1).reshape(shape)  # noqa: E731
    return back(low), back(slope), back(score[at])


def to_value(z: Tensor, knots: Tensor) -> Tensor:
    """Values of normal scores ``[..., T, C]``, never outside what was seen."""
    score = scores_like(knots)
    z = z.clamp(score[0], score[-1])
    at = (torch.searchsorted(score, z.contiguous()) - 1).clamp(0, knots.shape[2] - 2)
    share = (z - score[at]) / (score[at + 1] - score[at])
    lines = at.reshape(-1, *knots.shape[:2]).permute(1, 2, 0)
    low, high = (knots.gather(2, lines + k).permute(2, 0, 1).reshape(z.shape) for k in (0, 1))
    return low + share * (high - low)


def pair_covariance(z: Tensor, seen: Tensor) -> Tensor:
    """Correlation ``[D, D]`` of scores ``[N, D]`` (0 where missing) over the pairs seen, made semi-definite."""
    weight = seen.to(z.dtype)
    both = weight.mT @ weight
    found = (z.mT @ z) / both.clamp(min=1)
    values, vectors = torch.linalg.eigh(0.5 * (found + found.mT))
    found = (vectors * values.clamp(min=1e-8)) @ vectors.mT
    scale = found.diagonal().clamp(min=1e-6).rsqrt()
    found = scale[:, None] * found * scale
    off = ~torch.eye(len(found), dtype=torch.bool, device=z.device)
    return torch.where(off, found, 1.0)
