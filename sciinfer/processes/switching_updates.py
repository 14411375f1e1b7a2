"""Closed-form updates of a switching linear process: natural-gradient steps of its conjugate prior.

The expected sufficient statistics under ``q(s) q(x)`` are the natural gradient of the bound for the parameters of the
matrix-normal-inverse-Wishart and Dirichlet laws; a step of size one puts the parameters at the mode of these laws:
the M-step of expectation-maximisation.

References:
    Hoffman, Blei, Wang, Paisley (2013), Stochastic variational inference.
    Fox, Sudderth, Jordan, Willsky (2011), Bayesian nonparametric inference of switching dynamic linear models.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..statespace import cholesky, symmetrise
from .switching import Steps, SwitchingLinear

#: pseudo-steps of the prior: identity dynamics, noise a tenth of the starting spread
_STRENGTH = 1.0
_NOISE = 0.01


class Statistics(NamedTuple):
    """Sums over steps, weighted by the regimes: ``new``: ``E x' x'^T [K, d, d]``; ``crossed``: ``E x' (x, 1)^T
    [K, d, d + 1]``; ``old``: ``E (x, 1)(x, 1)^T [K, d + 1, d + 1]``; ``visits [K]``; ``pairs [K, K]``, ``first [K]``;
    ``start, start_second``: means of ``x_0``, ``x_0 x_0^T``."""

    new: Tensor
    crossed: Tensor
    old: Tensor
    visits: Tensor
    pairs: Tensor
    first: Tensor
    start: Tensor
    start_second: Tensor


def gather_statistics(
    steps: Steps, mean: Tensor, cov: Tensor, weight: Tensor, pairs: Tensor, moves: Tensor
) -> Statistics:
    """Expected sufficient statistics of a batch.

    Args:
        steps: of the path; ``mean, cov``: its marginals. weight: ``[S, N, K]``, pairs: ``[S, N - 1, K, K]``:
            probabilities of the regimes and of neighbours. moves: ``[S, N]``.
    """
    first, weight = weight[:, 0].sum(0), (weight * moves[..., None])[:, 1:]
    add = lambda x: torch.einsum("snk,sn...->k...", weight, x)  # noqa: E731
    count = weight.sum((0, 1))
    old_mean = add(steps.mean_old)
    crossed = torch.cat([add(steps.crossed), add(steps.mean_new)[..., None]], dim=-1)
    top = torch.cat([add(steps.old), old_mean[..., None]], dim=-1)
    bottom = torch.cat([old_mean, count[:, None]], dim=-1)[:, None]
    pairs = (pairs * moves[:, 1:, None, None]).sum((0, 1))
    second = cov[:, 0] + mean[:, 0, :, None] * mean[:, 0, None, :]
    return Statistics(
        add(steps.new), crossed, torch.cat([top, bottom], dim=1), count, pairs,
        first, mean[:, 0].mean(0), second.mean(0),
    )  # fmt: skip


@torch.no_grad()
def update_process(process: SwitchingLinear, found: Statistics, *, chain: bool = True) -> None:
    """Set the parameters to the mode given expected statistics, in place.

    Args:
        found: of all series. chain: update the regimes' transitions too.
    """
    d = process.dim
    eye = torch.eye(d + 1, dtype=found.old.dtype, device=found.old.device)
    target = torch.cat([eye[:d, :d], eye[:d, :1] * 0], dim=-1)
    old = found.old + _STRENGTH * eye
    crossed = found.crossed + _STRENGTH * target
    M = torch.linalg.solve(old, crossed.mT).mT
    scatter = found.new + _STRENGTH * eye[:d, :d] - M @ crossed.mT
    Q = symmetrise(scatter + _STRENGTH * _NOISE * eye[:d, :d]) / (found.visits + _STRENGTH * d)[:, None, None]
    process.matrix.copy_(M[..., :d])
    process.offset.copy_(M[..., d])
    root = cholesky(Q, what="step covariance")
    process.log_scale.copy_(root.diagonal(dim1=-2, dim2=-1).log())
    process.lower.copy_(root.tril(-1))
    process.start_mean.copy_(found.start)
    spread = found.start_second.diagonal() - found.start.square()
    process.start_log_scale.copy_(0.5 * spread.clamp(min=1e-3).log())
    if chain:
        process.chain.logits.copy_((found.pairs + 0.1 + 0.9 * torch.eye(process.states).to(found.pairs)).log())
        process.chain.log_start.copy_((found.first + 0.5).log())
