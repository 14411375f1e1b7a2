"""The stages of one step, each series with a step size of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rosenbrock import linearised
from .solver import Field
from .tableau import Weights

#: most Newton iterations of a stage, and the last correction allowed, in units of the tolerance
_NEWTON, _SMALL = 10, 1e-2


class Stages(NamedTuple):
    """``moves [s, A, d]``: h k_i; ``state`` and ``slope [A, d]`` at the end; ``solved [A]`` (None: all); ``cost``:
    evaluations per series (a Jacobian counts as d)."""

    moves: Tensor
    state: Tensor
    slope: Tensor
    solved: Tensor | None
    cost: Tensor | int


def stages(
    field: Field, t: Tensor, z: Tensor, h: Tensor, first: Tensor, weights: Weights, tolerance: Tensor | None = None
) -> Stages:
    """All stages of the step from ``z [A, d]`` at ``t [A]`` of size ``h [A]``; ``first [A, d]`` is f(t, z).

    Args:
        tolerance: ``[A, d]``, error allowed in each component (implicit methods; default 1e-9 of the state).
    """
    return (
        _implicit(field, t, z, h, first, weights, tolerance)
        if weights.gamma
        else _explicit(field, t, z, h, first, weights)
    )


def combine(row: Tensor, moves: Tensor) -> Tensor:
    """``sum_i row_i moves_i``: ``[A, d]`` of ``[s, A, d]``."""
    return (row @ moves.flatten(1)).view(moves.shape[1:])


def _explicit(field: Field, t: Tensor, z: Tensor, h: Tensor, first: Tensor, weights: Weights) -> Stages:
    times = (t + weights.c[1:, None] * h).unbind()
    if torch.is_grad_enabled():
        return _with_graph(field, times, z, h[:, None], first, weights)
    # without a graph the moves share one buffer: a stage costs the drift and three operations
    size, flat, state, slope = h[:, None], z.reshape(-1), z, first
    moves = z.new_empty(len(weights.a), *z.shape)
    columns = moves.view(len(moves), -1).mT
    torch.mul(first, size, out=moves[0])
    for i, when in enumerate(times, start=1):
        state = torch.addmv(flat, columns[:, :i], weights.a[i]).view(z.shape)
        slope = field(when, state)
        torch.mul(slope, size, out=moves[i])
    return Stages(moves, state, slope, None, len(times))


def _with_graph(
    field: Field, times: tuple[Tensor, ...], z: Tensor, size: Tensor, first: Tensor, weights: Weights
) -> Stages:
    known, state, slope = [first * size], z, first
    for row, when in zip(weights.a[1:], times, strict=True):
        state = z + combine(row, torch.stack(known))
        slope = field(when, state)
        known.append(slope * size)
    return Stages(torch.stack(known), state, slope, None, len(times))


def _implicit(
    field: Field, t: Tensor, z: Tensor, h: Tensor, first: Tensor, weights: Weights, tolerance: Tensor | None
) -> Stages:
    """``k = f(t_i, base + gamma h k)`` stage by stage, by Newton's iteration with the Jacobian at the step's start."""
    with torch.no_grad():
        scale = 1e-9 * (1 + z.abs()) if tolerance is None else tolerance
        _, jacobian = linearised(field, t, z)
        factors = torch.linalg.lu_factor_ex(_newton_matrix(jacobian, h, weights.gamma))[:2]
    size, known, state = h[:, None], [first], z
    solved, cost = torch.ones_like(h, dtype=torch.bool), torch.full_like(h, float(z.shape[-1]))
    for row, when in zip(weights.a[1:], (t + weights.c[1:, None] * h).unbind(), strict=True):
        base = z + size * combine(row, torch.stack(known))
        with torch.no_grad():
            slope, fine, count = _solve(field, when, base, size * weights.gamma, known[-1], factors, scale)
        if torch.is_grad_enabled():
            slope = _attach(field, when, base, h, slope, weights.gamma)
        solved, cost = solved & fine, cost + count
        state = base + size * weights.gamma * slope
        known.append(slope)
    return Stages(torch.stack(known) * size, state, known[-1], solved, cost)


def _newton_matrix(jacobian: Tensor, h: Tensor, gamma: float) -> Tensor:
    eye = torch.eye(jacobian.shape[-1], dtype=h.dtype, device=h.device)
    return eye - (gamma * h)[:, None, None] * jacobian


def _solve(
    field: Field,
    t: Tensor,
    base: Tensor,
    reach: Tensor,
    guess: Tensor,
    factors: tuple[Tensor, Tensor],
    scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The slope of a stage, whether it was found, and how many evaluations it took, for each series."""
    slope, open_, cost = guess, torch.ones_like(t, dtype=torch.bool), torch.zeros_like(t)
    found = torch.zeros_like(open_)
    for _ in range(_NEWTON):
        residual = slope - field(t, base + reach * slope)
        change = torch.linalg.lu_solve(*factors, residual.unsqueeze(-1)).squeeze(-1)
        # a series that has converged stays as it is, so that it does not depend on the others
        slope = torch.where(open_[:, None], slope - change, slope)
        cost = cost + open_
        size = (reach * change / scale).square().mean(-1).sqrt()
        found = found | (open_ & (size <= _SMALL))
        open_ = open_ & (size > _SMALL)
        if not bool(open_.any()):
            break
    return slope, found, cost


def _attach(field: Field, t: Tensor, base: Tensor, h: Tensor, slope: Tensor, gamma: float) -> Tensor:
    """The slope with the gradient of the equation it solves (implicit function): one Newton step from the solution."""
    reach = (gamma * h)[:, None]
    with torch.no_grad():
        _, jacobian = linearised(field, t, base + reach * slope)
    residual = slope - field(t, base + reach * slope)
    matrix = _newton_matrix(jacobian, h, gamma)
    return slope - torch.linalg.solve_ex(matrix, residual.unsqueeze(-1)).result.squeeze(-1)
