"""Markov jump processes with finitely many states: everything about them is a matrix exponential.

A process with rates ``Q`` (``Q_ij`` from ``i`` to ``j``, rows sum to zero) has ``P(h) = exp(Q h)``. Forward messages
are products of matrices, combined by an associative scan; paths are drawn backwards.

References:
    Rabiner (1989), A tutorial on hidden Markov models. Opper, Sanguinetti (2007), Variational inference for Markov jump
    processes. Seifner, Sanchez (2023), Neural Markov jump processes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..statespace import associative_scan

Elements = tuple[Tensor, ...]


class JumpProcess(nn.Module):
    """``P(z(t + dt) = j | z(t) = i) = Q_ij dt``, learned rates and starting probabilities.

    Args:
        states: ``K`` >= 2. rate: starting rate of leaving a state, per model time. generator: breaks the symmetry.

    Example:
        >>> from sciinfer.random import generator
        >>> p = JumpProcess(3, generator=generator(0, "p"))
        >>> bool(torch.allclose(p.transition(torch.tensor(2.0, dtype=torch.float64)).sum(-1), p.start().exp().sum()))
        True
    """

    def __init__(self, states: int, *, rate: float = 0.5, generator: torch.Generator) -> None:
        super().__init__()
        self.states = states
        spread = 0.1 * torch.randn(states, states, generator=generator, dtype=torch.float64)
        self.log_rates = nn.Parameter(math.log(rate / (states - 1)) + spread)
        self.log_start = nn.Parameter(torch.zeros(states, dtype=torch.float64))

    def rates(self) -> Tensor:
        """``Q [K, K]``."""
        return generator_matrix(self.log_rates.clamp(-20.0, 10.0).exp())

    def transition(self, dt: Tensor) -> Tensor:
        """``exp(Q h) [..., K, K]`` over the steps ``dt [...]``, each different length once."""
        steps, where = torch.unique(dt, return_inverse=True)
        P = torch.linalg.matrix_exp(self.rates() * steps[:, None, None])
        # the squarings of a long step let the sums of its rows drift
        return (P / P.sum(-1, keepdim=True))[where]

    def start(self) -> Tensor:
        """Log-probabilities ``[K]`` of the first state."""
        return self.log_start.log_softmax(-1)

    def stationary(self) -> Tensor:
        """``mu [K]``: ``mu Q = 0``."""
        Q = self.rates()
        one = torch.ones_like(Q[:1])
        target = torch.zeros_like(Q[0])
        target[-1] = 1.0
        return torch.linalg.solve(torch.cat([Q.mT[:-1], one]), target).clamp(min=0.0)


def generator_matrix(positive: Tensor) -> Tensor:
    """Rates ``[..., K, K]`` with rows that sum to zero; the given diagonal is not read."""
    eye = torch.eye(positive.shape[-1], dtype=torch.bool, device=positive.device)
    off = positive.masked_fill(eye, 0.0)
    return off - torch.diag_embed(off.sum(-1))


def log_matrix(P: Tensor) -> Tensor:
    """Logarithm of probabilities; what is impossible becomes the smallest positive number, not minus infinity."""
    return P.clamp(min=torch.finfo(P.dtype).tiny).log()


def filter_states(start: Tensor, log_P: Tensor, log_e: Tensor) -> Tensor:
    """Joint log-probabilities ``log p(z_t, y_0..t)``, ``[S, T, K]``, by a scan over products of matrices in logarithms.

    Args:
        start: ``[K]`` or ``[S, K]`` log-probabilities at the first time. log_P: ``[S, T, K, K]``, step ``t`` leads
            from ``t - 1`` to ``t`` (step 0 is not read). log_e: ``[S, T, K]`` emission log-densities.
    """
    first = (start.expand_as(log_e[:, 0]) + log_e[:, 0])[:, None, :]
    # the first message as a matrix whose rows are equal, so that all products are of one kind
    head = first.expand(-1, log_e.shape[-1], -1)[:, None]
    elements = torch.cat([head, log_P[:, 1:] + log_e[:, 1:, None, :]], dim=1)
    return associative_scan(_combine, (elements,))[0][:, :, 0]


def _combine(first: Elements, later: Elements) -> Elements:
    return (torch.logsumexp(first[0][..., :, :, None] + later[0][..., None, :, :], dim=-2),)


def smooth_states(log_alpha: Tensor, log_P: Tensor, gumbel: Tensor) -> tuple[Tensor, Tensor]:
    """Joint draws ``[n, S, T]`` and marginal probabilities ``[S, T, K]`` of the states, backwards in time.

    Args:
        log_alpha: ``[S, T, K]``, filtered up to a constant. log_P: as for :func:`filter_states`.
        gumbel: ``[n, S, T, K]`` standard Gumbel noise.
    """
    length = log_alpha.shape[1]
    gamma = log_alpha[:, -1].softmax(-1)
    z = (log_alpha[:, -1] + gumbel[:, :, -1]).argmax(-1)
    states, marginals = [z], [gamma]
    for t in range(length - 2, -1, -1):
        joint = log_alpha[:, t, :, None] + log_P[:, t + 1]
        gamma = (joint.softmax(dim=1) * gamma[:, None, :]).sum(-1)
        logits = joint.mT.expand(len(z), *joint.shape).gather(2, _row_index(z, joint.shape[-1]))[:, :, 0]
        z = (logits + gumbel[:, :, t]).argmax(-1)
        states.append(z)
        marginals.append(gamma)
    return torch.stack(states[::-1], dim=2), torch.stack(marginals[::-1], dim=1)


def _row_index(z: Tensor, states: int) -> Tensor:
    return z[..., None, None].expand(*z.shape, 1, states)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard Gumbel numbers: the argmax of logits plus these is a draw."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=like.device)
    tiny = torch.finfo(torch.float64).tiny
    return -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log().to(like.dtype)


def simulate_states(process: JumpProcess, times: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Draws ``[n, T]`` of the states at ascending ``times [T]``, started from the starting probabilities."""
    gumbel = gumbel_noise((draws, len(times), process.states), generator, times)
    log_P = log_matrix(process.transition(times.diff()))
    z = [(process.start() + gumbel[:, 0]).argmax(-1)]
    for k in range(1, len(times)):
        z.append((log_P[k - 1][z[-1]] + gumbel[:, k]).argmax(-1))
    return torch.stack(z, dim=1)
