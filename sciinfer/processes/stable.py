"""Neural stochastic differential equations that cannot explode, driven by a control.

All three have a learned rate of return ``a > 0`` and a bounded learned rest ``b(z, u)``, with ``u`` the control; the
spread ``s(u)`` does not depend on the state:

- Langevin: ``dz = (-a z + b) dt + s dW``;
- linear noise: ``dz = (-a z + b) dt + s z dW`` with ``2 a > s^2``, so that the second moment stays bounded;
- geometric: ``dz / z = (-a log z + b) dt + s dW``, solved for ``log z``, so that ``z > 0``.

References:
    Oh, Lim, Kim (2024), Stable neural stochastic differential equations in analyzing irregular time series data.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..nets.mlp import MLP, linear
from .base import NonlinearProcess


class StableSDE(NonlinearProcess):
    """A stable process with a control of ``features`` numbers, of which the last ``near`` drive the spread.

    Args:
        dim: ``d``. features: size of the control ``u``. near: how many of its last entries enter the spread (they say
            how near the data are). hidden: widths of the net of the drift. generator: starting weights.
    """

    additive = False
    #: largest size of the bounded rest, per model time
    BOUND = 5.0
    #: largest spread, per square root of model time
    SPREAD = 0.9
    #: least rate of return
    LEAST = 0.05

    def __init__(
        self, dim: int, features: int, near: int, hidden: tuple[int, ...] = (32,), *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.dim, self.features, self.near = dim, features, near
        self.raw_rate = nn.Parameter(torch.linspace(-1.0, 1.0, dim, dtype=torch.float64))
        self.net = MLP(dim + features, dim, hidden, generator=generator)
        self.spread_net = linear(near, dim, generator=generator)
        self.start_net = linear(features, dim, generator=generator)
        self.log_start = nn.Parameter(torch.full((dim,), -1.0, dtype=torch.float64))

    @property
    def rate(self) -> Tensor:
        """``a [d]``."""
        return self.LEAST + nn.functional.softplus(self.raw_rate)

    def rest(self, state: Tensor, u: Tensor | None) -> Tensor:
        """``b = B tanh(net / B)``; ``state`` is ``z``, or ``log z`` of a geometric process."""
        joined = torch.cat([state, self._control(state, u)], dim=-1)
        return self.BOUND * torch.tanh(self.net(joined) / self.BOUND)

    def spread(self, like: Tensor, u: Tensor | None) -> Tensor:
        """``s(u)``, between 0 and :attr:`SPREAD`."""
        near = self._control(like, u)[..., self.features - self.near :]
        return self.SPREAD * torch.sigmoid(self.spread_net(near))

    def start(self, u: Tensor, noise: Tensor) -> Tensor:
        """State at the first time, ``[..., d]``, from the control there and standard normal noise."""
        return self.start_net(u) + self.log_start.exp() * noise

    def initial(self) -> tuple[Tensor, Tensor]:
        """``N(m0, diag)`` of the internal state where the control is zero (no data)."""
        return self.start_net.bias, torch.diag((2 * self.log_start).exp())

    def state(self, internal: Tensor) -> Tensor:
        """``z`` of what the solver carries."""
        return internal

    @abstractmethod
    def advance(self, state: Tensor, h: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """One step of length ``h [...]`` of the solver's state, the rate of return solved exactly."""

    def _control(self, like: Tensor, u: Tensor | None) -> Tensor:
        if u is None:
            return like.new_zeros(*like.shape[:-1], self.features)
        return u.expand(*like.shape[:-1], self.features)

    def _weights(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """``exp(-a h)`` and ``(1 - exp(-a h)) / a``."""
        decay = -self.rate * h[..., None]
        return decay.exp(), -torch.expm1(decay) / self.rate

    def _gathered(self, h: Tensor) -> Tensor:
        """``sqrt((1 - exp(-2 a h)) / (2 a))``: standard deviation that unit noise gathers in a step."""
        variance = -torch.expm1(-2 * self.rate * h[..., None]) / (2 * self.rate)
        # the least positive number, not zero, where the root has no gradient
        return variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()


class LangevinSDE(StableSDE):
    """``dz = (-a z + b(z, u)) dt + s(u) dW``."""

    additive = True
    SPREAD = 2.0

    def drift(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``-a z + b``."""
        return -self.rate * z + self.rest(z, u)

    def diffusion(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``s``."""
        return self.spread(z, u).expand_as(z)

    def advance(self, state: Tensor, h: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """Exact for constant ``b``."""
        decay, area = self._weights(h)
        sd = self.spread(state, u) * self._gathered(h)
        return decay * state + area * self.rest(state, u) + sd * noise


class LinearNoiseSDE(StableSDE):
    """``dz = (-a z + b(z, u)) dt + s(u) z dW`` with ``2 a > s^2``."""

    @property
    def rate(self) -> Tensor:
        """``a > SPREAD^2 / 2``: the second moment stays bounded whatever is learned."""
        return self.LEAST + 0.5 * self.SPREAD**2 + nn.functional.softplus(self.raw_rate)

    def drift(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``-a z + b``."""
        return -self.rate * z + self.rest(z, u)

    def diffusion(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``s z``: its sign is that of the state, which the law of the path does not depend on."""
        return self.spread(z, u) * z

    def advance(self, state: Tensor, h: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """``z exp(-(a + s^2 / 2) h + s sqrt(h) noise) + b (1 - exp(-a h)) / a``: exact for ``b = 0``."""
        s, (decay, area) = self.spread(state, u), self._weights(h)
        kick = s * h[..., None].sqrt() * noise - 0.5 * s.square() * h[..., None]
        return decay * state * kick.exp() + area * self.rest(state, u)


class GeometricSDE(StableSDE):
    """``dz / z = (-a log z + b(z, u)) dt + s(u) dW``; the solver carries ``log z``."""

    #: bounded more tightly: the state is an exponential
    BOUND = 2.0
    LEAST = 0.5

    def drift(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``z (-a log z + b)``."""
        return z * (-self.rate * z.log() + self.rest(z.log(), u))

    def diffusion(self, t: Tensor, z: Tensor, u: Tensor | None = None) -> Tensor:
        """``s z``."""
        return self.spread(z, u) * z

    def state(self, internal: Tensor) -> Tensor:
        """``exp``."""
        return internal.exp()

    def advance(self, state: Tensor, h: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """Itô's correction ``-s^2 / 2`` beside ``b``; exact for constant ``b``."""
        s, (decay, area) = self.spread(state, u), self._weights(h)
        sd = s * self._gathered(h)
        return decay * state + area * (self.rest(state, u) - 0.5 * s.square()) + sd * noise
