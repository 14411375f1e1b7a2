"""Stochastic differential equations with an unknown graph: which variable's drift depends on which others.

The drift of variable ``j`` is additive in its parents, ``h_j(z) = b_j + sum_i G_ij w_ij . phi(z_i)``, ``G_ij`` zero or
one. For independent Bernoulli edges and Gaussian weights its mean and variance are in closed form, so the expected path
divergence needs neither sampled graphs nor relaxed ones; given the paths, the posterior over the parents of a variable
is a sum over sets, exact for few variables.

References:
    Wang, Jennings, Gong (2024), Neural structure learning with stochastic differential equations.
    Titsias, Lázaro-Gredilla (2011), Spike and slab variational inference for multi-task and multiple kernel learning.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..statespace import cholesky
from ..statespace.discretise import discretise, unique_steps
from .linear import LinearProcess
from .neural import AnchoredSDE

#: functions of each parent
FEATURES = 6
#: values beyond this many standard deviations act like this many
REACH = 3.0
#: learning rates suit numbers near one: edges must be able to become certain within a fit
_SCALE = 10.0
#: most variables for which all sets of parents are summed over
MOST = 12


def features(z: Tensor) -> Tensor:
    """Hermite polynomials of degree 1 to 6 of ``s = 3 tanh(z / 3)``, bounded and orthonormal for small ``z ~ N(0, 1)``:
    ``[..., d] -> [..., d, 6]``, by ``sqrt(n + 1) p_{n+1} = s p_n - sqrt(n) p_{n-1}``."""
    s = REACH * torch.tanh(z / REACH)
    found = [torch.ones_like(s), s]
    for n in range(1, FEATURES):
        found.append((s * found[-1] - math.sqrt(n) * found[-2]) / math.sqrt(n + 1))
    return torch.stack(found[1:], dim=-1)


class Spread(nn.Module):
    """Diagonal diffusion, and the linear drift that a bridge starts from."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_spread = nn.Parameter(torch.full((dim,), -1.0, dtype=torch.float64))

    @property
    def spread(self) -> Tensor:
        """Diagonal of ``G G^T``, ``[d]``."""
        return 1e-6 + self.log_spread.exp()

    @property
    def drift_matrix(self) -> Tensor:
        """Relaxation to zero, ``[d, d]``."""
        return -0.5 * torch.eye(len(self.log_spread), dtype=self.log_spread.dtype, device=self.log_spread.device)


