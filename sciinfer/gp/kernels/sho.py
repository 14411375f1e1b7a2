"""The stochastically driven, damped harmonic oscillator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...statespace.discretise import discretise
from ...statespace.problem import outer_form
from .base import Kernel, log_parameter, matrix, positive

__entries__ = [
    {
        "kind": "kernels",
        "name": "sho",
        "target": "SHO",
        "summary": "damped oscillator driven by white noise, of any damping",
        "references": [
            "Foreman-Mackey et al. (2017), Fast and scalable Gaussian process modeling with applications to "
            "astronomical time series"
        ],
        "options": {
            "period": "time: of the undamped oscillator",
            "quality": "quality factor: above 1/2 it rings, below it relaxes",
            "variance": "signal units squared",
        },
    },
]
_TERMS = 12


class SHO(Kernel):
    """``f'' + (w/q) f' + w^2 f = white noise``, ``w = 2 pi / period``.

    ``k(r) = s2 e^{-a w r} (cos(e w r) + (a/e) sin(e w r))``, ``a = 1/(2q)``, ``e = sqrt(1 - a^2)``; for ``q < 1/2`` the
    hyperbolic functions take over, and ``q = 1/2`` is the Matérn-3/2 kernel. Parameters may cross it freely.

    Args:
        period: ``p``, time. quality: ``q``. variance: ``s2 = k(0)``.

    References:
        Foreman-Mackey et al. (2017), Fast and scalable Gaussian process modeling.

    Example:
        >>> SHO(period=3.0, quality=2.0).covariance(torch.zeros(1, dtype=torch.float64)).item()
        1.0
    """

    state_dim = 2

    def __init__(self, period: float = 1.0, quality: float = 1.0, variance: float = 1.0) -> None:
        super().__init__()
        self.log_period = log_parameter(period, "period")
        self.log_quality = log_parameter(quality, "quality")
        self.log_variance = log_parameter(variance, "variance")

    @classmethod
    def from_power(cls, S0: float, w0: float, Q: float) -> SHO:
        """From the spectral level ``S0``, angular frequency ``w0`` and quality ``Q``: variance ``S0 w0 Q``."""
        positive("S0", S0)
        return cls(2 * math.pi / positive("w0", w0), Q, S0 * w0 * positive("Q", Q))

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Closed form in ``u = w dt`` for the state ``(f, f'/w)``; noise by series for short steps."""
        u = 2 * math.pi * dt * (-self.log_period).exp()
        a = 0.5 * (-self.log_quality).exp()
        C, S = _oscillation(a, u)
        A = matrix([[C + a * S, S], [-S, C - a * S]])
        one, zero = torch.ones_like(a), torch.zeros_like(a)
        F, D = matrix([[zero, one], [-one, -2 * a]]), matrix([[zero, zero], [zero, 4 * a]])
        eye = torch.eye(2, dtype=A.dtype, device=A.device)
        # both branches stay finite wherever they are not taken, so that no gradient is NaN
        short = u * (1 + 2 * a) < 1
        _, Q = discretise(F, D, torch.where(short, u, torch.zeros_like(u)))
        Q = torch.where(short[..., None, None], Q, eye - outer_form(A, eye))
        return A, Q * self.log_variance.exp()

    def initial(self) -> Tensor:
        """``s2 I``."""
        return torch.eye(2, dtype=self.log_variance.dtype, device=self.log_variance.device) * self.log_variance.exp()

    def readout(self) -> Tensor:
        """The position."""
        return torch.tensor([1.0, 0.0], dtype=self.log_variance.dtype, device=self.log_variance.device)


def _oscillation(a: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """``e^{-a u} cos(e u)`` and ``e^{-a u} sin(e u) / e``, ``e^2 = 1 - a^2`` of any sign, ``[...]``."""
    z = (1 - a.square()) * u.square()
    decay = (-a * u).exp()
    near = z.clamp(-1.0, 1.0)
    C, S = torch.ones_like(z), torch.ones_like(z)
    for k in range(_TERMS, 0, -1):
        C, S = 1 - near / ((2 * k - 1) * 2 * k) * C, 1 - near / (2 * k * (2 * k + 1)) * S
    r = z.clamp(min=1.0).sqrt()
    s = (-z).clamp(min=1.0).sqrt()
    # -a u + s without cancellation for strong damping: s^2 - (a u)^2 = -u^2
    slow, fast = (-u.square() / (s + a * u)).exp(), (-(s + a * u)).exp()
    over, under = z < -1.0, z > 1.0
    cos = torch.where(under, decay * r.cos(), torch.where(over, 0.5 * (slow + fast), decay * C))
    sin = torch.where(under, decay * u * r.sin() / r, torch.where(over, 0.5 * u * (slow - fast) / s, decay * u * S))
    return cos, sin
