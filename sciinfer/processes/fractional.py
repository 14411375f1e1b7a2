"""A neural drift with fractional noise: ``dX = f(X) dt + sigma dB^H``, its memory carried by ``K`` linear states."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..integrate.fractional import check_type, geometric_rates, markov_weights
from ..nets.mlp import MLP
from ..statespace.linalg import cholesky
from .base import NonlinearProcess

#: relative ridge on the covariance of a step, whose rank falls to one as the step shrinks
_RIDGE = 1e-9


class Step(NamedTuple):
    """Of steps ``size [...]``: ``decay [..., K]`` of each memory state, and ``root [..., 1 + K, 1 + K]`` of the
    covariance of ``(dW, the noise of each)``."""

    size: Tensor
    decay: Tensor
    root: Tensor


class FractionalSDE(NonlinearProcess):
    """``dX = (-r X + 5 tanh(net(X) / 5)) dt + sigma dB^H``, ``B^H`` by ``K`` Ornstein-Uhlenbeck processes.

    A step is exact in the noise (whatever the rates) and exponential Euler in the drift.

    Args:
        dim: ``d``; every component has its own noise, all the same ``H``. terms: ``K``. kind: of fractional Brownian
            motion, ``"I"`` or ``"II"``. hurst: start. hidden: widths of the net. generator: starting weights.

    References:
        Daems, Opper, Crevecoeur, Birdal (2024), Variational inference for SDEs driven by fractional noise.

    Example:
        >>> from sciinfer.random import generator
        >>> p = FractionalSDE(2, 4, generator=generator(0, "p"))
        >>> [round(w, 6) for w in p.weights().abs().tolist()]
        [1.0, 0.0, 0.0, 0.0, 0.0]
    """

    BOUND = 5.0

    def __init__(
        self,
        dim: int,
        terms: int = 5,
        *,
        kind: str = "I",
        hurst: float = 0.5,
        hidden: tuple[int, ...] = (32,),
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.dim, self.terms, self.kind = dim, terms, check_type(kind)
        self.logit_hurst = nn.Parameter(torch.tensor(math.log(hurst / (1 - hurst)), dtype=torch.float64))
        self.log_rate = nn.Parameter(torch.full((dim,), math.log(0.3), dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.net = MLP(dim, dim, hidden, generator=generator, zero=True)
        self.start_mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("rates", geometric_rates(terms, 10.0, 0.01))
        self.register_buffer("horizon", torch.tensor(50.0, dtype=torch.float64))

    @property
    def hurst(self) -> Tensor:
        """``H`` in (0, 1)."""
        return torch.sigmoid(self.logit_hurst)

    def resolve(self, span: float, gap: float) -> None:
        """Choose the rates for data over ``span`` with gaps of about ``gap``."""
        span = max(span, 4 * gap)
        self.get_buffer("rates").copy_(geometric_rates(self.terms, 10 / gap, 0.1 / span))
        self.get_buffer("horizon").fill_(span)

    def weights(self) -> Tensor:
        """``[1 + K]`` of ``W`` and the memory states; solved in double precision."""
        rates, horizon = self.get_buffer("rates").double(), self.get_buffer("horizon").double()
        return markov_weights(self.hurst.double(), rates, horizon, kind=self.kind).to(self.log_scale)

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """``f(X) [..., d]``, without the noise's memory."""
        return -self.log_rate.exp() * z + self.BOUND * torch.tanh(self.net(z) / self.BOUND)

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """``sigma [..., d]``: multiplies ``B^H``, not a Brownian motion."""
        return self.log_scale.exp().expand_as(z)

    def initial(self) -> tuple[Tensor, Tensor]:
        """Of ``X``: learned ``N(m0, diag)``."""
        return self.start_mean, torch.diag(self.log_start.exp().square())

    def memory_root(self) -> Tensor:
        """``[K, K]``: root of the covariance of a component's memory states at the start; zero for type II."""
        rates = self.get_buffer("rates").double()
        if self.kind == "II":
            return torch.zeros(self.terms, self.terms, dtype=self.log_scale.dtype, device=rates.device)
        scale = (2 * rates).sqrt()
        correlation = scale[:, None] * scale / (rates[:, None] + rates)
        return (cholesky(correlation) / scale[:, None]).to(self.log_scale)

    def step(self, h: Tensor) -> Step:
        """Everything linear about steps ``h [...]``: it holds no learned parameter."""
        rates, size = self.get_buffer("rates").double(), h.detach().double()
        x = size[..., None] * rates
        poles = torch.cat([rates.new_zeros(1), rates])
        total = (poles[:, None] + poles) * size[..., None, None]
        share = torch.where(total > 0, -torch.expm1(-total) / total.clamp(min=1e-300), torch.ones_like(total))
        ridge = _RIDGE * torch.eye(len(poles), dtype=share.dtype, device=share.device)
        root = torch.linalg.cholesky(share + ridge) * size.sqrt()[..., None, None]
        parts = (size, (-x).exp(), root)
        return Step(*(part.to(self.log_scale) for part in parts))

    def advance(
        self, z: Tensor, y: Tensor, step: Step, noise: Tensor, *, t: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of ``X [..., d]`` and the memory ``y [..., d, K]``.

        Args:
            noise: ``[..., d, 1 + K]``, standard normal under the prior. t: ``[...]``.
            weights: :meth:`weights`, solved once for a whole path.
        """
        shaken = torch.einsum("...ij,...cj->...ci", step.root, noise)
        later = y * step.decay[..., None, :] + shaken[..., 1:]
        moved = weights[0] * shaken[..., 0] + (later - y) @ weights[1:]
        x = self.log_rate.exp() * step.size[..., None]
        share = torch.where(x > 0, -torch.expm1(-x) / x.clamp(min=1e-30), torch.ones_like(x))
        held = step.size[..., None] * share
        return z + held * self.drift(t, z) + self.log_scale.exp() * moved, later
