"""``xfads``: nonlinear state-space models with amortised low-rank information updates."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..nets import LinearDecoder, MLPDecoder
from ..random import generator
from .modalities import Modality, build_likelihood, find_modalities
from .stable_sde import positive_numbers, shares, whole_numbers
from .xfads_encoder import BackwardEncoder, LocalEncoder
from .xfads_model import XFADS
from .xfads_steps import ResidualFlow

__entries__ = [
    {
        "kind": "models",
        "name": "xfads",
        "target": "xfads",
        "summary": "nonlinear state-space model: residual flow, low-rank updates from present and future",
        "references": ["Dowling, Zhao, Park (2024), eXponential FAmily Dynamical Systems (XFADS)"],
        "options": {
            "latent": "latent dimension; default channels, at most 4",
            "dynamics": "residual (default): a net beside a stable linear part | linear",
            "decoder": "linear (default): expectations in closed form | mlp",
            "likelihood": "a registered likelihood, or one for each variable; default gaussian",
            "rank": "of the updates from the present and from the future, each; default the latent dimension",
            "hidden": "width of the nets",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "step": "longest step of the flow, in typical gaps",
            "mask_local": "share of rows whose own update is left out in training",
            "mask_backward": "share of rows whose update from the future is left out in training",
            "warmup": "fraction of training over which the divergence fades in",
        },
    },
]


def xfads(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    dynamics: str = "residual",
    decoder: str = "linear",
    likelihood: str | Mapping[str, str] = "gaussian",
    rank: int | None = None,
    hidden: int = 32,
    noise: float = 0.3,
    step: float = 1.0,
    mask_local: float = 0.1,
    mask_backward: float = 0.1,
    warmup: float = 0.0,
) -> XFADS:
    """Build the model for data of this schema.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    References:
        Dowling, Zhao, Park (2024), eXponential FAmily Dynamical Systems (XFADS): large-scale nonlinear Gaussian
        state-space modeling.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> xfads(Schema(axis, None, (Variable("a"),), (Channel("a"),)), latent=3).process.dim
        3
    """
    for name, value, known in (("dynamics", dynamics, ("residual", "linear")), ("decoder", decoder, ("linear", "mlp"))):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", variable=name, fix=f"one of: {', '.join(known)}")
    C = schema.n_channels
    d = min(C, 4) if latent is None else latent
    r = d if rank is None else rank
    whole_numbers(latent=d, rank=r, hidden=hidden)
    positive_numbers(noise=noise, step=step)
    shares(mask_local=mask_local, mask_backward=mask_backward, warmup=warmup)
    g = generator(seed, "weights")
    process = ResidualFlow(d, hidden if dynamics == "residual" else 0, step=step, generator=g)
    local = LocalEncoder(C, d, r, hidden, generator=g)
    backward = BackwardEncoder(d, r, r, hidden, generator=g)
    read = LinearDecoder(d, C, generator=g) if decoder == "linear" else MLPDecoder(d, C, (hidden,), generator=g)
    one = [Modality("all", 0, C, likelihood)] if isinstance(likelihood, str) else find_modalities(schema, likelihood)
    law = build_likelihood(one, noise)
    return XFADS(process, local, backward, read, law, mask_local=mask_local, mask_backward=mask_backward, warmup=warmup)
