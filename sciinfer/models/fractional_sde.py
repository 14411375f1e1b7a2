"""The ``fractional-sde`` model: dynamics driven by fractional Brownian motion, with a learnable Hurst index."""

from __future__ import annotations

import math

from ..errors import ConfigError
from ..labelled.schema import Schema
from .base import Model
from .fractional_linear import FractionalModel
from .fractional_neural import build_neural

__entries__ = [
    {
        "kind": "models",
        "name": "fractional-sde",
        "target": "fractional_sde",
        "summary": "SDE driven by fractional Brownian motion: Hurst index with a posterior (linear, exact), or neural",
        "references": [
            "Daems, Opper, Crevecoeur, Birdal (2024), Variational inference for SDEs driven by fractional noise",
            "Harms, Stefanovits (2019), Affine representations of fractional processes",
        ],
        "options": {
            "process": "linear (default): a fractional Ornstein-Uhlenbeck process for each channel | neural",
            "terms": "Ornstein-Uhlenbeck processes in the Markov approximation, at least 2; default 8 (neural: 5)",
            "noise": "starting noise standard deviation, in units of each channel's own",
            "draws": "for linear: posterior draws of Hurst index, rate, scale and noise that are kept",
            "kind": "for neural: I (default, stationary increments) or II (noise starts with the series)",
            "latent": "for neural: latent dimension; default the number of channels, at most 6",
            "hurst": "for neural: starting Hurst index",
            "hidden": "for neural: width of the drift net",
            "width": "for neural: width of the encoder",
            "step": "for neural: longest Euler step, in model time (a typical gap is about one)",
            "warmup": "for neural: fraction of training over which the divergences fade in",
        },
    },
]


def fractional_sde(
    schema: Schema,
    *,
    seed: int = 0,
    process: str = "linear",
    terms: int | None = None,
    noise: float = 0.3,
    draws: int = 200,
    kind: str = "I",
    latent: int | None = None,
    hurst: float = 0.5,
    hidden: int = 32,
    width: int = 32,
    step: float = 0.25,
    warmup: float = 0.0,
) -> Model:
    """Build a model of data driven by fractional noise.

    Args:
        schema: channels and time scale. seed: starting weights and posterior draws. The others are listed in the
            registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    References:
        Daems, Opper, Crevecoeur, Birdal (2024), Variational inference for SDEs driven by fractional noise.
    """
    if process not in ("linear", "neural"):
        raise ConfigError(f"unknown process {process!r}", variable="process", fix="one of: linear, neural")
    _whole(1, draws=draws, latent=latent, hidden=hidden, width=width)
    _whole(2, terms=terms)
    _between(0.0, math.inf, noise=noise, step=step)
    _between(0.0, 1.0, hurst=hurst)
    if not (isinstance(warmup, int | float) and 0 <= warmup <= 1):
        raise ConfigError(f"warmup must lie in [0, 1], got {warmup!r}", variable="warmup", fix="warmup=0.2")
    if process == "linear":
        return FractionalModel(schema, seed=seed, terms=terms or 8, noise=noise, draws=draws)
    C = schema.n_channels
    return build_neural(
        C,
        latent or min(C, 6),
        terms or 5,
        seed=seed,
        kind=kind,
        noise=noise,
        hurst=hurst,
        hidden=hidden,
        width=width,
        step=step,
        warmup=warmup,
    )


def _whole(least: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ConfigError(
                f"{name} must be a whole number >= {least}, got {value!r}", variable=name, fix=f"{name}={least}"
            )


def _between(low: float, high: float, **options: float) -> None:
    for name, value in options.items():
        if not (isinstance(value, int | float) and not isinstance(value, bool) and low < value < high):
            raise ConfigError(
                f"{name} must lie between {low:g} and {high:g}, got {value!r}", variable=name, fix="see the options"
            )
