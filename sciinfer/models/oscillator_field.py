"""Latent oscillators with a pace for each series: an ordinary equation that needs no solver."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..integrate import Field
from ..labelled.series import SeriesBatch
from .latent_ode_field import LatentField
from .spectral_start import spectral_start

#: log pace for a unit of its latent variable
PACE = 0.1


class Oscillators(LatentField):
    """``p_k' = w_k e^{u/10} J p_k``, constants ``s`` and a pace ``u`` that stay: ``z = (p_1, ..., p_K, s, u)``.

    Every cycle is some function of the phases, which the decoder learns; the constants tell series apart.

    ``p_k(t) = R(w_k e^{u/10} (t - t_0)) p_k(t_0)``, a rotation.

    Args:
        planes: ``K``. constants: of ``s``. doubt: further standard deviation of the log pace when questions are
            answered, for series whose pace lies outside what training has shown.
        generator: starting frequencies.
    """

    def __init__(self, planes: int, constants: int, *, doubt: float = 0.0, generator: torch.Generator) -> None:
        seen = 2 * planes + constants
        super().__init__(seen + 1, seen)
        self.planes, self.extra = planes, doubt / PACE
        # periods from six to sixty typical gaps
        unit = torch.rand(planes, generator=generator, dtype=torch.float64)
        self.log_frequency = nn.Parameter(math.log(2 * math.pi / 60) + math.log(10.0) * unit)

    def initialise(self, batch: SeriesBatch) -> None:
        """Frequencies from the subspace start: those that carry most of the data's variance."""
        start = spectral_start(batch.drop_empty(), 2 * self.planes + 4)
        if start is None:
            return
        rates, modes = np.linalg.eig(start.skew - np.diag(start.spread) / 2)
        power = (np.abs(start.weight @ modes) ** 2).sum(0)
        turning = [k for k in np.argsort(-power) if np.imag(rates[k]) > 1e-3][: self.planes]
        with torch.no_grad():
            for place, k in enumerate(turning):
                self.log_frequency[place] = math.log(float(np.imag(rates[k])))

    def matrix(self) -> Tensor:
        """At the usual pace."""
        M = torch.zeros(self.dim, self.dim, dtype=self.log_frequency.dtype, device=self.log_frequency.device)
        even = torch.arange(0, 2 * self.planes, 2, device=M.device)
        w = self.log_frequency.exp()
        M[even, even + 1] = -w
        M[even + 1, even] = w
        return M

    def bound_drift(self) -> Field:
        """The rotation at each series' own pace."""
        M = self.matrix().mT
        return lambda t, z: (z @ M) * (PACE * z[..., -1:]).exp()

    def solution(self, z0: Tensor, start: Tensor, times: Tensor) -> Tensor:
        """See :class:`LatentField`."""
        pace = (PACE * z0[..., -1]).exp()[..., None] * (times - start[:, None])
        angle = pace[..., None] * self.log_frequency.exp()
        cos, sin = angle.cos(), angle.sin()
        x, y = (z0[..., None, part : 2 * self.planes : 2] for part in (0, 1))
        turned = torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1).flatten(-2)
        rest = z0[..., None, 2 * self.planes :]
        return torch.cat([turned, rest.expand(*turned.shape[:-1], rest.shape[-1])], dim=-1)

    def doubt(self, sd: Tensor) -> Tensor:
        """With the further spread of the pace."""
        return torch.cat([sd[..., :-1], (sd[..., -1:].square() + self.extra**2).sqrt()], dim=-1)
