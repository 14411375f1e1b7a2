"""Small states: the engine's steps as elementwise algebra over many stretches of time at once.

Every quantity is kept as ``[entries..., n]`` with the ``n`` lanes last, so that a product of ``d x d`` matrices is
``d`` fused multiply-adds on vectors that stay in the cache. A lane is one stretch of one series; see ``score.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .problem import LinearGaussian

#: states and rows up to these sizes are handled here; above them batched matrices are faster (measured)
MAX_STATE, MAX_ROWS = 4, 3


class Layout(NamedTuple):
    """``batch`` series of ``times`` steps, each cut into ``chunks`` stretches of ``length`` steps (the last padded)."""

    batch: int
    times: int
    chunks: int
    length: int


class Lanes(NamedTuple):
    """The problem: ``A, Q [L, d, d, n]``, ``H [L, m, d, n]``, ``y [L, m, n]``, ``b [L, d, n]`` or None.

    The first step of a series does nothing (``A = I, Q = 0, b = 0``): stretches start from given moments.
    """

    A: Tensor
    Q: Tensor
    H: Tensor
    y: Tensor
    b: Tensor | None


class Totals(NamedTuple):
    """What a stretch does to a start ``N(m, P)``: ``M = (I + P J)^{-1}``, mean ``Phi M (m + P eta) + c``, covariance
    ``Phi M P Phi^T + C``; ``Phi, J, C [n, d, d]``, ``eta, c [n, d]``."""

    Phi: Tensor
    eta: Tensor
    J: Tensor
    c: Tensor
    C: Tensor


class Trace(NamedTuple):
    """Kept for the backward pass: filtered ``[mean | cov] [L + 1, d, 1 + d, n]``, from before the first step on;
    gains ``[L, m, d, n]``, ``v / s`` and ``1 / s`` of every row ``[L, m, n]``."""

    state: Tensor
    gain: Tensor
    pull: Tensor
    weight: Tensor


def to_lanes(x: Tensor, layout: Layout) -> Tensor:
    """``[B, T, ...]`` to ``[L, ..., B * C]``, zeros where a stretch ends early."""
    batch, times, chunks, length = layout
    entries = x.shape[2:]
    out = x.new_empty(length, *entries, batch, chunks)
    whole = times // length
    view = out.movedim((-2, -1), (0, 1))  # [B, C, L, ...]
    view[:, :whole] = x[:, : whole * length].unflatten(1, (whole, length))
    if whole < chunks:
        rest = times - whole * length
        view[:, whole, :rest] = x[:, whole * length :]
        view[:, whole, rest:] = 0.0
        view[:, whole + 1 :] = 0.0
    return out.flatten(-2)


def from_lanes(x: Tensor, layout: Layout) -> Tensor:
    """The inverse of :func:`to_lanes`."""
    batch, times, chunks, _ = layout
    back = x.unflatten(-1, (batch, chunks)).movedim((-2, -1), (0, 1))
    return back.flatten(1, 2)[:, :times]


def lay_out(problem: LinearGaussian, layout: Layout) -> Lanes:
    """Rearrange a problem."""
    A, Q, H, y, _, _, b = (None if part is None else part.detach() for part in problem)
    lanes = Lanes(*(None if x is None else to_lanes(x, layout) for x in (A, Q, H, y, b)))  # pyright: ignore[reportArgumentType]
    first = slice(None, None, layout.chunks)
    lanes.A[0, ..., first], lanes.Q[0, ..., first] = 0.0, 0.0
    lanes.A[0, ..., first].diagonal(dim1=0, dim2=1).fill_(1.0)
    if lanes.b is not None:
        lanes.b[0, ..., first] = 0.0
    padded = layout.chunks * layout.length - layout.times
    if padded:
        flat = lanes.A.unflatten(-1, (layout.batch, layout.chunks)).movedim((-2, -1), (0, 1)).diagonal(dim1=3, dim2=4)
        whole, rest = divmod(layout.times, layout.length)
        flat[:, whole, rest:] = 1.0
        flat[:, whole + 1 :] = 1.0
    return lanes


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """``sum_j left_j * right_j``, broadcasting."""
    total = left[0] * right[0]
    for a, x in zip(left[1:], right[1:], strict=True):
        total.addcmul_(a, x)
    return total


class _Steps:
    """Views of the problem's entries at every step, made once: indexing inside the loops would dominate them."""

    def __init__(self, lanes: Lanes) -> None:
        d, m = lanes.A.shape[1], lanes.H.shape[1]
        self.columns = list(zip(*(lanes.A[:, :, j, None].unbind(0) for j in range(d)), strict=True))  # [d, 1, n]
        self.rows = list(zip(*(lanes.A[:, None, :, j].unbind(0) for j in range(d)), strict=True))  # [1, d, n]
        self.A, self.Q, self.y = lanes.A.unbind(0), lanes.Q.unbind(0), lanes.y.unbind(0)
        self.H = list(zip(*(lanes.H[:, i].unbind(0) for i in range(m)), strict=True))  # m x [d, n]
        self.b = None if lanes.b is None else lanes.b.unbind(0)


