"""``svae``: structured variational autoencoders; a conjugate prior, potentials from a recognition net."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ConfigError
from ..extend import registry
from ..labelled.schema import Schema
from ..likelihoods import Likelihood
from ..nets import ENCODERS, Decoder, LinearDecoder, MLPDecoder
from ..processes import StationaryLinear
from ..processes.jump import JumpProcess
from ..processes.switching import SwitchingLinear
from ..random import generator
from .emissions import PredictorEmission
from .stable_sde import positive_numbers, shares, whole_numbers
from .svae_hmm import HiddenMarkovSVAE, StateReader
from .svae_lds import LinearSVAE
from .svae_recognition import GaussianReader
from .svae_slds import SwitchingSVAE

__entries__ = [
    {
        "kind": "models",
        "name": "svae",
        "target": "svae",
        "summary": "structured VAE: linear, hidden Markov or switching linear prior; exact posteriors from potentials",
        "references": [
            "Johnson, Duvenaud, Wiltschko, Datta, Adams (2016), Composing graphical models with neural networks",
            "Zhao, Linderman (2023), Revisiting structured variational autoencoders",
            "Linderman et al. (2017), Bayesian learning and inference in recurrent switching linear dynamical systems",
        ],
        "options": {
            "prior": "lds (default) | hmm | slds",
            "latent": "lds, slds: dimension of the state; default channels, at most 4",
            "states": "hmm, slds: number of states or regimes",
            "decoder": "lds, slds: mlp | linear; default mlp for lds, linear for slds",
            "potentials": "encoder | exact (the likelihood itself); default exact where it exists, else encoder",
            "encoder": "local (default: each row by itself) | scan | attention | s5",
            "rank": "lds, slds: low-rank part of the emitted precisions beside their diagonal",
            "hide": "share of the rows whose potentials are left out in a training step; they are still decoded",
            "hidden": "width of the nets",
            "likelihood": "gaussian (default), student-t, poisson, negative-binomial, bernoulli",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "warmup": "fraction of training over which the divergences fade in",
            "step": "slds: length of a step, in typical gaps",
            "natural": "slds: closed-form (natural-gradient) sweeps before training",
            "rounds": "slds: of Gibbs sampling on top of the mean field in predictions",
        },
    },
]

PRIORS, DECODERS, POTENTIALS = ("lds", "hmm", "slds"), ("mlp", "linear"), ("encoder", "exact")


def svae(
    schema: Schema,
    *,
    seed: int = 0,
    prior: str = "lds",
    latent: int | None = None,
    states: int = 3,
    decoder: str | None = None,
    potentials: str | None = None,
    encoder: str = "local",
    rank: int = 0,
    hide: float = 0.0,
    hidden: int = 32,
    likelihood: str = "gaussian",
    noise: float = 0.3,
    warmup: float = 0.0,
    step: float = 1.0,
    natural: int = 40,
    rounds: int = 5,
) -> LinearSVAE | HiddenMarkovSVAE | SwitchingSVAE:
    """Build a structured variational autoencoder for data of this schema.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown, out of range, or two do not go together.

    References:
        Johnson et al. (2016), Composing graphical models with neural networks for structured representations.
        Zhao, Linderman (2023), Revisiting structured variational autoencoders.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> svae(Schema(axis, None, (Variable("a"),), (Channel("a"),)), prior="hmm", states=2).process.states
        2
    """
    C, d = schema.n_channels, latent if latent is not None else min(schema.n_channels, 4)
    decoder = decoder if decoder is not None else "linear" if prior == "slds" else "mlp"
    conjugate = prior == "hmm" or (decoder == "linear" and likelihood == "gaussian")
    potentials = potentials if potentials is not None else "exact" if conjugate else "encoder"
    _choose(prior=(prior, PRIORS), decoder=(decoder, DECODERS), potentials=(potentials, POTENTIALS))
    _choose(encoder=(encoder, ("local", *ENCODERS)))
    if potentials == "exact" and not conjugate:
        raise ConfigError(
            "exact potentials need a linear decoder and Gaussian noise", variable="potentials", fix='"encoder"'
        )
    whole_numbers(latent=d, hidden=hidden)
    _at_least(2 if prior == "hmm" else 1, states=states)
    _at_least(0, rank=rank, natural=natural, rounds=rounds)
    positive_numbers(noise=noise, step=step)
    shares(warmup=warmup, hide=hide)
    g = generator(seed, "weights")
    law = _likelihood(likelihood, C, noise)
    common: dict[str, Any] = {"hide": hide, "warmup": warmup}
    if prior == "hmm":
        process, emission = JumpProcess(states, generator=g), PredictorEmission(states, C, law, generator=g)
        reader = None if potentials == "exact" else StateReader(C, states, hidden, encoder, generator=g)
        return HiddenMarkovSVAE(process, emission, reader, seed_start=seed, **common)
    seen = _decoder(decoder, d, C, hidden, g)
    reader = None if potentials == "exact" else GaussianReader(C, d, hidden, encoder, rank, generator=g)
    if prior == "lds":
        return LinearSVAE(StationaryLinear(d, generator=g), seen, law, reader, **common)
    switching = SwitchingLinear(states, d, generator=g)
    more = {"step": step, "natural": natural, "rounds": rounds, "seed_start": seed}
    return SwitchingSVAE(switching, seen, law, reader, **common, **more)


def _at_least(least: int, **options: Any) -> None:
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(
                f"{name} must be a whole number >= {least}, got {value!r}", variable=name, fix=f"{name}={least}"
            )


def _choose(**options: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", variable=name, fix=f"one of: {', '.join(known)}")


def _decoder(name: str, d: int, C: int, hidden: int, g: torch.Generator) -> Decoder:
    if name == "linear":
        return LinearDecoder(d, C, generator=g)
    return MLPDecoder(d, C, (hidden, hidden), generator=g)


def _likelihood(name: str, C: int, noise: float) -> Likelihood:
    build = registry().get("likelihoods", name)
    return build(C, noise=noise) if name in ("gaussian", "student-t") else build(C)
