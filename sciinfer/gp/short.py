"""Short series while parameters are sampled: one small dense factor costs less than the steps of the exact engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kernels import Kernel, Sum
from .rows import Rows

if TYPE_CHECKING:
    from .markov import MarkovGP

#: points of a series up to which a factor is quicker than the engine (measured)
SHORT = 160
#: nats that round-off of a factor may cost before the engine is asked instead
TOLERANCE = 1e-6


class Plan(NamedTuple):
    """What depends on the times alone: pairs ``(later, earlier) [P]``, different lags ``[L]``, the lag of each pair
    ``[P]``, and times since the prior's start ``[n]``."""

    later: Tensor
    earlier: Tensor
    lags: Tensor
    which: Tensor
    since: Tensor


def short_likelihood(gp: MarkovGP, rows: Sequence[Rows]) -> Any:
    """A function without arguments for ``sum_i log p(y_i)`` at the present parameters, or None if it would not pay.

    It takes points of one output, at most :data:`SHORT` a series. Where round-off could exceed :data:`TOLERANCE` nats
    (noise tiny against the kernel) it asks the exact engine, value by value.
    """
    simple = gp.kernel.outputs == 1 and gp.backend == "auto" and gp.level.device.type == "cpu"
    if not simple or any(len(r.kept) > SHORT or bool((r.items.kind != 0).any()) for r in rows):
        return None
    kept = [(number, part, _plan(gp, part)) for number, part in enumerate(rows) if len(part.kept)]

    def value() -> Tensor:
        found = []
        for number, part, plan in kept:
            one = _one(gp, part, plan, number)
            found.append(gp.loglik_of([part], [number])[0] if one is None else one)
        return torch.stack(found).sum()

    return value


def _plan(gp: MarkovGP, rows: Rows) -> Plan:
    time = rows.items.start
    first = gp._first(rows.items, rows.items)
    later, earlier = torch.tril_indices(len(time), len(time))
    lag = time[later] - time[earlier]
    back = lag < 0
    later, earlier, lag = torch.where(back, earlier, later), torch.where(back, later, earlier), lag.abs()
    lags, which = torch.unique(lag, return_inverse=True)
    return Plan(later, earlier, lags, which, time - (float(time.min()) if first is None else first))


def _one(gp: MarkovGP, rows: Rows, plan: Plan, number: int) -> Tensor | None:
    noise = gp._variance(rows, number)[:, 0]
    entries = _entries(gp.kernel, plan)
    n = len(noise)
    S = entries.new_zeros(n, n).index_put((plan.later, plan.earlier), entries)
    S = S.index_put((plan.earlier, plan.later), entries) + torch.diag(noise)
    with torch.no_grad():
        loss = torch.finfo(S.dtype).eps * n * float(S.diagonal().max() / noise.min())
    if not loss < TOLERANCE:
        return None
    return _Normal.apply(S, rows.y[:, 0] - gp.level[0])  # pyright: ignore[reportReturnType] - apply is untyped


def _entries(kernel: Kernel, plan: Plan) -> Tensor:
    """``k(t_later, t_earlier) [P] = h A(lag) P(t_earlier) h``, part by part of a sum."""
    if isinstance(kernel, Sum):
        return torch.stack([_entries(part, plan) for part in kernel.parts]).sum(0)
    if kernel.stationary:
        return kernel.covariance(plan.lags)[plan.which]
    A, Q = kernel.transition(plan.since)
    h, P0 = kernel.readout(), kernel.initial()
    spread = A @ (P0 @ (A.mT @ h).unsqueeze(-1)) + (Q @ h).unsqueeze(-1)
    rows = h @ kernel.transition(plan.lags)[0]
    return (rows[plan.which] * spread[plan.earlier, :, 0]).sum(-1)


class _Normal(torch.autograd.Function):
    """``log N(r; 0, S)``, its derivative in closed form: ``dS = (a a^T - S^-1) / 2``, ``dr = -a``, ``a = S^-1 r``."""

    @staticmethod
    def forward(ctx: Any, S: Tensor, r: Tensor) -> Tensor:
        """A number; NaN where ``S`` is not positive definite."""
        factor, info = torch.linalg.cholesky_ex(S)
        a = torch.cholesky_solve(r[:, None], factor)[:, 0]
        ctx.save_for_backward(factor, a)
        value = -0.5 * (r @ a) - factor.diagonal().log().sum() - 0.5 * len(r) * math.log(2 * math.pi)
        return value if not int(info) else value * math.nan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of ``S`` and ``r``."""
        factor, a = ctx.saved_tensors
        slope = 0.5 * (torch.outer(a, a) - torch.cholesky_inverse(factor))
        return slope * grads[0], -a * grads[0]
