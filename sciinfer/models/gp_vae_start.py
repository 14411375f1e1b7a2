"""Where a GP-VAE starts: principal components for Gaussian and binary channels, the level of each in any case."""

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
#: likelihoods whose channels have components, and the least variance by which a yes or no is scaled
COMPONENTS, _VARIANCE = ("gaussian", "bernoulli"), 0.1


class Components(NamedTuple):
    """``y ~ W z + level + noise``: ``weight [C, K]``, ``noise [C]`` (sd), ``observed [C]``: shares not missing."""

    weight: Tensor
    noise: Tensor
    observed: Tensor


def means(batch: SeriesBatch) -> Tensor:
    """Mean of what was observed of each channel."""
    seen = torch.where(batch.mask, batch.values, torch.zeros_like(batch.values))
    return seen.sum(0) / batch.mask.sum(0).clamp(min=1)


def levels(mean: Tensor, modality: Modality) -> Tensor:
    """The predictor at which the channels of a modality have their means."""
    mean = mean[modality.start : modality.stop]
    if modality.likelihood in COUNTS:
        return mean.clamp(min=1e-2).log()
    if modality.likelihood == "bernoulli":
        return mean.clamp(0.02, 0.98).logit()
    return mean if modality.likelihood in ("gaussian", "student-t") else torch.zeros_like(mean)


def slopes(mean: Tensor, modality: Modality) -> Tensor:
    """By how much the predictor moves for a small move of the mean."""
    mean = mean[modality.start : modality.stop]
    if modality.likelihood != "bernoulli":
        return torch.ones_like(mean)
    return (mean * (1 - mean)).clamp(min=_VARIANCE).reciprocal()


def components(batch: SeriesBatch, mean: Tensor, latents: int) -> Components | None:
    """Principal components of the covariances over pairs that were both observed; None where there are too few data.

    Args:
        batch: ``C`` channels. mean: ``[C]``. latents: ``K <= C``.
    """
    mask = batch.mask.to(batch.values.dtype)
    if latents > batch.n_channels or int(batch.mask.any(1).sum()) < 2 * latents:
        return None
    centred = torch.where(batch.mask, batch.values - mean, torch.zeros_like(mask))
    cov = (centred.mT @ centred) / (mask.mT @ mask).clamp(min=1.0)
    values, vectors = torch.linalg.eigh(cov)
    rest = values[:-latents].mean().clamp(min=0.0) if latents < len(values) else values.new_zeros(())
    floor = _NOISE * values[-latents:].clamp(min=1e-6)
    weight = vectors[:, -latents:] * (values[-latents:] - rest).clamp(min=floor).sqrt()
    variance = cov.diagonal().clamp(min=1e-6)
    noise = (variance - weight.square().sum(1)).clamp(min=_NOISE * variance).sqrt()
    return Components(weight.flip(1), noise, mask.mean(0))


@torch.no_grad()
def start_decoders(parts: Sequence[torch.nn.Module], level: Tensor, weight: Tensor | None) -> None:
    """Levels, and weights ``[C, K]`` where there are any; ``parts`` in the order of the channels."""
    linears = [part.linear if isinstance(part, MLPDecoder) else part for part in parts]
    at = 0
    for part in linears:
        if not isinstance(part, LinearDecoder):
            continue
        own = slice(at, at + len(part.bias))
        part.bias.copy_(level[own])
        if weight is not None:
            part.weight.copy_(weight[own])
        at = own.stop


@torch.no_grad()
def start_encoder(part: PotentialEncoder, own: slice, mean: Tensor, found: Components) -> None:
    """The exact potentials of orthogonal columns and equal noise, with the missing share counted on average."""
    W, seen = found.weight[own], found.observed[own].mean().clamp(min=1e-3)
    spread = found.noise[own].square().mean()
    # a latent that this block hardly sees: no more shift than its columns hold
    power = torch.maximum(W.square().sum(0), _LEAST * spread / seen)
    into = (W / power / seen).mT
    part.linear.weight[: part.latents] = torch.cat([into, -into * mean[own]], dim=1)
    part.linear.bias[part.latents :] = (seen * power / spread).clamp(max=_MOST).expm1().log()
