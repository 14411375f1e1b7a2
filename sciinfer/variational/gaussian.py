"""Gaussian families: independent, full covariance, and low rank plus diagonal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from .family import LOG_2PI, Family


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(torch.float64))


def _location(dim: int, mean: Tensor | None) -> nn.Parameter:
    if not isinstance(dim, int) or dim < 1:
        raise ConfigError(f"a family needs a dimension of at least 1, got {dim!r}")
    if mean is not None and mean.shape != (dim,):
        raise ShapeError(f"the mean of a {dim}-dimensional family has shape ({dim},), got {tuple(mean.shape)}")
    return _parameter(torch.zeros(dim) if mean is None else mean.detach().clone())


class MeanField(Family):
    """``N(m, diag(exp(2 s)))``.

    Args:
        dim: ``d``. mean: start of ``m``, ``[d]``; zero by default. scale: starting standard deviation.

    Example:
        >>> q = MeanField(2)
        >>> round(q.log_prob(torch.zeros(1, 2, dtype=torch.float64)).item(), 4)
        -1.8379
    """

    def __init__(self, dim: int, *, mean: Tensor | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.dim = self.noise_size = dim
        self.mean = _location(dim, mean)
        self.log_scale = _parameter(torch.full((dim,), float(scale)).log())

    def transport(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``z = m + exp(s) e``."""
        z = self.mean + self.log_scale.exp() * noise
        return z, -0.5 * noise.square().sum(-1) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, ``[n]``."""
        e = (z - self.mean) * (-self.log_scale).exp()
        return -0.5 * e.square().sum(-1) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def covariance(self) -> Tensor:
        """``[d, d]``."""
        return torch.diag((2 * self.log_scale).exp())


class FullRank(Family):
    """``N(m, L L^T)`` with a lower triangular ``L`` whose diagonal is kept positive by its logarithm.

    Args:
        dim: ``d``. mean: start of ``m``, ``[d]``. scale: starting standard deviation.
        covariance: start of ``L L^T``, ``[d, d]``, instead of ``scale``.

    Example:
        >>> FullRank(3, scale=2.0).covariance().diagonal().tolist()
        [4.0, 4.0, 4.0]
    """

    def __init__(
        self, dim: int, *, mean: Tensor | None = None, scale: float = 1.0, covariance: Tensor | None = None
    ) -> None:
        super().__init__()
        self.dim = self.noise_size = dim
        self.mean = _location(dim, mean)
        eye = torch.eye(dim, dtype=torch.float64)
        root = scale * eye if covariance is None else torch.linalg.cholesky(covariance.detach().double())
        self.log_scale = _parameter(root.diagonal().log())
        # rows in units of their own scale, so that parameters of very different sizes are searched alike
        self.lower = _parameter(torch.tril(root / root.diagonal()[:, None], -1))

    def root(self) -> Tensor:
        """``L [d, d]``."""
        eye = torch.eye(self.dim, dtype=self.lower.dtype, device=self.lower.device)
        return self.log_scale.exp()[:, None] * (torch.tril(self.lower, -1) + eye)

    def transport(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``z = m + L e``."""
        z = self.mean + noise @ self.root().mT
        return z, -0.5 * noise.square().sum(-1) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, ``[n]``."""
        e = torch.linalg.solve_triangular(self.root(), (z - self.mean).mT, upper=False).mT
        return -0.5 * e.square().sum(-1) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def covariance(self) -> Tensor:
        """``L L^T``."""
        root = self.root()
        return root @ root.mT


class LowRank(Family):
    """``N(m, diag(exp(2 s)) + U U^T)``: ``d (r + 2)`` parameters; the density by a system of size ``r``.

    Args:
        dim: ``d``. rank: ``r``, from 1 to ``d``. mean, scale: as for :class:`MeanField`.

    Example:
        >>> q = LowRank(50, rank=2)
        >>> q.covariance().shape
        torch.Size([50, 50])
    """

    def __init__(self, dim: int, rank: int, *, mean: Tensor | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.mean = _location(dim, mean)
        if not isinstance(rank, int) or not 1 <= rank <= dim:
            raise ConfigError(f"rank must be between 1 and {dim}, got {rank!r}", fix="use MeanField or FullRank")
        self.dim, self.rank, self.noise_size = dim, rank, dim + rank
        self.log_scale = _parameter(torch.full((dim,), float(scale)).log())
        # not zero: there the gradient of U vanishes and no direction would ever be found
        index = torch.arange(1, dim + 1, dtype=torch.float64)[:, None]
        self.factor = _parameter(0.1 * scale * torch.cos(index * torch.arange(1, rank + 1) * 1.7))

    def transport(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``z = m + exp(s) e1 + U e2``."""
        z = self.mean + self.log_scale.exp() * noise[:, : self.dim] + noise[:, self.dim :] @ self.factor.mT
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density by the Woodbury identity, ``[n]``."""
        e, V = (z - self.mean) * (-self.log_scale).exp(), self.factor * (-self.log_scale).exp()[:, None]
        eye = torch.eye(self.rank, dtype=V.dtype, device=V.device)
        root = torch.linalg.cholesky(eye + V.mT @ V)
        t = torch.linalg.solve_triangular(root, (e @ V).mT, upper=False)
        half_logdet = self.log_scale.sum() + root.diagonal().log().sum()
        return -0.5 * (e.square().sum(-1) - t.square().sum(0)) - half_logdet - 0.5 * self.dim * LOG_2PI

    def covariance(self) -> Tensor:
        """``[d, d]``."""
        return torch.diag((2 * self.log_scale).exp()) + self.factor @ self.factor.mT