def _condition(M: Tensor, P: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """One row: moves ``M = [mean | ...]`` in place; returns ``P``, the gain, ``[v | -h M..]`` and ``1 / s``."""
    entries = h.unbind(0)
    p = _dot(entries, P.unbind(0))
    weight = (_dot(entries, p.unbind(0)) + 1.0).reciprocal_()
    gain = p * weight
    seen = _dot(entries, M.unbind(0)).neg_()
    seen[0] += y
    M.addcmul_(gain.unsqueeze(1), seen)
    P = torch.addcmul(P, gain.unsqueeze(1), p, value=-1.0)
    # P + (K - P h) K^T: Joseph's form, which keeps P positive when s is large
    again = gain - _dot(entries, P.unbind(1))
    P.addcmul_(again.unsqueeze(1), gain)
    return (P + P.transpose(0, 1)).mul_(0.5), gain, seen, weight


def _predict(steps: _Steps, k: int, M: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    moved = _dot(steps.columns[k], M.unbind(0))
    if steps.b is not None:
        moved[:, 0] += steps.b[k]
    half = _dot(steps.columns[k], P.unbind(0)).unsqueeze(2).unbind(1)  # A P, column by column [d, 1, n]
    P = steps.Q[k].clone()
    for a, x in zip(half, steps.rows[k], strict=True):
        P.addcmul_(a, x)
    return moved, P


def totals(lanes: Lanes) -> Totals:
    """What each stretch does to any start, by filtering from a known start and following its derivative."""
    length, d, _, n = lanes.A.shape
    steps = _Steps(lanes)
    M = lanes.A.new_zeros(d, 1 + d, n)
    M[:, 1:].diagonal(dim1=0, dim2=1).fill_(1.0)
    P, info = lanes.A.new_zeros(d, d, n), lanes.A.new_zeros(d, 1 + d, n)
    for k in range(length):
        M, P = _predict(steps, k, M, P)
        for h, y in zip(steps.H[k], steps.y[k].unbind(0), strict=True):
            P, _, seen, weight = _condition(M, P, h, y)
            info.addcmul_((seen[1:] * weight).unsqueeze(1), seen, value=-1.0)
    # info = [eta | -J] because the derivative of the residual is minus that of the prediction
    last = lambda x: x.movedim(-1, 0).contiguous()  # noqa: E731
    return Totals(last(M[:, 1:]), last(info[:, 0]), -last(info[:, 1:]), last(M[:, 0]), last(P))


def run(lanes: Lanes, m: Tensor, P: Tensor, predicted: Tensor | None = None) -> tuple[Tensor, Trace]:
    """Filter every lane from ``m [n, d], P [n, d, d]``: log-likelihoods ``[n]`` and what the backward pass needs.

    ``predicted [L, d, 1 + d, n]``, if given, is filled with the predictions ``[mean | cov]``.
    """
    length, d, _, n = lanes.A.shape
    rows = lanes.H.shape[1]
    steps = _Steps(lanes)
    trace = Trace(
        lanes.A.new_empty(length + 1, d, 1 + d, n),
        lanes.A.new_empty(length, rows, d, n),
        lanes.A.new_empty(length, rows, n),
        lanes.A.new_empty(length, rows, n),
    )
    M, P = m.movedim(0, -1).unsqueeze(1), P.movedim(0, -1)
    torch.cat([M, P], dim=1, out=trace.state[0])
    for k, (state, gains, pulls, weights) in enumerate(
        zip(trace.state.unbind(0)[1:], trace.gain.unbind(0), trace.pull.unbind(0), trace.weight.unbind(0), strict=True)
    ):
        M, P = _predict(steps, k, M, P)
        if predicted is not None:
            torch.cat([M, P], dim=1, out=predicted[k])
        for i, (h, y) in enumerate(zip(steps.H[k], steps.y[k].unbind(0), strict=True)):
            P, gain, seen, weight = _condition(M, P, h, y)
            gains[i], weights[i] = gain, weight
            torch.mul(seen[0], weight, out=pulls[i])
        torch.cat([M, P], dim=1, out=state)
    loglik = 0.5 * (trace.weight.log() - trace.pull.square().div_(trace.weight)).sum((0, 1))
    return loglik, trace


class Gradients(NamedTuple):
    """Of every step, laid out as :class:`Lanes`; of the start: ``r [n, d]``, ``N [n, d, d]``."""

    A: Tensor
    Q: Tensor
    H: Tensor
    y: Tensor
    b: Tensor
    r: Tensor
    N: Tensor


def back(lanes: Lanes, trace: Trace, r: Tensor, N: Tensor, scale: Tensor) -> Gradients:
    """Disturbance smoother from the lanes' ends ``r [n, d], N [n, d, d]``; gradients are multiplied by ``scale [n]``.

    ``d loglik / d mean = r`` and ``d loglik / d cov = (r r^T - N) / 2``, of the state at any time.
    """
    steps = _Steps(lanes)
    A, Q, H, y = (torch.empty_like(x) for x in (lanes.A, lanes.Q, lanes.H, lanes.y))
    out = Gradients(A, Q, H, y, torch.empty_like(lanes.A[:, :, 0]), r, N)
    Z = torch.cat([r.movedim(0, -1).unsqueeze(1), N.movedim(0, -1)], dim=1)
    for k in range(len(lanes.A) - 1, -1, -1):
        _data_gradients(out, k, trace.state[k + 1], Z, steps, scale)
        for i in range(lanes.H.shape[1] - 1, -1, -1):
            Z = _uncondition(Z, steps.H[k][i], trace.gain[k, i], trace.pull[k, i], trace.weight[k, i])
        Z = _unpredict(out, k, trace.state[k], Z, steps, scale)
    return out._replace(r=Z[:, 0].movedim(-1, 0), N=Z[:, 1:].movedim(-1, 0))


def _data_gradients(out: Gradients, k: int, state: Tensor, Z: Tensor, steps: _Steps, scale: Tensor) -> None:
    """``d/dy = H x - y`` and ``d/dH = -(d/dy) x^T - H V`` with the smoothed ``x = m + P r``, ``V = P - P N P``."""
    P = state[:, 1:]
    PZ = _dot(P.unsqueeze(2).unbind(1), Z.unbind(0))  # P [r | N]
    x = PZ[:, 0] + state[:, 0]
    PN = PZ[:, 1:].unbind(1)
    for i, h in enumerate(steps.H[k]):
        entries = h.unbind(0)
        error = (_dot(entries, x.unbind(0)) - steps.y[k][i]).mul_(scale)
        Ph = _dot(entries, P.unbind(0))
        Vh = (Ph - _dot(PN, Ph.unbind(0))).mul_(scale)
        out.y[k, i] = error
        torch.addcmul(Vh, error, x, out=out.H[k, i]).neg_()


def _uncondition(Z: Tensor, h: Tensor, gain: Tensor, pull: Tensor, weight: Tensor) -> Tensor:
    """``r <- L^T r + h v / s``, ``N <- L^T N L + h h^T / s`` with ``L = I - K h``."""
    entries = gain.unbind(0)
    NK = _dot(entries, Z[:, 1:].unbind(1))
    Z = Z.clone()
    Z[:, 1:].addcmul_(NK.unsqueeze(1), h, value=-1.0)
    seen = _dot(entries, Z.unbind(0)).neg_()  # -[K^T r | K^T N L]
    seen[0] += pull
    seen[1:].addcmul_(h, weight)
    return Z.addcmul_(h.unsqueeze(1), seen)


def _unpredict(out: Gradients, k: int, before: Tensor, Z: Tensor, steps: _Steps, scale: Tensor) -> Tensor:
    """``d/db = r``, ``d/dQ = W = (r r^T - N) / 2``, ``d/dA = r m^T + 2 W A P``; then ``A^T r`` and ``A^T N A``."""
    r, N = Z[:, 0], Z[:, 1:]
    torch.mul(r, scale, out=out.b[k])
    pull = out.b[k].unsqueeze(1)
    W = (pull * r).addcmul_(N, scale, value=-1.0)
    torch.mul(W, 0.5, out=out.Q[k])
    AX = _dot(steps.columns[k], before.unbind(0))[:, 1:].unbind(0)
    torch.mul(pull, before[:, 0], out=out.A[k])
    for w, x in zip(W.unsqueeze(2).unbind(1), AX, strict=True):
        out.A[k].addcmul_(w, x)
    rows = steps.A[k].unbind(0)
    Z = _dot([row.unsqueeze(1) for row in rows], Z.unbind(0))
    NA = _dot(Z[:, 1:].unsqueeze(2).unbind(1), [row.unsqueeze(0) for row in rows])
    Z[:, 1:] = (NA + NA.transpose(0, 1)).mul_(0.5)
    return Z
