"""Gaussian families: independent, full covariance, and low rank plus diagonal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError, NumericalError, ShapeError
from .family import LOG_2PI, Family


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(torch.float64))


def _location(dim: int, mean: Tensor | None) -> Tensor:
    if not isinstance(dim, int) or dim < 1:
        raise ConfigError(f"a family needs a dimension of at least 1, got {dim!r}")
    if mean is not None and mean.shape != (dim,):
        raise ShapeError(f"the mean of a {dim}-dimensional family has shape ({dim},), got {tuple(mean.shape)}")
    return torch.zeros(dim, dtype=torch.float64) if mean is None else mean.detach().to(torch.float64, copy=True)


def _scales(dim: int, scale: float | Tensor) -> Tensor:
    found = torch.as_tensor(scale, dtype=torch.float64).detach().expand(dim).clone()
    if not bool((found > 0).all()):
        raise ConfigError("the starting scale must be positive", fix="pass scale=1.0 or similar")
    return found


def _root(dim: int, scale: float | Tensor, covariance: Tensor | None) -> Tensor:
    if covariance is None:
        return torch.diag(_scales(dim, scale))
    if covariance.shape != (dim, dim):
        raise ShapeError(
            f"the covariance of a {dim}-dimensional family is {dim} x {dim}, got {tuple(covariance.shape)}"
        )
    root, info = torch.linalg.cholesky_ex(covariance.detach().to(torch.float64))
    if int(info):
        raise NumericalError("the starting covariance is not positive definite", fix="pass a scale instead")
    return root


class MeanField(Family):
    """``N(m, diag(s^2))``.

    Args:
        dim: ``d``. mean: start of ``m``, ``[d]``; zero by default. scale: start of ``s``, a number or ``[d]``.

    Example:
        >>> q = MeanField(2)
        >>> round(q.log_prob(torch.zeros(1, 2, dtype=torch.float64)).item(), 4)
        -1.8379
    """

    origin: Tensor
    unit: Tensor

    def __init__(self, dim: int, *, mean: Tensor | None = None, scale: float | Tensor = 1.0) -> None:
        super().__init__()
        self.dim = self.noise_size = dim
        self.register_buffer("origin", _location(dim, mean))
        self.register_buffer("unit", _scales(dim, scale))
        # in units of the start, so that parameters of very different sizes are searched alike
        self.shift, self.log_scale = _parameter(torch.zeros(dim)), _parameter(torch.zeros(dim))

    @property
    def mean(self) -> Tensor:
        """``m [d]``."""
        return self.origin + self.unit * self.shift

    @property
    def scale(self) -> Tensor:
        """``s [d]``."""
        return self.unit * self.log_scale.exp()

    def rebase(self) -> None:
        """``m`` and ``s`` become the origin and the unit."""
        with torch.no_grad():
            self.origin, self.unit = self.mean.clone(), self.scale.clone()
            self.shift.zero_()
            self.log_scale.zero_()

    def transport(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``z = m + s e``."""
        return self.mean + self.scale * noise, self._density(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, ``[n]``."""
        return self._density((z - self.mean) / self.scale)

    def _density(self, noise: Tensor) -> Tensor:
        return -0.5 * noise.square().sum(-1) - self.scale.log().sum() - 0.5 * self.dim * LOG_2PI

    def covariance(self) -> Tensor:
        """``[d, d]``."""
        return torch.diag(self.scale.square())


class FullRank(Family):
    """``N(m, L L^T)``; ``L`` is the start's root times a lower triangular one with a positive diagonal.

    Args:
        dim: ``d``. mean: start of ``m``, ``[d]``. scale: starting standard deviation, a number or ``[d]``.
        covariance: start of ``L L^T``, ``[d, d]``, instead of ``scale``: the search then sees a nearly white problem.

    Example:
        >>> FullRank(3, scale=2.0).covariance().diagonal().tolist()
        [4.0, 4.0, 4.0]
    """

    origin: Tensor
    unit: Tensor

    def __init__(
        self, dim: int, *, mean: Tensor | None = None, scale: float | Tensor = 1.0, covariance: Tensor | None = None
    ) -> None:
        super().__init__()
        self.dim = self.noise_size = dim
        self.register_buffer("origin", _location(dim, mean))
        self.register_buffer("unit", _root(dim, scale, covariance))
        self.shift, self.log_scale = _parameter(torch.zeros(dim)), _parameter(torch.zeros(dim))
        self.lower = _parameter(torch.zeros(dim, dim))

    @property
    def mean(self) -> Tensor:
        """``m [d]``."""
        return self.origin + self.unit @ self.shift

    def root(self) -> Tensor:
        """``L [d, d]``, lower triangular."""
        return self.unit @ (torch.tril(self.lower, -1) + torch.diag(self.log_scale.exp()))

    def rebase(self) -> None:
        """``m`` and ``L`` become the origin and the unit."""
        with torch.no_grad():
            self.origin, self.unit = self.mean.clone(), self.root().clone()
            for parameter in (self.shift, self.log_scale, self.lower):
                parameter.zero_()

    def transport(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``z = m + L e``."""
        return self.mean + noise @ self.root().mT, self._density(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, ``[n]``."""
        return self._density(torch.linalg.solve_triangular(self.root(), (z - self.mean).mT, upper=False).mT)

    def _density(self, noise: Tensor) -> Tensor:
        volume = self.unit.diagonal().log().sum() + self.log_scale.sum()
        return -0.5 * noise.square().sum(-1) - volume - 0.5 * self.dim * LOG_2PI

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
        self.mean = _parameter(_location(dim, mean))
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
