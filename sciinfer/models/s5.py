"""``s5``: forecasts and gap filling by diagonal state-space layers over irregular times."""

from __future__ import annotations

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..random import generator
from .s5_density import DENSITIES, Density
from .s5_model import S5Model
from .stable_sde import whole_numbers

__entries__ = [
    {
        "kind": "models",
        "name": "s5",
        "target": "s5",
        "summary": "state-space layers over irregular times: forecasts and gap filling with spreads, no latent path",
        "references": [
            "Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling",
            "Gu, Goel, Ré (2022), Efficiently modeling long sequences with structured state spaces",
        ],
        "options": {
            "width": "of the layers; default 64",
            "states": "complex states of a layer; default width / 2",
            "layers": "in each direction of time",
            "sides": "both (default): queries inside the data see past and future; past: past alone, half the cost",
            "density": "gaussian (default) | student-t",
            "rank": "rank of the correlation between channels at one time (gaussian); 0: independent",
            "dropout": "share of the readout's hidden units silenced in training",
            "beta": "0 (default): log-density; towards 1: better means at the price of the spreads",
            "jitter": "noise added to what is read in training, in units of each channel's own",
            "floor": "least predicted scale, in units of each channel's own",
        },
    },
]


def s5(
    schema: Schema,
    *,
    seed: int = 0,
    width: int = 64,
    states: int | None = None,
    layers: int = 2,
    sides: str = "both",
    density: str = "gaussian",
    rank: int = 0,
    dropout: float = 0.0,
    beta: float = 0.0,
    jitter: float = 0.0,
    floor: float = 1e-3,
) -> S5Model:
    """Build a state-space forecaster for data of this schema.

    ``x(t + h) = exp(L h) x(t)`` between rows, diagonal complex ``L``; a query at ``t`` reads the carried states and
    corrects an anchor made of each channel's own forgetting means.

    Args:
        schema: channels and time scale. seed: starting weights. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown, out of range, or two do not go together.

    References:
        Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> s5(Schema(axis, None, (Variable("a"),), (Channel("a"),)), width=8).density.floor
        0.001
    """
    chosen = states if states is not None else max(width // 2, 1) if isinstance(width, int) else 1
    whole_numbers(width=width, states=chosen, layers=layers)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise ConfigError(f"rank must be a whole number >= 0, got {rank!r}", variable="rank", fix="rank=0")
    for name, value, known in (("sides", sides, ("both", "past")), ("density", density, DENSITIES)):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}", variable=name, fix=f"one of: {', '.join(known)}")
    for name, value, top in (
        ("dropout", dropout, 0.95),
        ("beta", beta, 1.0),
        ("jitter", jitter, 9.0),
        ("floor", floor, 9.0),
    ):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= top or (name == "floor" and value == 0):
            raise ConfigError(f"{name} must lie between 0 and {top}, got {value!r}", variable=name, fix=f"{name}=0.1")
    if rank and density != "gaussian":
        raise ConfigError(f"correlated channels need gaussian density, got {density!r}", variable="rank", fix="rank=0")
    g = generator(seed, "weights")
    C = schema.n_channels
    law = Density(C, density, rank, floor=floor, generator=g)
    return S5Model(
        C, width, chosen, layers, law, both=sides == "both", dropout=dropout, beta=beta, jitter=jitter, generator=g
    )
