"""Variational autoencoders whose latents are Gaussian processes of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..likelihoods import Gaussian, Likelihood
from ..nets import ENCODERS, Decoder, LinearDecoder, MLPDecoder
from ..random import generator
from .base import Model
from .gp_vae_encoder import ModalityPotentials
from .gp_vae_model import GPVAE, BlockDecoder
from .gp_vae_prior import IndependentLatents, latent_kernels, split_texts
from .modalities import Modality, build_likelihood, find_modalities

__entries__ = [
    {
        "kind": "models",
        "name": "gp-vae",
        "target": "gp_vae",
        "summary": "variational autoencoder with Gaussian-process latents: imputation of many channels, linear in time",
        "references": [
            "Fortuin et al. (2020), GP-VAE: deep probabilistic time series imputation",
            "Zhu et al. (2023), Markovian Gaussian process variational autoencoders",
        ],
        "options": {
            "latent": "number of latents; default: the channels, at most 4, or the number of kernels given",
            "kernel": "one for all latents, or one for each (a list, or ';' between them): matern32 (default), "
            "hida-matern(lengthscale=4, period=2), periodic(period=1), ...; white: a VAE without a process",
            "learn_kernel": "learn length-scales and the like (default True)",
            "learn_variance": "True: learn the latents' variances too; default: each is one",
            "encoder": "pointwise (default) | scan | attention | s5 | exact (linear decoder, Gaussian noise)",
            "decoder": "mlp (default) | linear, or a mapping from variables to these",
            "likelihood": "a registered likelihood, or one for each variable, {'spikes': 'poisson'}",
            "hidden": "width of the nets",
            "layers": "hidden layers of the nets",
            "width": "width of a context encoder",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "beta": "weight of the divergence; other values than 1 lose calibration",
            "self_masking": "share of the observed entries hidden from the encoder in each training step",
            "warmup": "fraction of training over which the divergence fades in",
            "pairs": "antithetic pairs of draws of a training step",
        },
    },
]
_DECODERS = ("mlp", "linear")


def gp_vae(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    kernel: str | Sequence[str] = "matern32",
    learn_kernel: bool = True,
    learn_variance: bool = False,
    encoder: str = "pointwise",
    decoder: str | Mapping[str, str] = "mlp",
    likelihood: str | Mapping[str, str] = "gaussian",
    hidden: int = 64,
    layers: int = 1,
    width: int = 32,
    noise: float = 0.5,
    beta: float = 1.0,
    self_masking: float = 0.0,
    warmup: float = 0.0,
    pairs: int = 1,
) -> Model:
    """Build a GP-VAE for data of this schema; each variable is a modality with an encoder and a decoder of its own.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or two do not go together.

    Example:
        >>> import numpy as np, sciinfer as si, xarray as xr
        >>> t = np.linspace(0, 6, 20)
        >>> ds = xr.Dataset({"y": (("t", "c"), np.sin(t[:, None] + np.arange(3)))}, coords={"t": t})
        >>> fitted = si.fit(ds, model="gp-vae", options={"latent": 2}, training={"steps": 2}, progress="silent")
        >>> fitted.predict(time=[2.5], draws=5)["posterior"]["latent"].dims
        ('chain', 'draw', 't', 'latent_dim')
    """
    _check_numbers({"latent": latent, "hidden": hidden, "layers": layers, "width": width, "pairs": pairs})
    _check_shares(noise, beta, {"self_masking": self_masking, "warmup": warmup})
    modalities = find_modalities(schema, likelihood)
    K = latent if latent is not None else _latents(kernel, schema.n_channels)
    duration = schema.time.duration
    kernels, free = latent_kernels(kernel, K, duration, learn=learn_kernel, learn_variance=learn_variance)
    g = generator(seed, "weights")
    widths = (hidden,) * layers
    dec, lik = _decoder(decoder, modalities, K, widths, g), _likelihood(modalities, noise)
    enc = None
    if _one_of("encoder", encoder, ("pointwise", *ENCODERS, "exact")) != "exact":
        enc = ModalityPotentials(modalities, K, encoder, generator=g, hidden=widths, width=width)
    elif not (isinstance(dec, LinearDecoder) and isinstance(lik, Gaussian)):
        raise ConfigError(
            "exact potentials need a linear decoder and Gaussian noise", variable="encoder", fix='decoder="linear"'
        )
    chosen: dict[str, Any] = {"beta": beta, "self_masking": self_masking, "warmup": warmup, "pairs": pairs}
    return GPVAE(IndependentLatents(kernels), enc, dec, lik, modalities, free=free, **chosen)


def _latents(kernel: str | Sequence[str], channels: int) -> int:
    given = split_texts(kernel)
    return len(given) if len(given) > 1 else min(channels, 4)


def _likelihood(modalities: Sequence[Modality], noise: float) -> Likelihood:
    """Gaussian modalities are one likelihood, so that what is exact stays exact."""
    if all(modality.likelihood == "gaussian" for modality in modalities):
        return Gaussian(modalities[-1].stop, noise=noise)
    return build_likelihood(modalities, noise)


def _decoder(
    choice: str | Mapping[str, str], modalities: Sequence[Modality], dim: int, hidden: tuple[int, ...],
    g: torch.Generator,
) -> Decoder:  # fmt: skip
    names = [modality.name for modality in modalities]
    if isinstance(choice, Mapping) and (unknown := sorted(set(choice) - set(names))):
        raise ConfigError(f"decoders for unknown variables {unknown}", variable="decoder", fix=f"one of {names}")
    chosen = [choice if isinstance(choice, str) else choice.get(name, "mlp") for name in names]
    for name in chosen:
        _one_of("decoder", name, _DECODERS)
    if all(name == "linear" for name in chosen):
        return LinearDecoder(dim, modalities[-1].stop, generator=g)
    parts = [_one_decoder(name, dim, m.size, hidden, g) for name, m in zip(chosen, modalities, strict=True)]
    return parts[0] if len(parts) == 1 else BlockDecoder(parts)


def _one_decoder(name: str, dim: int, channels: int, hidden: tuple[int, ...], g: torch.Generator) -> Decoder:
    if name == "linear":
        return LinearDecoder(dim, channels, generator=g)
    return MLPDecoder(dim, channels, hidden, generator=g)


def _check_numbers(whole: dict[str, int | None]) -> None:
    for name, value in whole.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}", variable=name, fix=f"{name}=2")


def _check_shares(noise: float, beta: float, shares: dict[str, float]) -> None:
    for name, value in {"noise": noise, "beta": beta}.items():
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ConfigError(f"{name} must be a positive number, got {value!r}", variable=name, fix=f"{name}=1.0")
    for name, value in shares.items():
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ConfigError(f"{name} must lie in [0, 1], got {value!r}", variable=name, fix=f"{name}=0.2")


def _one_of(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"unknown {option} {value!r}", variable=option, fix=f"one of: {', '.join(known)}")
    return value
