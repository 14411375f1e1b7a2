"""The evidence bound of point-process factor analysis with inducing points, for variational parameters that are given.

Kept as the yardstick of the exact path: the same bound, for any covariance function, without the state space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..statespace.linalg import cholesky
from ..statespace.sites import predictor_moments

Covariance = Callable[[Tensor], Tensor]


class Inducing(NamedTuple):
    """One latent in one trial: ``times [M]``, ``q(u) = N(mean [M], cov [M, M])``, ``k(lag)``, jitter of ``K_uu``."""

    covariance: Covariance
    times: Tensor
    mean: Tensor
    cov: Tensor
    jitter: float = 1e-5


class Trial(NamedTuple):
    """``events [n]`` times and the channel ``channel [n]`` of each; quadrature ``nodes [Q]``, ``weights [Q]``."""

    events: Tensor
    channel: Tensor
    nodes: Tensor
    weights: Tensor


def inducing_moments(q: Inducing, at: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``[n]`` of the latent at times ``at [n]``."""
    K, cross = _gram(q), q.covariance(at[:, None] - q.times)
    weights = torch.cholesky_solve(cross.mT, cholesky(K, what="inducing covariance"))
    spread = q.covariance(torch.zeros_like(at)) + (weights * ((q.cov - K) @ weights)).sum(0)
    return weights.mT @ q.mean, spread


def inducing_kl(q: Inducing) -> Tensor:
    """``KL(N(mean, cov) || N(0, K_uu))``."""
    root, inner = cholesky(_gram(q), what="inducing covariance"), cholesky(q.cov, what="variational covariance")
    white = torch.linalg.solve_triangular(root, torch.cat([inner, q.mean[:, None]], 1), upper=False)
    logs = root.diagonal().log().sum() - inner.diagonal().log().sum()
    return 0.5 * (white.square().sum() - len(q.mean)) + logs


def point_process_elbo(trial: Trial, latents: Sequence[Inducing], loading: Tensor, offset: Tensor) -> Tensor:
    """``sum_i E eta_{c_i}(t_i) - sum_c int E exp(eta_c) dt - sum_k KL_k`` with ``eta = W z + b``.

    Args:
        latents: ``K`` of them. loading: ``W [C, K]``. offset: ``b [C]``, log-rate per unit of time.

    References:
        Duncker, Sahani (2018), Temporal alignment and latent Gaussian process factor inference in population spike
        trains.

    Example:
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> q = Inducing(lambda lag: torch.exp(-lag.square()), zero, zero, one[:, None], jitter=0.0)
        >>> trial = Trial(zero, torch.tensor([0]), zero, 2 * one)
        >>> round(float(point_process_elbo(trial, [q], 0 * one[:, None], zero)), 6)
        -2.0
    """
    mean, cov = _latents(latents, trial.nodes)
    m, v = predictor_moments(loading, mean, cov)
    expected = (trial.weights[:, None] * (m + offset + 0.5 * v).exp()).sum()
    seen = _latents(latents, trial.events)[0]
    events = (seen * loading[trial.channel]).sum() + offset[trial.channel].sum()
    return events - expected - torch.stack([inducing_kl(q) for q in latents]).sum()


def _latents(latents: Sequence[Inducing], at: Tensor) -> tuple[Tensor, Tensor]:
    pairs = [inducing_moments(q, at) for q in latents]
    return torch.stack([m for m, _ in pairs], -1), torch.diag_embed(torch.stack([v for _, v in pairs], -1))


def _gram(q: Inducing) -> Tensor:
    eye = torch.eye(len(q.times), dtype=q.times.dtype, device=q.times.device)
    return q.covariance(q.times[:, None] - q.times) + q.jitter * eye
