"""Variational objectives as functions of log-weights ``log p(z) - log q(z)``; any of them can be minimised.

``loss_*`` functions take a log-density, a family and noise and return a scalar to minimise; the plain functions take
log-weights, so that models with their own encoders (importance-weighted autoencoders) use the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .family import Family, frozen_log_prob
from .target import LogDensity

#: ``objective(log_density, family, noise [n, noise_size]) -> scalar`` to minimise
Objective = Callable[[LogDensity, Family, Tensor], Tensor]


def elbo(log_weights: Tensor) -> Tensor:
    """Evidence lower bound: the mean over the first dimension, ``[K, ...] -> [...]``.

    Example:
        >>> elbo(torch.tensor([1.0, 3.0])).item()
        2.0
    """
    return log_weights.mean(0)


def iwae(log_weights: Tensor) -> Tensor:
    """Importance-weighted bound ``log (1/K) sum_k w_k`` over the first dimension, ``[K, ...] -> [...]``.

    References:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders.

    Example:
        >>> w = torch.tensor([1.0, 3.0])
        >>> bool(iwae(w) > elbo(w))
        True
    """
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


def dreg(log_weights: Tensor) -> Tensor:
    """Doubly reparametrised surrogate: its gradient with respect to ``q`` is that of :func:`iwae`, less its noise.

    ``sum_k stop(w~_k)^2 log w_k``, where ``log w`` must be computed with the parameters of ``q`` frozen in its
    density (:func:`~sciinfer.variational.family.frozen_log_prob`), so that gradients flow through the draws alone.
    Gradients of the model's parameters must come from :func:`iwae`, not from here.

    References:
        Tucker, Lawson, Gu, Maddison (2019), Doubly reparameterized gradient estimators.
    """
    normalised = torch.softmax(log_weights, 0).detach()
    return (normalised.square() * log_weights).sum(0)


def forward_kl(log_weights: Tensor, log_q: Tensor) -> Tensor:
    """Surrogate of ``KL(p || q)`` up to a constant: ``-sum_k stop(w~_k) log q(z_k)`` at fixed draws ``z``.

    Args:
        log_weights: ``[K, ...]`` against whatever the draws came from. log_q: ``[K, ...]`` with gradients.
    """
    return -(torch.softmax(log_weights, 0).detach() * log_q).sum(0)


def log_chi2(log_p: Tensor, log_q: Tensor, log_proposal: Tensor | None = None) -> Tensor:
    """``log E_q[(p/q)^2] = log(1 + chi^2(p || q))`` for a normalised ``p``, in log space.

    Args:
        log_p, log_q: ``[K, ...]`` at draws from ``q``, or from ``log_proposal``'s density, when that is given. A
            proposal wider than both keeps the estimate finite where draws from ``q`` would not.
    """
    source = log_q if log_proposal is None else log_proposal
    return torch.logsumexp(2 * log_p - log_q - source, 0) - math.log(log_p.shape[0])


def loss_elbo(log_density: LogDensity, family: Family, noise: Tensor) -> Tensor:
    """Negative ELBO, with the full (not only the path) gradient: exact in the noise given."""
    z, log_q = family.transport(noise)
    return -elbo(log_density(z) - log_q)


def loss_landing(log_density: LogDensity, family: Family, noise: Tensor) -> Tensor:
    """Negative ELBO with the path gradient alone: no noise left where ``q`` equals the posterior.

    References:
        Roeder, Wu, Duvenaud (2017), Sticking the landing.
    """
    z, _ = family.transport(noise)
    return -elbo(log_density(z) - frozen_log_prob(family, z))


def loss_iwae(samples: int) -> Objective:
    """Negative importance-weighted bound in groups of ``samples`` draws."""
    return lambda log_density, family, noise: -iwae(_grouped(log_density, family, noise, samples, False)).mean()


def loss_dreg(samples: int) -> Objective:
    """The doubly reparametrised surrogate of the importance-weighted bound, in groups of ``samples`` draws."""
    return lambda log_density, family, noise: -dreg(_grouped(log_density, family, noise, samples, True)).mean()


def _grouped(log_density: LogDensity, family: Family, noise: Tensor, samples: int, frozen: bool) -> Tensor:
    """Log-weights ``[samples, groups]``."""
    z, log_q = family.transport(noise)
    log_w = log_density(z) - (frozen_log_prob(family, z) if frozen else log_q)
    groups = max(len(log_w) // samples, 1)
    return log_w[: groups * min(samples, len(log_w))].reshape(-1, groups)


def loss_forward_kl(log_density: LogDensity, family: Family, noise: Tensor) -> Tensor:
    """Self-normalised surrogate of ``KL(p || q)`` at draws of the current ``q``."""
    with torch.no_grad():
        z, log_q = family.transport(noise)
        log_w = log_density(z) - log_q
    return forward_kl(log_w, family.log_prob(z))


def loss_chi2(log_density: LogDensity, family: Family, noise: Tensor) -> Tensor:
    """``log E_q[w^2] / 2``, reparametrised; start wider than the posterior, else the weights have no variance."""
    z, log_q = family.transport(noise)
    return 0.5 * log_chi2(log_density(z), log_q)


OBJECTIVES: dict[str, Objective] = {
    "elbo": loss_elbo,
    "landing": loss_landing,
    "iwae": loss_iwae(16),
    "dreg": loss_dreg(16),
    "forward-kl": loss_forward_kl,
    "chi2": loss_chi2,
}
