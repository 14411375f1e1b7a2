"""Where a Koopman model starts: a dense linear process in modal form, or lines of the periodogram."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..labelled.series import SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..processes import StationaryLinear
from ..processes.koopman import KoopmanProcess

Array = np.ndarray
#: slowest and fastest damping of a start, per model time
_SLOW, _FAST = 1e-4, 3.0
#: series and rows that are searched for lines; trial frequencies
_SERIES, _ROWS, _TRIALS = 4, 6000, 40_000


class Modal(NamedTuple):
    """Pairs first: ``damping, frequency [d]`` (0 for real modes), ``rate [d, d]`` of noise, ``weight [C, d]``."""

    damping: Array
    frequency: Array
    rate: Array
    weight: Array


def modal_form(F: Array, D: Array, W: Array) -> Modal:
    """``dx = F x dt + dW`` (covariance rate ``D``) read out by ``W``, in the coordinates of its modes.

    Pairs are turned so that the noise has equal size in both coordinates, and all are scaled to ``D_ii = 2 g_i``.
    """
    found = np.linalg.eig(F)
    rates: Array = found.eigenvalues.astype(complex)
    vectors: Array = found.eigenvectors.astype(complex)
    turns, decay = np.imag(rates), -np.real(rates)
    pairs, real = np.flatnonzero(turns > 0), np.flatnonzero(turns == 0)
    pairs = pairs[np.argsort(decay[pairs])]
    real = real[np.argsort(decay[real])]
    columns: list[Array] = []
    for k in pairs:
        columns += [np.real(vectors[:, k]), -np.imag(vectors[:, k])]
    basis = np.stack(columns + [np.real(vectors[:, k]) for k in real], axis=1)
    damping = np.concatenate([np.repeat(decay[pairs], 2), decay[real]]).clip(_SLOW)
    frequency = np.concatenate([np.repeat(turns[pairs], 2), np.zeros(len(real))])
    inverse = np.linalg.inv(basis)
    rate = inverse @ D @ inverse.T
    turn = np.eye(len(F))
    for k in range(len(pairs)):
        block = slice(2 * k, 2 * k + 2)
        (p, q), (_, r) = rate[block, block]
        angle = 0.5 * math.atan2(r - p, 2 * q)
        turn[block, block] = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    rate = turn @ rate @ turn.T
    size = np.sqrt(rate.diagonal().clip(1e-12) / (2 * damping))
    return Modal(damping, frequency, rate / size[:, None] / size, W @ basis @ turn.T * size)


@torch.no_grad()
def copy_modal(start: Modal, process: KoopmanProcess, decoder: LinearDecoder, scale: float = 1.0) -> None:
    """Write a start into the parameters; modes that the process has beyond it keep theirs, with a small readout."""
    like, d = process.raw_damping, len(start.damping)
    put = lambda to, x: to.copy_(torch.from_numpy(np.ascontiguousarray(x)))  # noqa: E731
    damping = start.damping.clip(_SLOW)
    put(like[:d], damping if process.spectrum == "free" else np.log(damping))
    turning = start.frequency[: 2 * (d // 2) : 2] > 0
    put(process.get_buffer("oscillates")[: d // 2], turning)
    known = torch.from_numpy(np.flatnonzero(turning))
    process.log_frequency[known] = torch.from_numpy(np.log(start.frequency[0 : 2 * (d // 2) : 2][turning])).to(like)
    if len(process.log_drive):
        put(process.log_drive[:d], np.log(start.rate.diagonal().clip(1e-8)))
    if len(process.mixing):
        root = 1 / np.sqrt(2 * damping)
        values, vectors = np.linalg.eigh(start.rate * root[:, None] * root)
        mixing = np.zeros((process.dim, process.dim))
        mixing[:d, :d] = vectors * np.sqrt(values.clip(1e-6 * values.max()))
        mixing[range(d, process.dim), range(d, process.dim)] = 1.0
        put(process.mixing, mixing)
    decoder.weight.mul_(0.05)
    put(decoder.weight[:, :d], scale * start.weight)


def from_stationary(process: StationaryLinear, decoder: LinearDecoder) -> Modal:
    """The modal form of a dense stationary process."""
    F = process.drift_matrix.detach().cpu().double().numpy()
    D = np.diag(process.spread.detach().cpu().double().numpy())
    return modal_form(F, D, decoder.weight.detach().cpu().double().numpy())


class Lines(NamedTuple):
    """Sinusoids: ``frequency [P]``, ``weight [C, 2P]`` of unit-variance coordinates, ``bias``, ``noise [C]``."""

    frequency: Array
    weight: Array
    bias: Array
    noise: Array


def find_lines(batch: SeriesBatch, count: int) -> Lines | None:
    """The ``count`` strongest sinusoids, one after the other, each refined with all before it; gaps are no matter.

    Least squares at every trial frequency of what the others leave (a periodogram over all channels), then Gauss-Newton
    on all frequencies at once; phases differ between series, frequencies do not.

    Returns:
        None where there are too few rows.
    """
    paths = _paths(batch)
    rows = sum(len(t) for t, _, _ in paths)
    if not paths or rows < 6 * count + 6:
        return None
    span = max(float(t[-1] - t[0]) for t, _, _ in paths)
    steps = np.concatenate([np.diff(t) for t, _, _ in paths])
    finest = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if span <= 0 or finest <= 0:
        return None
    highest = math.pi / finest
    trials = np.linspace(0, highest, min(_TRIALS, max(64, int(4 * span * highest / (2 * math.pi)))) + 1)[1:]
    found: list[float] = []
    for _ in range(count):
        rest = _fit(paths, np.array(found))[1]
        axes = _loud_axes(paths, rest if found else None)
        rest = [r @ axes for r in rest]
        found.append(_strongest(paths, rest, trials, found))
        found = _refine(paths, np.array(found), span).tolist()
    frequency = np.array(found)
    weight, rest, bias = _fit(paths, frequency)
    counts = np.sum([m.sum(0) for _, _, m in paths], axis=0)
    noise = np.sqrt(np.sum([(r * r).sum(0) for r in rest], axis=0) / counts.clip(1))
    # the phases of the first series; coordinates sqrt 2 (cos, sin) have unit variance
    return Lines(frequency, weight[0][1:].T / math.sqrt(2), bias, noise.clip(1e-3))


def _paths(batch: SeriesBatch) -> list[tuple[Array, Array, Array]]:
    """Times, values and masks of the longest series."""
    batch = batch.drop_empty()
    found = []
    for s in torch.argsort(batch.lengths, descending=True, stable=True)[:_SERIES].tolist():
        rows = slice(int(batch.offsets[s]), int(batch.offsets[s]) + min(int(batch.lengths[s]), _ROWS))
        t, v, m = (x[rows].detach().cpu().double().numpy() for x in (batch.time, batch.values, batch.mask))
        if len(t) > 2:
            found.append((t, v, m))
    return found


def _design(t: Array, frequency: Array) -> Array:
    """``[1, cos w1 t, sin w1 t, ...]``."""
    angle = np.outer(t, frequency)
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=2).reshape(len(t), -1)
    return np.concatenate([np.ones((len(t), 1)), waves], axis=1)


def _fit(paths: list[tuple[Array, Array, Array]], frequency: Array) -> tuple[list[Array], list[Array], Array]:
    """Least squares of each channel of each series: weights ``[1 + 2P, C]``, residuals, mean bias."""
    weights, rest = [], []
    for t, v, m in paths:
        X = _design(t, frequency)
        gram = np.einsum("tc,ti,tj->cij", m, X, X, optimize=True) + 1e-9 * len(t) * np.eye(X.shape[1])
        w = np.linalg.solve(gram, np.einsum("tc,ti->ci", v * m, X)[..., None])[..., 0].T
        weights.append(w)
        rest.append((v - X @ w) * m)
    return weights, rest, np.mean([w[0] for w in weights], axis=0)


def _loud_axes(paths: list[tuple[Array, Array, Array]], rest: list[Array] | None) -> Array:
    """``[C, k]``: what to multiply residuals with so that noise is white and little of it is left beside the signal.

    Channels in units of their residuals' size (of their own, where nothing is fitted yet), along the directions in
    which the data vary more than noise would.
    """
    counts = np.sum([m.sum(0) for _, _, m in paths], axis=0).clip(1)
    size = None if rest is None else np.sqrt(np.sum([(r * r).sum(0) for r in rest], axis=0) / counts)
    scale = np.ones(len(counts)) if size is None else 1 / size.clip(1e-3 * size.max(initial=1e-12))
    centred = [(v - (v * m).sum(0) / m.sum(0).clip(1)) * m * scale for _, v, m in paths]
    pairs = np.asarray(sum(m.T @ m for _, _, m in paths)).clip(1)
    values, axes = np.linalg.eigh(sum(v.T @ v for v in centred) / pairs)
    loud = values > 2 * np.median(values)
    return scale[:, None] * (axes[:, loud] if loud.any() else axes)


def _strongest(paths: list[tuple[Array, Array, Array]], rest: list[Array], trials: Array, taken: list[float]) -> float:
    power = np.zeros(len(trials))
    for (t, _, _), r in zip(paths, rest, strict=True):
        for part in range(0, len(trials), 512):
            wave = np.exp(-1j * np.outer(trials[part : part + 512], t))
            power[part : part + 512] += (abs(wave @ r) ** 2).sum(1)
    width = 1.5 * (trials[1] - trials[0])
    for w in taken:
        power[abs(trials - w) < width] = 0.0
    return float(trials[np.argmax(power)])


def _refine(paths: list[tuple[Array, Array, Array]], frequency: Array, span: float, rounds: int = 6) -> Array:
    """Gauss-Newton on the frequencies, amplitudes projected out to first order."""
    for _ in range(rounds):
        weights, rest, _ = _fit(paths, frequency)
        H, g = np.zeros((len(frequency),) * 2), np.zeros(len(frequency))
        for (t, _, m), w, r in zip(paths, weights, rest, strict=True):
            X, angle = _design(t, frequency), np.outer(t, frequency)
            a, b = w[1::2], w[2::2]
            J = t[:, None, None] * (np.cos(angle)[..., None] * b - np.sin(angle)[..., None] * a)
            for c in range(m.shape[1]):
                live = m[:, c] > 0
                Q, _ = np.linalg.qr(X[live])
                free = J[live, :, c] - Q @ (Q.T @ J[live, :, c])
                H += free.T @ free
                g += free.T @ r[live, c]
        step = np.linalg.solve(H + 1e-9 * np.trace(H) * np.eye(len(g)) + 1e-30, g)
        frequency = abs(frequency + step.clip(-1 / span, 1 / span))
    return frequency


@torch.no_grad()
def copy_lines(lines: Lines, process: KoopmanProcess, decoder: LinearDecoder, noise: Gaussian, slow: float) -> None:
    """Write lines into the pairs, almost undamped: ``slow`` per model time."""
    P = len(lines.frequency)
    put = lambda to, x: to.copy_(torch.from_numpy(np.ascontiguousarray(x)))  # noqa: E731
    process.raw_damping[: 2 * P] = slow if process.spectrum == "free" else math.log(slow)
    process.get_buffer("oscillates")[:P] = True
    put(process.log_frequency[:P], np.log(lines.frequency))
    if len(process.log_drive):
        process.log_drive.fill_(math.log(slow))
    decoder.weight.mul_(0.05)
    put(decoder.weight[:, : 2 * P], lines.weight)
    put(decoder.bias, lines.bias)
    put(noise.log_noise, np.log(lines.noise))


def snapshot(*modules: torch.nn.Module) -> list[Tensor]:
    """Copies of all weights and buffers."""
    return [x.detach().clone() for m in modules for x in m.state_dict().values()]


@torch.no_grad()
def restore(saved: list[Tensor], *modules: torch.nn.Module) -> None:
    """Write a snapshot back."""
    for x, value in zip((x for m in modules for x in m.state_dict().values()), saved, strict=True):
        x.copy_(value)
