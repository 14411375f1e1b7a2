"""``ncdssm``: continuous-discrete state-space models with an amortised auxiliary."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ConfigError
from ..extend import registry
from ..labelled.schema import Schema
from ..random import generator
from .ncdssm_dynamics import FilteredDynamics, FreeLinear, MixedLinear, Perceptron
from .ncdssm_model import NCDSSM, IdentityAuxiliary, NetAuxiliary
from .stable_sde import positive_numbers, shares, whole_numbers

__entries__ = [
    {
        "kind": "models",
        "name": "ncdssm",
        "target": "ncdssm",
        "summary": "continuous-discrete filter in a latent space: linear (exact), mixed-linear or nonlinear dynamics",
        "references": ["Ansari, Heng, Lim, Soh (2023), Neural continuous-discrete state space models"],
        "options": {
            "dynamics": "linear (exact) | mixed-linear (default) | nonlinear",
            "auxiliary": "net (default) | identity: the filter sees the data themselves",
            "latent": "latent dimension; default twice the auxiliary's, at most 10",
            "features": "dimension of the net's auxiliary; default channels, at most 4",
            "matrices": "for mixed-linear: how many",
            "hidden": "width of the nets",
            "likelihood": "for the net: a registered likelihood: gaussian (default), student-t, poisson, bernoulli",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "step": "longest integration step of the filter, in typical gaps",
            "warmup": "fraction of training over which the divergence fades in",
        },
    },
]

DYNAMICS, AUXILIARIES = ("linear", "mixed-linear", "nonlinear"), ("net", "identity")


def ncdssm(
    schema: Schema,
    *,
    seed: int = 0,
    dynamics: str = "mixed-linear",
    auxiliary: str = "net",
    latent: int | None = None,
    features: int | None = None,
    matrices: int = 5,
    hidden: int = 32,
    likelihood: str = "gaussian",
    noise: float = 0.3,
    step: float = 0.5,
    warmup: float = 0.0,
) -> NCDSSM:
    """Build a continuous-discrete state-space model for data of this schema.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown, out of range, or two do not go together.

    References:
        Ansari, Heng, Lim, Soh (2023), Neural continuous-discrete state space models for
        irregularly-sampled time series.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> ncdssm(Schema(axis, None, (Variable("a"),), (Channel("a"),)), dynamics="linear").process.dim
        2
    """
    C = schema.n_channels
    for name, value, known in (("dynamics", dynamics, DYNAMICS), ("auxiliary", auxiliary, AUXILIARIES)):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", variable=name, fix=f"one of: {', '.join(known)}")
    if auxiliary == "identity" and likelihood != "gaussian":
        raise ConfigError(f"the identity auxiliary is Gaussian, got {likelihood!r}", fix='auxiliary="net"')
    A = C if auxiliary == "identity" else features if features is not None else min(C, 4)
    d = latent if latent is not None else min(2 * A, 10) if isinstance(A, int) else 2
    whole_numbers(features=A, latent=d, matrices=matrices, hidden=hidden)
    positive_numbers(noise=noise, step=step)
    shares(warmup=warmup)
    g = generator(seed, "weights")
    process = _process(dynamics, d, matrices, hidden, g)
    return NCDSSM(
        process, _auxiliary(auxiliary, C, A, hidden, likelihood, noise, g), step=step, warmup=warmup, generator=g
    )


def _process(name: str, d: int, matrices: int, hidden: int, g: torch.Generator) -> FreeLinear | FilteredDynamics:
    if name == "linear":
        return FreeLinear(d, generator=g)
    return (
        MixedLinear(d, matrices, hidden, generator=g) if name == "mixed-linear" else Perceptron(d, hidden, generator=g)
    )


def _auxiliary(
    name: str, C: int, A: int, hidden: int, likelihood: str, noise: float, g: torch.Generator
) -> NetAuxiliary | IdentityAuxiliary:
    if name == "identity":
        return IdentityAuxiliary(C)
    build: Any = registry().get("likelihoods", likelihood)
    law = build(C, noise=noise) if likelihood in ("gaussian", "student-t") else build(C)
    return NetAuxiliary(C, A, hidden, law, generator=g)
