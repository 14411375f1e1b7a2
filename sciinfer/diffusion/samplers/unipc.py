"""UniPC: a predictor, and a corrector that costs no evaluation of its own."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ConfigError
from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler
from .dpm import Past


class _Made(NamedTuple):
    """The step before: where it began, and what it knew."""

    past: Past
    u: Tensor
    s: Tensor


class UniPC(Sampler):
    """Predictor and corrector of one order in ``log s``; the evaluation at a point corrects the point first.

    One evaluation a step; Euler's step to start with and at the last.

    Args:
        order: of both, 2 or 3.

    Raises:
        ConfigError: another order.

    References:
        Zhao, Bai, Rao, Zhou, Lu (2023), UniPC: a unified predictor-corrector framework for fast sampling.
    """

    def __init__(self, order: int = 2) -> None:
        if order not in (2, 3):
            raise ConfigError(f"there is no UniPC of order {order!r}", variable="order", fix="order=2 or order=3")
        self.order = order

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: _Made | None, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """One step."""
        D = denoiser.denoise(u, s)
        before = memory.past if memory is not None else Past()
        if memory is not None:
            u = _advance(before, memory.u, memory.s, s, D, self.order)
        past = before.push(D, s.log(), self.order)
        if float(below) == 0.0:
            return D, None
        return _advance(past, u, s, below, None, self.order), _Made(past, u, s)


def _advance(past: Past, u: Tensor, s: Tensor, below: Tensor, new: Tensor | None, order: int) -> Tensor:
    """From ``s`` to ``below``; with the value ``new`` there it is the corrector."""
    h = (s / below).log()
    weight = torch.expm1(-h)
    D = past.values[0]
    known = list(zip(past.values, past.logs, strict=True))[1:order]
    places = [(past.logs[0] - log) / h for _, log in known]
    slopes = [(value - D) / r for (value, _), r in zip(known, places, strict=True)]
    if new is not None:
        places, slopes = [*places, torch.ones_like(h)], [*slopes, new - D]
    ahead = (-h).exp() * u - weight * D
    if not slopes:
        return ahead
    shares = _shares(torch.stack(places), -h, weight)
    return ahead - weight * sum(share * slope for share, slope in zip(shares, slopes, strict=True))


def _shares(places: Tensor, hh: Tensor, weight: Tensor) -> Tensor:
    """Weights that integrate polynomials in ``log s`` exactly."""
    count = len(places)
    rows = torch.stack([places**k for k in range(count)])
    wanted, phi = [], torch.expm1(hh) / hh - 1
    for k in range(1, count + 1):
        wanted.append(phi * math.factorial(k) / weight)
        phi = phi / hh - 1 / math.factorial(k + 1)
    if count == 1:
        return torch.full_like(places, 0.5)
    return torch.linalg.solve(rows, torch.stack(wanted))
