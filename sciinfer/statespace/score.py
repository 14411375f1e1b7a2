"""The exact log-likelihood with its exact gradient, without a graph of the steps.

Forward: time is cut into stretches that are filtered side by side. A first sweep finds what each stretch does to any
start, a short scan chains the stretches, a second sweep filters each from its true start. Backward: the disturbance
smoother, cut the same way; no inverse of ``Q`` appears, so steps of length zero pass.

References:
    Koopman, Shephard (1992), Exact score for time series models in state space form.
    Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import NumericalError
from . import blocks, lanes, sqrt
from .lanes import MAX_ROWS, MAX_STATE, Layout, Totals
from .problem import Filtered, LinearGaussian, matvec, symmetrise
from .scan import associative_scan, combine_filter, combine_smoother

#: lanes from which arithmetic, not the overhead of a step, is what a step costs; where cutting time stops paying
_FULL = {"cpu": 256, "cuda": 8192}
#: stretches are not cut shorter than this
_SHORTEST = 8


def exact_loglik(problem: LinearGaussian) -> Tensor:
    """Whitened log-likelihood of each series, ``[B]``, with an exact first derivative for every input.

    The gradient for ``Q`` and ``P0`` is symmetric: it is that for symmetric perturbations.

    Raises:
        NumericalError: a value that is not finite, or a covariance that is not positive semi-definite.
    """
    A, Q, H, y, m0, P0, b = problem
    return _Score.apply(A, Q, H, y, m0, P0, b)  # pyright: ignore[reportReturnType] - apply is untyped


@torch.no_grad()
def filter_stretches(problem: LinearGaussian) -> Filtered:
    """Kalman filter over stretches side by side: the quickest where no gradient of the moments is wanted.

    Raises:
        NumericalError: as :func:`exact_loglik`.
    """
    layout, kernels = choose_layout(problem), sweeps(problem)
    parts = kernels.lay_out(problem, layout)
    m, P = starts(problem, kernels.totals(parts) if layout.chunks > 1 else None, layout)
    shape = list(parts.Q.shape)
    shape[2 if kernels is lanes else 3] += 1
    predicted = parts.Q.new_empty(shape)
    loglik, trace = kernels.run(parts, m, P, predicted)
    loglik = _by_series(loglik, layout)
    mean, cov, mean_pred, cov_pred = (
        part.contiguous()
        for x in (trace.state[1:], predicted)
        for part in kernels.from_lanes(x, layout).split([1, problem.A.shape[-1]], dim=-1)
    )
    return Filtered(mean.squeeze(-1), cov, mean_pred.squeeze(-1), cov_pred, loglik)


def _by_series(loglik: Tensor, layout: Layout) -> Tensor:
    """Sum over stretches.

    Raises:
        NumericalError: not finite; names the series.
    """
    total = loglik.unflatten(0, (layout.batch, layout.chunks)).sum(1)
    bad = ~torch.isfinite(total)
    if bool(bad.any()):
        raise NumericalError(
            "the log-likelihood is not finite, or a covariance is not positive semi-definite",
            index=tuple(int(i) for i in torch.nonzero(bad)[0]),
            fix="check for infinite parameters, noise variances of zero, or values that are not finite",
        )
    return total


def choose_layout(problem: LinearGaussian) -> Layout:
    """More stretches than steps in each, as long as a step's vectors stay in the cache (measured).

    Single precision is not cut: the totals of a stretch are not square roots.
    """
    batch, times = problem.A.shape[:2]
    if single(problem):
        return Layout(batch, times, 1, times)
    full = _FULL["cpu" if problem.A.device.type == "cpu" else "cuda"]
    ratio, most = (36, 32 * full) if fits_lanes(problem) else (4, 2 * full)
    chunks = math.isqrt(ratio * times // batch) if batch < full else 1
    chunks = max(1, min(chunks, times // _SHORTEST, most // batch))
    length = -(-times // chunks)
    return Layout(batch, times, -(-times // length), length)


def fits_lanes(problem: LinearGaussian) -> bool:
    """Is the elementwise algebra the faster one."""
    return not single(problem) and problem.A.shape[-1] <= MAX_STATE and problem.H.shape[-2] <= MAX_ROWS


def single(problem: LinearGaussian) -> bool:
    """Is the problem in less than double precision."""
    return problem.A.dtype != torch.float64


class _Score(torch.autograd.Function):
    """Saves the stretches and their filtered moments."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """Log-likelihoods ``[B]``."""
        A, Q, H, y, m0, P0, b = inputs
        problem = LinearGaussian(A, Q, H, y, m0, P0, b)
        layout, kernels = choose_layout(problem), sweeps(problem)
        parts = kernels.lay_out(problem, layout)
        total = kernels.totals(parts) if layout.chunks > 1 else None
        m, P = starts(problem, total, layout)
        loglik, trace = (sqrt if single(problem) else kernels).run(parts, m, P)
        loglik = _by_series(loglik, layout)
        ctx.kernels, ctx.layout, ctx.parts, ctx.trace = kernels, layout, parts, trace
        ctx.total, ctx.starts, ctx.shift = total, (m, P), b is not None
        return loglik

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of all inputs."""
        layout = ctx.layout
        m, P = ctx.starts
        r, N = ends(ctx.total, m, P, layout)
        scale = grads[0].repeat_interleave(layout.chunks)
        found = ctx.kernels.back(ctx.parts, ctx.trace, r, N, scale)
        A, Q, H, y, b = (ctx.kernels.from_lanes(x, layout) for x in found[:5])
        A[:, 0], Q[:, 0], b[:, 0] = 0.0, 0.0, 0.0
        r, N = (x.unflatten(0, (layout.batch, layout.chunks))[:, 0] for x in (found.r, found.N))
        P0 = 0.5 * (r[..., :, None] * r[..., None, :] - N) * grads[0][:, None, None]
        return A, Q, H, y, r * grads[0][:, None], P0, b if ctx.shift else None


