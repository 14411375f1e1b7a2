"""A nonlinear state-space model under Gaussian potentials of low rank: moments, divergence and draws, step by step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BudgetError
from ..nets import MLP, linear
from ..processes.matching import cubature
from ..statespace import cholesky, matvec, symmetrise

#: most substeps of one gap
MAX_STEPS = 10_000
#: stationary variance and damping per model time of a start
_DAMPING, _RATE = 0.2, 0.3


class Potentials(NamedTuple):
    """``t(z) = exp(shift z - |factor^T z|^2 / 2)`` at each time: ``shift [S, T, d]``, ``factor [S, T, d, r]``."""

    shift: Tensor
    factor: Tensor


class Transitions(NamedTuple):
    """Of each row from the one before: substeps ``steps [S, T]`` of length ``h [S, T]``, the linear part's flow
    ``E [S, T, d, d]`` over one, and the noise ``Q [S, T, d]`` (row 0: variance of the start)."""

    steps: Tensor
    h: Tensor
    E: Tensor
    Q: Tensor


class Updates(NamedTuple):
    """What potentials do to a step: the conditional mean moves by ``root (pull - G phi)``.

    ``root [S, T, d]`` of the noise; ``N, G [S, T, d, d]``; ``pull [S, T, d]``; ``constant [S, T]`` of the divergence.
    """

    root: Tensor
    N: Tensor
    G: Tensor
    pull: Tensor
    constant: Tensor


class Moments(NamedTuple):
    """``mean [S, T, d]``, ``cov [S, T, d, d]`` of the posterior; ``divergence [S]`` of its paths from the prior's."""

    mean: Tensor
    cov: Tensor
    divergence: Tensor


class ResidualFlow(nn.Module):
    """``z' = E(h) (z + h g(z))``, ``h`` a part of the gap, then noise ``N(0, Q(gap))``.

    ``E(h) = exp(F h)`` with ``F = K - D/2``, ``K`` skew and ``D > 0`` diagonal, is a contraction and ``g`` is bounded:
    no forecast runs away. ``Q(gap) = q^2 (1 - exp(-D gap)) / D``, zero for a gap of zero.

    Args:
        dim: ``d``. hidden: width of the net ``g``, 0 for none (a linear model). step: longest ``h``, model time.
        generator: starting weights.
    """

    def __init__(self, dim: int, hidden: int, *, step: float, generator: torch.Generator) -> None:
        super().__init__()
        self.dim, self.step = dim, step
        self.rotation = nn.Parameter(_RATE * torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        self.log_damping = nn.Parameter(torch.full((dim,), math.log(_DAMPING), dtype=torch.float64))
        self.log_diffusion = nn.Parameter(torch.full((dim,), 0.5 * math.log(_DAMPING), dtype=torch.float64))
        self.start_mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.net = MLP(dim, hidden, (hidden,), generator=generator) if hidden else None
        self.out = linear(hidden, dim, generator=generator) if hidden else None
        if self.out is not None:
            with torch.no_grad():
                self.out.weight.mul_(0.1)
                self.out.bias.zero_()

    @property
    def drift_matrix(self) -> Tensor:
        """``F [d, d]``."""
        skew = torch.triu(self.rotation, diagonal=1)
        return skew - skew.mT - torch.diag(0.5 * self.log_damping.exp())

    def residual(self, z: Tensor) -> Tensor:
        """``g(z)``."""
        if self.net is None or self.out is None:
            return torch.zeros_like(z)
        return self.out(torch.tanh(self.net(z)))

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """Of the limit of small gaps, ``F z + g(z)``."""
        return z @ self.drift_matrix.mT + self.residual(z)

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """``q``, expanded to ``z``."""
        return self.log_diffusion.exp().expand_as(z)

    def transitions(self, time: Tensor) -> Transitions:
        """For ascending ``time [S, T]``.

        Raises:
            BudgetError: a gap of more than ``MAX_STEPS`` substeps.
        """
        gap = torch.cat([torch.zeros_like(time[:, :1]), time.diff(dim=1)], dim=1)
        count = torch.ceil(gap / self.step).clamp(min=1)
        if self.net is None:
            count = torch.ones_like(count)
        if bool((count > MAX_STEPS).any()):
            raise BudgetError(f"a gap of {float(gap.max()):.3g} model times is too long", fix="ask for nearer times")
        h, D = gap / count, self.log_damping.exp()
        E = torch.linalg.matrix_exp(self.drift_matrix * h[..., None, None])
        Q = (2 * self.log_diffusion).exp() * -torch.expm1(-D * gap[..., None]) / D
        start = (2 * self.log_start).exp().expand(len(time), 1, self.dim)
        return Transitions(count, h, E, torch.cat([start, Q[:, 1:]], dim=1))

    def advance(self, z: Tensor, to: Transitions, k: int) -> Tensor:
        """States ``z [n, S, d]`` of row ``k - 1`` without noise at row ``k``."""
        E, h, count = to.E[:, k], to.h[:, k, None], to.steps[:, k, None]
        for done in range(int(to.steps[:, k].max())):
            moved = matvec(E, z + h * self.residual(z))
            z = moved if done == 0 else torch.where(done < count, moved, z)
        return z


def updates(Q: Tensor, potentials: Potentials) -> Updates:
    """The algebra of ``q(z | phi) prop. to N(z; phi, Q) t(z)``, all rows at once.

    Only matrices of the rank's size are inverted. With ``B = sqrt(Q) factor`` and ``M = I + B^T B``: covariance
    ``sqrt(Q) N sqrt(Q)``, ``N = I - B M^-1 B^T``; mean ``phi + sqrt(Q) (N sqrt(Q) shift - G phi)``,
    ``G = B M^-1 factor^T``. A noise of zero is no exception.
    """
    moves = Q > 0
    # a root of zero has no slope
    root = torch.where(moves, Q, torch.ones_like(Q)).sqrt() * moves
    B = root[..., None] * potentials.factor
    rank = B.shape[-1]
    eye = torch.eye(rank, dtype=B.dtype, device=B.device)
    L = torch.linalg.cholesky(eye + symmetrise(B.mT @ B))
    left = torch.linalg.solve_triangular(L, B.mT, upper=False)
    right = torch.linalg.solve_triangular(L, potentials.factor.mT, upper=False)
    white = torch.eye(B.shape[-2], dtype=B.dtype, device=B.device)
    N = symmetrise(white - left.mT @ left)
    inverse = torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False)
    constant = inverse.square().sum((-2, -1)) - rank + 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Updates(root, N, left.mT @ right, matvec(N, root * potentials.shift), 0.5 * constant)


