"""Where a GP-VAE starts: principal components for Gaussian channels, the level of each channel in any case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..labelled.series import SeriesBatch
from ..nets import LinearDecoder, MLPDecoder, PotentialEncoder
from .gp_vae_encoder import COUNTS
from .modalities import Modality

#: bounds of a starting precision, and the least share of a channel's variance that is noise
_LEAST, _MOST, _NOISE = 0.05, 50.0, 0.02


class Components(NamedTuple):
    """``y ~ W z + level + noise``: ``weight [C, K]``, ``noise [C]`` (sd), ``observed [C]``: shares not missing."""

    weight: Tensor
    noise: Tensor
    observed: Tensor


def levels(batch: SeriesBatch, modality: Modality) -> Tensor:
    """The predictor at which each channel of a modality has its mean."""
    own = slice(modality.start, modality.stop)
    values, mask = batch.values[:, own], batch.mask[:, own]
    mean = torch.where(mask, values, torch.zeros_like(values)).sum(0) / mask.sum(0).clamp(min=1)
    if modality.likelihood in COUNTS:
        return mean.clamp(min=1e-2).log()
    if modality.likelihood == "bernoulli":
        return mean.clamp(0.02, 0.98).logit()
    return mean if modality.likelihood in ("gaussian", "student-t") else torch.zeros_like(mean)


def components(batch: SeriesBatch, level: Tensor, latents: int) -> Components | None:
    """Principal components of the covariances over pairs that were both observed; None where there are too few data.

    Args:
        batch: ``C`` channels. level: ``[C]``. latents: ``K <= C``.
    """
    mask = batch.mask.to(batch.values.dtype)
    if latents > batch.n_channels or int(batch.mask.any(1).sum()) < 2 * latents:
        return None
    centred = torch.where(batch.mask, batch.values - level, torch.zeros_like(mask))
    cov = (centred.mT @ centred) / (mask.mT @ mask).clamp(min=1.0)
    values, vectors = torch.linalg.eigh(cov)
    rest = values[:-latents].mean().clamp(min=0.0) if latents < len(values) else values.new_zeros(())
    floor = _NOISE * values[-latents:].clamp(min=1e-6)
    weight = vectors[:, -latents:] * (values[-latents:] - rest).clamp(min=floor).sqrt()
    variance = cov.diagonal().clamp(min=1e-6)
    noise = (variance - weight.square().sum(1)).clamp(min=_NOISE * variance).sqrt()
    return Components(weight.flip(1), noise, mask.mean(0))


@torch.no_grad()
def start_decoders(parts: Sequence[torch.nn.Module], level: Tensor, found: Components | None) -> None:
    """Levels, and weights where there are components; ``parts`` in the order of the channels."""
    linears = [part.linear if isinstance(part, MLPDecoder) else part for part in parts]
    at = 0
    for part in linears:
        if not isinstance(part, LinearDecoder):
            continue
        own = slice(at, at + len(part.bias))
        part.bias.copy_(level[own])
        if found is not None:
            part.weight.copy_(found.weight[own])
        at = own.stop


@torch.no_grad()
def start_encoder(part: PotentialEncoder, own: slice, level: Tensor, found: Components) -> None:
    """The exact potentials of orthogonal columns and equal noise, with the missing share counted on average."""
    W, seen = found.weight[own], found.observed[own].mean().clamp(min=1e-3)
    spread = found.noise[own].square().mean()
    # a latent that this block hardly sees: no more shift than its columns hold
    power = torch.maximum(W.square().sum(0), _LEAST * spread / seen)
    into = (W / power / seen).mT
    part.linear.weight[: part.latents] = torch.cat([into, -into * level[own]], dim=1)
    part.linear.bias[part.latents :] = (seen * power / spread).clamp(max=_MOST).expm1().log()
