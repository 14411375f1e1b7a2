"""Factor analysis with Gaussian-process latents, for real values and for spikes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ConfigError
from ..gp.kernels import parse_kernel
from ..labelled.schema import Schema
from ..likelihoods import Gaussian, Likelihood, Poisson
from ..nets import LinearDecoder
from ..random import generator
from .gpfa_gaussian import GaussianFactors
from .gpfa_latents import UnitGPs
from .gpfa_model import FactorModel, Settings
from .gpfa_sites import SiteFactors
from .gpfa_start import LINKS
from .modalities import build_likelihood, find_modalities

__entries__ = [
    {
        "kind": "models",
        "name": "gpfa",
        "target": "gpfa",
        "summary": "Gaussian-process factor analysis: few smooth latents, many channels, Gaussian noise; exact",
        "references": [
            "Yu et al. (2009), Gaussian-process factor analysis for low-dimensional single-trial analysis of neural "
            "population activity"
        ],
        "options": {
            "latent": "number of latents; default min(channels, 3)",
            "kernel": "of each latent, a stationary one, e.g. 'matern32' (default) or 'matern52 * cosine(period=0.1)'",
            "transform": "none (default) | sqrt: take roots of counts first",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "ard": "True: shrink latents that the data do not need",
            "prior": "standard deviation of the loadings' normal prior; 0: none",
            "frame": "orthogonal (default): report latents along orthogonal loadings, the largest first | none",
            "start": "whittle (default): time scales from the periodogram | kernel: those of the kernel's text",
        },
    },
    {
        "kind": "models",
        "name": "poisson-gpfa",
        "target": "poisson_gpfa",
        "summary": "Gaussian-process factor analysis of counts, zeros and ones, by variational sites",
        "references": [
            "Dowling, Zhao, Park (2023), Linear time GPs for inferring latent trajectories from neural spike trains",
            "Jensen et al. (2021), Scalable Bayesian GPFA with automatic relevance determination",
        ],
        "options": {
            "latent": "number of latents; default min(channels, 3)",
            "likelihood": "poisson (default), negative-binomial, bernoulli, gaussian; or a mapping by variable",
            "kernel": "of each latent, a stationary one, e.g. 'matern32' (default) or 'matern52 * cosine(period=0.1)'",
            "bin_width": "length of a bin, so that predictors are log-rates in that unit of time (poisson only)",
            "ard": "True: shrink latents that the data do not need",
            "prior": "standard deviation of the loadings' normal prior; 0: none",
            "frame": "orthogonal (default): report latents along orthogonal loadings, the largest first | none",
            "start": "whittle (default): time scales from the periodogram | kernel: those of the kernel's text",
        },
    },
]


def gpfa(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    kernel: str = "matern32",
    transform: str = "none",
    noise: float = 0.5,
    ard: bool = False,
    prior: float = 3.0,
    frame: str = "orthogonal",
    start: str = "whittle",
) -> FactorModel:
    """Build the model for data of this schema; the options are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    Example:
        >>> import numpy as np, sciinfer as si, xarray as xr
        >>> wave = np.sin(np.arange(12.0))[:, None] * np.array([1.0, -2.0, 0.5])
        >>> ds = xr.Dataset({"y": (("t", "unit"), wave)}, coords={"t": np.arange(12.0)})
        >>> fitted = si.fit(ds, model="gpfa", options={"latent": 1}, training={"steps": 3}, progress="silent")
        >>> fitted.predict(time=[2.5], draws=5)["posterior"]["latent"].sizes["latent_dim"]
        1
    """
    _one_of("transform", transform, ("none", "sqrt"))
    settings = _settings(schema, ("real",) * schema.n_channels, ard, prior, frame, start)
    process, decoder = _parts(schema, seed, latent, kernel)
    shift, scale = (torch.tensor(part, dtype=torch.float64) for part in (schema.shift, schema.scale))
    likelihood = Gaussian(schema.n_channels, noise=_positive("noise", noise))
    return GaussianFactors(process, decoder, likelihood, settings, transform=transform, shift=shift, scale=scale)


def poisson_gpfa(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    likelihood: str | Mapping[str, str] = "poisson",
    kernel: str = "matern32",
    bin_width: float = 1.0,
    ard: bool = False,
    prior: float = 3.0,
    frame: str = "orthogonal",
    start: str = "whittle",
) -> FactorModel:
    """Build the model for data of this schema; the options are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range, or ``bin_width`` is given without counts.

    Example:
        >>> import numpy as np, sciinfer as si, xarray as xr
        >>> spikes = np.random.default_rng(0).poisson(2.0, (12, 3)).astype(float)
        >>> ds = xr.Dataset({"n": (("t", "unit"), spikes)}, coords={"t": np.arange(12.0)})
        >>> fitted = si.fit(ds, model="poisson-gpfa", options={"latent": 1}, training={"steps": 3}, progress="silent")
        >>> bool((fitted.predict(draws=5)["posterior"]["n"] > 0).all())
        True
    """
    modalities = find_modalities(schema, likelihood)
    links = tuple(LINKS.get(m.likelihood, "real") for m in modalities for _ in range(m.size))
    settings = _settings(schema, links, ard, prior, frame, start)
    process, decoder = _parts(schema, seed, latent, kernel)
    made: Likelihood = build_likelihood(modalities, noise=0.5)
    if _positive("bin_width", bin_width) != 1.0:
        if not isinstance(made, Poisson):
            raise ConfigError("bin_width is for Poisson counts", variable="bin_width", fix='likelihood="poisson"')
        made = Poisson(schema.n_channels, exposure=bin_width)
    return SiteFactors(process, decoder, made, settings)


def _parts(schema: Schema, seed: int, latent: int | None, kernel: str) -> tuple[UnitGPs, LinearDecoder]:
    K = min(schema.n_channels, 3) if latent is None else latent
    if not isinstance(K, int) or isinstance(K, bool) or K < 1:
        raise ConfigError(f"latent must be a whole number >= 1, got {latent!r}", variable="latent", fix="latent=3")
    one = parse_kernel(kernel, schema.time.duration)
    decoder = LinearDecoder(K, schema.n_channels, generator=generator(seed, "weights"))
    return UnitGPs([copy.deepcopy(one) for _ in range(K)]), decoder


def _settings(schema: Schema, links: tuple[str, ...], ard: bool, prior: float, frame: str, start: str) -> Settings:
    _one_of("frame", frame, ("orthogonal", "none"))
    _one_of("start", start, ("whittle", "kernel"))
    if not isinstance(prior, int | float) or isinstance(prior, bool) or not 0 <= prior < float("inf"):
        raise ConfigError(f"prior must be a number >= 0, got {prior!r}", variable="prior", fix="prior=3.0")
    return Settings(bool(ard), float(prior), frame == "orthogonal", start == "whittle", links)


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be a positive number, got {value!r}", variable=name, fix=f"{name}=0.5")
    return float(value)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {option} {value!r}", variable=option, fix=f"one of: {', '.join(known)}")
