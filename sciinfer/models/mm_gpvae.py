"""The ``mm-gpvae`` model: latents that several modalities share, and latents of each alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import ConfigError
from ..extend import registry
from ..gp.fourier import FOURIER_KERNELS
from ..gp.kernels import Kernel, parse_kernel
from ..labelled.schema import Schema
from ..nets import Decoder, LinearDecoder, MLPDecoder, PotentialEncoder
from ..processes import LatentGPs
from ..random import generator
from .base import Model
from .mm_gpvae_forms import FORMS
from .mm_gpvae_model import MultiModalGPVAE, View
from .modalities import Modality, build_likelihood, find_modalities

__entries__ = [
    {
        "kind": "models",
        "name": "mm-gpvae",
        "target": "mm_gpvae",
        "summary": "several variables of different kinds behind shared and private latent Gaussian processes",
        "references": [
            "Gondur et al. (2024), Multi-modal Gaussian process variational autoencoders for neural and behavioral "
            "data",
            "Johnson et al. (2016), Composing graphical models with neural networks for structured representations",
        ],
        "options": {
            "latent_shared": "latents that all variables share",
            "latent_private": "latents of each variable alone: a number, or a mapping {variable: number}",
            "likelihood": "a registered likelihood, or a mapping {variable: name}; gaussian (default)",
            "decoder": "auto (default: linear for counts and events, mlp for the rest) | linear | mlp, or a mapping",
            "kernel": "rbf, matern12, matern32 (default) or matern52, e.g. 'rbf(lengthscale=10)'",
            "learn_kernel": "learn the length-scales (default True)",
            "form": "time (default: any times, linear cost) | fourier (even grid only)",
            "hidden": "width of the nets",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "pairs": "antithetic pairs of draws in a training step, for mlp decoders",
            "warmup": "fraction of training over which the divergence fades in",
            "alone": "share of the series in a training step whose shared latents are told by one variable alone",
        },
    },
]
DECODERS = ("auto", "linear", "mlp")


def mm_gpvae(
    schema: Schema,
    *,
    seed: int = 0,
    latent_shared: int = 2,
    latent_private: int | Mapping[str, int] = 1,
    likelihood: str | Mapping[str, str] = "gaussian",
    decoder: str | Mapping[str, str] = "auto",
    kernel: str = "matern32",
    learn_kernel: bool = True,
    form: str = "time",
    hidden: int = 64,
    noise: float = 0.3,
    pairs: int = 1,
    warmup: float = 0.0,
    alone: float = 0.5,
) -> Model:
    """Build the model; each variable of the schema is a modality.

    Latents are ordered: shared ones, then those of each variable, in the order of the variables.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range, or a variable would have no latent.

    References:
        Gondur et al. (2024), Multi-modal Gaussian process variational autoencoders for neural and behavioral data.

    Example:
        >>> import numpy as np, sciinfer as si, xarray as xr
        >>> t = np.arange(6.0)
        >>> ds = xr.Dataset({"n": ("t", t % 3), "y": ("t", np.sin(t))}, coords={"t": t})
        >>> options = {"likelihood": {"n": "poisson"}, "latent_shared": 1}
        >>> fitted = si.fit(ds, model="mm-gpvae", options=options, training={"steps": 1}, progress="silent")
        >>> fitted.model.names
        ['shared[0]', 'n[0]', 'y[0]']
    """
    _check(form, hidden=hidden, pairs=pairs, noise=noise, warmup=warmup, alone=alone)
    modalities = find_modalities(schema, likelihood)
    private = _counts(modalities, latent_shared, latent_private)
    names = [f"shared[{i}]" for i in range(latent_shared)]
    views: list[View] = []
    for modality, count in zip(modalities, private, strict=True):
        views.append(View(modality, (*range(latent_shared), *range(len(names), len(names) + count))))
        names += [f"{modality.name}[{i}]" for i in range(count)]
    g = generator(seed, "weights")
    encoders = [
        PotentialEncoder(v.modality.size, len(v.latents), (hidden, hidden), generator=g, counts=_support(v) == "count")
        for v in views
    ]
    decoders = [_decoder(view, kind, hidden, g) for view, kind in zip(views, _kinds(views, decoder), strict=True)]
    chosen: dict[str, Any] = {"names": names, "form": form, "pairs": pairs, "warmup": warmup, "alone": alone}
    chosen["unit"] = schema.time.scale if schema.time.kind == "number" else 1.0
    chosen["keep_lengthscale"] = "lengthscale" in kernel
    process = LatentGPs([_kernel(kernel, schema, learn_kernel) for _ in names])
    return MultiModalGPVAE(views, encoders, decoders, process, build_likelihood(modalities, noise), **chosen)


def _kernel(text: str, schema: Schema, learn: bool) -> Kernel:
    """Unit variance: the scale of a latent is its decoder's."""
    found = copy.deepcopy(parse_kernel(text, schema.time.duration))
    if not isinstance(found, FOURIER_KERNELS):
        raise ConfigError(
            f"a latent cannot follow {text!r}", variable="kernel", fix="rbf, matern12, matern32, matern52"
        )
    if float(found.variance.detach()) != 1.0:
        raise ConfigError("latents have unit variance; decoders scale them", variable="kernel", fix="leave it out")
    found.log_variance.requires_grad_(False)
    found.log_lengthscale.requires_grad_(learn)
    return found


