"""A chain of hidden states: marginals, pairs, normaliser and the likeliest path, in logarithms.

One sweep after the other over the times, or two associative scans over products of ``K x K`` matrices. Irregular time
enters through the transitions: ``exp(Q dt)`` of a :class:`~sciinfer.processes.jump.JumpProcess`, or whole powers of the
matrix of a :class:`StepChain`.

References:
    Rabiner (1989), A tutorial on hidden Markov models and selected applications in speech recognition.
    Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..statespace import associative_scan
from .jump import filter_states

Backend = Literal["auto", "sequential", "scan"]
#: series times entries of the matrix from which the loop, with K times less arithmetic, is the faster one
_WIDE = 512


class ChainPosterior(NamedTuple):
    """``q(z) = pi(z_0) prod_t P_t(z_{t-1}, z_t) prod_t exp e_t(z_t) / Z``.

    ``log_normaliser [S]``: ``log Z``; ``log_marginal [S, T, K]``; ``log_pair [S, T - 1, K, K]``: of the states at ``t``
    and ``t + 1``; ``log_filtered [S, T, K]``: ``log p(z_t, e_0..t)``, from which paths are drawn; ``divergence [S]``:
    ``KL(q || p)`` of whole paths.
    """

    log_normaliser: Tensor
    log_marginal: Tensor
    log_pair: Tensor
    log_filtered: Tensor
    divergence: Tensor


def condition_states(log_start: Tensor, log_P: Tensor, log_e: Tensor, *, backend: Backend = "auto") -> ChainPosterior:
    """Forward-backward.

    Args:
        log_start: ``[K]`` or ``[S, K]`` log-probabilities of the first state. log_P: ``[S, T, K, K]``, step ``t`` leads
            from ``t - 1`` to ``t`` (step 0 is not read); finite, see :func:`~sciinfer.processes.jump.log_matrix`.
        log_e: ``[S, T, K]`` log-densities or potentials; zero says nothing.
        backend: "sequential" | "scan" (logarithmic depth) | "auto".

    Example:
        >>> half = torch.full((2, 2), 0.5, dtype=torch.float64).log()
        >>> log_e = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
        >>> q = condition_states(half[0], half.expand(1, 2, 2, 2), log_e)
        >>> [round(p, 4) for p in q.log_marginal[0, 1].exp().tolist()]
        [0.7311, 0.2689]
    """
    log_start = log_start.expand_as(log_e[:, 0])
    scan = choose_backend(log_e, backend) == "scan"
    ahead = filter_states(log_start, log_P, log_e) if scan else _forward(log_start, log_P, log_e)
    behind = _backward_scan(log_P, log_e) if scan else _backward(log_P, log_e)
    log_z = ahead[:, -1].logsumexp(-1)
    marginal = (ahead + behind).log_softmax(-1)
    reached = (log_e + behind)[:, 1:, None, :]
    pair = ahead[:, :-1, :, None] + log_P[:, 1:] + reached - log_z[:, None, None, None]
    divergence = (marginal.exp() * log_e).sum((1, 2)) - log_z
    return ChainPosterior(log_z, marginal, pair, ahead, divergence)


def choose_backend(log_e: Tensor, backend: Backend = "auto") -> Literal["sequential", "scan"]:
    """The loop for short or wide batches; the scan on an accelerator and for long series.

    Raises:
        ConfigError: an unknown name.
    """
    if backend not in ("auto", "sequential", "scan"):
        raise ConfigError(f"unknown backend {backend!r}", variable="backend", fix="auto, sequential or scan")
    if backend != "auto":
        return backend
    S, T, K = log_e.shape
    if log_e.device.type != "cpu":
        return "scan" if T > 8 else "sequential"
    return "sequential" if T <= 8 or S * K * K > _WIDE else "scan"


def _forward(log_start: Tensor, log_P: Tensor, log_e: Tensor) -> Tensor:
    steps, seen = log_P.unbind(1), log_e.unbind(1)
    path = [log_start + seen[0]]
    for t in range(1, len(seen)):
        path.append((path[-1][:, :, None] + steps[t]).logsumexp(1) + seen[t])
    return torch.stack(path, dim=1)


def _backward(log_P: Tensor, log_e: Tensor) -> Tensor:
    steps, seen = log_P.unbind(1), log_e.unbind(1)
    path = [torch.zeros_like(seen[0])]
    for t in range(len(seen) - 1, 0, -1):
        path.append((steps[t] + (seen[t] + path[-1])[:, None, :]).logsumexp(2))
    return torch.stack(path[::-1], dim=1)


def _backward_scan(log_P: Tensor, log_e: Tensor) -> Tensor:
    last = torch.zeros_like(log_e[:, -1:])
    if log_e.shape[1] == 1:
        return last
    steps = log_P[:, 1:] + log_e[:, 1:, None, :]
    suffix = associative_scan(_earlier_times_later, (steps.flip(1),))[0].flip(1)
    return torch.cat([suffix.logsumexp(-1), last], dim=1)


def _earlier_times_later(later: tuple[Tensor, ...], earlier: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((earlier[0][..., :, :, None] + later[0][..., None, :, :]).logsumexp(-2),)


def likeliest_path(log_start: Tensor, log_P: Tensor, log_e: Tensor) -> Tensor:
    """The path of the largest joint probability, ``[S, T]`` (Viterbi). Arguments as :func:`condition_states`.

    Example:
        >>> stay = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log()
        >>> log_e = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [2.0, 0.0]]], dtype=torch.float64)
        >>> likeliest_path(stay[0] * 0, stay.expand(1, 3, 2, 2), log_e).tolist()
        [[0, 0, 0]]
    """
    best, choices = log_start.expand_as(log_e[:, 0]) + log_e[:, 0], []
    for t in range(1, log_e.shape[1]):
        best, choice = (best[:, :, None] + log_P[:, t]).max(dim=1)
        best = best + log_e[:, t]
        choices.append(choice)
    path = [best.argmax(-1)]
    for choice in reversed(choices):
        path.append(choice.gather(1, path[-1][:, None])[:, 0])
    return torch.stack(path[::-1], dim=1)


class StepChain(nn.Module):
    """``P(z_{t + n} = j | z_t = i) = (P^n)_ij`` in whole steps; learned ``P`` and starting probabilities.

    Args:
        states: ``K`` >= 1. stay: starting probability of staying for a step.

    Example:
        >>> chain = StepChain(2, stay=0.9)
        >>> [round(p, 4) for p in chain.transition(torch.tensor([0, 1, 2]))[:, 0, 0].tolist()]
        [1.0, 0.9, 0.82]
    """

    def __init__(self, states: int, *, stay: float = 0.95) -> None:
        super().__init__()
        self.states = states
        lift = math.log(stay / (1 - stay) * max(states - 1, 1))
        self.logits = nn.Parameter(lift * torch.eye(states, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(states, dtype=torch.float64))

    def log_matrix(self) -> Tensor:
        """``log P [K, K]`` of one step."""
        return self.logits.log_softmax(-1)

    def start(self) -> Tensor:
        """Log-probabilities ``[K]`` of the first state."""
        return self.log_start.log_softmax(-1)

    def transition(self, steps: Tensor) -> Tensor:
        """``P^n [..., K, K]`` for whole numbers ``n [...]`` >= 0, each different one once, by squaring."""
        different, where = torch.unique(steps, return_inverse=True)
        square = self.log_matrix().exp()
        eye = torch.eye(self.states, dtype=square.dtype, device=square.device)
        found = eye.expand(len(different), -1, -1)
        for bit in range(int(different.max()).bit_length() if len(different) else 0):
            found = torch.where((different >> bit & 1).bool()[:, None, None], found @ square, found)
            square = square @ square
        return found[where]

    def durations(self) -> Tensor:
        """Expected number of steps in each state, ``1 / (1 - P_kk)``, ``[K]``."""
        return 1 / (-torch.expm1(self.log_matrix().diagonal()))
