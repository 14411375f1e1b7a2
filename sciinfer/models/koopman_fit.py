"""Starting a Koopman model: several candidates, a few quasi-Newton steps each, the likeliest stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import ConfigError, NumericalError
from ..labelled.series import SeriesBatch
from ..nets import LinearDecoder
from ..nets.parameters import flatten, unflatten, value_and_slopes
from ..processes import StationaryLinear
from ..random import generator
from .exact import ExactPathModel
from .grids import pad_for
from .koopman_em import continuous, fit_autoregression
from .koopman_start import Array, copy_lines, copy_modal, find_lines, from_stationary, restore, snapshot
from .linear_start import fit_linear_start

if TYPE_CHECKING:
    from .koopman import Koopman

#: latent dimensions up to which a dense process is fitted by the exact score; steps for every candidate
_DENSE, _SHORT = 12, 15
#: channels up to which the dense process is as good a start as expectation-maximisation
_FEW = 3
#: rows of one series, and series, on which candidates compete
_ROWS, _SERIES = 1500, 16
#: rows of a grid for each row of data beyond which the data do not count as even
_SPARSE = 4


def start_koopman(model: Koopman, batch: SeriesBatch) -> None:
    """Set the parameters in place. Nothing happens without data, or with ``start="none"``."""
    batch = batch.drop_empty()
    if batch.observed == 0 or model.start == "none":
        return
    start_means(model, batch)
    sample = stretches(batch)
    plain = flat_batch(model, batch)
    first = snapshot(model)
    best, kept = math.inf, first
    for candidate in candidates(model, plain):
        restore(first, model)
        candidate()
        value = refine(model, sample, _SHORT if model.process.dim <= _DENSE else 0)
        if value < best:
            best, kept = value, snapshot(model)
    restore(kept, model)


def candidates(model: Koopman, batch: SeriesBatch) -> Iterator[Callable[[], None]]:
    """What the option ``start`` asks for; with ``"auto"`` what the size and the times of the data allow.

    Raises:
        ConfigError: a start that was asked for does not fit the data.
    """
    d, wanted = model.process.dim, model.start
    even = even_paths(batch) if wanted in ("auto", "em") and d >= batch.n_channels else None
    if wanted == "em" and even is None:
        raise ConfigError(
            "expectation-maximisation needs times on a grid and at least as many latent dimensions as channels",
            variable="start",
            fix=f'latent={batch.n_channels}, or start="modes"',
        )
    if model.process.pairs and (wanted == "lines" or (wanted == "auto" and d <= _DENSE)):
        yield lambda: _start_lines(model, batch)
    if even is not None and (wanted == "em" or batch.n_channels > _FEW):
        paths, h = even
        yield lambda: _start_em(model, paths, h)
    if wanted == "modes" or (wanted == "auto" and (d <= _DENSE or even is None)):
        yield lambda: _start_modes(model, batch)


def _start_lines(model: Koopman, batch: SeriesBatch) -> None:
    lines = find_lines(batch, model.process.pairs)
    if lines is not None:
        span = float((batch.time.max() - batch.time.min()).clamp(min=1e-9))
        bias = model.decoder.bias.detach().clone()
        copy_lines(lines, model.process, model.decoder, model.likelihood, 0.01 / span)
        with torch.no_grad():
            model.decoder.bias.add_(bias)


def _start_modes(model: Koopman, batch: SeriesBatch) -> None:
    d, C = model.process.dim, batch.n_channels
    dense = StationaryLinear(d, generator=generator(0, "koopman-start"))
    decoder = LinearDecoder(d, C, generator=generator(0, "koopman-start", "readout"))
    dense.to(batch.values)
    decoder.to(batch.values)
    fit_linear_start(dense, decoder, model.likelihood, batch, seed=0, starts=2, short=8, long=25)
    copy_modal(from_stationary(dense, decoder), model.process, model.decoder)
    with torch.no_grad():
        model.decoder.bias.add_(decoder.bias)


def _start_em(model: Koopman, paths: list[tuple[Array, Array]], h: float) -> None:
    found = fit_autoregression(paths)
    copy_modal(continuous(found, h), model.process, model.decoder)
    with torch.no_grad():
        model.likelihood.log_noise.copy_(torch.from_numpy(0.5 * np.log(found.R)))


@torch.no_grad()
def start_means(model: Koopman, batch: SeriesBatch) -> None:
    """Bias and cycle by least squares, channel by channel."""
    padded = pad_for(batch)
    values = model.prepare(padded, batch).values.flatten(0, 1)
    mask, time = padded.mask.flatten(0, 1), padded.time.flatten()
    harmonics = 0 if model.cyclic is None or model.period is None else model.cyclic.shape[1] // 2
    columns = [torch.ones_like(time)]
    angles = [time * (2 * math.pi * k / (model.period or 1.0)) for k in range(1, harmonics + 1)]
    X = torch.stack(columns + [a.cos() for a in angles] + [a.sin() for a in angles], dim=1)
    live = mask.to(X.dtype)
    gram = torch.einsum("nc,ni,nj->cij", live, X, X)
    eye = torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    ridge = 1e-6 * live.sum(0).clamp(min=1.0)[:, None, None]
    weights = torch.linalg.solve(gram + ridge * eye, torch.einsum("nc,ni->ci", values * live, X))
    model.decoder.bias.copy_(weights[:, 0])
    if model.cyclic is not None:
        model.cyclic.add_(weights[:, 1:])


@torch.no_grad()
def flat_batch(model: Koopman, batch: SeriesBatch) -> SeriesBatch:
    """The data as the latent process sees them: transformed, without means, cycle and inputs."""
    padded = pad_for(batch)
    values = model.prepare(padded, batch).values - model.decoder.bias
    return batch._replace(values=torch.where(batch.mask, values[padded.rows], batch.values * 0), covariates=None)


def stretches(batch: SeriesBatch) -> SeriesBatch:
    """The longest series, each cut to its first rows."""
    longest = torch.argsort(batch.lengths, descending=True, stable=True)[:_SERIES].sort().values
    chosen = batch.select(longest)
    position = torch.arange(len(chosen.time), device=chosen.time.device) - chosen.offsets[:-1][chosen.series_of_row]
    return chosen.keep(position < _ROWS)


def even_paths(batch: SeriesBatch) -> tuple[list[tuple[Array, Array]], float] | None:
    """Values and masks of every series on the grid that its times lie on, and its step; None where there is none."""
    rows = [slice(int(a), int(b)) for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
    t, v, m = (x.detach().cpu().double().numpy() for x in (batch.time, batch.values, batch.mask))
    steps = np.concatenate([np.diff(t[r]) for r in rows])
    steps = steps[steps > 0]
    if not len(steps):
        return None
    h = float(np.median(steps))
    counts = steps / h
    if (abs(counts - counts.round()) > 1e-6 * counts.clip(1)).any() or counts.sum() > _SPARSE * len(t):
        return None
    paths = []
    for r in rows:
        if t[r].shape[0] > 1:
            at = ((t[r] - t[r][0]) / h).round().astype(int)
            values, mask = np.zeros((at[-1] + 1, v.shape[1])), np.zeros((at[-1] + 1, v.shape[1]))
            values[at], mask[at] = v[r] * m[r], m[r]
            paths.append((values, mask))
    return paths, h


def refine(model: ExactPathModel, batch: SeriesBatch, iterations: int) -> float:
    """L-BFGS on the exact likelihood from where the parameters are; a run that fails counts as infinitely bad."""
    from scipy.optimize import minimize

    parameters = [p for p in model.parameters() if p.requires_grad]
    unused = generator(0, "unused")

    def objective(x: Array) -> tuple[float, Array]:
        unflatten(x, parameters)
        try:
            number, slopes = value_and_slopes(model.loss(batch, generator=unused).value, parameters)
        except NumericalError:
            return 1e10, np.zeros_like(x)
        return number, flatten(slopes)

    before = flatten(parameters)
    if iterations:
        found = minimize(objective, before, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 20})
        unflatten(found.x, parameters)
    try:
        with torch.no_grad():
            return float(model.loss(batch, generator=unused).value)
    except NumericalError:
        unflatten(before, parameters)
        return math.inf
