"""Errors of a forecast: quantiles by lead and channel from held-out windows; draws that wander from lead to lead."""

from __future__ import annotations

import torch
from torch import Tensor

from ..statespace.recurrence import linear_recurrence

#: standard normal knots of a table of quantiles; linear between and beyond them
KNOTS = (-2.6, -2.2, -1.9, -1.645, -1.45, -1.28, -1.15, -1.04, -0.84, -0.67, -0.52, -0.39, -0.25, -0.13, 0.0)
KNOTS = (*KNOTS, *(-z for z in KNOTS[-2::-1]))
#: windows with fewer errors than this have a normal table
_FEWEST = 20


def knots_like(like: Tensor) -> Tensor:
    """``[K]``."""
    return torch.tensor(KNOTS, dtype=like.dtype, device=like.device)


def normal_table(like: Tensor) -> Tensor:
    """The table of a standard normal error, ``[1, K, 1]``."""
    return knots_like(like)[None, :, None]


def quantile_table(error: Tensor, seen: Tensor) -> Tensor:
    """Quantiles at the knots, ``[H, K, C]``, of errors ``[B, H, C]``: split-conformal, levels widened by ``1 / n``.

    A lead or channel with too few errors has a normal table of its own scale.
    """
    counts = seen.sum(0).to(error.dtype)
    knots = knots_like(error)
    level = 0.5 * (1 + torch.erf(knots / 2**0.5))
    level = (0.5 + (level - 0.5) * (1 + 1 / counts.clamp(min=1))[..., None]).clamp(0.0, 1.0)
    ordered = torch.where(seen, error, torch.inf).sort(dim=0).values
    place = level * (counts - 1).clamp(min=0)[..., None]
    low = place.floor().long()
    high = torch.minimum(low + 1, (counts - 1).clamp(min=0).long()[..., None])
    ordered = torch.where(ordered.isinf(), 0.0, ordered).permute(1, 2, 0)
    share = place - low
    found = (1 - share) * ordered.gather(2, low) + share * ordered.gather(2, high)
    square = torch.where(seen, error, 0.0).square().sum(0) / counts.clamp(min=1)
    pooled = square.sum() / (counts > 0).sum().clamp(min=1)
    scale = torch.where(counts > 2, square, pooled).sqrt().clamp(min=1e-6)
    found = torch.where((counts >= _FEWEST)[..., None], found, scale[..., None] * knots)
    return found.mT.contiguous()


def pinball(error: Tensor, seen: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    """Sum of quantile losses of ``error [B, H, C]`` under ``scale`` times a table, in usual errors."""
    level = 0.5 * (1 + torch.erf(knots_like(error) / 2**0.5))
    total = error.new_zeros(error.shape[2])
    for k in range(3, len(KNOTS) - 3):
        off = torch.where(seen, error - scale * table[:, k], 0.0)
        total = total + torch.maximum(level[k] * off, (level[k] - 1) * off).sum((0, 1))
    usual = torch.where(seen, error.abs(), 0.0).sum((0, 1))
    return (total / usual.clamp(min=1e-12)).sum()


def lead_memory(error: Tensor, seen: Tensor, table: Tensor) -> Tensor:
    """Correlation of the errors of neighbouring leads, ``[]``, after each is divided by its lead's spread."""
    if error.shape[1] < 2 or not len(error):
        return error.new_zeros(())
    wide = (table[:, -4] - table[:, 3]).clamp(min=1e-9)
    z = torch.where(seen, error / wide, 0.0).clamp(-2, 2)
    both = seen[:, 1:] & seen[:, :-1]
    product = (z[:, 1:] * z[:, :-1] * both).sum()
    power = ((z[:, 1:].square() + z[:, :-1].square()) * both).sum() / 2
    return (product / power.clamp(min=1e-12)).clamp(0.0, 0.995)


def wandering(memory: Tensor, shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Standard normal numbers ``[n, S, K, C]`` with that correlation from one cell to the next."""
    white = torch.randn(shape, generator=generator, dtype=memory.dtype, device=memory.device)
    first = torch.arange(shape[2], device=memory.device)[:, None] == 0
    fresh = torch.where(first, 1.0, (1 - memory.square()).sqrt()) * white
    flat = fresh.flatten(0, 1)
    return linear_recurrence(memory.expand(flat.shape), flat).unflatten(0, shape[:2])


def looked_up(table: Tensor, z: Tensor) -> Tensor:
    """The error at a standard normal ``z [n, S, H, C]``: linear between knots and beyond them."""
    knots = knots_like(z)
    at = (torch.searchsorted(knots, z.contiguous()) - 1).clamp(0, len(KNOTS) - 2)
    share = (z - knots[at]) / (knots[at + 1] - knots[at])
    # [H, C, K], one look-up for each lead and channel
    rows = table.permute(0, 2, 1).expand(z.shape[2], z.shape[3], len(KNOTS)).contiguous()
    flat = rows.view(-1)
    line = torch.arange(z.shape[2] * z.shape[3], device=z.device).view(z.shape[2], z.shape[3]) * len(KNOTS)
    low, high = flat[line + at], flat[line + at + 1]
    return low + share * (high - low)
