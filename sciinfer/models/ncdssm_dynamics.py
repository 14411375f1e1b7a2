"""Continuous-time dynamics whose moments a Gaussian filter can carry: linear, locally linear, nonlinear."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..errors import BudgetError
from ..nets import MLP
from ..processes import LinearProcess, NonlinearProcess
from ..processes.simulate import MAX_STEPS
from ..statespace import Filtered, LinearGaussian, discretise, matvec, symmetrise, unique_steps
from ..statespace.sequential import update


class Stable(nn.Module):
    """``count`` drift matrices ``F = K - diag(c)``, ``K`` skew: none of their mixtures can grow.

    Every stable matrix is of this form up to a change of basis.
    """

    def __init__(self, dim: int, count: int, *, generator: torch.Generator) -> None:
        super().__init__()
        rotation = 0.3 * torch.randn(count, dim, dim, generator=generator, dtype=torch.float64)
        self.rotation = nn.Parameter(rotation)
        self.log_damping = nn.Parameter(torch.full((count, dim), math.log(0.05), dtype=torch.float64))

    def forward(self) -> Tensor:
        """``[count, d, d]``."""
        skew = self.rotation.triu(1)
        return skew - skew.mT - torch.diag_embed(1e-6 + self.log_damping.exp())


class Start(nn.Module):
    """Diagonal diffusion and Gaussian start, shared by the three kinds."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_diffusion = nn.Parameter(torch.full((dim,), math.log(0.2), dtype=torch.float64))
        self.mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_spread = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    @property
    def diffusion(self) -> Tensor:
        """Diagonal of ``G [d]``."""
        return 1e-4 + self.log_diffusion.exp()

    def moments(self) -> tuple[Tensor, Tensor]:
        """``m0 [d]``, ``P0 [d, d]``."""
        return self.mean, torch.diag((2 * self.log_spread).exp())


class FreeLinear(LinearProcess):
    """``dz = F z dt + G dW``, ``F`` stable, ``G`` diagonal, Gaussian start; exact transitions.

    Example:
        >>> from sciinfer.random import generator
        >>> A, Q = FreeLinear(2, generator=generator(0, "p")).transition(torch.zeros(1, dtype=torch.float64))
        >>> bool((A[0] == torch.eye(2)).all()), bool((Q == 0).all())
        (True, True)
    """

    def __init__(self, dim: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.matrices, self.start = Stable(dim, 1, generator=generator), Start(dim)

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """By series and doublings, once per different step."""
        F, D = self.matrices()[0], torch.diag(self.start.diffusion.square())
        return unique_steps(dt, lambda step: discretise(F, D, step))

    def initial(self) -> tuple[Tensor, Tensor]:
        """Learned."""
        return self.start.moments()

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """``F z``."""
        return z @ self.matrices()[0].mT

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Diagonal of ``G``."""
        return self.start.diffusion.expand_as(z)


class FilteredDynamics(NonlinearProcess):
    """``dz = f(z) dt + G dW`` with a local linearisation of ``f``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.start = dim, Start(dim)

    @abstractmethod
    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``f [..., d]`` and the matrix ``[..., d, d]`` that moves a covariance."""

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """``f(z)``."""
        return self.linearise(z)[0]

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Diagonal of ``G``."""
        return self.start.diffusion.expand_as(z)

    def initial(self) -> tuple[Tensor, Tensor]:
        """Learned."""
        return self.start.moments()


class MixedLinear(FilteredDynamics):
    """``f(z) = sum_k a_k(z) F_k z``, ``a = softmax(net(z))``; covariances move by ``sum_k a_k F_k`` at the mean.

    Args:
        dim, count: ``d``, number of matrices. hidden: width of the net. generator: starting weights.
    """

    def __init__(self, dim: int, count: int, hidden: int, *, generator: torch.Generator) -> None:
        super().__init__(dim)
        self.matrices = Stable(dim, count, generator=generator)
        self.net = MLP(dim, count, (hidden,), generator=generator)

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        F = torch.einsum("...k,kij->...ij", self.net(z).softmax(-1), self.matrices())
        return matvec(F, z), F


class Perceptron(FilteredDynamics):
    """``f(z) = F z + W tanh(V z + b)``, with its exact Jacobian ``F + W diag(1 - tanh^2) V``: bounded far away.

    Args:
        dim: ``d``. hidden: width. generator: starting weights.
    """

    def __init__(self, dim: int, hidden: int, *, generator: torch.Generator) -> None:
        super().__init__(dim)
        self.matrices = Stable(dim, 1, generator=generator)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[1]))

        self.into, self.out = normal(hidden, dim), nn.Parameter(0.1 * normal(dim, hidden).detach())
        self.bias = nn.Parameter(torch.zeros(hidden, dtype=torch.float64))

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        F, bent = self.matrices()[0], torch.tanh(z @ self.into.mT + self.bias)
        return z @ F.mT + bent @ self.out.mT, F + (self.out * (1 - bent.square())[..., None, :]) @ self.into


