"""Linear dynamics that switch among K regimes, and their structured mean-field posterior ``q(s) q(x)``.

Given ``q(s)``, the path is a linear-Gaussian chain whose natural parameters are averages over the regimes; given
``q(x)``, the regimes are a hidden Markov chain whose log-potentials are expected log-densities of the steps. Both
updates are exact, so that the bound never falls.

References:
    Ghahramani, Hinton (2000), Variational learning for switching state-space models.
    Johnson et al. (2016), Composing graphical models with neural networks for structured representations.
    Linderman et al. (2017), Bayesian learning and inference in recurrent switching linear dynamical systems.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..statespace import LinearGaussian, cholesky, matvec, symmetrise
from .hidden_markov import ChainPosterior, StepChain, condition_states
from .potential_chain import ChainPath, Potentials, condition_chain

#: least standard deviation of a step: no direction is ever noise-free
_FLOOR = 1e-3
#: no regime alone can grow
_RADIUS = 0.999


class Laws(NamedTuple):
    """``x' = A_k x + b_k + N(0, Q_k)``: ``A, Q [..., d, d]``, ``b [..., d]``."""

    A: Tensor
    b: Tensor
    Q: Tensor


class SwitchingLinear(nn.Module):
    """``x_t ~ N(A_s x_{t-1} + b_s, Q_s)`` with ``s = s_t`` a Markov chain, ``x_0 ~ N(m_0, P_0)``; whole steps.

    Args:
        states: ``K`` regimes. dim: ``d``. stay: starting probability of staying. generator: starting weights.

    Example:
        >>> from sciinfer.random import generator
        >>> process = SwitchingLinear(2, 3, generator=generator(0, "p"))
        >>> tuple(process.laws().A.shape)
        (2, 3, 3)
    """

    def __init__(self, states: int, dim: int, *, stay: float = 0.95, generator: torch.Generator) -> None:
        super().__init__()
        self.states, self.dim, self.chain = states, dim, StepChain(states, stay=stay)
        turn = 0.3 * torch.randn(states, dim, dim, generator=generator, dtype=torch.float64).triu(1)
        self.matrix = nn.Parameter(0.95 * torch.linalg.matrix_exp(turn - turn.mT))
        self.offset = nn.Parameter(0.1 * torch.randn(states, dim, generator=generator, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((states, dim), math.log(0.3), dtype=torch.float64))
        self.lower = nn.Parameter(torch.zeros(states, dim, dim, dtype=torch.float64))
        self.start_mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.start_log_scale = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def laws(self) -> Laws:
        """Of each regime; a matrix with an eigenvalue outside the unit circle is scaled back to it."""
        radius = torch.linalg.eigvals(self.matrix).abs().amax(-1)
        A = self.matrix / (radius / _RADIUS).clamp(min=1.0)[:, None, None]
        eye = torch.eye(self.dim, dtype=A.dtype, device=A.device)
        root = self.lower.tril(-1) + torch.diag_embed(self.log_scale.exp())
        return Laws(A, self.offset, root @ root.mT + _FLOOR**2 * eye)

    def initial(self) -> tuple[Tensor, Tensor]:
        """``m_0 [d]``, ``P_0 [d, d]``."""
        return self.start_mean, torch.diag(_FLOOR**2 + (2 * self.start_log_scale).exp())


class Tables(NamedTuple):
    """Natural parameters of each regime: ``L = Q^-1``, ``LA``, ``ALA``, ``Lb``, ``ALb`` and the log-density's constant
    ``c = (log|L| - d log 2 pi - b^T L b) / 2``; first axis ``K``."""

    L: Tensor
    LA: Tensor
    ALA: Tensor
    Lb: Tensor
    ALb: Tensor
    c: Tensor


def natural_tables(laws: Laws) -> Tables:
    """From moments to natural parameters."""
    A, b, Q = laws
    root = cholesky(Q, what="step covariance")
    L = symmetrise(torch.cholesky_inverse(root))
    Lb = matvec(L, b)
    log_det = -2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    c = 0.5 * (log_det - b.shape[-1] * math.log(2 * math.pi) - (b * Lb).sum(-1))
    return Tables(L, L @ A, symmetrise(A.mT @ L @ A), Lb, matvec(A.mT, Lb), c)


def average_chain(
    process: SwitchingLinear, tables: Tables, weight: Tensor, moves: Tensor
) -> tuple[LinearGaussian, Potentials, Tensor]:
    """``exp E_q(s) log p(x | s)`` as a chain, potentials on top of it and a constant ``[S]``.

    The averaged step is ``N(x'; A x + b, Q)`` with averaged natural parameters, times a Gaussian factor of ``x``: how
    much the regimes disagree about the step.

    Args:
        weight: ``[S, N, K]`` probabilities of the regimes. moves: ``[S, N]`` is this step there; step 0 never is.
    """
    L, LA, ALA, Lb, ALb, c = (_mixed(weight, table) for table in tables)
    root = cholesky(L, what="step precision")
    Q = symmetrise(torch.cholesky_inverse(root))
    A, b = Q @ LA, matvec(Q, Lb)
    J = symmetrise(ALA - LA.mT @ A)
    j = matvec(A.mT, Lb) - ALb
    half_log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = c + 0.5 * (b * Lb).sum(-1) - half_log_det + 0.5 * process.dim * math.log(2 * math.pi)
    # a step that is not there forgets the past and says nothing: it adds zero to every divergence
    there = moves[..., None, None]
    eye = torch.eye(process.dim, dtype=Q.dtype, device=Q.device)
    A, Q = torch.where(there, A, 0.0), torch.where(there, Q, eye)
    J, j = torch.where(there, J, 0.0), torch.where(there[..., 0], j, 0.0)
    before = lambda x: torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1)  # noqa: E731
    m0, P0 = process.initial()
    S = weight.shape[0]
    b = torch.where(there[..., 0], b, 0.0)
    problem = LinearGaussian(A, Q, J, j, m0.expand(S, *m0.shape), P0.expand(S, *P0.shape), b)
    return problem, Potentials(before(J), before(j)), torch.where(moves, constant, 0.0).sum(1)


