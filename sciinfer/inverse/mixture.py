"""The exact posterior of a linear measurement of a mixture of Gaussians: again a mixture."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..diffusion import MixtureDenoiser
from ..errors import ConfigError
from .budget import Meter
from .observation import Observation
from .whitened import whiten

#: numbers of a signal up to which covariances are written out
DENSE_LIMIT = 3000


class MixturePosterior(NamedTuple):
    """``posterior``: a mixture of the same number of components; ``log_evidence``: ``log p(y)``."""

    posterior: MixtureDenoiser
    log_evidence: float
    missing: int


def condition_mixture(
    prior: MixtureDenoiser, observation: Observation, y: Any, meter: Meter | None = None
) -> MixturePosterior:
    r"""``sum_k w_k' N(m_k', C_k')`` with :math:`w_k' \propto w_k N(y; A m_k, A C_k A^T + R)`.

    Args:
        prior: weights, means and covariances. observation: linear operator, Gaussian noise. y: data, NaN = missing.
        meter: counts evaluations of the operator.

    Raises:
        ConfigError: the operator is not linear, or the signals are too long to write covariances out.

    Example:
        >>> means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> prior = MixtureDenoiser(torch.ones(2, dtype=torch.float64), means, 1e-9)
        >>> found = condition_mixture(prior, Observation([[1.0]], noise_sd=1.0), [0.5])
        >>> round(float(found.posterior.prior_moments(means)[0]), 6), round(math.tanh(0.5), 6)
        (0.462117, 0.462117)
    """
    d = prior.means.shape[1]
    if d > DENSE_LIMIT:
        raise ConfigError(f"a signal of {d} numbers is too long for the exact posterior of a mixture", fix="method=...")
    data = whiten(observation, y, prior.means.new_zeros(prior.shape), meter or Meter(None))
    eye = torch.eye(d, dtype=prior.means.dtype, device=prior.means.device)
    A = data.forward(eye.reshape(d, *prior.shape)).T
    spread = prior.covariances()  # [K or 1, d, d]
    cross = spread @ A.mT
    kernel = A @ cross + torch.eye(len(data.b), dtype=A.dtype, device=A.device)
    lower = torch.linalg.cholesky(kernel)
    misfit = data.b - prior.means @ A.mT
    means = prior.means + (cross @ torch.cholesky_solve(misfit[..., None], lower))[..., 0]
    covariances = spread - cross @ torch.cholesky_solve(cross.mT, lower)
    logs = prior.log_weights + _log_normal(misfit, lower) - data.log_sd
    weights = (logs - logs.logsumexp(0)).exp()
    shared = covariances[0] if len(covariances) == 1 else covariances
    posterior = MixtureDenoiser(weights, means, shared, prior.shape)
    return MixturePosterior(posterior, float(logs.logsumexp(0)), data.missing)


def _log_normal(misfit: Tensor, lower: Tensor) -> Tensor:
    """``log N(misfit_k; 0, L_k L_k^T)``, ``[K]``."""
    white = torch.linalg.solve_triangular(lower, misfit[..., None], upper=False)[..., 0]
    logs = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (white.square().sum(-1) + misfit.shape[1] * math.log(2 * math.pi)) - logs
