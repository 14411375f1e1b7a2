"""DPM-Solver++: exponential integrators in the logarithm of the noise, with memory of earlier evaluations."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ConfigError
from ..denoiser import Denoiser
from ..noise import RowNoise
from .base import Sampler


class Past(NamedTuple):
    """Earlier denoised values, the latest first, and the logarithms of the ratios they were taken at."""

    values: tuple[Tensor, ...] = ()
    logs: tuple[Tensor, ...] = ()

    def push(self, value: Tensor, log: Tensor, keep: int) -> Past:
        """With one more, the oldest forgotten."""
        return Past((value, *self.values)[:keep], (log, *self.logs)[:keep])


class DPMSolver(Sampler):
    """``u' = e^{-h} u - (e^{-h} - 1) (D + corrections)``, ``h = log(s / s')``; corrections from earlier steps.

    One evaluation a step. Euler's step to start with, and at the last.

    Args:
        order: 2 (``2M``) or 3 (``3M``).

    Raises:
        ConfigError: another order.

    References:
        Lu, Zhou, Bao, Chen, Li, Zhu (2022), DPM-Solver++: fast solver for guided sampling.
    """

    def __init__(self, order: int = 2) -> None:
        if order not in (2, 3):
            raise ConfigError(f"there is no multistep solver of order {order!r}", variable="order", fix="order=2 or 3")
        self.order = order

    def step(
        self, denoiser: Denoiser, u: Tensor, s: Tensor, below: Tensor, memory: Past | None, noise: RowNoise
    ) -> tuple[Tensor, Any]:
        """One step."""
        past = (memory or Past()).push(denoiser.denoise(u, s), s.log(), self.order)
        if float(below) == 0.0:
            return past.values[0], past
        h = (s / below).log()
        phi1 = torch.expm1(-h)
        ahead = (-h).exp() * u - phi1 * past.values[0]
        first, second = _differences(past, h)
        phi2 = phi1 / h + 1
        if second is not None:
            return ahead + phi2 * first - (phi2 / h - 0.5) * second, past
        # 2M weighs the difference with half the Euler weight, which is phi2 to the order of the method
        return ahead - 0.5 * phi1 * first, past


def _differences(past: Past, h: Tensor) -> tuple[Tensor, Tensor | None]:
    """First and second scaled differences of the denoised values; zero and None while there are too few."""
    D = past.values
    if len(D) == 1:
        return torch.zeros_like(D[0]), None
    r0 = (past.logs[1] - past.logs[0]) / h
    near = (D[0] - D[1]) / r0
    if len(D) == 2:
        return near, None
    r1 = (past.logs[2] - past.logs[1]) / h
    far = (D[1] - D[2]) / r1
    bend = (near - far) / (r0 + r1)
    return near + r0 * bend, bend