def _mixed(weight: Tensor, table: Tensor) -> Tensor:
    return (weight @ table.flatten(1)).unflatten(-1, table.shape[1:]) if table.ndim > 1 else weight @ table


class Steps(NamedTuple):
    """Second moments of neighbours: ``E x' x'^T``, ``E x' x^T``, ``E x x^T [S, N - 1, d, d]``; ``E x', E x``."""

    new: Tensor
    crossed: Tensor
    old: Tensor
    mean_new: Tensor
    mean_old: Tensor


def step_moments(mean: Tensor, cov: Tensor, crossed: Tensor) -> Steps:
    """From ``mean [S, N, d]``, ``cov [S, N, d, d]`` and ``Cov(x', x) [S, N - 1, d, d]``."""
    second = cov + mean[..., :, None] * mean[..., None, :]
    pair = crossed + mean[:, 1:, :, None] * mean[:, :-1, None, :]
    return Steps(second[:, 1:], pair, second[:, :-1], mean[:, 1:], mean[:, :-1])


def expected_log_steps(tables: Tables, steps: Steps, moves: Tensor) -> Tensor:
    """``E_q(x) log N(x_t; A_k x_{t-1} + b_k, Q_k)``, ``[S, N, K]``; zero where there is no step."""
    L, LA, ALA, Lb, ALb, c = tables
    flat = lambda moments, table: moments.flatten(2) @ table.flatten(1).mT  # noqa: E731
    quadratic = flat(steps.new, L) - 2 * flat(steps.crossed, LA) + flat(steps.old, ALA)
    linear = flat(steps.mean_new, Lb) - flat(steps.mean_old, ALb)
    found = c + linear - 0.5 * quadratic
    found = (
        torch.cat([torch.zeros_like(found[:, :1]), found], dim=1)
        if found.shape[1]
        else found.new_zeros(*moves.shape, len(c))
    )
    return torch.where(moves[..., None], found, 0.0)


class SwitchingPosterior(NamedTuple):
    """``states``: ``q(s)``; ``path``: ``q(x)``; ``switching, moving [S]``: their divergences, whose sum is
    ``KL(q(s) q(x) || p)``; ``surrogate [S]``: ``E log potentials`` less that sum, which the updates increase;
    ``change [S]``: of the regimes' probabilities in the last update."""

    states: ChainPosterior
    path: ChainPath
    switching: Tensor
    moving: Tensor
    surrogate: Tensor
    change: Tensor


