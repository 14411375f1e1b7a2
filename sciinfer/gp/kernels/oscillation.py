"""Periodic kernels: cosine, the canonical periodic kernel, and their products with Matérn kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .base import Kernel, log_parameter, positive
from .matern import Matern12, Matern32, Matern52
from .product import Product

__entries__ = [
    {
        "kind": "kernels",
        "name": "cosine",
        "target": "Cosine",
        "summary": "an undamped oscillation of one frequency, random in phase and size",
        "options": {"period": "time", "variance": "signal units squared"},
    },
    {
        "kind": "kernels",
        "name": "periodic",
        "target": "Periodic",
        "summary": "strictly periodic functions of given roughness",
        "references": [
            "Solin, Särkkä (2014), Explicit link between periodic covariance functions and state space models"
        ],
        "options": {
            "period": "time",
            "roughness": "length-scale of the pattern, dimensionless: small is rough",
            "variance": "signal units squared",
            "harmonics": "number of harmonics, default: enough for the starting roughness",
        },
    },
    {
        "kind": "kernels",
        "name": "quasi-periodic",
        "target": "QuasiPeriodic",
        "summary": "periodic functions whose pattern changes slowly (periodic times Matérn-3/2)",
        "options": {
            "period": "time",
            "lengthscale": "time over which the pattern changes",
            "roughness": "length-scale of the pattern, dimensionless",
            "variance": "signal units squared",
            "harmonics": "number of harmonics, default: enough for the starting roughness",
        },
    },
    {
        "kind": "kernels",
        "name": "hida-matern",
        "target": "HidaMatern",
        "summary": "Matérn covariance times a cosine: a band of frequencies",
        "references": ["Dowling, Sokół, Park (2021), Hida-Matérn kernel"],
        "options": {
            "lengthscale": "time",
            "period": "time",
            "variance": "signal units squared",
            "order": "12, 32 (default) or 52",
        },
    },
]
_MATERN = {12: Matern12, 32: Matern32, 52: Matern52}
_MOST = 60


class _Resonators(Kernel):
    """Undamped rotations at multiples of one frequency; the period is fixed unless it is asked to be learned."""

    orders: Tensor

    def __init__(self, period: float, orders: Tensor, learn_period: bool) -> None:
        super().__init__()
        log_period = log_parameter(period, "period")
        if learn_period:
            self.log_period = log_period
        else:
            self.register_buffer("log_period", log_period.detach())
        self.register_buffer("orders", orders)

    @property
    def period(self) -> Tensor:
        """Time after which the function repeats."""
        return self.log_period.exp()

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations by ``2 pi j dt / p``; no noise."""
        # whole periods are taken off first, so that the angle stays exact after long gaps
        phase = dt / self.period
        angle = 2 * math.pi * torch.remainder(phase[..., None] * self.orders, 1.0)
        A = rotations(angle)
        return A, torch.zeros_like(A)


def rotations(angle: Tensor) -> Tensor:
    """Block-diagonal rotations ``[..., 2 J, 2 J]`` by ``angle [..., J]``."""
    J = angle.shape[-1]
    blocks = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2
    )
    spread = blocks.unsqueeze(-2) * torch.eye(J, dtype=angle.dtype, device=angle.device)[:, None, :, None]
    return spread.reshape(*angle.shape[:-1], 2 * J, 2 * J)


class Cosine(_Resonators):
    """``k(r) = s2 cos(2 pi r / p)``.

    Args:
        period: ``p``, time. variance: ``s2``. learn_period: is the period a parameter.

    Example:
        >>> half = torch.tensor(1.5, dtype=torch.float64)
        >>> round(Cosine(period=3.0, variance=2.0).covariance(half).item(), 9)
        -2.0
    """

    state_dim = 2

    def __init__(self, period: float, variance: float = 1.0, *, learn_period: bool = False) -> None:
        super().__init__(period, torch.ones(1, dtype=torch.float64), learn_period)
        self.log_variance = log_parameter(variance, "variance")

    def initial(self) -> Tensor:
        """``s2 I``."""
        return torch.diag(self.log_variance.exp().expand(2))

    def readout(self) -> Tensor:
        """The first component."""
        return torch.tensor([1.0, 0.0], dtype=self.log_variance.dtype, device=self.log_variance.device)


