"""Start a latent SDE from the best linear one, found exactly from several random starts."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import NumericalError
from ..labelled.series import SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..nets.parameters import flatten, unflatten, value_and_slopes
from ..processes import StationaryLinear
from ..random import generator
from .exact import ExactPathModel
from .spectral_start import copy_start, spectral_start

#: data used to find the start: enough to tell frequencies and dampings apart, cheap enough to try several
_SERIES, _ROWS = 16, 200
#: weight of the pull away from noise-free fits, nats per observation
_PULL = 1e-3


def fit_linear_start(
    process: StationaryLinear,
    decoder: LinearDecoder,
    likelihood: Gaussian,
    batch: SeriesBatch,
    *,
    seed: int,
    starts: int = 4,
    short: int = 12,
    long: int = 40,
) -> None:
    """Set the parameters in place: short L-BFGS runs of the exact likelihood, from the subspace start and from
    ``starts`` random ones, then the best one longer."""
    model = ExactPathModel(process, decoder, likelihood)
    sample = longest_rows(batch)
    if sample.observed == 0:
        return
    best: tuple[float, dict[str, Tensor]] | None = None
    spectral = spectral_start(batch.drop_empty(), process.dim)
    for attempt in range(-1 if spectral is not None else 0, starts):
        if attempt < 0 and spectral is not None:
            copy_start(spectral, process, decoder, likelihood)
        else:
            _randomise(model, seed, attempt)
        value = minimise_exactly(model, sample, short)
        if math.isfinite(value) and (best is None or value < best[0]):
            best = value, {name: p.detach().clone() for name, p in model.named_parameters()}
    if best is not None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(best[1][name])
        minimise_exactly(model, sample, long)


def longest_rows(batch: SeriesBatch) -> SeriesBatch:
    """The longest series, each cut to its first rows."""
    batch = batch.drop_empty()
    longest = torch.argsort(batch.lengths, descending=True, stable=True)[:_SERIES].sort().values
    chosen = batch.select(longest)
    position = torch.arange(len(chosen.time), device=chosen.time.device) - chosen.offsets[:-1][chosen.series_of_row]
    return chosen.keep(position < _ROWS)


def _randomise(model: ExactPathModel, seed: int, attempt: int) -> None:
    g = generator(seed, "linear-start", attempt)
    process, decoder = model.process, model.decoder
    if not isinstance(process, StationaryLinear):
        return
    with torch.no_grad():
        scale = math.exp(float(torch.empty(1, dtype=torch.float64).uniform_(math.log(0.1), math.log(1.5), generator=g)))
        process.rotation.copy_(torch.randn(process.rotation.shape, generator=g, dtype=torch.float64) * scale)
        # drawn where the stream lives, whatever the device of the parameters
        damping = torch.empty(process.log_damping.shape, dtype=torch.float64)
        process.log_damping.copy_(damping.uniform_(math.log(0.02), math.log(0.5), generator=g))
        decoder.weight.copy_(torch.randn(decoder.weight.shape, generator=g, dtype=torch.float64) / process.dim**0.5)
        decoder.bias.zero_()
        model.likelihood.log_noise.fill_(math.log(0.4))


def _noise_without_noise(model: ExactPathModel) -> Tensor:
    """Noise in the data can be explained as noise, or by a latent dimension faster than any gap; the likelihood hardly
    tells, and what follows needs the former."""
    fast = model.process.log_damping if isinstance(model.process, StationaryLinear) else model.likelihood.log_noise[:0]
    return model.likelihood.log_noise.square().sum() + fast.clamp(min=0.0).square().sum()


def minimise_exactly(model: ExactPathModel, batch: SeriesBatch, iterations: int) -> float:
    """L-BFGS from where the parameters are; a run that fails numerically counts as infinitely bad and changes nothing.

    SciPy's: importing any optimiser of torch loads its compiler, which takes seconds.
    """
    from scipy.optimize import minimize

    parameters, unused = list(model.parameters()), generator(0, "unused")

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        unflatten(x, parameters)
        value = model.loss(batch, generator=unused).value + _PULL * _noise_without_noise(model)
        number, slopes = value_and_slopes(value, parameters)
        return number, flatten(slopes)

    before = flatten(parameters)
    try:
        found = minimize(objective, before, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 20})
        unflatten(found.x, parameters)
        with torch.no_grad():
            return float(model.loss(batch, generator=unused).value)
    except NumericalError:
        unflatten(before, parameters)
        return math.inf
