"""Linear processes: a dense stationary SDE, and a sum of kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..gp.kernels import Kernel
from ..statespace.discretise import discretise, unique_steps
from .base import LinearProcess


class StationaryLinear(LinearProcess):
    """``dz = F z dt + G dW`` with ``F = K - D/2``, ``G G^T = D``; ``K`` skew, ``D`` diagonal: stationary ``N(0, I)``.

    Every stable linear SDE is of this form up to a change of basis, which the readout absorbs; it cannot explode.
    ``A(h) = exp(F h)``, ``Q(h) = I - A A^T``.

    Args:
        dim: ``d``. rate: largest starting rate (per model time). generator: starting rotations.

    Example:
        >>> from sciinfer.random import generator
        >>> p = StationaryLinear(2, generator=generator(0, "p"))
        >>> A, Q = p.transition(torch.tensor(1.0, dtype=torch.float64))
        >>> bool(torch.allclose(A @ A.mT + Q, torch.eye(2, dtype=torch.float64)))
        True
    """

    def __init__(self, dim: int, *, rate: float = 0.5, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        spread = torch.linspace(0.0, -3.0, dim, dtype=torch.float64) if dim > 1 else torch.zeros(1, dtype=torch.float64)
        self.log_damping = nn.Parameter(math.log(rate) + spread[torch.randperm(dim, generator=generator)])
        self.rotation = nn.Parameter(torch.randn(dim, dim, generator=generator, dtype=torch.float64) * rate)

    @property
    def spread(self) -> Tensor:
        """``D``'s diagonal ``[d]``, per model time; floored so that no direction is ever noise-free."""
        return 1e-6 + self.log_damping.exp()

    @property
    def drift_matrix(self) -> Tensor:
        """``F [d, d]``."""
        skew = torch.triu(self.rotation, diagonal=1)
        return skew - skew.mT - torch.diag(0.5 * self.spread)

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A = exp(F h)``, ``Q = I - A A^T``."""
        return unique_steps(dt, self._transition)

    def _transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        A = torch.linalg.matrix_exp(self.drift_matrix * dt[..., None, None])
        eye = torch.eye(self.dim, dtype=A.dtype, device=A.device)
        return A, eye - A @ A.mT

    def initial(self) -> tuple[Tensor, Tensor]:
        """``N(0, I)``."""
        eye = torch.eye(self.dim, dtype=self.rotation.dtype, device=self.rotation.device)
        return eye[0] * 0, eye


class KernelProcess(LinearProcess):
    """The state of a kernel as a process.

    Example:
        >>> from sciinfer.gp.kernels import Matern32
        >>> KernelProcess(Matern32()).dim
        2
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel, self.dim = kernel, kernel.state_dim

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel's."""
        return unique_steps(dt, self.kernel.transition)

    def initial(self) -> tuple[Tensor, Tensor]:
        """``N(0, P0)``."""
        P0 = self.kernel.initial()
        return torch.zeros_like(P0[0]), P0


class KnownLinear(LinearProcess):
    """``dz = F z dt + dW`` with covariance rate ``D`` and start ``N(0, P0)``, all given and fixed.

    Example:
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> KnownLinear(-one, 2 * one, one).dim
        1
    """

    def __init__(self, F: Tensor, D: Tensor, P0: Tensor) -> None:
        super().__init__()
        self.dim = F.shape[0]
        for name, value in (("F", F), ("D", D), ("P0", P0)):
            self.register_buffer(name, value)

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """By series and doublings."""
        F, D = self.get_buffer("F"), self.get_buffer("D")
        return unique_steps(dt, lambda step: discretise(F, D, step))

    def initial(self) -> tuple[Tensor, Tensor]:
        """``N(0, P0)``."""
        P0 = self.get_buffer("P0")
        return torch.zeros_like(P0[0]), P0
