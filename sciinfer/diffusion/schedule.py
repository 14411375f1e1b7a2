"""Noise schedules: how much of a signal is left, and how much noise is on it, at diffusion time ``t``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..errors import ConfigError

#: the ratio of noise to signal at which a schedule that ends in pure noise is entered
LARGEST = 1e3


class Schedule(ABC):
    """``x_t = alpha(t) x_0 + sigma(t) z``, ``z ~ N(0, I)``, ``t`` in [0, 1]; ``t = 0`` is the signal.

    Only the ratio ``s(t) = sigma / alpha`` matters to a denoiser: with ``u = x_t / alpha`` every schedule is
    ``u = x_0 + s z``. Samplers and likelihoods work in that frame, and :meth:`ratios` is their grid.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the signal, ``[...]``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, ``[...]``."""

    def ratio(self, t: Tensor) -> Tensor:
        """``s(t) = sigma / alpha``, ascending in ``t``."""
        return self.sigma(t) / self.alpha(t)

    def ratios(self, steps: int, *, like: Tensor | None = None) -> Tensor:
        """``steps + 1`` descending ratios from ``s(1)`` (at most 1000) to zero, at even steps of ``t``.

        Raises:
            ConfigError: fewer than one step.

        Example:
            >>> EDM().ratios(2).round(decimals=6).tolist()
            [80.0, 0.002, 0.0]
        """
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ConfigError(f"steps must be a whole number >= 1, got {steps!r}", variable="steps", fix="steps=32")
        dtype, device = (torch.float64, None) if like is None else (like.dtype, like.device)
        t = torch.linspace(self._start(), 0.0, steps + 1, dtype=torch.float64, device=device)
        return torch.cat([self.ratio(t[:-1]), t[:1] * 0]).to(dtype)

    def _start(self) -> float:
        """Time of the first ratio: one, or where the ratio is the largest that is entered."""
        low, high = 0.0, 1.0
        if float(self.ratio(torch.tensor(1.0 - 1e-12, dtype=torch.float64))) <= LARGEST:
            return 1.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = float(self.ratio(torch.tensor(middle, dtype=torch.float64))) < LARGEST
            low, high = (middle, high) if below else (low, middle)
        return low


class VP(Schedule):
    """Variance preserving: ``alpha = exp(-t^2 (b1 - b0) / 4 - t b0 / 2)``, ``sigma^2 = 1 - alpha^2``.

    Args:
        b0, b1: rates at the two ends.

    References:
        Song et al. (2021), Score-based generative modeling through stochastic differential equations.

    Example:
        >>> t = torch.tensor(0.3, dtype=torch.float64)
        >>> round(float(VP().alpha(t) ** 2 + VP().sigma(t) ** 2), 12)
        1.0
    """

    def __init__(self, b0: float = 0.1, b1: float = 20.0) -> None:
        self.b0, self.b1 = _ascending("VP", b0, b1)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t.square() * (self.b1 - self.b0) - 0.5 * t * self.b0

    def alpha(self, t: Tensor) -> Tensor:
        """``[...]``."""
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """``[...]``; exact for small ``t`` too."""
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()


class SubVP(VP):
    """``alpha`` of :class:`VP`, ``sigma = 1 - alpha^2``: less noise at every time.

    References:
        Song et al. (2021), Score-based generative modeling through stochastic differential equations.
    """

    def sigma(self, t: Tensor) -> Tensor:
        """``[...]``."""
        return -torch.expm1(2 * self._log_alpha(t))


class VE(Schedule):
    """Variance exploding: ``alpha = 1``, ``sigma = low (high / low)^t``.

    Args:
        low, high: standard deviations at the two ends.

    References:
        Song, Ermon (2019), Generative modeling by estimating gradients of the data distribution.
    """

    def __init__(self, low: float = 0.002, high: float = 80.0) -> None:
        self.low, self.high = _ascending("VE", low, high)

    def alpha(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """``[...]``."""
        return self.low * (t * math.log(self.high / self.low)).exp()


class EDM(VE):
    """``alpha = 1``, ``sigma = (low^(1/rho) + t (high^(1/rho) - low^(1/rho)))^rho``: many steps where noise is small.

    Args:
        low, high: standard deviations at the two ends. rho: 7 as published.

    References:
        Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
    """

    def __init__(self, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> None:
        super().__init__(low, high)
        if not rho > 0:
            raise ConfigError(f"rho must be positive, got {rho!r}", variable="rho", fix="rho=7.0")
        self.rho = rho

    def sigma(self, t: Tensor) -> Tensor:
        """``[...]``."""
        low, high = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        return (low + t * (high - low)) ** self.rho

    def ratios(self, steps: int, *, like: Tensor | None = None) -> Tensor:
        """``steps`` published values from ``high`` down to ``low``, and zero."""
        if steps == 1:
            return super().ratios(1, like=like)
        even = super().ratios(steps, like=like)
        t = torch.linspace(1.0, 0.0, steps, dtype=torch.float64, device=even.device)
        return torch.cat([self.sigma(t), t[:1] * 0]).to(even.dtype)


class Cosine(Schedule):
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``.

    References:
        Nichol, Dhariwal (2021), Improved denoising diffusion probabilistic models.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """``[...]``."""
        return torch.cos(0.5 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        """``[...]``."""
        return torch.sin(0.5 * math.pi * t)


class Linear(Schedule):
    """``alpha = 1 - t``, ``sigma = t``: the straight paths of flow matching.

    References:
        Lipman et al. (2023), Flow matching for generative modeling.
        Albergo, Vanden-Eijnden (2023), Building normalizing flows with stochastic interpolants.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """``[...]``."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """``[...]``."""
        return t


#: schedules by name
SCHEDULES: dict[str, type[Schedule]] = {
    "vp": VP, "sub-vp": SubVP, "ve": VE, "edm": EDM, "cosine": Cosine, "flow-matching": Linear
}  # fmt: skip


def _ascending(name: str, low: float, high: float) -> tuple[float, float]:
    if not 0 < low < high < math.inf:
        raise ConfigError(f"{name} needs 0 < low < high, got {low!r} and {high!r}", fix=f"{name}() has the usual ones")
    return float(low), float(high)
