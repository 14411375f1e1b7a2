"""Decoders: from a latent state to the likelihood's predictor."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .mlp import MLP, linear


class Decoder(nn.Module, ABC):
    """``z [..., d] -> eta [..., C]``."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """The predictor."""


class LinearDecoder(Decoder):
    """``eta = W z + b``.

    Args:
        dim, channels: sizes. generator: starting weights.
    """

    def __init__(self, dim: int, channels: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, dim, generator=generator, dtype=torch.float64) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        """``[..., C]``."""
        return z @ self.weight.mT + self.bias

    def moments(self, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[..., C]`` of ``eta`` when ``z ~ N(mean, cov)``."""
        return self(mean), ((self.weight @ cov) * self.weight).sum(-1)


class MLPDecoder(Decoder):
    """``eta = W z + b + net(z)``, the net starting at zero.

    Args:
        dim, channels: sizes. hidden: widths. generator: starting weights.
    """

    def __init__(self, dim: int, channels: int, hidden: tuple[int, ...], *, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = LinearDecoder(dim, channels, generator=generator)
        self.net = MLP(dim, channels, hidden, generator=generator, zero=True)

    def forward(self, z: Tensor) -> Tensor:
        """``[..., C]``."""
        return self.linear(z) + self.net(z)


class InverseLipschitzDecoder(Decoder):
    """``eta = U s (L z + grad phi(z)) + b``: no two states look alike, so no latent direction can be ignored.

    ``phi`` is convex, hence ``|L z + grad phi(z)|`` grows at least ``L`` times as fast as ``|z|``; ``U`` has
    orthonormal columns and the scales ``s`` are at least 1/2.

    Args:
        dim, channels: sizes, ``dim <= channels``. hidden: units of ``phi``. least: ``L``. generator: starting weights.

    Raises:
        ConfigError: more latent dimensions than channels.

    References:
        Kinoshita, Oono, Fukumizu, Yoshida, Maeda (2023), Controlling posterior collapse by an inverse Lipschitz
        constraint on the decoder network.

    Example:
        >>> from sciinfer.random import generator
        >>> decoder = InverseLipschitzDecoder(2, 3, 8, generator=generator(0, "d"))
        >>> z = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
        >>> bool(decoder(z).diff(dim=0).norm() >= 0.5 * 5)
        True
    """

    def __init__(self, dim: int, channels: int, hidden: int, *, least: float = 1.0, generator: torch.Generator) -> None:
        super().__init__()
        if dim > channels:
            raise ConfigError(
                f"{dim} latent dimensions cannot all be seen in {channels} channels",
                variable="latent",
                fix=f"latent={channels}",
            )
        self.least = least
        self.into = linear(dim, hidden, generator=generator)
        self.log_gain = nn.Parameter(torch.full((hidden,), -2.0, dtype=torch.float64))
        self.frame = nn.Parameter(torch.randn(channels, dim, generator=generator, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(channels, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        """``[..., C]``."""
        gates = torch.sigmoid(self.into(z)) * self.log_gain.exp()
        bent = self.least * z + gates @ self.into.weight
        # Gram-Schmidt by the Cholesky factor of the Gram matrix
        root = torch.linalg.cholesky(self.frame.mT @ self.frame)
        U = torch.linalg.solve_triangular(root, self.frame.mT, upper=False)
        return (bent * (0.5 + self.log_scale.exp())) @ U + self.bias