def sweeps(problem: LinearGaussian) -> Any:
    """The module whose ``lay_out``, ``totals``, ``run``, ``back`` and ``from_lanes`` suit the problem's size."""
    return lanes if fits_lanes(problem) else blocks


def starts(problem: LinearGaussian, total: Totals | None, layout: Layout) -> tuple[Tensor, Tensor]:
    """Filtered moments before each stretch, ``[B * C, d]`` and ``[B * C, d, d]``."""
    m0, P0 = problem.m0.detach(), problem.P0.detach()
    if total is None:
        return m0, P0
    given = (torch.zeros_like(P0), torch.zeros_like(m0), torch.zeros_like(P0), m0, P0)
    stretches = (x.unflatten(0, (layout.batch, layout.chunks))[:, :-1] for x in total)
    elements = (torch.cat([g[:, None], x], 1) for g, x in zip(given, stretches, strict=True))
    _, _, _, m, P = associative_scan(combine_filter, tuple(elements))
    return m.flatten(0, 1), P.flatten(0, 1)


def ends(total: Totals | None, m: Tensor, P: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The disturbance smoother's ``r, N`` after each stretch, from the totals closed with the true starts."""
    if total is None:
        return torch.zeros_like(m), torch.zeros_like(P)
    d = m.shape[-1]
    eye = torch.eye(d, dtype=P.dtype, device=P.device)
    # (I + P J)^{-T} applied to what belongs to the start
    right = torch.cat([total.Phi.mT, total.J, (total.eta - matvec(total.J, m)).unsqueeze(-1)], dim=-1)
    solved = torch.linalg.solve((eye + P @ total.J).mT, right)
    elements = (solved[..., :d], solved[..., -1], symmetrise(solved[..., d : 2 * d]))
    flipped = tuple(x.unflatten(0, (layout.batch, layout.chunks)).flip(1) for x in elements)
    _, r, N = associative_scan(combine_smoother, flipped)
    after = lambda x: torch.cat([x.flip(1)[:, 1:], torch.zeros_like(x[:, :1])], 1).flatten(0, 1)  # noqa: E731
    return after(r), after(N)
