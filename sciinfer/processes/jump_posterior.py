"""Posteriors of a Markov jump process given potentials at the data: rates tilted towards the data to come.

With ``H_k(j)`` the potential at time ``t_k``, ``h(t) = P(t_k - t) exp H_k`` between ``t_{k-1}`` and ``t_k`` and the
posterior rates are ``q_ij(t) = Q_ij h_j(t) / h_i(t)``. Their master equation has a closed-form solution (Doob's
transform), ``q(z_t = j | z_s = i) = P_ij(t - s) h_j(t) / h_i(s)``, and so has the path divergence of a gap,
``E int sum_j (q log(q/Q) - q + Q) dt = E[log H_k(z(t_k)) - log h(t_{k-1})]``. Potentials that hold all later data give
the exact posterior; whatever the potentials, the bound is one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..statespace import associative_scan
from .jump import Elements, JumpProcess, filter_states, generator_matrix, log_matrix


class TiltedStates(NamedTuple):
    """``time [S, T]`` of the data; ``ahead [S, T, K]``: ``H``; ``behind [S, T, K]``: ``log h`` just after each datum;
    ``log_start [S, K]``; ``log_marginal [S, T, K]``; ``divergence [S]`` of the path."""

    time: Tensor
    ahead: Tensor
    behind: Tensor
    log_start: Tensor
    log_marginal: Tensor
    divergence: Tensor


def data_steps(process: JumpProcess, time: Tensor) -> Tensor:
    """``log P [S, T, K, K]`` from each time to the next (step 0 has length zero)."""
    step = torch.cat([torch.zeros_like(time[:, :1]), time.diff(dim=1)], dim=1)
    return log_matrix(process.transition(step))


def exact_potentials(process: JumpProcess, time: Tensor, log_e: Tensor) -> Tensor:
    """``log p(y after t_k | z_k) [S, T, K]`` by a scan backwards over products of matrices in logarithms."""
    last = torch.zeros_like(log_e[:, -1:])
    if time.shape[1] == 1:
        return last
    steps = data_steps(process, time)[:, 1:] + log_e[:, 1:, None, :]
    suffix = associative_scan(_combine_backwards, (steps.flip(1),))[0].flip(1)
    return torch.cat([suffix.logsumexp(-1), last], dim=1)


def _combine_backwards(later: Elements, earlier: Elements) -> Elements:
    return (torch.logsumexp(earlier[0][..., :, :, None] + later[0][..., None, :, :], dim=-2),)


def tilt(process: JumpProcess, time: Tensor, log_e: Tensor, potential: Tensor) -> TiltedStates:
    """The posterior with ``H = log_e + potential``, marginals at the data and its divergence from the prior.

    Args:
        time: ``[S, T]``. log_e: ``[S, T, K]`` log-densities of the data. potential: ``[S, T, K]`` of what comes later.
    """
    log_P, H = data_steps(process, time), log_e + potential
    end = torch.zeros_like(H[:, :1])
    h = torch.cat([(log_P[:, 1:] + H[:, 1:, None, :]).logsumexp(-1), end], dim=1)
    first = (process.start() + log_e[:, 0] + h[:, 0]).log_softmax(-1)
    change = H[:, 1:, None, :] - h[:, :-1, :, None]
    log_q = log_P[:, 1:] + change
    chain = torch.cat([torch.zeros_like(log_P[:, :1]), log_q], dim=1)
    marginal = filter_states(first, chain, torch.zeros_like(H))
    joint = (marginal[:, :-1, :, None] + log_q).exp()
    return TiltedStates(time, H, h, first, marginal, (joint * change).sum((1, 2, 3)))


def on_grid(process: JumpProcess, q: TiltedStates, grid: Tensor) -> tuple[Tensor, Tensor]:
    """What backward sampling takes at an ascending ``grid [S, N]`` that holds the data's times: ``log (m / h)`` with
    marginals ``m``, ``[S, N, K]``, and the prior's ``log P [S, N, K, K]``.

    After the last datum the prior's rates hold; before the first, its stationary probabilities.
    """
    knots = q.time.contiguous()
    before = (torch.searchsorted(knots, grid.contiguous(), right=True) - 1).clamp(min=0)
    since = (grid - knots.gather(1, before)).clamp(min=0.0)
    start = _pick(q.log_marginal - q.behind, before)
    # m_j / h_j = sum_i (m_i / h_i) P_ij: the h at this time cancels
    reached = (start[..., :, None] + log_matrix(process.transition(since))).logsumexp(-2)
    early = (grid < q.time[:, :1])[..., None]
    return torch.where(early, log_matrix(process.stationary()), reached), data_steps(process, grid)


def posterior_rates(process: JumpProcess, q: TiltedStates, times: Tensor) -> Tensor:
    """``q_ij(t) = Q_ij h_j(t) / h_i(t)`` at ``times [S, N]``: ``[S, N, K, K]``.

    Before the first datum those of the stationary process that ends in its posterior, as :func:`on_grid` draws it.
    """
    log_h = _look_ahead(process, q, times)
    change = log_h[..., None, :] - log_h[..., :, None]
    return generator_matrix(process.rates() * change.clamp(max=80.0).exp())


def _look_ahead(process: JumpProcess, q: TiltedStates, times: Tensor) -> Tensor:
    """``log h [S, N, K]`` at ``times``: zero after the last datum."""
    knots = q.time.contiguous()
    place = torch.searchsorted(knots, times.contiguous(), right=True)
    after = place.clamp(max=knots.shape[1] - 1)
    wait = (knots.gather(1, after) - times).clamp(min=0.0)
    # before the data the prior is the stationary process, whatever the learned start
    first = (q.log_marginal[:, :1] - log_matrix(process.stationary())).expand(*times.shape, -1)
    ahead = torch.where((place == 0)[..., None], first, _pick(q.ahead, after))
    log_h = (log_matrix(process.transition(wait)) + ahead[..., None, :]).logsumexp(-1)
    return torch.where((place == knots.shape[1])[..., None], torch.zeros_like(log_h), log_h)


def _pick(values: Tensor, where: Tensor) -> Tensor:
    return values.gather(1, where[..., None].expand(*where.shape, values.shape[-1]))


def divergence_rate(prior: Tensor, rates: Tensor) -> Tensor:
    """``sum_j (q_ij log(q_ij / p_ij) - q_ij + p_ij)``, ``[..., K]``: what the rates ``q`` cost in each state.

    Example:
        >>> p = torch.tensor([[-1.0, 1.0], [2.0, -2.0]], dtype=torch.float64)
        >>> [round(x, 4) for x in divergence_rate(p, 2 * p).tolist()]
        [0.3863, 0.7726]
    """
    off = ~torch.eye(prior.shape[-1], dtype=torch.bool, device=prior.device)
    ratio = torch.where(off, rates / prior, torch.ones_like(rates))
    return torch.where(off, rates * ratio.log() - rates + prior, torch.zeros_like(rates)).sum(-1)
