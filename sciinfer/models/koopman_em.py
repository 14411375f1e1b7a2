"""A dense linear process with as many states as channels, by expectation-maximisation on an even grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs

from .koopman_start import Array, Modal, modal_form

_factor, _solve = get_lapack_funcs(("potrf", "potrs"), dtype=np.float64)
#: iterations: the likelihood is flat after a dozen
ROUNDS = 11
#: what pulls the transition to slow decay, in rows of data
_PULL, _KEPT = 2.0, 0.95
_FLOOR = 1e-4


class Autoregression(NamedTuple):
    """``x' = A x + N(0, Q)``, ``y = x + N(0, diag R)``, a step ``h`` apart."""

    A: Array
    Q: Array
    R: Array


class _Sums(NamedTuple):
    """Second moments ``x' x'``, ``x' x``, ``x x`` over steps; squared misfit of each channel; ``x_0``; ``x_0 x_0``."""

    new: Array
    cross: Array
    old: Array
    misfit: Array
    mean: Array
    start: Array


class _Filtered(NamedTuple):
    mean: Array
    cov: Array
    mean_pred: Array
    cov_pred: Array


def fit_autoregression(paths: list[tuple[Array, Array]], rounds: int = ROUNDS) -> Autoregression:
    """Expectation-maximisation.

    Args:
        paths: values ``[T, C]`` and mask ``[T, C]`` of each series, on the grid.

    References:
        Shumway, Stoffer (1982), An approach to time series smoothing and forecasting using the EM algorithm.
    """
    counts = np.sum([m.sum(0) for _, m in paths], axis=0).clip(1)
    size = np.sum([(v * v * m).sum(0) for v, m in paths], axis=0) / counts
    C = len(size)
    together = 0.5 * np.sqrt(size)[:, None] * np.sqrt(size) + 0.5 * np.diag(size)
    model, starts = Autoregression(_KEPT * np.eye(C), 0.1 * together, 0.03 * size + _FLOOR), [together] * len(paths)
    means = [np.zeros(C)] * len(paths)
    for _ in range(rounds):
        found = [_expect(model, v, m, m0, P0) for (v, m), m0, P0 in zip(paths, means, starts, strict=True)]
        model = _maximise(found, paths)
        means = [f.mean for f in found]
        starts = [f.start for f in found]
    return model


def _maximise(found: list[_Sums], paths: list[tuple[Array, Array]]) -> Autoregression:
    new, cross, old = (np.sum([f[k] for f in found], axis=0) for k in range(3))
    eye = np.eye(len(old))
    A = np.linalg.solve(old + _PULL * eye, (cross + _PULL * _KEPT * eye).T).T
    steps = max(1, sum(len(v) - 1 for v, _ in paths))
    Q = (new - A @ cross.T - cross @ A.T + A @ old @ A.T) / steps
    counts = np.sum([m.sum(0) for _, m in paths], axis=0).clip(1)
    R = np.sum([f.misfit for f in found], axis=0) / counts
    return Autoregression(A, 0.5 * (Q + Q.T) + 1e-8 * np.trace(Q) / len(Q) * eye, R.clip(_FLOOR))


def _expect(model: Autoregression, values: Array, mask: Array, m0: Array, P0: Array) -> _Sums:
    forward = _filter(model, values, mask, m0, P0)
    C = values.shape[1]
    new, cross, old, misfit = np.zeros((C, C)), np.zeros((C, C)), np.zeros((C, C)), np.zeros(C)
    x, V = forward.mean[-1], forward.cov[-1]
    for t in range(len(values) - 1, -1, -1):
        if t < len(values) - 1:
            root, _ = _factor(forward.cov_pred[t + 1], lower=1)
            gain = _solve(root, model.A @ forward.cov[t], lower=1)[0].T
            ahead, ahead_cov = x, V
            x = forward.mean[t] + gain @ (ahead - forward.mean_pred[t + 1])
            V = forward.cov[t] + gain @ (ahead_cov - forward.cov_pred[t + 1]) @ gain.T
            V = 0.5 * (V + V.T)
            cross += np.outer(ahead, x) + ahead_cov @ gain.T
            old += np.outer(x, x) + V
        if t:
            new += np.outer(x, x) + V
        misfit += mask[t] * ((values[t] - x) ** 2 + V.diagonal())
    return _Sums(new, cross, old, misfit, x, V)


def _filter(model: Autoregression, values: Array, mask: Array, m0: Array, P0: Array) -> _Filtered:
    T, C = values.shape
    out = _Filtered(np.empty((T, C)), np.empty((T, C, C)), np.empty((T, C)), np.empty((T, C, C)))
    m, P = m0, P0 + 1e-9 * np.trace(P0) * np.eye(C)
    for t in range(T):
        if t:
            m, P = model.A @ m, model.A @ P @ model.A.T + model.Q
        out.mean_pred[t], out.cov_pred[t] = m, P
        seen = np.flatnonzero(mask[t])
        if len(seen):
            S = P[np.ix_(seen, seen)] + np.diag(model.R[seen])
            root, _ = _factor(S, lower=1)
            gain = _solve(root, P[seen], lower=1)[0].T
            m = m + gain @ (values[t, seen] - m[seen])
            P = P - gain @ P[seen]
            P = 0.5 * (P + P.T)
        out.mean[t], out.cov[t] = m, P
    return out


def continuous(model: Autoregression, h: float) -> Modal:
    """The linear SDE with these transitions over steps of ``h``, in modal form.

    A mode that changes sign every step has no continuous counterpart: its size is kept. What is not damped is damped
    barely; what remains of ``Q`` after that is the nearest positive semi-definite rate.
    """
    found = np.linalg.eig(model.A)
    sizes: Array = found.eigenvalues.astype(complex)
    V: Array = found.eigenvectors.astype(complex)
    sizes = np.where((np.real(sizes) <= 0) & (abs(np.imag(sizes)) < 1e-12), abs(sizes).clip(1e-3), sizes)
    rates = np.log(sizes) / h
    rates = np.minimum(np.real(rates), -1e-4 / h) + 1j * np.imag(rates)
    inverse = np.linalg.inv(V)
    modal = inverse @ model.Q @ inverse.conj().T
    pair = (rates[:, None] + rates.conj()) * h
    D = np.real(V @ (modal / h * pair / np.expm1(pair)) @ V.conj().T)
    values, axes = np.linalg.eigh(0.5 * (D + D.T))
    D = (axes * values.clip(1e-6 * values.max())) @ axes.T
    return modal_form(np.real(V * rates @ inverse), D, np.eye(len(D)))
