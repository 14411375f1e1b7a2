"""Products of kernels by Kronecker states, and kernels times a number."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import ConfigError
from .base import Kernel, positive
from .sum import Sum


class Product(Kernel):
    """``k = prod_i k_i`` of stationary kernels; the state is the Kronecker product of the parts' states.

    ``A = A1 x A2`` and ``Q = M1 x Q2 + Q1 x M2 + Q1 x Q2`` with ``M = A P A^T``: only sums of positive terms.

    Raises:
        ConfigError: a part is not stationary (its noise would depend on absolute time) or has several outputs.

    References:
        Solin, Särkkä (2014), Explicit link between periodic covariance functions and state space models.

    Example:
        >>> from sciinfer.gp.kernels import Cosine, Matern32
        >>> (Matern32(lengthscale=5.0) * Cosine(period=1.0)).state_dim
        4
    """

    def __init__(self, *parts: Kernel) -> None:
        super().__init__()
        flat = [leaf for part in parts for leaf in (part.parts if isinstance(part, Product) else [part])]
        for part in flat:
            if not part.stationary or part.outputs != 1:
                raise ConfigError(
                    f"{type(part).__name__} cannot be a factor", fix="multiply stationary kernels of one output"
                )
        self._parts = nn.ModuleList(flat)
        self.state_dim = 1
        for part in flat:
            self.state_dim *= part.state_dim

    @property
    def parts(self) -> list[Kernel]:
        """The factors."""
        return [part for part in self._parts if isinstance(part, Kernel)]

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Kronecker products, factor by factor."""
        first, *others = self.parts
        A, Q = first.transition(dt)
        P = first.initial()
        for part in others:
            A2, Q2 = part.transition(dt)
            P2 = part.initial()
            M, M2 = A @ P @ A.mT, A2 @ P2 @ A2.mT
            Q = kron(M, Q2) + kron(Q, M2) + kron(Q, Q2)
            A, P = kron(A, A2), kron(P, P2)
        return A, Q

    def initial(self) -> Tensor:
        """Kronecker product."""
        first, *others = (part.initial() for part in self.parts)
        for other in others:
            first = kron(first, other)
        return first

    def readout(self) -> Tensor:
        """Kronecker product."""
        first, *others = (part.readout() for part in self.parts)
        for other in others:
            first = (first[:, None] * other).reshape(-1)
        return first

    def truncation(self) -> float:
        """The factors' together."""
        return sum(part.truncation() for part in self.parts)


class Scaled(Kernel):
    """``c k`` with a fixed ``c > 0``.

    Example:
        >>> from sciinfer.gp.kernels import Matern12
        >>> round((2.0 * Matern12(variance=3.0)).initial().item(), 9)
        6.0
    """

    def __init__(self, kernel: Kernel, factor: float) -> None:
        super().__init__()
        self.kernel, self.factor = kernel, positive("factor", factor)
        self.state_dim, self.stationary, self.outputs = kernel.state_dim, kernel.stationary, kernel.outputs

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """``A, c Q``."""
        A, Q = self.kernel.transition(dt)
        return A, self.factor * Q

    def initial(self) -> Tensor:
        """``c P0``."""
        return self.factor * self.kernel.initial()

    def readout(self) -> Tensor:
        """The kernel's own."""
        return self.kernel.readout()

    def truncation(self) -> float:
        """The kernel's own."""
        return self.kernel.truncation()


def kron(X: Tensor, Y: Tensor) -> Tensor:
    """Kronecker product of square matrices with broadcastable leading dims."""
    out = X[..., :, None, :, None] * Y[..., None, :, None, :]
    n = X.shape[-1] * Y.shape[-1]
    return out.reshape(*out.shape[:-4], n, n)


def distribute(kernel: Kernel) -> list[Kernel]:
    """The summed parts of a kernel, or the kernel itself."""
    return kernel.parts if isinstance(kernel, Sum) else [kernel]
