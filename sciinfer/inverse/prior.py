"""Gaussian priors over signals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, ShapeError
from .linalg import cholesky

__entries__ = [
    {
        "kind": "priors",
        "name": "gaussian",
        "target": "GaussianPrior",
        "summary": "A Gaussian over signals, by its mean and covariance or a factor of it.",
        "options": {"mean": "the mean, in the signal's shape", "covariance": "[n, n]", "factor": "[n, r], C = F F^T"},
    }
]


class Gaussian(ABC):
    r"""A Gaussian over signals of a fixed shape, :math:`x = \mu + L\xi`, :math:`C = LL^T`, never formed unless small.

    A subclass gives the attributes and the three products; a fitted linear path model fits in as well.

    Attributes:
        shape: shape of a signal.
        mean: ``[*shape]``.
        rank: length of ``xi``.
        jitter: what was added to the covariance's diagonal to factor it.
    """

    shape: tuple[int, ...]
    mean: Tensor
    rank: int
    jitter: float = 0.0

    @abstractmethod
    def root(self, xi: Tensor) -> Tensor:
        """``L xi``: ``[..., rank]`` to ``[..., *shape]``."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """``C x``: ``[..., *shape]`` to ``[..., *shape]``."""

    @abstractmethod
    def variance(self) -> Tensor:
        """``[*shape]``: the diagonal of ``C``."""

    @property
    def size(self) -> int:
        """Number of entries of a signal."""
        return math.prod(self.shape)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """``[n, *shape]`` draws."""
        xi = torch.randn(n, self.rank, generator=generator, dtype=self.mean.dtype, device=generator.device)
        return self.mean + self.root(xi.to(self.mean.device))


class GaussianPrior(Gaussian):
    """A dense Gaussian.

    Args:
        mean: ``[*shape]``, or a number together with ``covariance``/``factor`` (then the signal is a vector).
        covariance: ``[n, n]``, symmetric, positive definite up to a recorded jitter.
        factor: ``[n, r]`` with ``C = F F^T``; exactly one of the two is given.

    Raises:
        NumericalError: the covariance is not positive semi-definite; its smallest eigenvalue is told.

    Example:
        >>> GaussianPrior(0.0, covariance=[[4.0, 0.0], [0.0, 1.0]]).variance()
        tensor([4., 1.], dtype=torch.float64)
    """

    def __init__(self, mean: Any, covariance: Any = None, *, factor: Any = None) -> None:
        if (covariance is None) == (factor is None):
            raise ShapeError("give the covariance or a factor of it, one of both", variable="covariance")
        if factor is None:
            dense = _finite(covariance, "covariance")
            _check_symmetric(dense)
            self.factor, self.jitter = cholesky(0.5 * (dense + dense.T), name="covariance")
        else:
            self.factor = _finite(factor, "factor")
        if self.factor.ndim != 2:
            raise ShapeError(f"a factor has 2 dims, not shape {tuple(self.factor.shape)}", variable="factor")
        given = _finite(mean, "mean").to(self.factor.device)
        self.mean = given.expand(len(self.factor)).clone() if given.ndim == 0 else given
        self.shape, self.rank = tuple(self.mean.shape), self.factor.shape[1]
        if self.size != len(self.factor):
            raise ShapeError(
                f"the mean has {self.size} entries, the covariance {len(self.factor)}",
                variable="mean",
                fix="sizes must agree",
            )

    def root(self, xi: Tensor) -> Tensor:
        """``L xi``."""
        return (xi @ self.factor.T).reshape(*xi.shape[:-1], *self.shape)

    def apply(self, x: Tensor) -> Tensor:
        """``C x``."""
        return self.root(x.reshape(*x.shape[: x.ndim - len(self.shape)], self.size) @ self.factor)

    def variance(self) -> Tensor:
        """The diagonal of ``C``."""
        return (self.factor**2).sum(1).reshape(self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """``[..., *shape]`` to ``[...]``; needs a square factor."""
        flat = (x - self.mean).reshape(*x.shape[: x.ndim - len(self.shape)], self.size)
        normal = torch.distributions.MultivariateNormal(torch.zeros(self.size).to(flat), scale_tril=self._lower())
        return normal.log_prob(flat)

    def _lower(self) -> Tensor:
        if self.rank < self.size:
            raise ShapeError(f"a Gaussian of rank {self.rank} < {self.size} has no density", variable="factor")
        return cholesky(self.factor @ self.factor.T, name="covariance").lower


def _finite(values: Any, name: str) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float64).detach().clone()
    if not bool(tensor.isfinite().all()):
        place = tuple((~tensor.isfinite()).nonzero()[0].tolist())
        raise DataError("an entry is not finite", variable=name, index=place, fix="repair it")
    return tensor


def _check_symmetric(dense: Tensor) -> None:
    if dense.ndim != 2 or dense.shape[0] != dense.shape[1]:
        raise ShapeError(f"a covariance is square, not of shape {tuple(dense.shape)}", variable="covariance")
    gap = (dense - dense.T).abs()
    if len(dense) and float(gap.max()) > 1e-8 * float(dense.abs().max()):
        place = divmod(int(gap.argmax()), len(dense))
        raise DataError("it is not symmetric", variable="covariance", index=place, fix="pass (C + C.T) / 2")
