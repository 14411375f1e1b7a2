"""Continuous-time dynamics whose moments a Gaussian filter can carry: linear, locally linear, nonlinear."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BudgetError
from ..nets import MLP
from ..processes import LinearProcess, NonlinearProcess
from ..processes.simulate import MAX_STEPS
from ..statespace import Filtered, LinearGaussian, discretise, matvec, outer_form, symmetrise, unique_steps
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
    """``dz = f(z) dt + G dW`` with a local linearisation of ``f``; ``F [count, d, d]`` are the matrices, built once per
    pass over the data."""

    matrices: Stable

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.start = dim, Start(dim)

    @abstractmethod
    def velocity(self, z: Tensor, F: Tensor) -> Tensor:
        """``f(z) [..., d]``."""

    @abstractmethod
    def jacobian(self, z: Tensor, F: Tensor) -> Tensor:
        """The matrix ``[..., d, d]`` that moves a covariance."""

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """``f(z)``."""
        return self.velocity(z, self.matrices())

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

    def velocity(self, z: Tensor, F: Tensor) -> Tensor:
        """See the class."""
        return matvec(self.jacobian(z, F), z)

    def jacobian(self, z: Tensor, F: Tensor) -> Tensor:
        """See the class."""
        return (self.net(z).softmax(-1) @ F.flatten(1)).unflatten(-1, F.shape[1:])


class Perceptron(FilteredDynamics):
    """``f(z) = F z + W tanh(V z + b)``, with its exact Jacobian ``F + W diag(1 - tanh^2) V``: bounded far away.

    Args:
        dim: ``d``. hidden: width. generator: starting weights.
    """

    def __init__(self, dim: int, hidden: int, *, generator: torch.Generator) -> None:
        super().__init__(dim)
        self.matrices = Stable(dim, 1, generator=generator)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[1])

        self.into, self.out = nn.Parameter(normal(hidden, dim)), nn.Parameter(0.1 * normal(dim, hidden))
        self.bias = nn.Parameter(torch.zeros(hidden, dtype=torch.float64))

    def velocity(self, z: Tensor, F: Tensor) -> Tensor:
        """See the class."""
        return z @ F[0].mT + torch.tanh(z @ self.into.mT + self.bias) @ self.out.mT

    def jacobian(self, z: Tensor, F: Tensor) -> Tensor:
        """See the class."""
        slope = 1 - torch.tanh(z @ self.into.mT + self.bias).square()
        return F[0] + (self.out * slope[..., None, :]) @ self.into


def linear_step(J: Tensor, D: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """``A = exp(J h)`` and ``Q = int_0^h exp(J s) D exp(J s)^T ds`` of a short step, by one exponential.

    Args:
        J: ``[B, d, d]``. D: ``[d, d]``. h: ``[B]``.

    References:
        Van Loan (1978), Computing integrals involving the matrix exponential.
    """
    d = J.shape[-1]
    upper = torch.cat([J, D.expand_as(J)], dim=-1)
    lower = torch.cat([torch.zeros_like(J), -J.mT], dim=-1)
    found = torch.linalg.matrix_exp(torch.cat([upper, lower], dim=-2) * h[:, None, None])
    A = found[:, :d, :d]
    return A, symmetrise(found[:, :d, d:] @ A.mT)


class Step(NamedTuple):
    """After a gap: mean ``[B, d]``, and ``A, Q [B, d, d]`` such that a covariance becomes ``A P A^T + Q``."""

    mean: Tensor
    A: Tensor
    Q: Tensor


def advance(dynamics: FilteredDynamics, m: Tensor, gap: Tensor, step: float, F: Tensor, D: Tensor) -> Step:
    """Carry the moments over ``gap [B]`` by steps of at most ``step``, as many as each series needs.

    ``m' = f(m)`` by Runge-Kutta (order 4); deviations by the exact flow of the Jacobian in the middle of the step
    (order 2, exact for linear ``f``), under which a covariance stays positive.

    Raises:
        BudgetError: a gap is more than ``MAX_STEPS`` steps long.
    """
    counts = torch.ceil(gap / step).clamp(min=1)
    if bool((counts > MAX_STEPS).any()):
        raise BudgetError(f"a gap of {float(gap.max()):.3g} model times is too long", fix="split the series there")
    A = torch.eye(dynamics.dim, dtype=m.dtype, device=m.device).expand(len(m), -1, -1)
    Q = torch.zeros_like(A)
    for done in range(int(counts.max())):
        h = gap / counts * (done < counts)
        m, middle = _runge_kutta(dynamics, m, h[:, None], F)
        one, noise = linear_step(dynamics.jacobian(middle, F), D, h)
        Q = noise if done == 0 else outer_form(one, Q) + noise
        A = one @ A
    return Step(m, A, Q)


def _runge_kutta(dynamics: FilteredDynamics, m: Tensor, h: Tensor, F: Tensor) -> tuple[Tensor, Tensor]:
    """The state after ``h`` and that in the middle."""
    k1 = dynamics.velocity(m, F)
    k2 = dynamics.velocity(m + 0.5 * h * k1, F)
    middle = m + 0.5 * h * k2
    k3 = dynamics.velocity(middle, F)
    k4 = dynamics.velocity(m + h * k3, F)
    return m + h / 6 * (k1 + 2 * (k2 + k3) + k4), middle


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
    F, D = dynamics.matrices(), torch.diag(dynamics.start.diffusion.square())
    eye = torch.eye(dynamics.dim, dtype=y.dtype, device=y.device).expand_as(P0)
    m, P, ahead = m0, P0, Step(m0, eye, torch.zeros_like(eye))
    rows, values, gaps = H.unbind(1), y.unbind(1), grid.diff(dim=1).unbind(1)
    found: list[list[Tensor]] = [[] for _ in range(6)]
    loglik = torch.zeros_like(grid[:, 0])
    for k in range(N):
        if k:
            ahead = advance(dynamics, m, gaps[k - 1], step, F, D)
            m, P = ahead.mean, outer_form(ahead.A, P) + ahead.Q
        predicted = (ahead.A, ahead.Q, m, P)
        m, P, gained = update(m, P, rows[k], values[k])
        loglik = loglik + gained
        for part, value in zip(found, (*predicted, m, P), strict=True):
            part.append(value)
    A, Q, mean_pred, cov_pred, mean, cov = (torch.stack(part, dim=1) for part in found)
    return LinearGaussian(A, Q, H, y, m0, P0), Filtered(mean, cov, mean_pred, cov_pred, loglik)