def smooth(process: ResidualFlow, time: Tensor, potentials: Potentials) -> Moments:
    """Posterior ``q(z_0) prod q(z_k | z_{k-1})``, each factor the prior's times its potential.

    ``KL(q || p) = sum_k E KL(q(z_k | z_{k-1}) || p(z_k | z_{k-1}))``, Gaussian and in closed form given the first two
    moments of the flow, which are taken at cubature points of ``q(z_{k-1})``: exact where the flow is linear.

    Args:
        time: ``[S, T]``, ascending.

    References:
        Dowling, Zhao, Park (2024), eXponential FAmily Dynamical Systems: large-scale nonlinear Gaussian state-space
        modeling. Särkkä, Svensson (2023), Bayesian filtering and smoothing, ch. 8.
    """
    to = process.transitions(time)
    turn, points = updates(to.Q, potentials), cubature(process.dim, time)[:, 0]
    eye = torch.eye(process.dim, dtype=time.dtype, device=time.device)
    mu = process.start_mean.expand(len(time), -1)
    spread = torch.zeros_like(to.E[:, 0])
    means, covs, divergence = [], [], turn.constant.sum(1)
    for k in range(time.shape[1]):
        if k:
            ahead = process.advance(means[-1] + matvec(_root(covs[-1]), points), to, k)
            mu = ahead.mean(0)
            away = ahead - mu
            spread = torch.einsum("nsi,nsj->sij", away, away) / len(ahead)
        root, N, G = turn.root[:, k], turn.N[:, k], turn.G[:, k]
        move = turn.pull[:, k] - matvec(G, mu)
        divergence = divergence + 0.5 * (move.square().sum(-1) + ((G @ spread) * G).sum((-2, -1)))
        keep = eye - root[:, :, None] * G
        means.append(mu + root * move)
        covs.append(symmetrise(root[:, :, None] * N * root[:, None, :] + keep @ spread @ keep.mT))
    return Moments(torch.stack(means, 1), torch.stack(covs, 1), divergence)


def draw(process: ResidualFlow, time: Tensor, potentials: Potentials, n: int, generator: torch.Generator) -> Tensor:
    """``n`` paths ``[n, S, T, d]`` of the same posterior, exact: nothing is taken to be Gaussian but each step."""
    to = process.transitions(time)
    turn = updates(to.Q, potentials)
    shape = (n, *time.shape, process.dim)
    noise = torch.randn(shape, generator=generator, dtype=time.dtype, device=time.device)
    roots = turn.root[..., None] * torch.linalg.cholesky(turn.N)
    phi, path = process.start_mean.expand(n, len(time), -1), []
    for k in range(time.shape[1]):
        if k:
            phi = process.advance(path[-1], to, k)
        move = turn.pull[:, k] - matvec(turn.G[:, k], phi)
        path.append(phi + turn.root[:, k] * move + matvec(roots[:, k], noise[:, :, k]))
    return torch.stack(path, dim=2)


def _root(P: Tensor) -> Tensor:
    return cholesky(P, what="posterior covariance")
