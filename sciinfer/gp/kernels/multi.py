"""Kernels of several outputs: linear mixtures, space x time, and coupled modes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, ShapeError
from ...statespace.discretise import discretise
from .base import Kernel
from .product import kron
from .sum import block_diagonal


class Coregionalised(Kernel):
    """``y_c(t) = sum_q W[c, q] f_q(t)`` with independent ``f_q ~ k_q``: the linear model of coregionalisation.

    Args:
        kernels: one for each latent function. loadings: ``W [C, Q]``, learned.

    Raises:
        ShapeError: one column of loadings is needed for each kernel.

    References:
        Álvarez, Rosasco, Lawrence (2012), Kernels for vector-valued functions.

    Example:
        >>> from sciinfer.gp.kernels import Matern12, Matern32
        >>> k = Coregionalised([Matern12(), Matern32()], [[1.0, 0.5], [0.0, 2.0], [1.0, 1.0]])
        >>> k.outputs, k.state_dim
        (3, 3)
    """

    def __init__(self, kernels: Sequence[Kernel], loadings: Any) -> None:
        super().__init__()
        W = torch.as_tensor(loadings, dtype=torch.float64).clone()
        if W.ndim != 2 or W.shape[1] != len(kernels) or any(kernel.outputs != 1 for kernel in kernels):
            raise ShapeError(f"loadings of shape {tuple(W.shape)} for {len(kernels)} kernels", fix="[outputs, kernels]")
        self._kernels, self.loadings = nn.ModuleList(kernels), nn.Parameter(W)
        self.outputs, self.state_dim = W.shape[0], sum(kernel.state_dim for kernel in kernels)
        self.stationary = all(kernel.stationary for kernel in kernels)

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels of the latent functions."""
        return [kernel for kernel in self._kernels if isinstance(kernel, Kernel)]

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Block-diagonal."""
        pairs = [kernel.transition(dt) for kernel in self.kernels]
        return block_diagonal([A for A, _ in pairs]), block_diagonal([Q for _, Q in pairs])

    def initial(self) -> Tensor:
        """Block-diagonal."""
        return block_diagonal([kernel.initial() for kernel in self.kernels])

    def readout(self) -> Tensor:
        """``[C, d]``: each kernel's readout times its column of loadings."""
        rows = [kernel.readout() * self.loadings[:, q, None] for q, kernel in enumerate(self.kernels)]
        return torch.cat(rows, dim=1)

    def truncation(self) -> float:
        """The worst of the parts."""
        return max(kernel.truncation() for kernel in self.kernels)


class Separable(Kernel):
    """``Cov(f(x, t), f(x', t')) = K[x, x'] k(t, t')`` at fixed places ``x``; outputs are the places.

    Args:
        kernel: of time. space: ``K [L, L]``, positive semi-definite, fixed.

    Raises:
        ShapeError: ``space`` is no square matrix. ConfigError: it is not symmetric and positive semi-definite.

    Example:
        >>> from sciinfer.gp.kernels import Matern32
        >>> k = Separable(Matern32(), [[1.0, 0.5], [0.5, 1.0]])
        >>> k.covariance(torch.zeros((), dtype=torch.float64)).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """

    def __init__(self, kernel: Kernel, space: Any) -> None:
        super().__init__()
        K = torch.as_tensor(space, dtype=torch.float64).detach().clone()
        if K.ndim != 2 or K.shape[0] != K.shape[1] or kernel.outputs != 1:
            raise ShapeError(f"the space covariance has shape {tuple(K.shape)}", fix="a square matrix, one row a place")
        if not torch.allclose(K, K.mT, rtol=1e-10, atol=0) or float(torch.linalg.eigvalsh(K)[0]) < -1e-9 * float(
            K.max()
        ):
            raise ConfigError("the space covariance is not symmetric and positive semi-definite", variable="space")
        self.kernel = kernel
        self.register_buffer("space", K)
        self.outputs, self.state_dim = len(K), len(K) * kernel.state_dim
        self.stationary = kernel.stationary

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``I x A``, ``K x Q``."""
        A, Q = self.kernel.transition(dt)
        K = self.get_buffer("space")
        return kron(torch.eye(len(K), dtype=A.dtype, device=A.device), A), kron(K, Q)

    def initial(self) -> Tensor:
        """``K x P0``."""
        return kron(self.get_buffer("space"), self.kernel.initial())

    def readout(self) -> Tensor:
        """``I x h``, ``[L, d]``."""
        h = self.kernel.readout()
        eye = torch.eye(self.outputs, dtype=h.dtype, device=h.device)
        return (eye[:, :, None] * h).reshape(self.outputs, -1)

    def truncation(self) -> float:
        """The kernel's own."""
        return self.kernel.truncation()


class Coupled(Kernel):
    """Modes that drive each other, not reversible in time: ``dz = (S - D/2) z dt + sqrt(D) dW``, ``y = W z``.

    ``S`` is skew-symmetric and moves probability in circles; ``z`` is stationary ``N(0, I)``. Covariances between
    outputs then depend on the sign of the lag: one output can lead another.

    Args:
        loadings: ``W [C, d]``. rates: ``D``'s diagonal ``[d]``, per time, > 0.
        rotation: ``[d, d]``, per time; its upper triangle gives ``S``.

    Raises:
        ShapeError: sizes do not fit together. ConfigError: a rate is not positive.

    Example:
        >>> k = Coupled([[1.0, 0.0], [0.0, 1.0]], rates=[1.0, 1.0], rotation=[[0.0, 2.0], [0.0, 0.0]])
        >>> lag = torch.tensor([-0.5, 0.5], dtype=torch.float64)
        >>> [round(v, 4) for v in k.covariance(lag)[:, 0, 1].tolist()]
        [-0.6553, 0.6553]
    """

    def __init__(self, loadings: Any, rates: Any, rotation: Any) -> None:
        super().__init__()
        W, D, S = (torch.as_tensor(part, dtype=torch.float64).clone() for part in (loadings, rates, rotation))
        if W.ndim != 2 or D.shape != W.shape[1:] or S.shape != (len(D), len(D)):
            raise ShapeError(f"loadings {tuple(W.shape)}, rates {tuple(D.shape)}, rotation {tuple(S.shape)}")
        if not bool((D > 0).all()) or not all(math.isfinite(float(rate)) for rate in D):
            raise ConfigError("rates must be positive numbers", variable="rates", fix="rates=[1.0, ...]")
        self.loadings, self.log_rates, self.rotation = nn.Parameter(W), nn.Parameter(D.log()), nn.Parameter(S)
        self.outputs, self.state_dim = W.shape

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Taylor series and doublings."""
        upper, D = torch.triu(self.rotation, diagonal=1), torch.diag(self.log_rates.exp())
        return discretise(upper - upper.mT - 0.5 * D, D, dt)

    def initial(self) -> Tensor:
        """``I``."""
        return torch.eye(self.state_dim, dtype=self.loadings.dtype, device=self.loadings.device)

    def readout(self) -> Tensor:
        """``W``."""
        return self.loadings