class Periodic(_Resonators):
    """``k(r) = s2 exp(-2 sin^2(pi r / p) / l^2)`` as a bank of resonators of variances ``2 I_j(l^-2) e^{-l^-2}``.

    Args:
        period: ``p``, time. roughness: ``l``, dimensionless. variance: ``s2 = k(0)``.
        harmonics: ``J``; default: as many as leave out less than 1e-6 of the variance at the start.
        learn_period: is the period a parameter.

    Raises:
        ConfigError: the pattern is too rough for 60 harmonics.

    References:
        Solin, Särkkä (2014), Explicit link between periodic covariance functions and state space models.

    Example:
        >>> Periodic(period=1.0, roughness=1.0).state_dim
        15
    """

    def __init__(
        self,
        period: float,
        roughness: float = 1.0,
        variance: float = 1.0,
        harmonics: int | None = None,
        *,
        learn_period: bool = False,
    ) -> None:
        J = _enough(positive("roughness", roughness)) if harmonics is None else harmonics
        if not isinstance(J, int) or J < 1:
            raise ConfigError(f"harmonics must be a whole number >= 1, got {harmonics!r}", fix="harmonics=7")
        super().__init__(period, torch.arange(1, J + 1, dtype=torch.float64), learn_period)
        self.state_dim = 2 * J + 1
        self.log_roughness = log_parameter(roughness, "roughness")
        self.log_variance = log_parameter(variance, "variance")

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The level stays, the harmonics rotate."""
        A, _ = super().transition(dt)
        A = nn.functional.pad(A, (1, 0, 1, 0))
        A[..., 0, 0] = 1.0
        return A, torch.zeros_like(A)

    def initial(self) -> Tensor:
        """Level and harmonics, uncorrelated."""
        weights = harmonic_weights((-2 * self.log_roughness).exp(), len(self.orders)) * self.log_variance.exp()
        return torch.diag(torch.cat([weights[:1], weights[1:].repeat_interleave(2)]))

    def readout(self) -> Tensor:
        """The level and the first component of every harmonic."""
        h = torch.zeros(self.state_dim, dtype=self.log_variance.dtype, device=self.log_variance.device)
        h[0], h[1::2] = 1.0, 1.0
        return h

    def truncation(self) -> float:
        """The share of the variance that the left-out harmonics would hold."""
        with torch.no_grad():
            return 1.0 - float(harmonic_weights((-2 * self.log_roughness).exp(), len(self.orders)).sum())


def harmonic_weights(x: Tensor, harmonics: int) -> Tensor:
    """``e^{-x} I_0(x)`` and ``2 e^{-x} I_j(x)``, ``j = 1..J``: ``[J + 1]``.

    Ratios of neighbouring Bessel functions by their continued fraction, run downwards: stable and differentiable.
    """
    ratio, ratios = torch.zeros_like(x), []
    # the fraction has converged long before where I_j is negligible, about sqrt(80 x) orders up
    extra = 40 + math.ceil(math.sqrt(80 * float(x.detach().clamp(max=1e6))))
    for j in range(harmonics + extra, 0, -1):
        ratio = x / (2 * j + x * ratio)
        if j <= harmonics:
            ratios.append(ratio)
    first = torch.special.i0e(x)
    return torch.cat([first.reshape(1), 2 * first * torch.cumprod(torch.stack(ratios[::-1]), 0)])


def _enough(roughness: float) -> int:
    x = torch.tensor(roughness**-2, dtype=torch.float64)
    held = harmonic_weights(x, _MOST).cumsum(0)
    reached = torch.nonzero(held > 1 - 1e-6)[:, 0]
    if not len(reached):
        raise ConfigError(
            f"roughness {roughness:g} needs more than {_MOST} harmonics", variable="roughness", fix="roughness=0.2"
        )
    return max(int(reached[0]), 1)


class QuasiPeriodic(Product):
    """Periodic times Matérn-3/2: a pattern that repeats with period ``p`` and changes over ``lengthscale``.

    Args:
        period, lengthscale: time. roughness, variance, harmonics: of the periodic factor.

    Example:
        >>> QuasiPeriodic(period=1.0, lengthscale=10.0, harmonics=3).state_dim
        14
    """

    def __init__(
        self,
        period: float,
        lengthscale: float,
        roughness: float = 1.0,
        variance: float = 1.0,
        harmonics: int | None = None,
        *,
        learn_period: bool = False,
    ) -> None:
        pattern = Periodic(period, roughness, 1.0, harmonics, learn_period=learn_period)
        super().__init__(Matern32(lengthscale, variance), _fixed_size(pattern))


class HidaMatern(Product):
    """Matérn of order 1/2, 3/2 or 5/2 times ``cos(2 pi r / p)``.

    Args:
        lengthscale, period: time. variance: ``k(0)``. order: 12, 32 or 52. learn_period: is the period a parameter.

    References:
        Dowling, Sokół, Park (2021), Hida-Matérn kernel.

    Example:
        >>> HidaMatern(lengthscale=4.0, period=1.0, order=52).state_dim
        6
    """

    def __init__(
        self,
        lengthscale: float,
        period: float,
        variance: float = 1.0,
        order: int = 32,
        *,
        learn_period: bool = True,
    ) -> None:
        if order not in _MATERN:
            raise ConfigError(f"order must be 12, 32 or 52, got {order!r}", variable="order", fix="order=32")
        super().__init__(_MATERN[order](lengthscale, variance), _fixed_size(Cosine(period, learn_period=learn_period)))


def _fixed_size(kernel: Cosine | Periodic) -> Kernel:
    """Its variance is held at one: the other factor's is the product's."""
    one = kernel.log_variance.detach()
    del kernel.log_variance
    kernel.register_buffer("log_variance", one)
    return kernel
