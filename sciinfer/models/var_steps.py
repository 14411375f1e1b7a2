"""Steps of a vector autoregression's fit: second moments of neighbouring cells, and what they imply."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..statespace import Smoothed
from .window_grid import GridRows

#: the largest modulus of an eigenvalue that a fit may leave, doublings of the stationary sum
_LARGEST, _DOUBLINGS = 0.9995, 14
#: leads of the comparison with the last value, least number of cells for it
_LEADS, _FEWEST = 24, 200


class Moments(NamedTuple):
    """Sums over cells: ``past [d, d]`` of lagged states, ``cross [C, d]`` now with past, ``now [C, C]``, ``cells``."""

    past: Tensor
    cross: Tensor
    now: Tensor
    cells: Tensor


def cell_moments(filled: Tensor, cells: Tensor, order: int) -> Moments:
    """Of values without gaps ``[S, T, C]``; the first ``cells [S]`` count."""
    T, C = filled.shape[1:]
    if order >= T:
        blank = filled.new_zeros(order * C, order * C)
        return Moments(blank, blank[:C], blank[:C, :C], blank.sum())
    past = torch.cat([filled[:, order - 1 - k : T - 1 - k] for k in range(order)], dim=2)
    used = (torch.arange(order, T, device=filled.device) < cells[:, None])[..., None].to(filled.dtype)
    x, y = (past * used).flatten(0, 1), (filled[:, order:] * used).flatten(0, 1)
    return Moments(x.mT @ x, y.mT @ x, y.mT @ y, used.sum())


def expected_moments(smoothed: Smoothed, cells: Tensor, channels: int) -> Moments:
    """The same, in expectation given the data."""
    mean, cov, gain = smoothed
    used = (torch.arange(1, mean.shape[1], device=mean.device) < cells[:, None]).to(mean.dtype)
    weighted = mean[:, :-1] * used[..., None]
    past = torch.einsum("std,ste->de", weighted, mean[:, :-1]) + torch.einsum("st,stde->de", used, cov[:, :-1])
    joint = cov[:, 1:, :channels] @ gain[:, :-1].mT
    cross = torch.einsum("stc,ste->ce", mean[:, 1:, :channels], weighted) + torch.einsum("st,stce->ce", used, joint)
    later = mean[:, 1:, :channels] * used[..., None]
    now = torch.einsum("stc,ste->ce", later, mean[:, 1:, :channels])
    now = now + torch.einsum("st,stce->ce", used, cov[:, 1:, :channels, :channels])
    return Moments(past, cross, now, used.sum())


def solved(moments: Moments, ridge: float, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients ``[C, d]``, pulled to "nothing changes", and noise covariance ``[C, C]``; stable by scaling."""
    C, d = moments.cross.shape
    pull = ridge * spread.square().repeat(d // C)
    same = torch.eye(C, d, dtype=pull.dtype, device=pull.device)
    gram = moments.past + pull.diag() + 1e-9 * spread.square().repeat(d // C).diag()
    found = torch.linalg.solve(gram, (moments.cross + same * pull).mT).mT
    found = _stable(found, C)
    residual = moments.now - found @ moments.cross.mT - moments.cross @ found.mT + found @ moments.past @ found.mT
    covariance = 0.5 * (residual + residual.mT) / moments.cells.clamp(min=1)
    # nothing was seen to change: as far as the values lie apart
    floor = ((1e-6 if float(moments.cells) else 1.0) * spread.square()).diag()
    values, vectors = torch.linalg.eigh(covariance)
    return found, (vectors * values.clamp(min=0.0)) @ vectors.mT + floor


def _stable(coefficients: Tensor, channels: int) -> Tensor:
    d = coefficients.shape[1]
    lower = torch.eye(d, dtype=coefficients.dtype, device=coefficients.device)[: d - channels]
    largest = float(torch.linalg.eigvals(torch.cat([coefficients, lower])).abs().max())
    if largest <= _LARGEST:
        return coefficients
    # every eigenvalue of the companion matrix by the same factor
    factor = _LARGEST / largest
    lag = torch.arange(1, d // channels + 1, device=coefficients.device).repeat_interleave(channels)
    return coefficients * factor ** lag.to(coefficients.dtype)


def stationary(A: Tensor, Q: Tensor) -> Tensor:
    """``sum_k A^k Q A^k^T``, by doubling."""
    total, power = Q, A
    for _ in range(_DOUBLINGS):
        total = total + power @ total @ power.mT
        power = power @ power
    return 0.5 * (total + total.mT)


def compared(filled: Tensor, grid: GridRows, order: int, ridge: float, spread: Tensor) -> Tensor:
    """Absolute error of the regression over that of the last value, and of the value 24 cells ago, ``[2]``.

    Fitted to the first three quarters of the longest series and asked about the rest; ones where it is short.
    """
    longest = int(grid.cells.argmax())
    cells = int(grid.cells[longest])
    if cells < _FEWEST:
        return filled.new_ones(2)
    y, seen = filled[longest, :cells], grid.mask[longest, :cells]
    cut = cells * 3 // 4
    found, _ = solved(cell_moments(y[None, :cut], grid.cells.new_tensor([cut]), order), ridge, spread)
    origins = torch.arange(cut, cells - _LEADS, device=y.device)
    state = torch.cat([y[origins - k] for k in range(order)], dim=1)
    total = y.new_zeros(3)
    for lead in range(1, _LEADS + 1):
        state = torch.cat([state @ found.mT, state[:, : state.shape[1] - y.shape[1]]], dim=1)
        target, known = y[origins + lead], seen[origins + lead]
        guesses = (state[:, : y.shape[1]], y[origins], y[origins + lead - _LEADS])
        total = total + torch.stack([((target - guess).abs() / spread * known).sum() for guess in guesses])
    return total[0] / total[1:].clamp(min=1e-12)
