"""Normalising flows as a family: zuko's, imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..extend import require
from .family import Family

Kind = Literal["nsf", "maf", "nice", "realnvp"]
_NAMES = {"nsf": "NSF", "maf": "MAF", "nice": "NICE", "realnvp": "RealNVP"}


class Flow(Family):
    """A flow over a learnable shift and scale: ``z = m + exp(s) T(e)``.

    Args:
        dim: ``d``, at least 2. kind: ``"nsf"`` (rational-quadratic splines), ``"maf"``, ``"nice"`` or ``"realnvp"``.
        transforms: how many layers. hidden: widths of their networks.
        generator: starts the weights; a flow has no deterministic start.

    Raises:
        DependencyError: zuko is not installed.

    References:
        Durkan, Bekasov, Murray, Papamakarios (2019), Neural spline flows; Rozet et al., zuko.
    """

    def __init__(
        self,
        dim: int,
        kind: Kind = "nsf",
        *,
        generator: torch.Generator,
        transforms: int = 3,
        hidden: Sequence[int] = (32, 32),
    ) -> None:
        super().__init__()
        if kind not in _NAMES:
            raise ConfigError(f"there is no flow {kind!r}", fix=f"one of {sorted(_NAMES)}")
        if dim < 2:
            raise ConfigError("a flow needs at least 2 dimensions", fix="use MeanField for one")
        zuko = require("zuko", extra="flows", purpose="normalising flows")
        self.dim = self.noise_size = dim
        with _private_randomness():
            make = getattr(zuko.flows, _NAMES[kind])
            self.flow = make(dim, 0, transforms=transforms, hidden_features=tuple(hidden)).double()
        _initialise(self.flow, generator)
        self.shift = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def transport(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws through the inverse of the flow's transform, with their density from its Jacobian."""
        q = self.flow()
        inner, volume = q.transform.inv.call_and_ladj(noise)
        return self.shift + self.log_scale.exp() * inner, q.base.log_prob(noise) - volume - self.log_scale.sum()

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, ``[n]``."""
        return self.flow().log_prob((z - self.shift) * (-self.log_scale).exp()) - self.log_scale.sum()


def _private_randomness() -> torch.random.fork_rng:  # type: ignore[name-defined]
    """Layers draw their default weights from the global state; it is put back, and the weights are drawn again."""
    return torch.random.fork_rng(devices=[])


def _initialise(flow: nn.Module, generator: torch.Generator) -> None:
    """Every weight from ``U(-1, 1) / sqrt(fan in)`` of the caller's generator: independent of the global state."""
    with torch.no_grad():
        for parameter in flow.parameters():
            bound = 1 / max(parameter.shape[-1], 1) ** 0.5 if parameter.dim() > 1 else 0.0
            fresh = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((2 * fresh - 1) * bound)
