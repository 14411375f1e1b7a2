"""The ``latent-sde`` family: one name, the process that suits the data."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import ConfigError
from ..extend import registry
from ..gp.kernels import parse_kernel
from ..labelled.schema import Schema
from ..likelihoods import Gaussian, Likelihood
from ..nets import ENCODERS, Decoder, InverseLipschitzDecoder, LinearDecoder, MLPDecoder
from ..processes import NeuralSDE, StationaryLinear
from ..processes.mixture_posterior import MixturePosterior
from ..processes.posterior import BridgePosterior, HermitePosterior, PathPosterior
from ..random import generator
from .base import Model
from .exact import ExactPathModel
from .path_model import INFERENCE, PathModel
from .structural import StructuralModel

__entries__ = [
    {
        "kind": "models",
        "name": "latent-sde",
        "target": "latent_sde",
        "summary": "latent stochastic differential equation: neural (simulation-free), linear or structural (exact)",
        "references": [
            "Bartosh, Vetrov, Naesseth (2025), SDE matching",
            "Li et al. (2020), Scalable gradients for SDEs",
        ],
        "options": {
            "process": "neural (default) | linear | structural",
            "latent": "latent dimension; default 2 for one channel, else channels + 2, at most 8",
            "likelihood": "a registered likelihood: gaussian (default), student-t, poisson, bernoulli",
            "decoder": "linear (default) | mlp | inverse-lipschitz (no latent direction can be ignored)",
            "ard": "True: shrink latent dimensions that the data do not need (linear decoder)",
            "encoder": "scan (default) | attention | s5",
            "posterior": "bridge (default) | hermite | mixture (several modes)",
            "components": "bridges in a mixture",
            "particles": "predict by a particle smoother of so many, whatever the posterior; 0 (default): do not",
            "inference": "simulation-free (default) | simulated",
            "hidden": "width of the drift net",
            "width": "width of the encoder",
            "kernel": "for structural: a sum of kernels, e.g. 'integrated-wiener + seasonal(period=365.25D)'",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "nodes": "random times per series and step at which the path divergence is taken",
            "warmup": "fraction of training over which the divergences fade in",
        },
    },
]


def latent_sde(
    schema: Schema,
    *,
    seed: int = 0,
    process: str = "neural",
    latent: int | None = None,
    likelihood: str = "gaussian",
    decoder: str = "linear",
    encoder: str = "scan",
    posterior: str = "bridge",
    components: int = 2,
    particles: int = 0,
    inference: str = "simulation-free",
    hidden: int = 48,
    width: int = 32,
    kernel: str = "matern32 + constant",
    noise: float = 0.3,
    nodes: int = 8,
    warmup: float = 0.0,
    ard: bool = False,
) -> Model:
    """Build a latent SDE for data of this schema.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or two do not go together.

    References:
        Li, Wong, Chen, Duvenaud (2020), Scalable gradients for stochastic differential equations.
        Bartosh, Vetrov, Naesseth (2025), SDE matching.
    """
    whole = {"latent": latent, "hidden": hidden, "width": width, "nodes": nodes, "components": components}
    _check_numbers(whole, noise, warmup)
    if not isinstance(particles, int) or isinstance(particles, bool) or particles < 0:
        raise ConfigError(f"particles must be a whole number >= 0, got {particles!r}", variable="particles", fix="1000")
    C = schema.n_channels
    d = latent if latent is not None else (2 if C == 1 else min(C + 2, 8))
    _one_of("process", process, ("neural", "linear", "structural"))
    _one_of("inference", inference, INFERENCE)
    if inference == "simulated" and posterior in ("hermite", "mixture"):
        raise ConfigError("simulated inference needs the bridge posterior", fix='posterior="bridge"')
    if process != "neural" and likelihood != "gaussian":
        raise ConfigError(
            f"process {process!r} is exact and needs Gaussian noise, got {likelihood!r}", fix='process="neural"'
        )
    if process == "structural":
        return StructuralModel(parse_kernel(kernel, schema.time.duration), C, noise=noise)
    g = generator(seed, "weights")
    if process == "linear":
        return ExactPathModel(
            StationaryLinear(d, generator=g), LinearDecoder(d, C, generator=g), Gaussian(C, noise=noise)
        )
    lik = _likelihood(likelihood, C, noise)
    prior = NeuralSDE(d, (hidden, hidden), generator=g)
    dec = _decoder(decoder, d, C, hidden, g)
    known = isinstance(dec, LinearDecoder) and isinstance(lik, Gaussian)
    q = _posterior(posterior, prior, width, known, components, g)
    _one_of("encoder", encoder, tuple(ENCODERS))
    enc = ENCODERS[encoder](C, width, generator=g)
    if ard and not isinstance(dec, LinearDecoder):
        raise ConfigError("ard needs the linear decoder", variable="ard", fix='decoder="linear"')
    chosen: dict[str, Any] = {"inference": inference, "nodes": nodes, "warmup": warmup, "ard": ard}
    return PathModel(prior, enc, q, dec, lik, **chosen, seed_start=seed, particles=particles)


def _likelihood(name: str, channels: int, noise: float) -> Likelihood:
    build = registry().get("likelihoods", name)
    return build(channels, noise=noise) if name in ("gaussian", "student-t") else build(channels)


def _decoder(name: str, dim: int, channels: int, hidden: int, g: torch.Generator) -> Decoder:
    _one_of("decoder", name, ("linear", "mlp", "inverse-lipschitz"))
    if name == "linear":
        return LinearDecoder(dim, channels, generator=g)
    if name == "inverse-lipschitz":
        return InverseLipschitzDecoder(dim, channels, hidden, generator=g)
    return MLPDecoder(dim, channels, (hidden,), generator=g)


def _posterior(
    name: str, prior: NeuralSDE, width: int, known: bool, components: int, g: torch.Generator
) -> PathPosterior:
    _one_of("posterior", name, ("bridge", "hermite", "mixture"))
    if name == "mixture":
        return MixturePosterior(prior, width, components=components, known_rows=known, generator=g)
    if name == "bridge":
        return BridgePosterior(prior, width, known_rows=known, generator=g)
    return HermitePosterior(prior, width, generator=g)


def _check_numbers(whole: dict[str, Any], noise: float, warmup: float) -> None:
    for name, value in whole.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}", variable=name)
    if not (isinstance(noise, int | float) and 0 < noise < math.inf):
        raise ConfigError(f"noise must be a positive number, got {noise!r}", variable="noise", fix="noise=0.3")
    if not (isinstance(warmup, int | float) and 0 <= warmup <= 1):
        raise ConfigError(f"warmup must lie in [0, 1], got {warmup!r}", variable="warmup", fix="warmup=0.2")


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {option} {value!r}", fix=f"one of: {', '.join(known)}")