class GraphSDE(AnchoredSDE):
    """``dz_j = (h_j(z) - c_j (z_j - 3 tanh(z_j / 3))) dt + g_j dW_j`` with an uncertain graph and uncertain weights.

    A variable always sees itself; the second term, negligible within the data's range, keeps long rollouts finite.
    ``drift`` is the posterior mean of the drift.

    Args:
        dim: ``d``. edge: prior probability of an edge. generator: starting weights.

    Example:
        >>> from sciinfer.random import generator
        >>> p = GraphSDE(3, edge=0.2, generator=generator(0, "p"))
        >>> z = torch.zeros(5, 3, dtype=torch.float64)
        >>> p.drift(z[:, 0], z).shape, p.edge_probabilities().diagonal().tolist()
        (torch.Size([5, 3]), [1.0, 1.0, 1.0])
    """

    def __init__(self, dim: int, *, edge: float = 0.2, generator: torch.Generator) -> None:
        super().__init__()
        self.dim = dim
        self.prior_logit = math.log(edge / (1 - edge))
        self.linear = Spread(dim)
        self.logits = nn.Parameter(torch.zeros(dim, dim, dtype=torch.float64))
        shape = (dim, dim, FEATURES)
        self.weight = nn.Parameter(0.01 * torch.randn(shape, generator=generator, dtype=torch.float64))
        self.log_width = nn.Parameter(torch.full(shape, math.log(0.1), dtype=torch.float64))
        self.log_slab = nn.Parameter(torch.zeros(FEATURES, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_confinement = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.start_mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def edge_probabilities(self) -> Tensor:
        """``q(G_ij = 1) [from, to]``; one on the diagonal."""
        eye = torch.eye(self.dim, dtype=torch.bool, device=self.logits.device)
        return torch.where(eye, torch.ones_like(self.logits), (_SCALE * self.logits).sigmoid())

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        """``E[h(z)]`` over graphs and weights, and the confinement."""
        mean = self.edge_probabilities()[..., None] * self.weight
        return torch.einsum("...ib,ijb->...j", features(z), mean) + self.bias - self.confinement(z)

    def confinement(self, z: Tensor) -> Tensor:
        """``c (z - 3 tanh(z / 3))``."""
        return self.log_confinement.exp() * (z - REACH * torch.tanh(z / REACH))

    def drift_variance(self, z: Tensor) -> Tensor:
        """``var[h(z)] [..., d]`` over graphs and weights."""
        p, phi = self.edge_probabilities(), features(z)
        effect = torch.einsum("...ib,ijb->...ij", phi, self.weight)
        doubt = torch.einsum("...ib,ijb->...ij", phi.square(), (2 * self.log_width).exp())
        return (p * (1 - p) * effect.square() + p * doubt).sum(-2)

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        """Constant."""
        return self.linear.spread.sqrt().expand_as(z)

    def initial(self) -> tuple[Tensor, Tensor]:
        """Learned ``N(m0, diag)``."""
        return self.start_mean, torch.diag(self.log_start.exp().square())

    def adopt(self, parents: Parents) -> None:
        """Start from a posterior over parents; no edge is so certain that it could not change."""
        with torch.no_grad():
            self.logits.copy_(parents.edges.clamp(0.05, 0.95).logit() / _SCALE)
            self.weight.copy_(parents.weight)
            self.bias.copy_(parents.bias)

    def divergence(self) -> Tensor:
        """``KL(q(G, w) || p(G, w))``, a scalar, paid once for all data."""
        p, logit = self.edge_probabilities(), _SCALE * self.logits
        off = ~torch.eye(self.dim, dtype=torch.bool, device=p.device)
        softplus = nn.functional.softplus
        graph = p * (logit - self.prior_logit) - softplus(logit) + softplus(torch.full_like(logit, self.prior_logit))
        variance, slab = (2 * self.log_width).exp(), (2 * self.log_slab).exp()
        slope = 0.5 * ((variance + self.weight.square()) / slab - 1) - self.log_width + self.log_slab
        return (graph * off).sum() + (p[..., None] * slope).sum()


class FreeLinear(LinearProcess):
    """``dz = F z dt + diag(spread)^(1/2) dW`` with everything free: the linear model that a graph's search starts from.

    Args:
        dim: ``d``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.matrix = nn.Parameter(-0.5 * torch.eye(dim, dtype=torch.float64))
        self.log_spread = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.start_mean = nn.Parameter(torch.zeros(dim, dtype=torch.float64))
        self.log_start = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """By series and doublings."""
        D = torch.diag(self.log_spread.exp())
        return unique_steps(dt, lambda step: discretise(self.matrix, D, step))

    def initial(self) -> tuple[Tensor, Tensor]:
        """``N(m0, diag)``."""
        return self.start_mean, torch.diag((2 * self.log_start).exp())


class DriftMoments(NamedTuple):
    """What posterior paths say about the drift: ``gram [m, m]`` = ``int E[Phi Phi^T] dt`` and ``cross [m, d]`` =
    ``int E[Phi f] dt`` with ``Phi = (1, phi(z))`` and posterior drift ``f``."""

    gram: Tensor
    cross: Tensor


def drift_moments(prior: GraphSDE, z: Tensor, drift: Tensor, weights: Tensor) -> DriftMoments:
    """Sums over series, times and points.

    Args:
        z, drift: ``[P, S, K, d]`` states and posterior drifts. weights: ``[S, K]`` of the time quadrature.
    """
    phi = features(z).flatten(-2)
    Phi = torch.cat([torch.ones_like(phi[..., :1]), phi], dim=-1)
    w = weights[..., None] / len(z)
    target = drift + prior.confinement(z)
    return DriftMoments(torch.einsum("pska,pskb->ab", Phi * w, Phi), torch.einsum("pska,pskj->aj", Phi * w, target))


class Parents(NamedTuple):
    """``edges [from, to]``: probabilities; ``weight [from, to, 6]``: mean of ``w`` given the edge; ``bias [d]``."""

    edges: Tensor
    weight: Tensor
    bias: Tensor


def parent_posterior(prior: GraphSDE, moments: DriftMoments) -> Parents:
    """``P(i -> j | paths)``, summed over all sets of parents of each variable.

    The evidence of a set is that of Bayesian linear regression, ``1/2 r^T M^{-1} r - 1/2 log|M| - 1/2 log|slab|``.

    Raises:
        ConfigError: more variables than can be enumerated.
    """
    d = prior.dim
    if d > MOST:
        raise ConfigError(f"all parents of {d} variables cannot be enumerated", fix=f"at most {MOST}")
    edges, weight, bias = zip(*(_parents_of(prior, moments, j) for j in range(d)), strict=True)
    return Parents(torch.stack(edges, dim=1), torch.stack(weight, dim=1), torch.stack(bias))


def _parents_of(prior: GraphSDE, moments: DriftMoments, j: int) -> tuple[Tensor, Tensor, Tensor]:
    """Edge probabilities ``[d]`` into variable ``j``, mean weights ``[d, 6]`` given each edge, bias."""
    d = prior.dim
    sets = [(j, *s) for k in range(d) for s in itertools.combinations([i for i in range(d) if i != j], k)]
    fits = [_regress(prior, moments, j, parents) for parents in sets]
    share = torch.stack([score for score, _ in fits]).softmax(0)
    edges = torch.stack([share[[i in parents for parents in sets]].sum() for i in range(d)])
    total = torch.einsum("s,sm->m", share, torch.stack([solution for _, solution in fits]))
    weight = total[1:].reshape(d, FEATURES) / edges.clamp(min=1e-12)[:, None]
    return edges, weight, total[0]


def _regress(prior: GraphSDE, moments: DriftMoments, j: int, parents: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Log-evidence of a set of parents, and the mean of all weights ``[1 + 6 d]``, zero where there is no edge."""
    columns = [0, *(1 + FEATURES * i + b for i in parents for b in range(FEATURES))]
    # the bias is not penalised in any way that matters
    slab = torch.cat([torch.full_like(prior.log_slab[:1], 100.0), (2 * prior.log_slab).exp().repeat(len(parents))])
    s2 = prior.linear.spread[j]
    M = moments.gram[columns][:, columns] / s2 + torch.diag(1 / slab)
    r = moments.cross[columns, j] / s2
    root = cholesky(M, what="precision of the drift's weights")
    mean = torch.cholesky_solve(r[:, None], root)[:, 0]
    logs = root.diagonal().log().sum() + 0.5 * slab.log().sum()
    whole = torch.zeros_like(moments.cross[:, 0])
    whole[columns] = mean
    return 0.5 * (r @ mean) - logs + (len(parents) - 1) * prior.prior_logit, whole
