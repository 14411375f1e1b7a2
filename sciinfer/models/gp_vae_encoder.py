"""Encoders of Gaussian potentials, one for each modality; what they say about a latent value adds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..labelled.series import Padded
from ..nets import ENCODERS, Encoder, PotentialEncoder, linear
from ..nets.potentials import row_potentials
from ..statespace.sites import Sites
from .modalities import Modality

#: likelihoods of counts
COUNTS = ("poisson", "negative-binomial")


class ContextPotentials(nn.Module):
    """Potentials of a row from an encoder that reads the whole series of one modality.

    Args:
        encoder: context of each row. latents: ``K``. counts: read ``log(1 + y)``. generator: starting weights.
    """

    def __init__(self, encoder: Encoder, latents: int, *, generator: torch.Generator, counts: bool = False) -> None:
        super().__init__()
        self.encoder, self.counts = encoder, counts
        self.head = linear(encoder.width, 2 * latents, generator=generator)
        with torch.no_grad():
            self.head.weight[latents:] = 0.0
            self.head.bias[:latents], self.head.bias[latents:] = 0.0, math.log(math.expm1(1.0))

    def forward(self, padded: Padded) -> Sites:
        """``Sites [S, T, K]``, zero in rows without any observation."""
        values = padded.values.clamp(min=0.0).log1p() if self.counts else padded.values
        return row_potentials(self.head(self.encoder(padded._replace(values=values))), padded.mask)


class ModalityPotentials(nn.Module):
    """A product of experts: precisions and shifts of all modalities are summed, a missing one adds nothing.

    Args:
        modalities: blocks of channels. latents: ``K``. name: ``pointwise`` or one of ``ENCODERS``.
        hidden: widths of pointwise nets. width: of the context encoders. generator: starting weights.

    Example:
        >>> from sciinfer.random import generator
        >>> both = [Modality("a", 0, 2, "gaussian"), Modality("b", 2, 3, "poisson")]
        >>> net = ModalityPotentials(both, 2, "pointwise", generator=generator(0, "e"))
        >>> y, rows = torch.ones(1, 4, 3, dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool)
        >>> net(Padded(y[..., 0], y, y > 0, rows)).shift.shape
        torch.Size([1, 4, 2])
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        latents: int,
        name: str,
        *,
        generator: torch.Generator,
        hidden: tuple[int, ...] = (64,),
        width: int = 32,
    ) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.parts = nn.ModuleList(
            _expert(modality, latents, name, hidden, width, generator) for modality in modalities
        )

    @property
    def experts(self) -> list[tuple[Modality, nn.Module]]:
        """Each modality with its own."""
        return list(zip(self.modalities, self.parts, strict=True))

    def forward(self, padded: Padded) -> Sites:
        """``Sites [S, T, K]`` of all that is not masked."""
        found = [_sites(part, _block(padded, one)) for one, part in self.experts]
        return Sites(*(torch.stack(side).sum(0) for side in zip(*found, strict=True)))


def _expert(
    modality: Modality, latents: int, name: str, hidden: tuple[int, ...], width: int, g: torch.Generator
) -> nn.Module:
    counts = modality.likelihood in COUNTS
    if name == "pointwise":
        return PotentialEncoder(modality.size, latents, hidden, generator=g, counts=counts)
    encoder = ENCODERS[name](modality.size, width, generator=g)
    return ContextPotentials(encoder, latents, generator=g, counts=counts)


def _sites(part: nn.Module, block: Padded) -> Sites:
    return part(block.values, block.mask) if isinstance(part, PotentialEncoder) else part(block)


def _block(padded: Padded, modality: Modality) -> Padded:
    own = slice(modality.start, modality.stop)
    return padded._replace(values=padded.values[..., own], mask=padded.mask[..., own])
