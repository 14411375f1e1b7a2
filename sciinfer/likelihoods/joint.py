"""Several likelihoods side by side: one for each block of channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from .base import Likelihood


class JointLikelihood(Likelihood):
    """Channels ``[0, n_1)`` follow the first likelihood, the next ``n_2`` the second, and so on.

    Args:
        parts: likelihoods. sizes: channels of each.

    Example:
        >>> from sciinfer.likelihoods import Gaussian, Poisson
        >>> both = JointLikelihood([Poisson(2), Gaussian(1)], [2, 1])
        >>> both.mean(torch.zeros(3, dtype=torch.float64)).tolist()
        [1.0, 1.0, 0.0]
    """

    support = "mixed"

    def __init__(self, parts: Sequence[Likelihood], sizes: Sequence[int]) -> None:
        super().__init__()
        if len(parts) != len(sizes) or not parts or any(size < 1 for size in sizes):
            raise ConfigError(
                f"{len(parts)} likelihoods for blocks of {list(sizes)} channels", fix="one for each block"
            )
        self._parts, self.sizes = nn.ModuleList(parts), list(sizes)

    @property
    def parts(self) -> list[Likelihood]:
        """The likelihoods, in the order of the channels."""
        return [part for part in self._parts if isinstance(part, Likelihood)]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Blocks of the last axis.

        Raises:
            ShapeError: another number of channels.
        """
        if values.shape[-1] != sum(self.sizes):
            raise ShapeError(f"{values.shape[-1]} channels for likelihoods of {self.sizes}", fix=f"{sum(self.sizes)}")
        return values.split(self.sizes, dim=-1)

    def entry_log_prob(self, y: Tensor, eta: Tensor) -> Tensor:
        """Each block's own."""
        blocks = zip(self.parts, self.split(y), self.split(eta), strict=True)
        return torch.cat([part.entry_log_prob(*block) for part, *block in blocks], dim=-1)

    def mean(self, eta: Tensor) -> Tensor:
        """Each block's own."""
        return torch.cat([part.mean(e) for part, e in zip(self.parts, self.split(eta), strict=True)], dim=-1)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Each block's own."""
        return torch.cat(
            [part.sample(e, generator) for part, e in zip(self.parts, self.split(eta), strict=True)], dim=-1
        )

    def expected_log_prob(self, y: Tensor, mean: Tensor, variance: Tensor, mask: Tensor) -> Tensor:
        """The sum of the blocks' own, in closed form where they have one."""
        blocks = zip(*(self.split(values) for values in (y, mean, variance, mask)), strict=True)
        found = [part.expected_log_prob(*block) for part, block in zip(self.parts, blocks, strict=True)]
        return torch.stack(found).sum(0)

    def initialise(self, y: Tensor, mask: Tensor) -> None:
        """Each block's own."""
        for part, *block in zip(self.parts, self.split(y), self.split(mask), strict=True):
            part.initialise(*block)


def channel_supports(likelihood: Likelihood, channels: int) -> list[str]:
    """The support of each of ``channels``: that of its block, where there are several.

    Example:
        >>> from sciinfer.likelihoods import Gaussian, Poisson
        >>> channel_supports(JointLikelihood([Poisson(2), Gaussian(1)], [2, 1]), 3)
        ['count', 'count', 'real']
    """
    if not isinstance(likelihood, JointLikelihood):
        return [likelihood.support] * channels
    return [part.support for part, size in zip(likelihood.parts, likelihood.sizes, strict=True) for _ in range(size)]
