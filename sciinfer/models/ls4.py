"""``ls4``: a latent state-space model for long series, trained by convolution."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from ..extend import registry
from ..labelled.schema import Schema
from ..random import generator
from .ls4_model import MODES, LatentPosterior, LatentPrior, LS4Model
from .stable_sde import positive_numbers, shares, whole_numbers

__entries__ = [
    {
        "kind": "models",
        "name": "ls4",
        "target": "ls4",
        "summary": "latent state-space layers: autoregressive latent prior, by convolution on regular times",
        "references": [
            "Zhou, Poli, Xu, Massaroli, Ermon (2023), Deep latent state space models for time-series generation"
        ],
        "options": {
            "latent": "latent dimension; default 2 for one channel, else channels + 2, at most 8",
            "width": "of the layers; default 32",
            "states": "complex states of a layer; default width / 2",
            "layers": "of each stack",
            "likelihood": "a registered likelihood: gaussian (default), student-t, poisson, bernoulli",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "mode": "auto (default) | conv (regular times only) | scan",
            "warmup": "fraction of training over which the divergence fades in",
            "hide": "largest share of a series' rows hidden in a training step, which trains gap filling",
        },
    },
]


def ls4(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    width: int = 32,
    states: int | None = None,
    layers: int = 1,
    likelihood: str = "gaussian",
    noise: float = 0.3,
    mode: str = "auto",
    warmup: float = 0.2,
    hide: float = 0.3,
) -> LS4Model:
    """Build a latent state-space model for data of this schema.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    References:
        Zhou, Poli, Xu, Massaroli, Ermon (2023), Deep latent state space models for time-series generation.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> ls4(Schema(axis, None, (Variable("a"),), (Channel("a"),)), width=8).dim
        2
    """
    C = schema.n_channels
    d = latent if latent is not None else (2 if C == 1 else min(C + 2, 8))
    whole_numbers(latent=d, width=width, layers=layers)
    n = states if states is not None else max(width // 2, 1)
    whole_numbers(states=n)
    positive_numbers(noise=noise)
    shares(warmup=warmup, hide=hide)
    if mode not in MODES:
        raise ConfigError(f"unknown mode {mode!r}", variable="mode", fix=f"one of: {', '.join(MODES)}")
    g = generator(seed, "weights")
    build: Any = registry().get("likelihoods", likelihood)
    law = build(C, noise=noise) if likelihood in ("gaussian", "student-t") else build(C)
    prior = LatentPrior(d, width, n, layers, generator=g)
    posterior = LatentPosterior(C, d, width, n, layers, generator=g)
    return LS4Model(prior, posterior, law, C, d, mode=mode, warmup=warmup, hide=hide, generator=g)