Moments = tuple[Tensor, Tensor, Tensor]


def advance(dynamics: FilteredDynamics, m: Tensor, P: Tensor, gap: Tensor, step: float) -> Moments:
    """Moments after ``gap [B]``, and the transition of small deviations, by Runge-Kutta steps of at most ``step``.

    ``m' = f(m)``, ``P' = J P + P J^T + G G^T``, ``A' = J A``. Each series has its own steps.

    Returns:
        ``m [B, d]``, ``P``, ``A [B, d, d]``.

    Raises:
        BudgetError: a gap is more than ``MAX_STEPS`` steps long.
    """
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    D = torch.diag(dynamics.start.diffusion.square())
    counts = torch.ceil(gap / step).clamp(min=1)
    if bool((counts > MAX_STEPS).any()):
        raise BudgetError(f"a gap of {float(gap.max()):.3g} model times is too long", fix="split the series there")
    h = gap / counts

    def slope(m: Tensor, P: Tensor, A: Tensor) -> Moments:
        f, J = dynamics.linearise(m)
        JP = J @ P
        return f, JP + JP.mT + D, J @ A

    state: Moments = (m, P, eye.expand_as(P))
    for done in range(int(counts.max())):
        state = _runge_kutta(slope, state, h * (done < counts))
    return state[0], symmetrise(state[1]), state[2]


def _runge_kutta(slope, state: Moments, h: Tensor) -> Moments:
    sizes = (h[:, None], h[:, None, None], h[:, None, None])

    def moved(slopes: Moments, factor: float) -> Moments:
        m, P, A = (x + factor * size * s for x, size, s in zip(state, sizes, slopes, strict=True))
        return m, P, A

    k1 = slope(*state)
    k2 = slope(*moved(k1, 0.5))
    k3 = slope(*moved(k2, 0.5))
    k4 = slope(*moved(k3, 1.0))
    m, P, A = ((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
    return moved((m, P, A), 1.0)


def filter_moments(
    dynamics: FilteredDynamics, grid: Tensor, H: Tensor, y: Tensor, step: float
) -> tuple[LinearGaussian, Filtered]:
    """Continuous-discrete Gaussian filter on whitened rows; the problem holds the local transitions for a smoother.

    Args:
        grid: ``[B, N]`` ascending. H: ``[B, N, m, d]``; y: ``[B, N, m]``. step: longest integration step.

    References:
        Särkkä, Solin (2019), Applied stochastic differential equations, ch. 10.
    """
    B, N = grid.shape
    m0, P0 = (part.expand(B, *part.shape) for part in dynamics.initial())
    m, P, A = m0, P0, torch.eye(dynamics.dim, dtype=y.dtype, device=y.device).expand_as(P0)
    rows, values, gaps = H.unbind(1), y.unbind(1), grid.diff(dim=1).unbind(1)
    found: list[list[Tensor]] = [[] for _ in range(6)]
    loglik = torch.zeros_like(grid[:, 0])
    for k in range(N):
        before = P
        if k:
            m, P, A = advance(dynamics, m, P, gaps[k - 1], step)
        Q = symmetrise(P - A @ before @ A.mT)
        ahead = (m, P)
        m, P, gained = update(m, P, rows[k], values[k])
        loglik = loglik + gained
        for part, value in zip(found, (A, Q, *ahead, m, P), strict=True):
            part.append(value)
    A, Q, mean_pred, cov_pred, mean, cov = (torch.stack(part, dim=1) for part in found)
    return LinearGaussian(A, Q, H, y, m0, P0), Filtered(mean, cov, mean_pred, cov_pred, loglik)
