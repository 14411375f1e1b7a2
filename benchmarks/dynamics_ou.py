"""Ornstein-Uhlenbeck: the exact linear latent SDE beside the smoother that knows the true parameters.

Each split is a data set of its own: irregular shared times on [0, 10], history to 5. No forecast can beat the smoother.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from sciinfer.fitted import Fitted
from sciinfer.likelihoods import Gaussian
from sciinfer.likelihoods.gaussian import FLOOR
from sciinfer.models.base import Model
from sciinfer.models.exact import ExactPathModel
from sciinfer.nets import LinearDecoder
from sciinfer.processes.linear import KnownLinear
from sciinfer.random import generator

from .harness import Row
from .protocol import Contender, Split, compare, simulated, single_thread


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Below every baseline; the row "exact" says how close to the best possible answer."""
    single_thread()
    contender = Contender(
        model="latent-sde",
        options={"process": "linear", "latent": 1},
        training={"steps": 2} if tiny else {},
        references=smoother,
    )
    size = 10 if tiny else 100
    yield from compare("dynamics_ou", splits(size), [contender], after=5.0, step=0.25)


def splits(size: int, count: int = 3) -> list[Split]:
    """``size`` series to train on, half as many to choose with, as many to score."""
    return [simulated("ornstein_uhlenbeck", size, seed=seed, missing=0.2) for seed in range(count)]


def smoother(fitted: Fitted) -> Mapping[str, Model]:
    """The exact answer with the true parameters, in model units."""
    a = fitted.data.attrs
    theta, sigma, mu, noise = (float(a[name]) for name in ("theta", "sigma", "mu", "noise_sd"))
    unit, channel = fitted.schema.time.scale, fitted.schema.channels[0]
    one = torch.ones(1, 1, dtype=torch.float64)
    process = KnownLinear(-theta * unit * one, sigma**2 * unit * one, sigma**2 / (2 * theta) * one)
    decoder, likelihood = LinearDecoder(1, 1, generator=generator(0, "unused")), Gaussian(1)
    with torch.no_grad():
        decoder.weight.fill_(1 / channel.scale)
        decoder.bias.fill_((mu - channel.shift) / channel.scale)
        likelihood.log_noise.fill_(math.log(noise / channel.scale - FLOOR))
    return {"exact": ExactPathModel(process, decoder, likelihood)}
