"""Diagonal Gaussian marginals from cubic Hermite pieces with one-sided slopes: kinks where the data are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .matching import Marginals


class HermiteKnots(NamedTuple):
    """``time [S, T]``; ``value``, ``left``, ``right [S, T, 2 d]``: mean and log standard deviation, their slopes just
    before and just after each knot."""

    time: Tensor
    value: Tensor
    left: Tensor
    right: Tensor


def hermite_marginals(knots: HermiteKnots, gap: Tensor, time: Tensor) -> Marginals:
    """Marginals at ``time [S, K]``, each inside the gap number ``gap [S, K]`` (between knots ``gap`` and ``gap + 1``).

    ``v`` and ``B`` are the exact time derivatives: ``m'`` and ``diag((log sigma)')``.
    """
    # a series of one time has no gap: its only knot is both ends of one of length zero
    after = (gap + 1).clamp(max=knots.time.shape[1] - 1)
    start, stop = _at(knots.time[..., None], gap), _at(knots.time[..., None], after)
    h = (stop - start).clamp(min=1e-12)
    u = (time[..., None] - start) / h
    p0, p1 = _at(knots.value, gap), _at(knots.value, after)
    s0, s1 = _at(knots.right, gap) * h, _at(knots.left, after) * h
    value = p0 * (1 + 2 * u) * (1 - u) ** 2 + s0 * u * (1 - u) ** 2 + p1 * u**2 * (3 - 2 * u) + s1 * u**2 * (u - 1)
    slope = (6 * u**2 - 6 * u) * (p0 - p1) + s0 * (1 - u) * (1 - 3 * u) + s1 * u * (3 * u - 2)
    mean, log_sd = value.chunk(2, dim=-1)
    velocity, growth = (slope / h).chunk(2, dim=-1)
    return Marginals(time, mean, torch.diag_embed(log_sd.exp()), velocity, torch.diag_embed(growth))


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(*index.shape, values.shape[-1]))


def gaps_of(knots: Tensor, time: Tensor) -> Tensor:
    """Which gap of ``knots [S, T]`` each ``time [S, K]`` lies in, ``0 .. T - 2``."""
    place = torch.searchsorted(knots.contiguous(), time.contiguous(), right=True) - 1
    return place.clamp(0, max(knots.shape[1] - 2, 0))
