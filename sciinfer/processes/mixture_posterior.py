"""A mixture of bridges as posterior: several modes, no simulation in training.

With component marginals ``q_c`` (bridges conditioned on the data, on an encoder's potentials and on potentials between
the data) and constant weights ``w_c``, the Markov process with marginals ``q_t = sum_c w_c q_c`` and the prior's
diffusion ``g`` has drift ``f(z) = sum_c r_c(z, t) f_c(z, t)``, where ``r_c = w_c q_c / q_t`` and ``f_c`` is the drift
of component ``c``: velocities and scores of a mixture are averages with its responsibilities. So the path divergence
``1/2 int E |g^{-1} (f - h)|^2 dt`` is exact for a multimodal posterior; components may meet, part and exchange mass.

References:
    Bartosh, Vetrov, Naesseth (2025), SDE matching. Brigo (2002), The general mixture-diffusion SDE.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..labelled.series import Padded
from ..nets.mlp import MLP, linear
from ..statespace import matvec, psd_root, solve_spd, symmetrise
from .base import NonlinearProcess
from .bridge import Bridge, build_bridge
from .matching import Marginals, antithetic, bridge_marginals, gap_nodes, random_nodes
from .neural import AnchoredSDE, TiltedLinear
from .posterior import Inferred, PathPosterior, Rows

#: Gauss-Legendre nodes per piece, and pairs of points, where the bound is asked for without randomness
GAUSS, PAIRS = 6, 8
#: parts of a piece between two potentials in which a draw may change its component
PARTS = 4


class MixtureInferred(NamedTuple):
    """``log_weight [S, C]``; ``mean [S, C, T, d]``, ``cov [S, C, T, d, d]`` at the data; ``nodes``: marginals of
    ``S * C`` series at times with quadrature ``weights [S, K]``."""

    log_weight: Tensor
    mean: Tensor
    cov: Tensor
    nodes: Marginals
    weights: Tensor


class MixturePosterior(PathPosterior):
    """See the module.

    Args:
        prior: whose diffusion is shared. width: of the encoder. components: ``C``. inner: potentials inside each gap.
        known_rows: does the likelihood give rows of its own. generator: starting weights.
    """

    def __init__(
        self,
        prior: AnchoredSDE,
        width: int,
        *,
        components: int = 2,
        inner: int = 3,
        known_rows: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.components, self.inner, self.dim = components, inner, prior.dim
        self.tilted = TiltedLinear(prior)
        self.head = linear(width, components * 2 * prior.dim, generator=generator)
        self.between = MLP(2 * width + 2, components * 2 * prior.dim, (width,), generator=generator, zero=True)
        self.weigh = linear(width, components, generator=generator)
        with torch.no_grad():
            # narrow enough to be seen as apart, else they fall back together in the first steps
            list(self.between.parameters())[-1].view(components, 2, prior.dim)[:, 1] = 2.0
        # components start apart between the data, on opposite sides of the prior's range
        side = torch.randn(prior.dim, generator=generator, dtype=torch.float64)
        level = torch.linspace(-1.0, 1.0, components, dtype=torch.float64) if components > 1 else torch.zeros(1)
        self.centre = nn.Parameter(level.double()[:, None] * side / side.square().mean().sqrt())
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.view(components, 2, prior.dim)[:, 1] = -6.0 if known_rows else 0.0
            self.weigh.weight.mul_(0.1)
            self.weigh.bias.zero_()

    def follow(self) -> None:
        """Take over the prior's linear drift."""
        self.tilted.follow()

    # -- components ----------------------------------------------------------------------------------------------

    def bridges(self, padded: Padded, context: Tensor, rows: Rows | None, query: Tensor) -> Bridge:
        """All components, ``S * C`` series, on the merged grid of data, inner potentials and query."""
        S, T = padded.time.shape
        C, d = self.components, self.dim
        centre, log_precision = self.head(context).unflatten(-1, (C, 2, d)).unbind(-2)
        root = (0.5 * log_precision.clamp(max=20.0)).exp() * padded.rows[..., None, None]
        time, inside, weight = self._between(padded, context)
        H = torch.diag_embed(torch.cat([root, weight], dim=1)).transpose(1, 2)
        y = torch.cat([root * centre, weight * inside], dim=1).transpose(1, 2)
        if rows is not None:
            known_H = torch.cat([rows.H, rows.H.new_zeros(S, (T - 1) * self.inner, *rows.H.shape[2:])], dim=1)
            known_y = torch.cat([rows.y, rows.y.new_zeros(S, (T - 1) * self.inner, rows.y.shape[-1])], dim=1)
            H = torch.cat([known_H[:, None].expand(S, C, *known_H.shape[1:]), H], dim=-2)
            y = torch.cat([known_y[:, None].expand(S, C, *known_y.shape[1:]), y], dim=-1)
        times = torch.cat([padded.time, time], dim=1).repeat_interleave(C, 0)
        return build_bridge(self.tilted, times, H.flatten(0, 1), y.flatten(0, 1), query.repeat_interleave(C, 0))

    def _between(self, padded: Padded, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times ``[S, (T - 1) I]`` of the inner potentials, their centres and square roots of precisions
        ``[S, (T - 1) I, C, d]``."""
        time, inner = padded.time, self.inner
        phase = (torch.arange(inner, dtype=time.dtype, device=time.device) + 0.5) / inner
        gap = time.diff(dim=1)[..., None]
        at = (time[:, :-1, None] + gap * phase).flatten(1)
        steps = torch.stack([(gap * phase).log1p(), (gap * (1 - phase)).log1p()], dim=-1)
        sides = torch.cat([context[:, :-1], context[:, 1:]], dim=-1)[:, :, None]
        found = self.between(torch.cat([sides.expand(*steps.shape[:3], -1), steps], dim=-1)).flatten(1, 2)
        centre, log_precision = found.unflatten(-1, (self.components, 2, self.dim)).unbind(-2)
        # a potential stands for a stretch of time: it fades with the length of its gap
        share = (gap / inner).expand(*gap.shape[:2], inner).flatten(1).clamp(min=0.0).sqrt()[..., None, None]
        return at, self.centre + centre, share * (0.5 * log_precision.clamp(max=20.0)).exp()

    def log_weights(self, padded: Padded, context: Tensor) -> Tensor:
        """``log w [S, C]`` from the mean context of the rows."""
        seen = padded.rows[..., None].to(context.dtype)
        pooled = (context * seen).sum(1) / seen.sum(1).clamp(min=1.0)
        return self.weigh(pooled).log_softmax(-1)

    # -- the contract --------------------------------------------------------------------------------------------

    def infer_mixture(
        self, padded: Padded, context: Tensor, rows: Rows | None, *, nodes: int, generator: torch.Generator | None
    ) -> MixtureInferred:
        """Marginals of all components at the data and at quadrature nodes."""
        if generator is None:
            knots = torch.cat([padded.time, self._between(padded, context)[0]], dim=1).sort(dim=1).values
            time, weights = gap_nodes(knots, GAUSS)
        else:
            time, weights = random_nodes(padded.time, nodes, generator)
        bridge = self.bridges(padded, context, rows, time)
        each = time.repeat_interleave(self.components, 0)
        marginals = bridge_marginals(bridge, each, bridge.at_query, self.tilted.matrix, self.tilted.spread)
        at = bridge.at_data[:, : padded.time.shape[1]]
        mean, cov = (part.unflatten(0, (-1, self.components)) for part in (bridge.mean(at), bridge.cov(at)))
        return MixtureInferred(self.log_weights(padded, context), mean, cov, marginals, weights)

    def infer(
        self, padded: Padded, context: Tensor, rows: Rows | None, *, nodes: int, generator: torch.Generator | None
    ) -> Inferred:
        """Moments of the mixture at the data; the nodes are those of the components."""
        q = self.infer_mixture(padded, context, rows, nodes=nodes, generator=generator)
        w = q.log_weight.exp()[..., None, None]
        mean = (w * q.mean).sum(1)
        off = q.mean - mean[:, None]
        cov = (w[..., None] * (q.cov + off[..., :, None] * off[..., None, :])).sum(1)
        return Inferred(mean, cov, q.nodes, q.weights)

    def sample(
        self,
        padded: Padded,
        context: Tensor,
        rows: Rows | None,
        query: Tensor,
        *,
        draws: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Joint draws of the Markov process: at each of many small steps a draw takes one component, by its
        responsibility, and moves as that component does; marginals are exact at any step."""
        S, K = query.shape
        fine = self._refined(padded)
        bridge = self.bridges(padded, context, rows, torch.cat([query, fine], dim=1))
        shape = (S, self.components)
        mean, cov, gain = (part.unflatten(0, shape) for part in bridge.smoothed)
        log_weight = self.log_weights(padded, context)
        normal = torch.randn(
            (draws, S, mean.shape[2], self.dim), generator=generator, dtype=mean.dtype, device=mean.device
        )
        uniform = torch.rand((draws, S, mean.shape[2], 1), generator=generator, dtype=mean.dtype, device=mean.device)
        path = _mixture_paths(log_weight, mean, cov, gain, normal, uniform)
        where = bridge.at_query.unflatten(0, shape)[:, 0, :K]
        return path.gather(2, where[None, ..., None].expand(draws, S, K, self.dim))

    def _refined(self, padded: Padded) -> Tensor:
        parts = PARTS * max(self.inner, 1)
        unit = torch.arange(1, parts, dtype=padded.time.dtype, device=padded.time.device) / parts
        return (padded.time[:, :-1, None] + padded.time.diff(dim=1)[..., None] * unit).flatten(1)


def _mixture_paths(
    log_weight: Tensor, mean: Tensor, cov: Tensor, gain: Tensor, normal: Tensor, uniform: Tensor
) -> Tensor:
    """Forward draws ``[n, S, N, d]`` from smoothed moments ``[S, C, N, ...]`` of the components."""
    crossed = cov[:, :, 1:] @ gain[:, :, :-1].mT
    ahead = solve_spd(cov[:, :, :-1], crossed.mT).mT
    rest = _step_root(symmetrise(cov[:, :, 1:] - ahead @ crossed.mT), cov[:, :, 1:])
    first = psd_root(cov[:, :, 0])
    root = torch.linalg.cholesky(_lifted(cov))
    n = len(normal)
    label = _inverse(log_weight.expand(n, *log_weight.shape), uniform[:, :, 0])
    z = _of(mean[:, :, 0], label) + matvec(_of(first, label), normal[:, :, 0])
    path = [z]
    for k in range(1, mean.shape[2]):
        off = z[:, :, None] - mean[:, :, k - 1]
        label = _inverse(log_weight + _log_normal(off, root[:, :, k - 1]), uniform[:, :, k])
        moved = _of(mean[:, :, k], label) + matvec(_of(ahead[:, :, k - 1], label), _of_draw(off, label))
        z = moved + matvec(_of(rest[:, :, k - 1], label), normal[:, :, k])
        path.append(z)
    return torch.stack(path, dim=2)


def _step_root(rest: Tensor, cov: Tensor) -> Tensor:
    """Root of what a step adds to ``cov``; round-off of the difference is no step."""
    peak = cov.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    values, vectors = torch.linalg.eigh(rest)
    least = peak * (1e-11 if cov.dtype == torch.float64 else 1e-4)
    return vectors * torch.where(values > least, values, torch.zeros_like(values)).sqrt().unsqueeze(-2)


def _lifted(cov: Tensor) -> Tensor:
    peak = cov.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    eye = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    return cov + eye * peak * (1e-12 if cov.dtype == torch.float64 else 1e-6)


def _inverse(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draws ``[n, S]`` from ``logits [n, S, C]``."""
    return (logits.softmax(-1).cumsum(-1) < uniform).sum(-1).clamp(max=logits.shape[-1] - 1)


def _of(values: Tensor, label: Tensor) -> Tensor:
    """``values[s, label[n, s]]`` of ``[S, C, ...]``."""
    return values[torch.arange(label.shape[1], device=label.device), label]


def _of_draw(values: Tensor, label: Tensor) -> Tensor:
    return values.gather(2, label[..., None, None].expand(*label.shape, 1, values.shape[-1]))[:, :, 0]


def _log_normal(off: Tensor, root: Tensor) -> Tensor:
    """``log N(off; 0, R R^T)`` for ``off [..., d]``."""
    white = torch.linalg.solve_triangular(root.expand(*off.shape, off.shape[-1]), off.unsqueeze(-1), upper=False)
    logs = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum((-2, -1)) - logs - 0.5 * off.shape[-1] * math.log(2 * math.pi)


def mixture_points(shape: tuple[int, ...], pairs: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Standard normal points ``[P, *shape]``, random; or evenly spread ones, the same for every series and component.

    The spread ones are an additive recurrence that goes on from node to node, so that errors do not add up over time.
    """
    if generator is not None:
        return antithetic(pairs, shape, generator, like)
    dim, nodes = shape[-1], shape[2:-1]
    base = 2.0
    for _ in range(30):  # the root of b^(d + 1) = b + 1
        base = (1 + base) ** (1 / (dim + 1))
    steps = torch.tensor([base ** -(k + 1) for k in range(dim)], dtype=torch.float64)
    number = torch.arange(PAIRS * math.prod(nodes), dtype=torch.float64).reshape(*nodes, PAIRS).movedim(-1, 0)
    uniform = (0.5 + (number[..., None] + 1) * steps).frac().clamp(1e-6, 1 - 1e-6)
    half = (math.sqrt(2) * torch.erfinv(2 * uniform - 1)).reshape(PAIRS, 1, 1, *nodes, dim)
    return torch.cat([half, -half]).to(like)


def mixture_drift(prior: NonlinearProcess, q: MixtureInferred, z: Tensor) -> Tensor:
    """``f(z)`` of the Markov process with the mixture's marginals at the nodes; ``z [P, S, C or 1, K, d]``."""
    time, mean, root, velocity, flow = (part.unflatten(0, q.log_weight.shape) for part in q.nodes)
    t = time[:, :1].expand(z.shape[:-1])
    g = prior.diffusion(t, z)
    # all components at the points of each: [P, S, C, C', K, d]
    off = z[:, :, :, None] - mean[:, None]
    R = root[:, None].expand(*off.shape, off.shape[-1])
    white = torch.linalg.solve_triangular(R, off.unsqueeze(-1), upper=False)
    score = -torch.linalg.solve_triangular(R.mT, white, upper=True).squeeze(-1)
    density = -0.5 * white.square().sum((-2, -1)) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
    share = (density + q.log_weight[:, None, :, None]).softmax(3)[..., None]
    drift = velocity[:, None] + matvec(flow[:, None].expand_as(R), off) + 0.5 * g.square()[:, :, :, None] * score
    return (share * drift).sum(3) + 0.5 * prior.spread_divergence(t, z)


def mixture_path_divergence(prior: NonlinearProcess, q: MixtureInferred, points: Tensor) -> Tensor:
    """``1/2 sum_k w_k sum_c w_c E_c |g^{-1} (f - h)|^2``, ``[S]``; ``points [P, S or 1, C or 1, K or 1, d]``."""
    time, mean, root = (part.unflatten(0, q.log_weight.shape) for part in q.nodes[:3])
    z = mean + matvec(root, points.expand(len(points), *mean.shape))
    t = time.expand(z.shape[:-1])
    f = mixture_drift(prior, q, z)
    cost = 0.5 * ((f - prior.drift(t, z)) / prior.diffusion(t, z)).square().sum(-1).mean(0)
    return (q.log_weight.exp()[..., None] * cost * q.weights[:, None]).sum((1, 2))


def mixture_start_divergence(q: MixtureInferred, start: tuple[Tensor, Tensor], points: Tensor) -> Tensor:
    """``KL(sum_c w_c N(m_c, S_c) || N(m0, P0))`` at the first datum, ``[S]``; ``points [P, S or 1, C or 1, d]``."""
    mean, root = q.mean[:, :, 0], torch.linalg.cholesky(_lifted(q.cov[:, :, 0]))
    z = mean + matvec(root, points.expand(len(points), *mean.shape))
    own = _log_normal(z[:, :, :, None] - mean[:, None], root[:, None])
    inside = (own + q.log_weight[:, None]).logsumexp(-1)
    outside = _log_normal(z - start[0], torch.linalg.cholesky(start[1]))
    return (q.log_weight.exp() * (inside - outside).mean(0)).sum(-1)