def _support(view: View) -> str:
    return registry().get("likelihoods", view.modality.likelihood).support


def _kinds(views: Sequence[View], decoder: str | Mapping[str, str]) -> list[str]:
    """``linear`` or ``mlp`` for each modality."""
    known = [view.modality.name for view in views]
    if isinstance(decoder, Mapping) and (unknown := sorted(set(decoder) - set(known))):
        raise ConfigError(f"decoders for unknown variables {unknown}", variable="decoder", fix=f"one of {known}")
    kinds = [decoder if isinstance(decoder, str) else decoder.get(name, "auto") for name in known]
    for kind in kinds:
        if kind not in DECODERS:
            raise ConfigError(f"unknown decoder {kind!r}", variable="decoder", fix=f"one of: {', '.join(DECODERS)}")
    usual = ["mlp" if _support(view) == "real" else "linear" for view in views]
    return [auto if kind == "auto" else kind for kind, auto in zip(kinds, usual, strict=True)]


def _decoder(view: View, kind: str, hidden: int, g: torch.Generator) -> Decoder:
    dim, channels = len(view.latents), view.modality.size
    if kind == "linear":
        return LinearDecoder(dim, channels, generator=g)
    return MLPDecoder(dim, channels, (hidden, hidden), generator=g)


def _counts(modalities: Sequence[Modality], shared: int, private: int | Mapping[str, int]) -> list[int]:
    """Private latents of each modality."""
    known = [modality.name for modality in modalities]
    if isinstance(private, Mapping) and (unknown := sorted(set(private) - set(known))):
        raise ConfigError(f"latents of unknown variables {unknown}", variable="latent_private", fix=f"one of {known}")
    counts = [private.get(name, 1) if isinstance(private, Mapping) else private for name in known]
    for option, value in [("latent_shared", shared), *(("latent_private", count) for count in counts)]:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(
                f"{option} must be a whole number >= 0, got {value!r}", variable=option, fix=f"{option}=1"
            )
    for name, count in zip(known, counts, strict=True):
        if shared + count == 0:
            raise ConfigError(f"variable {name!r} has no latent", variable="latent_private", fix="latent_shared=1")
    return counts


def _check(form: str, *, hidden: int, pairs: int, noise: float, warmup: float, alone: float) -> None:
    if form not in FORMS:
        raise ConfigError(f"unknown form {form!r}", variable="form", fix=f"one of: {', '.join(FORMS)}")
    for name, value in {"hidden": hidden, "pairs": pairs}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}", variable=name, fix=f"{name}=1")
    if not (isinstance(noise, int | float) and 0 < noise < math.inf):
        raise ConfigError(f"noise must be a positive number, got {noise!r}", variable="noise", fix="noise=0.3")
    for name, value in {"warmup": warmup, "alone": alone}.items():
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ConfigError(f"{name} must lie in [0, 1], got {value!r}", variable=name, fix=f"{name}=0.2")
