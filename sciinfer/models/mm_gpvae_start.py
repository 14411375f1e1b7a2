"""Where the training of several modalities starts: what they have in common, then what each has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..labelled.series import SeriesBatch
from ..likelihoods import Likelihood
from ..nets import Decoder, LinearDecoder, MLPDecoder, PotentialEncoder
from ..processes import LatentGPs

if TYPE_CHECKING:
    from .mm_gpvae_model import MultiModalGPVAE

#: most principal components of a modality that are looked at, and rows needed for each
_COMPONENTS, _ROWS = 20, 5
#: length-scales in the span of the longest series, at the start
_SPANS = 8.0
#: share of a latent's variance that one row is taken to tell
_LEAST, _MOST = 0.05, 0.95


class Scores(NamedTuple):
    """Principal components of one modality: ``centre [C]``, ``axes [C, p]``, ``values [N, p]``."""

    centre: Tensor
    axes: Tensor
    values: Tensor

    def whitened(self) -> Tensor:
        """Unit variance each, ``[N, p]``."""
        return self.values / self.values.square().mean(0).sqrt()


def start_lengthscales(process: LatentGPs, batch: SeriesBatch) -> None:
    """An eighth of the longest series' span."""
    padded = batch.padded()
    span = float((padded.time.amax(1) - padded.time.amin(1)).max())
    if span > 0:
        with torch.no_grad():
            for kernel in process.kernels:
                kernel.get_parameter("log_lengthscale").fill_(span / _SPANS).log_()


@torch.no_grad()
def start_latents(model: MultiModalGPVAE, batch: SeriesBatch) -> None:
    """Linear parts of encoders and decoders; nothing where too few rows show all modalities.

    Shared latents: canonical variates (largest principal components of the whitened modalities side by side).
    Private ones: what is left of a modality after a cubic regression on the shared ones, along the axes of largest
    covariance between successive rows, where noise does not count.

    References:
        Kettenring (1971), Canonical analysis of several sets of variables.
    """
    spans = [slice(view.modality.start, view.modality.stop) for view in model.views]
    both = torch.stack([batch.mask[:, at].any(1) for at in spans]).all(0)
    y, seen, series = batch.values[both], batch.mask[both], batch.series_of_row[both]
    views = [
        (encoder.features(y[:, at], seen[:, at])[:, : view.modality.size], seen[:, at])
        for view, encoder, at in zip(model.views, model.encoders, spans, strict=True)
    ]
    found = [_components(*view) for view in views]
    if len(y) < _ROWS * sum(one.values.shape[1] for one in found) or not all(one.values.numel() for one in found):
        return
    shared = model.shared if len(model.views) > 1 else 0
    own = [len(view.latents) - shared for view in model.views]
    common = _common(found, shared)
    if common is None:
        return
    pairs = series[1:] == series[:-1]
    for i, one in enumerate(found):
        private = _private(one.values, common, own[i], pairs)
        if private is None:
            return
        z = torch.cat([common, private], 1)
        _start_encoder(model.encoders[i], one, z)
        _start_decoder(model.decoders[i], model.likelihoods[i], y[:, spans[i]], seen[:, spans[i]], z)


def _components(x: Tensor, seen: Tensor) -> Scores:
    """Missing entries stand at their channel's mean."""
    centre = (x * seen).sum(0) / seen.sum(0).clamp(min=1)
    x = (x - centre) * seen
    values, axes = torch.linalg.eigh(x.mT @ x / max(len(x), 1))
    keep = (values > 1e-6 * values.max()) & (values > 0)
    axes = axes[:, keep].flip(1)[:, :_COMPONENTS]
    return Scores(centre, axes, x @ axes)


def _common(found: list[Scores], count: int) -> Tensor | None:
    """``[N, count]`` variates of unit variance that the modalities agree on."""
    U = torch.cat([one.whitened() for one in found], 1)
    if count > U.shape[1]:
        return None
    axes = torch.linalg.eigh(U.mT @ U)[1].flip(1)[:, :count]
    return _unit(U @ axes)


def _private(scores: Tensor, common: Tensor, count: int, pairs: Tensor) -> Tensor | None:
    """``[N, count]`` of unit variance."""
    if count > scores.shape[1]:
        return None
    powers = torch.cat([torch.ones_like(common[:, :1]), common, common**2, common**3], 1)
    rest = scores - powers @ _regress(powers, scores)
    lagged = rest[1:][pairs].mT @ rest[:-1][pairs]
    axes = torch.linalg.eigh(lagged + lagged.mT)[1].flip(1)[:, :count]
    return _unit(rest @ axes)


def _start_encoder(encoder: PotentialEncoder, one: Scores, z: Tensor) -> None:
    """The best linear prediction of ``z``, undone of its shrinkage, with the precision that it has."""
    weight = _regress(one.values, z)
    share = (one.values @ weight).square().mean(0).clamp(_LEAST, _MOST)
    rows = (one.axes @ weight / share).mT
    K, C = rows.shape
    encoder.linear.weight[:K] = 0.0
    encoder.linear.weight[:K, :C] = rows
    encoder.linear.bias[:K] = -rows @ one.centre
    encoder.linear.bias[K:] = torch.expm1(share / (1 - share)).log()


def _start_decoder(decoder: Decoder, likelihood: Likelihood, y: Tensor, seen: Tensor, z: Tensor) -> None:
    """Moments of ``y`` and ``z`` together; for counts ``Cov(y, z) = E y W`` under a log-linear rate (Stein)."""
    linear = decoder.linear if isinstance(decoder, MLPDecoder) else decoder
    if not isinstance(linear, LinearDecoder):
        return
    n = seen.sum(0).clamp(min=1)
    mean = (y * seen).sum(0) / n
    W = ((y - mean) * seen).mT @ z / n[:, None]
    if likelihood.support == "real":
        linear.weight.copy_(W)
        linear.bias.copy_(mean)
    elif likelihood.support == "count":
        level = mean + 0.5 / n
        W = (W / level[:, None]).clamp(-2.0, 2.0)
        linear.weight.copy_(W)
        linear.bias.copy_(level.log() - 0.5 * W.square().sum(1))


def _regress(x: Tensor, y: Tensor) -> Tensor:
    gram = x.mT @ x
    ridge = (
        max(1e-8, 32 * torch.finfo(x.dtype).eps)
        * gram.diagonal().mean()
        * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    )
    return torch.linalg.solve(gram + ridge, x.mT @ y)


def _unit(z: Tensor) -> Tensor:
    tiny = torch.finfo(z.dtype).tiny
    return z / z.square().mean(0).sqrt().clamp(min=tiny)
