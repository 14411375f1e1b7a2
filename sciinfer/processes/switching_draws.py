"""Draws of switching linear dynamics: from the posterior, refined by Gibbs sampling, and from the prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..statespace import cholesky, matvec
from .hidden_markov import condition_states
from .jump import gumbel_noise, smooth_states
from .potential_chain import Potentials
from .switching import (
    SwitchingLinear,
    SwitchingPosterior,
    Tables,
    chain_steps,
    expected_log_steps,
    natural_tables,
    path_given,
    step_moments,
)


def sample_switching(
    process: SwitchingLinear,
    posterior: SwitchingPosterior,
    potentials: Potentials,
    moves: Tensor,
    *,
    draws: int,
    generator: torch.Generator,
    rounds: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draws ``s [n, S, N]`` from ``q(s)`` and ``x [n, S, N, d]`` from ``p(x | s, potentials)``.

    ``rounds`` of Gibbs sampling, ``s | x`` and ``x | s``, carry the draws from the mean-field posterior towards the
    exact one; with potentials that are the likelihood's their limit is the exact posterior.
    """
    log_P, shape = chain_steps(process.chain, moves), (draws, *moves.shape)
    noise = gumbel_noise((*shape, process.states), generator, log_P)
    s, _ = smooth_states(posterior.states.log_filtered, log_P, noise)
    tables, many = natural_tables(process.laws()), moves.expand(shape).flatten(0, 1)
    x = _path_of(process, tables, s, potentials, moves, generator)
    for _ in range(rounds):
        flat = x.flatten(0, 1)
        still = torch.zeros_like(flat[..., None] * flat[..., None, :])
        log_e = expected_log_steps(tables, step_moments(flat, still, still[:, 1:]), many)
        q = condition_states(process.chain.start(), chain_steps(process.chain, many), log_e)
        noise = gumbel_noise((1, *many.shape, process.states), generator, log_e)
        s = smooth_states(q.log_filtered, chain_steps(process.chain, many), noise)[0][0].unflatten(0, (draws, -1))
        x = _path_of(process, tables, s, potentials, moves, generator)
    return s, x


def _path_of(
    process: SwitchingLinear,
    tables: Tables,
    s: Tensor,
    potentials: Potentials,
    moves: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """One exact draw of the path for each path of the regimes, ``[n, S, N, d]``."""
    draws = len(s)
    regimes = nn.functional.one_hot(s.flatten(0, 1), process.states).to(potentials.shift.dtype)
    many = Potentials(*(part.expand(draws, *part.shape).flatten(0, 1) for part in potentials))
    path, _ = path_given(process, tables, many, moves.expand(draws, *moves.shape).flatten(0, 1), regimes)
    return path.sample(1, generator)[0].unflatten(0, (draws, -1))


def roll_out(
    process: SwitchingLinear, s: Tensor, x: Tensor, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Simulate on from ``s [n, S]``, ``x [n, S, d]``: ``[n, S, steps]``, ``[n, S, steps, d]``, the start left out."""
    A, b, Q = process.laws()
    root, log_P = cholesky(Q, what="step covariance"), process.chain.log_matrix()
    regimes, path = [s[..., None][..., :0]], [x[..., None, :][..., :0, :]]
    for _ in range(steps):
        s = (log_P[s] + gumbel_noise((*s.shape, process.states), generator, x)).argmax(-1)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = matvec(A[s], x) + b[s] + matvec(root[s], noise)
        regimes.append(s[..., None])
        path.append(x[..., None, :])
    return torch.cat(regimes, dim=-1), torch.cat(path, dim=-2)


def simulate_switching(
    process: SwitchingLinear, steps: int, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws ``[n, steps]`` and ``[n, steps, d]`` from the prior."""
    m0, P0 = process.initial()
    s = (process.chain.start() + gumbel_noise((draws, 1, process.states), generator, m0)).argmax(-1)
    noise = torch.randn((draws, 1, process.dim), generator=generator, dtype=m0.dtype, device=m0.device)
    x = m0 + noise * P0.diagonal().sqrt()
    later, path = roll_out(process, s, x, steps - 1, generator)
    return torch.cat([s[..., None], later], -1)[:, 0], torch.cat([x[..., None, :], path], -2)[:, 0]
