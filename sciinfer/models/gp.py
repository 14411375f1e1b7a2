"""Gaussian-process regression of each channel over time, exact and in linear time."""

from __future__ import annotations

import math

from ..errors import ConfigError
from ..gp.kernels import parse_kernel
from ..labelled.schema import Schema
from .structural import StructuralModel

__entries__ = [
    {
        "kind": "models",
        "name": "gp",
        "target": "gp",
        "summary": "Gaussian process of time with a kernel written as text; exact, linear in the data",
        "references": [
            "Hartikainen, Särkkä (2010), Kalman filtering and smoothing solutions to temporal Gaussian process "
            "regression models"
        ],
        "options": {
            "kernel": "sums and products of kernels, e.g. 'matern32 + matern52 * cosine(period=365.25D)'",
            "noise": "starting noise standard deviation, in units of each channel's own",
        },
    },
]


def gp(schema: Schema, *, seed: int = 0, kernel: str = "matern32 + constant", noise: float = 0.3) -> StructuralModel:
    """A Gaussian process for each channel; with one channel, ``latent`` holds the summed kernels one by one.

    Args:
        schema: channels and time scale. kernel: see :func:`sciinfer.gp.parse_kernel`; its times are in the units of
            the time coordinate, or durations such as ``"90D"``. noise: starting standard deviation. seed: unused.

    Raises:
        ConfigError: the kernel cannot be read, or the noise is not positive.
    """
    if not (isinstance(noise, int | float) and 0 < noise < math.inf):
        raise ConfigError(f"noise must be a positive number, got {noise!r}", variable="noise", fix="noise=0.3")
    return StructuralModel(parse_kernel(kernel, schema.time.duration), schema.n_channels, noise=noise)
