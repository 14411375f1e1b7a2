"""A starting linear process by subspace identification: from the data's own lagged covariances, no search.

Each series is interpolated to the typical step ``h``; windows of ``L`` rows are projected to their ``d`` leading
directions ``w``; ``w' = A w`` by least squares; ``F = log(A) / h``; then a change of basis makes the process stationary
``N(0, I)`` with diagonal spread, the form of :class:`sciinfer.processes.StationaryLinear`.

References:
    Van Overschee, De Moor (1996), Subspace identification for linear systems.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ..labelled.series import SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..processes import StationaryLinear

#: rows of a window and rows of a series that are looked at: enough for a start
_WINDOW, _LONGEST = 40, 1000
#: slowest and fastest damping of a start, per step
_SLOW, _FAST = 1e-4, 3.0
Array = np.ndarray


class SpectralStart(NamedTuple):
    """``skew [d, d]``, ``spread [d]``, ``weight [C, d]``, ``bias [C]``, ``noise [C]``."""

    skew: Array
    spread: Array
    weight: Array
    bias: Array
    noise: Array


def spectral_start(batch: SeriesBatch, dim: int) -> SpectralStart | None:
    """The start for ``dim`` latent dimensions, or None where the data are too few or too degenerate for one."""
    paths = _regular(batch)
    if not paths:
        return None
    bias = np.concatenate(paths).mean(0)
    channels, shortest = len(bias), min(len(p) for p in paths)
    window = min(max(2 * math.ceil(dim / channels) + 1, _WINDOW // max(1, channels // 4)), shortest // 2)
    if window * channels < dim or window < 1:
        return None
    pieces = [_windows(p - bias, window) for p in paths]
    pieces = [p for p in pieces if len(p) > 1]
    stacked = np.concatenate(pieces) if pieces else np.zeros((0, 1))
    if len(stacked) < 4 * dim:
        return None
    _, sizes, basis = np.linalg.svd(stacked, full_matrices=False)
    if sizes[dim - 1] <= 1e-9 * sizes[0]:
        return None
    basis = basis[:dim]
    latent = [p @ basis.T for p in pieces]
    before, after = np.concatenate([w[:-1] for w in latent]), np.concatenate([w[1:] for w in latent])
    A = np.linalg.lstsq(before, after, rcond=None)[0].T
    readout = basis[:, :channels].T
    missed = np.concatenate([p[:, :channels] for p in pieces]) - np.concatenate(latent) @ readout.T
    return _stationary(A, before.T @ before / len(before), readout, bias, missed.std(0))


def _regular(batch: SeriesBatch) -> list[Array]:
    """Every series on a grid of the typical step (one model time by the schema's choice of scale)."""
    paths = []
    for s in range(batch.n_series):
        rows = slice(int(batch.offsets[s]), int(batch.offsets[s + 1]))
        t, v, m = (x[rows].detach().cpu().numpy() for x in (batch.time, batch.values, batch.mask))
        if len(t) < 6 or t[-1] <= t[0]:
            continue
        grid = np.arange(min(int(t[-1] - t[0]) + 1, _LONGEST)) + t[0]
        columns = [np.interp(grid, t[m[:, c]], v[m[:, c], c]) if m[:, c].any() else 0 * grid for c in range(v.shape[1])]
        if len(grid) >= 6:
            paths.append(np.stack(columns, axis=1).astype(float))
    return paths


def _windows(path: Array, length: int) -> Array:
    count = len(path) - length + 1
    return np.stack([path[k : k + length].ravel() for k in range(count)]) if count > 0 else np.zeros((0, 1))


def _stationary(A: Array, P: Array, readout: Array, bias: Array, noise: Array) -> SpectralStart | None:
    """From ``w' = A w`` a step apart, ``w ~ N(0, P)``, to the stationary form."""
    found = np.linalg.eig(A)
    rates, modes = found.eigenvalues.astype(complex), found.eigenvectors.astype(complex)
    if np.linalg.cond(modes) > 1e8:
        return None
    # a mode that changes sign every step has no continuous counterpart: its size is kept
    rates = np.where((np.real(rates) < 0) & (abs(np.imag(rates)) < 1e-12), abs(rates), rates)
    log = np.log(np.where(abs(rates) > 1e-12, rates, 1e-12))
    log = np.clip(np.real(log), -_FAST, -_SLOW) + 1j * np.imag(log)
    F = np.real(modes * log @ np.linalg.inv(modes))
    sizes, axes = np.linalg.eigh(P)
    if sizes[0] <= 1e-12 * sizes[-1]:
        return None
    root, inverse = (axes * sizes**0.5) @ axes.T, (axes * sizes**-0.5) @ axes.T
    G = inverse @ F @ root
    # what is not damped in these coordinates would not be stationary
    spread, turn = np.linalg.eigh(-(G + G.T))
    K = turn.T @ G @ turn
    return SpectralStart(0.5 * (K - K.T), spread.clip(_SLOW), readout @ root @ turn, bias, noise.clip(1e-2))


def copy_start(start: SpectralStart, process: StationaryLinear, decoder: LinearDecoder, noise: Gaussian) -> None:
    """Write a start into the parameters."""
    with torch.no_grad():
        process.rotation.copy_(torch.from_numpy(start.skew))
        process.log_damping.copy_(torch.from_numpy(np.log(start.spread - 1e-6)))
        decoder.weight.copy_(torch.from_numpy(start.weight))
        decoder.bias.copy_(torch.from_numpy(start.bias))
        noise.log_noise.copy_(torch.from_numpy(np.log(start.noise)))
