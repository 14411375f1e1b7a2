"""Gaussian sites: a non-Gaussian observation stands in the exact engine as a precision and a shift."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .engine import kalman_filter, kalman_smoother, log_likelihood
from .problem import Filtered, LinearGaussian, Smoothed, matvec, symmetrise

#: share of the trace that is added where several latents share many channels: far below what the data say
_JITTER = 1e-13


class SitePrior(NamedTuple):
    """Zero-mean linear-Gaussian prior and its predictors ``f_k = W G x_k``.

    ``B`` series, ``T`` times, state ``d``, ``K`` latents, ``C`` channels: ``A, Q [B, T, d, d]``; ``P0 [B, d, d]``;
    ``readout`` ``G [K, d]`` or ``[B, T, K, d]``; ``loading`` ``W [C, K]``, or None where each latent is a channel.
    """

    A: Tensor
    Q: Tensor
    P0: Tensor
    readout: Tensor
    loading: Tensor | None = None


class Sites(NamedTuple):
    """``t(f) = exp(shift f - precision f^2 / 2)`` for each predictor; both ``[B, T, C]``, zero where nothing is."""

    precision: Tensor
    shift: Tensor


class Marginals(NamedTuple):
    """Posterior under the sites.

    ``mean, variance [B, T, C]`` of the predictors; ``latent_mean [B, T, K]``, ``latent_cov [B, T, K, K]``;
    ``log_normaliser [B]`` ``= log int p(x) prod t(f) dx``.
    """

    mean: Tensor
    variance: Tensor
    latent_mean: Tensor
    latent_cov: Tensor
    log_normaliser: Tensor


def site_rows(prior: SitePrior, sites: Sites) -> tuple[Tensor, Tensor]:
    """Whitened rows ``H [B, T, m, d]``, ``y [B, T, m]`` that carry the sites, ``m = min(C, K)``.

    More channels than latents are first summed into ``J = W^T diag(precision) W``, ``j = W^T shift``, so that the
    cost of the filter does not grow with the number of channels.
    """
    W, G = prior.loading, prior.readout
    if W is None or W.shape[0] <= W.shape[1]:
        seen = sites.precision > 0
        root = torch.where(seen, sites.precision, torch.ones_like(sites.precision)).sqrt()
        rows = G if W is None else W @ G
        return rows * (root * seen)[..., None], torch.where(seen, sites.shift / root, torch.zeros_like(root))
    J = symmetrise((sites.precision @ _products(W)).unflatten(-1, (W.shape[1], W.shape[1])))
    j = sites.shift @ W
    trace = J.diagonal(dim1=-2, dim2=-1).sum(-1)
    seen = trace > 0
    lift = torch.where(seen, _JITTER * trace, torch.ones_like(trace))
    eye = torch.eye(J.shape[-1], dtype=J.dtype, device=J.device)
    L = torch.linalg.cholesky(J + lift[..., None, None] * eye)
    y = torch.linalg.solve_triangular(L, j.unsqueeze(-1), upper=False).squeeze(-1)
    return (L.mT * seen[..., None, None]) @ G, y * seen[..., None]


def site_problem(prior: SitePrior, sites: Sites) -> LinearGaussian:
    """The engine's input for a prior and sites."""
    H, y = site_rows(prior, sites)
    return LinearGaussian(prior.A, prior.Q, H, y, torch.zeros_like(prior.P0[..., 0]), prior.P0)


def log_normaliser(prior: SitePrior, sites: Sites) -> Tensor:
    """``log int p(x) prod t(f) dx``, ``[B]``; differentiable with respect to the prior, the loading and the sites."""
    problem = site_problem(prior, sites)
    return log_likelihood(problem) + 0.5 * problem.y.square().sum((-2, -1))


def condition_sites(prior: SitePrior, sites: Sites) -> Marginals:
    """One filter and one smoother."""
    problem = site_problem(prior, sites)
    filtered = kalman_filter(problem)
    smoothed = kalman_smoother(problem, filtered)
    return _marginals(prior, problem, filtered, smoothed)


def _marginals(prior: SitePrior, problem: LinearGaussian, filtered: Filtered, smoothed: Smoothed) -> Marginals:
    latent_mean = matvec(prior.readout, smoothed.mean)
    latent_cov = symmetrise(prior.readout @ smoothed.cov @ prior.readout.mT)
    mean, variance = predictor_moments(prior.loading, latent_mean, latent_cov)
    total = filtered.loglik + 0.5 * problem.y.square().sum((-2, -1))
    return Marginals(mean, variance, latent_mean, latent_cov, total)


def predictor_moments(loading: Tensor | None, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances ``[..., C]`` of ``W z`` for ``z ~ N(mean, cov)``."""
    if loading is None:
        return mean, cov.diagonal(dim1=-2, dim2=-1)
    return mean @ loading.mT, cov.flatten(-2) @ _products(loading).mT


def _products(W: Tensor) -> Tensor:
    """``w_k w_l`` of every channel, ``[C, K K]``: turns sums over channels into one matrix product."""
    return (W[:, :, None] * W[:, None, :]).flatten(1)


def prior_variance(prior: SitePrior) -> Tensor:
    """Variance of each predictor at the first time, broadcastable to ``[B, T, C]``."""
    P0 = prior.P0[:, None]
    cov = prior.readout @ P0 @ prior.readout.mT
    return predictor_moments(prior.loading, torch.zeros_like(cov[..., 0]), cov)[1]