def infer_switching(
    process: SwitchingLinear,
    potentials: Potentials,
    moves: Tensor,
    *,
    sweeps: int = 50,
    tolerance: float = 1e-8,
    unroll: int = 0,
    weight: Tensor | None = None,
) -> SwitchingPosterior:
    """Alternate the two exact updates until the regimes' probabilities stand still, each series by itself.

    With ``unroll=0`` the converged ``q(s)`` is held fixed in the gradient, which is exact for the surrogate itself (its
    derivative for ``q`` is zero there). With potentials from an encoder the bound is another one: unroll some sweeps.

    Args:
        potentials: ``[S, N, ...]`` on the grid of steps. moves: ``[S, N]``: is the step into this place there.
        sweeps: most updates. tolerance: on the probabilities. unroll: updates that carry a gradient.
        weight: ``[S, N, K]`` to start from; default the prior's.
    """
    tables = natural_tables(process.laws())
    with torch.no_grad():
        weight = _settle(process, tables, potentials, moves, sweeps, tolerance, weight)
    with torch.set_grad_enabled(torch.is_grad_enabled() and unroll > 0):
        for _ in range(unroll - 1):
            path, _ = path_given(process, tables, potentials, moves, weight)
            weight = states_given(process, tables, path, moves).log_marginal.exp()
        path, _ = path_given(process, tables, potentials, moves, weight)
        log_e = expected_log_steps(tables, _steps(path), moves)
    states = condition_states(process.chain.start(), chain_steps(process.chain, moves), log_e)
    weight_now = states.log_marginal.exp() if unroll else states.log_marginal.exp().detach()
    path, constant = path_given(process, tables, potentials, moves, weight_now)
    switching = (weight_now * log_e).sum((1, 2)) - states.log_normaliser
    moving = potentials.expected(path.smoothed.mean, path.smoothed.cov) - path.log_normaliser - constant
    change = (weight_now - weight).detach().abs().amax((1, 2))
    return SwitchingPosterior(states, path, switching, moving, path.log_normaliser + constant - switching, change)


def _settle(
    process: SwitchingLinear,
    tables: Tables,
    potentials: Potentials,
    moves: Tensor,
    sweeps: int,
    tolerance: float,
    weight: Tensor | None,
) -> Tensor:
    if weight is None:
        weight = prior_weight(process, moves)
    going = torch.ones_like(moves[:, 0])
    for _ in range(sweeps):
        path, _ = path_given(process, tables, potentials, moves, weight)
        found = states_given(process, tables, path, moves).log_marginal.exp()
        change = (found - weight).abs().amax((1, 2))
        # a series that has settled stays: its answer does not depend on its neighbours
        weight = torch.where(going[:, None, None], found, weight)
        going = going & (change > tolerance)
        if not bool(going.any()):
            break
    return weight


def prior_weight(process: SwitchingLinear, moves: Tensor) -> Tensor:
    """Probabilities of the regimes without data, ``[S, N, K]``."""
    log_P = chain_steps(process.chain, moves)
    return condition_states(process.chain.start(), log_P, torch.zeros_like(log_P[..., 0])).log_marginal.exp()


def path_given(
    process: SwitchingLinear, tables: Tables, potentials: Potentials, moves: Tensor, weight: Tensor
) -> tuple[ChainPath, Tensor]:
    """``q(x)`` given the probabilities of the regimes, and the constant of the averaged chain ``[S]``."""
    problem, extra, constant = average_chain(process, tables, weight, moves)
    return condition_chain(problem, Potentials(*potentials) + extra), constant


def states_given(process: SwitchingLinear, tables: Tables, path: ChainPath, moves: Tensor) -> ChainPosterior:
    """``q(s)`` given ``q(x)``."""
    log_e = expected_log_steps(tables, _steps(path), moves)
    return condition_states(process.chain.start(), chain_steps(process.chain, moves), log_e)


def _steps(path: ChainPath) -> Steps:
    return step_moments(path.smoothed.mean, path.smoothed.cov, path.crossed())


def chain_steps(chain: StepChain, moves: Tensor) -> Tensor:
    """``log P [S, N, K, K]``; a step that is not there keeps the regime."""
    eye = torch.eye(chain.states, dtype=chain.logits.dtype, device=chain.logits.device)
    stay = eye.clamp(min=torch.finfo(eye.dtype).tiny).log()
    return torch.where(moves[..., None, None], chain.log_matrix(), stay)
