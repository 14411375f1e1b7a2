"""Nearest neighbours: a Vecchia prior over the latents, every value given its nearest predecessors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ..gp.spatial import Covariance
from ..gp.spatial.conditionals import blocks, condition_last
from ..likelihoods import Likelihood
from ..statespace.sites import Sites
from .sparse_gp_vae_core import Latents, RowBatch, RowGPVAE, Whitened, condition_whitened, in_double, ordered, variances

POSTERIORS = ("structured", "mean-field")
#: the structured posterior holds a matrix of this many points squared for each latent
LARGEST = 4000
#: distances held at once
_BLOCK = 4_000_000


class Plan(NamedTuple):
    """Distinct inputs ``points [S, P, D]`` in the order of the factorisation, ``valid [S, P]``, the nearest
    predecessors ``near [S, P, H]`` (-1: none), and the point of each row, ``owner [S, T]``."""

    points: Tensor
    valid: Tensor
    near: Tensor
    owner: Tensor


class NeighbourGPVAE(RowGPVAE):
    """``p(z) = prod_i p(z_i | z_near(i))`` with ``H`` neighbours, in place of the full prior.

    ``posterior="mean-field"``: ``q(z) = prod_i q(z_i)``, each the prior's marginal times its potentials; then ``KL =
    sum_i E_q KL(q(z_i) || p(z_i | z_near(i)))`` in closed form, and any share of its terms estimates it without bias:
    ``loss(..., batch=b)`` touches ``b (H + 1)`` points. ``"structured"``: ``q(z) prop p(z) prod_i t_i(z_i)``, exact
    under the potentials and better calibrated, ``O(n^3)``. Rows at the same input share one value, their potentials
    add. ``H = n - 1`` is the full prior.

    Args:
        covariances: one for each latent. channels: ``C``. neighbours: ``H``. posterior: of the two above.
        likelihood, hidden, pairs, generator: see :class:`RowGPVAE`.

    References:
        Shi et al. (2025), Neighbour-driven Gaussian process variational autoencoders.
        Wu, Pleiss, Cunningham (2022), Variational nearest neighbor Gaussian process.

    Example:
        >>> from sciinfer.gp.spatial import Matern
        >>> from sciinfer.random import generator
        >>> model = NeighbourGPVAE([Matern(1.5)], 2, neighbours=4, generator=generator(0, "weights"))
        >>> x = torch.linspace(0, 6, 40, dtype=torch.float64)[:, None]
        >>> losses = model.fit(x, torch.cat([x.sin(), -x.sin()], 1), steps=20, generator=generator(0, "fit"))
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        covariances: Sequence[Covariance],
        channels: int,
        *,
        neighbours: int = 10,
        posterior: str = "structured",
        likelihood: Likelihood | None = None,
        hidden: tuple[int, ...] = (),
        pairs: int = 1,
        generator: torch.Generator,
    ) -> None:
        super().__init__(covariances, channels, likelihood=likelihood, hidden=hidden, pairs=pairs, generator=generator)
        if neighbours < 1:
            raise ConfigError(f"{neighbours} neighbours", variable="neighbours", fix="neighbours=10")
        if posterior not in POSTERIORS:
            raise ConfigError(f"unknown posterior {posterior!r}", variable="posterior", fix=" or ".join(POSTERIORS))
        self.neighbours, self.form = neighbours, posterior
        self._last: tuple[Tensor, Tensor, Plan] | None = None

    # -- who is near whom ----------------------------------------------------------------------------------------

    def plan(self, data: RowBatch) -> Plan:
        """Distinct inputs of the rows that hold a value, their order and neighbours; kept for the same data."""
        if self._last is not None and _same(self._last[0], data.x) and _same(self._last[1], data.rows):
            return self._last[2]
        found = plan_of(data.x, data.rows, self.neighbours)
        self._last = data.x, data.rows, found
        return found

    def gathered(self, sites: Sites, plan: Plan) -> Sites:
        """Potentials of the points, ``[S, P, K]``: those of rows at the same input add."""
        where = plan.owner[..., None]
        shape = (*plan.valid.shape, sites.precision.shape[-1])
        return Sites(*(part.new_zeros(shape).scatter_add(1, where.expand(part.shape), part).double() for part in sites))

    # -- the two posteriors --------------------------------------------------------------------------------------

    def posterior(self, data: RowBatch, sites: Sites) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`RowGPVAE`."""
        plan = self.plan(data)
        at = self.gathered(sites, plan)
        if self.form == "structured":
            q, A = self._structured(plan, at)
            (mean, variance), divergence = q.moments(A), q.divergence()
        else:
            mean, variance = self._marginals(plan, at)
            divergence = (
                self.divergences(plan, mean, variance, torch.arange(plan.valid.numel())).view(plan.valid.shape).sum(1)
            )
        where = plan.owner[..., None].expand(*plan.owner.shape, mean.shape[-1])
        like = data.values
        return mean.gather(1, where).to(like), variance.gather(1, where).to(like), divergence.to(like)

    def _marginals(self, plan: Plan, at: Sites) -> tuple[Tensor, Tensor]:
        """Of the mean-field posterior, ``[S, P, K]``."""
        precision = variances(self.covariances, plan.points).reciprocal() + at.precision
        return at.shift / precision, precision.reciprocal()

    def divergences(self, plan: Plan, mean: Tensor, variance: Tensor, which: Tensor) -> Tensor:
        """``E_q KL(q(z_i) || p(z_i | z_near(i)))`` summed over latents, ``[b]``, of the flat points ``which [b]``."""
        index = self._index(plan)[which.to(plan.near.device)]
        known, last = (index[:, :-1] >= 0), index[:, -1]
        rows = index[:, :-1].clamp(min=0)
        total = torch.zeros_like(index[:, 0], dtype=torch.float64)
        for k in range(len(self.covariances)):
            m, s = mean[..., k].flatten(), variance[..., k].flatten()
            weights, left = self._conditional(k, plan.points.flatten(0, 1), index)
            weights = torch.where(known, weights, torch.zeros_like(weights))
            miss = (m[last] - (weights * m[rows]).sum(-1)).square() + (weights.square() * s[rows]).sum(-1) + s[last]
            total = total + 0.5 * (left.log() - s[last].log() - 1 + miss / left)
        return torch.where(plan.valid.flatten()[which.to(plan.near.device)], total, torch.zeros_like(total))

    def _index(self, plan: Plan) -> Tensor:
        """Neighbours and the point itself as flat positions, ``[S P, H + 1]``."""
        S, P, _ = plan.near.shape
        offset = P * torch.arange(S, device=plan.near.device)[:, None, None]
        near = torch.where(plan.near >= 0, plan.near + offset, plan.near)
        own = torch.arange(S * P, device=plan.near.device).view(S, P, 1)
        return torch.cat([near, own], dim=-1).flatten(0, 1)

    def _conditional(self, k: int, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[b, H]`` and variances ``[b]`` of the last of ``index [b, H + 1]`` given the others."""
        x = x.double()
        found = condition_last(blocks(in_double(self.covariances[k]), x, torch.zeros_like(x[:, 0]), index))
        return found.weights, found.variance

    def _structured(self, plan: Plan, at: Sites) -> tuple[Whitened, Tensor]:
        """``z = R e``, ``e`` standard normal under the prior: ``R = (I - B)^-1 F^(1/2)``; ``A = R^T [S, K, P, P]``."""
        S, P, _ = plan.near.shape
        if P > LARGEST:
            raise ConfigError(
                f"{P} points are too many for the structured posterior",
                variable="posterior",
                fix='posterior="mean-field"',
            )
        index, roots = self._index(plan), []
        column = plan.near.clamp(min=0)
        for k in range(len(self.covariances)):
            weights, left = (part.view(S, P, -1) for part in self._conditional(k, plan.points.flatten(0, 1), index))
            weights = torch.where(plan.near >= 0, weights, torch.zeros_like(weights))
            U = torch.eye(P, dtype=weights.dtype, device=weights.device) - weights.new_zeros(S, P, P).scatter_add(
                2, column, weights
            )
            scale = torch.where(plan.valid, left[..., 0], torch.ones_like(left[..., 0])).sqrt()
            roots.append(torch.linalg.solve_triangular(U, torch.diag_embed(scale), upper=False, unitriangular=True))
        A = torch.stack(roots, dim=1).mT
        return condition_whitened(A, at), A

    # -- a share of the rows -------------------------------------------------------------------------------------

    def part(self, data: RowBatch, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """See :class:`RowGPVAE`; with the mean-field posterior only points near ``rows`` are looked at.

        A point belongs to the batch through its rows: each row carries its share of its point's divergence.
        """
        if self.form == "structured":
            return super().part(data, rows, generator)
        plan = self.plan(data)
        owner, owners = plan.owner[0], plan.owner[0][rows]
        needed = torch.zeros(plan.valid.shape[1], dtype=torch.bool, device=rows.device)
        needed[owners] = True
        needed[plan.near[0][owners].clamp(min=0).flatten()] = True
        seen = (needed[owner] & data.rows[0]).nonzero()[:, 0]
        some = RowBatch(*(part[:, seen] for part in data))
        at = self.gathered(self.sites(some), plan._replace(owner=plan.owner[:, seen]))
        mean, variance = self._marginals(plan, at)
        count = torch.zeros_like(needed, dtype=torch.float64).index_add_(0, owner, data.rows[0].double())
        divergence = (self.divergences(plan, mean, variance, owners) / count[owners]).sum()
        mine, like = RowBatch(*(part[:, rows] for part in data)), data.values
        fit = self.expected(mine, mean[:, owners].to(like), variance[:, owners].to(like), generator).sum()
        share = int(data.rows.sum()) / len(rows)
        return fit * share, divergence.to(like) * share

    # -- draws ---------------------------------------------------------------------------------------------------

    def latent(self, data: RowBatch, query: Tensor, draws: int, generator: torch.Generator) -> Latents:
        """See :class:`RowGPVAE`; asked points one after another, given the nearest data and the asked ones before."""
        plan = self.plan(data)
        at = self.gathered(self.sites(data), plan)
        if self.form == "structured":
            q, A = self._structured(plan, at)
            z = (A.mT @ q.sample(draws, generator).unsqueeze(-1)).squeeze(-1).mT
        else:
            mean, variance = self._marginals(plan, at)
            shape = (draws, *mean.shape)
            noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
            z = mean + variance.sqrt() * noise
        return Latents(self._extend(plan.points, plan.valid, z, query, generator).to(data.values))

    def prior(self, query: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Draws of the nearest-neighbour process."""
        blank, nothing = query[:, :1], torch.zeros_like(query[:, :1, 0], dtype=torch.bool)
        z = query.new_zeros(draws, len(query), 1, len(self.covariances), dtype=torch.float64)
        return self._extend(blank, nothing, z, query, generator).to(query)

    def _extend(self, points: Tensor, valid: Tensor, z: Tensor, query: Tensor, generator: torch.Generator) -> Tensor:
        ask = ordered(query)
        S, P, Q = *valid.shape, ask.x.shape[1]
        x = torch.cat([points, ask.x], dim=1)
        fresh = ask.first == torch.arange(Q, device=x.device)
        index = nearest_sources(x, torch.cat([valid, fresh], 1), P, self.neighbours)
        offset = (P + Q) * torch.arange(S, device=x.device)[:, None, None]
        own = torch.arange(P, P + Q, device=x.device).expand(S, Q)[..., None]
        flat = torch.cat([torch.where(index >= 0, index + offset, index), own + offset], -1).flatten(0, 1)
        parts = [self._conditional(k, x.flatten(0, 1), flat) for k in range(len(self.covariances))]
        weights = torch.stack([w for w, _ in parts], -1).view(S, Q, -1, len(parts)) * (index >= 0)[..., None]
        spread = torch.stack([v for _, v in parts], -1).view(S, Q, len(parts)).sqrt()
        shape = (len(z), S, Q, len(parts))
        noise = torch.randn(shape, generator=generator, dtype=z.dtype, device=z.device) * spread
        rows, path = index.clamp(min=0), torch.cat([z, torch.zeros_like(noise)], dim=2)
        for q in range(Q):
            where = rows[:, q, :, None].expand(len(z), S, -1, len(parts))
            path[:, :, P + q] = (weights[:, q] * path.gather(2, where)).sum(2) + noise[:, :, q]
        return ask.restore(path[:, :, P:])


def _same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def plan_of(x: Tensor, rows: Tensor, neighbours: int) -> Plan:
    """The plan for ``x [S, T, D]``; rows that are False belong to no point. One input: by value, else by maximin."""
    order = torch.sort((~rows).to(torch.int8), dim=1, stable=True).indices
    kept = x.gather(1, order[..., None].expand(x.shape))
    count = rows.sum(1)
    # rows without a value repeat the last one that has one, so that they open no point of their own
    last = (count - 1).clamp(min=0)[:, None]
    place = torch.minimum(torch.arange(x.shape[1], device=x.device)[None], last)
    ask = ordered(kept.gather(1, place[..., None].expand(x.shape)))
    number = (ask.first == torch.arange(x.shape[1], device=x.device)).cumsum(1) - 1
    width = int(number.max()) + 1
    points = ask.x.new_zeros(len(x), width, x.shape[2]).scatter(1, number[..., None].expand(x.shape), ask.x)
    valid = torch.arange(width, device=x.device) <= number[:, -1:]
    owner = torch.zeros_like(order).scatter(1, order, number.gather(1, ask.back))
    valid = valid & (count > 0)[:, None]
    if x.shape[2] > 1:
        points, valid, owner = _spread(points, valid, owner)
    return Plan(points, valid, nearest_sources(points, valid, 0, neighbours), owner)


def _spread(points: Tensor, valid: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points in maximin order, those of padding last."""
    from ..gp.spatial import maximin

    order = torch.arange(points.shape[1], device=points.device).repeat(len(points), 1)
    for s in range(len(points)):
        inside = valid[s].nonzero()[:, 0]
        if len(inside):
            found = torch.as_tensor(maximin(points[s, inside].detach().cpu().numpy())[0])
            order[s, : len(inside)] = inside[found.to(inside.device)]
    rank = torch.argsort(order, dim=1)
    points = points.gather(1, order[..., None].expand(points.shape))
    return points, valid.gather(1, order), rank.gather(1, owner)


def nearest_sources(x: Tensor, usable: Tensor, skip: int, count: int) -> Tensor:
    """The ``count`` nearest usable points before each of ``x[:, skip:]``, ``[S, N - skip, min(count, N - 1)]``, or -1.

    Example:
        >>> x = torch.tensor([[[0.0], [5.0], [1.0]]])
        >>> nearest_sources(x, torch.ones(1, 3, dtype=torch.bool), 0, 2).tolist()
        [[[-1, -1], [0, -1], [0, 1]]]
    """
    S, N, _ = x.shape
    count = max(1, min(count, N - 1))
    position, found = torch.arange(N, device=x.device), []
    # near and far are judged in the inputs' own units, the same in single precision
    x = x.detach().double()
    for rows in torch.arange(skip, N, device=x.device).split(max(1, _BLOCK // max(S * N, 1))):
        squared = (x[:, rows, None] - x[:, None]).square().sum(-1)
        barred = (position >= rows[:, None]) | ~usable[:, None]
        near = squared.masked_fill(barred, float("inf")).topk(min(count, N), dim=-1, largest=False, sorted=True)
        found.append(torch.where(near.values.isinf(), torch.full_like(near.indices, -1), near.indices))
    return torch.cat(found, dim=1)
