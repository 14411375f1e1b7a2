"""A Bayesian linear layer on features, trained in one pass: every expectation in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError


class BayesianLastLayer(nn.Module):
    """``y = W phi + e``, ``e_c ~ N(0, s_c^2)``, ``W_c ~ N(0, v I)``, ``q(W_c) = N(m_c, L_c L_c^T)``.

    ``E_q log p(y | W) = log N(y_c; m_c phi, s_c^2) - phi^T S_c phi / (2 s_c^2)``, so the bound has no noise and is
    tight: for fixed features its maximum is the evidence of Bayesian linear regression.

    Args:
        features: length of ``phi`` (append a one for an intercept). outputs: channels.
        noise: starting ``s``, learned. prior_sd: starting ``sqrt(v)``, learned.

    Raises:
        ConfigError: a size or a scale that is not positive.

    References:
        Harrison, Willes, Snoek (2024), Variational Bayesian last layers.

    Example:
        >>> layer = BayesianLastLayer(2)
        >>> phi = torch.ones(5, 2, dtype=torch.float64)
        >>> layer.elbo(phi, torch.zeros(5, 1, dtype=torch.float64)).shape
        torch.Size([])
    """

    def __init__(self, features: int, outputs: int = 1, *, noise: float = 1.0, prior_sd: float = 1.0) -> None:
        super().__init__()
        if min(features, outputs) < 1 or not min(noise, prior_sd) > 0:
            raise ConfigError("sizes and scales must be positive", fix="BayesianLastLayer(16, noise=1.0)")
        self.mean = nn.Parameter(torch.zeros(outputs, features, dtype=torch.float64))
        # below the diagonal: L; on it: its logarithm
        self.raw = nn.Parameter((math.log(prior_sd) * torch.eye(features, dtype=torch.float64)).repeat(outputs, 1, 1))
        self.log_noise = nn.Parameter(torch.full((outputs,), math.log(noise), dtype=torch.float64))
        self.log_prior_sd = nn.Parameter(torch.tensor(math.log(prior_sd), dtype=torch.float64))

    @property
    def root(self) -> Tensor:
        """``L [C, d, d]``, lower triangular with a positive diagonal."""
        return self.raw.tril(-1) + torch.diag_embed(self.raw.diagonal(dim1=-2, dim2=-1).exp())

    def elbo(self, features: Tensor, y: Tensor, *, total: int | None = None) -> Tensor:
        """``sum_i E_q log p(y_i | W) - KL(q || p)`` in nats; of a batch out of ``total`` rows, an unbiased estimate.

        Args:
            features: ``[n, d]``. y: ``[n, C]``, NaN = missing. total: rows of all data.

        Raises:
            ShapeError: sizes do not fit together.
        """
        mean, spread = self._moments(features)
        if y.shape != mean.shape:
            raise ShapeError(f"y has shape {list(y.shape)}, wanted {list(mean.shape)}", variable="y")
        seen, log_sd = ~y.isnan(), self.log_noise
        error = torch.where(seen, y, mean) - mean
        each = -0.5 * (error.square() + spread) * (-2 * log_sd).exp() - log_sd - 0.5 * math.log(2 * math.pi)
        fit = torch.where(seen, each, torch.zeros_like(each)).sum()
        return fit * (1.0 if total is None else total / len(y)) - self.divergence()

    def divergence(self) -> Tensor:
        """``KL(q || p)`` of all weights, nats."""
        squares = self.root.square().sum() + self.mean.square().sum()
        log_root = self.raw.diagonal(dim1=-2, dim2=-1).sum()
        size = self.mean.numel()
        return 0.5 * squares * (-2 * self.log_prior_sd).exp() - 0.5 * size + size * self.log_prior_sd - log_root

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[n, C]`` of a new observation, noise included."""
        mean, spread = self._moments(features)
        return mean, spread + (2 * self.log_noise).exp()

    def _moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        spread = torch.einsum("nd,cde->nce", features, self.root).square().sum(-1)
        return features @ self.mean.mT, spread
