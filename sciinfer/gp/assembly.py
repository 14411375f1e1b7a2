"""From a kernel and a layout of functionals to the engine's matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..statespace import unique_steps
from ..statespace.discretise import discretise
from .kernels import Kernel
from .observations import AVERAGE, DERIVATIVE, DIFFERENCE, Layout, Observed


def transitions(kernel: Kernel, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """``A, Q [G, n, n]`` into each event (the first is unused) and ``P0 [n, n]``; ``n = d + slots``.

    With memory, the state is the kernel's, then the integrals, then the remembered values; opening a slot maps the
    state by ``T`` (an integral to zero, a remembered value to ``f``): ``A <- T A``, ``Q <- T Q T^T``.

    Raises:
        ConfigError: memory with several outputs.
    """
    steps = torch.cat([layout.time.new_zeros(1), layout.time.diff()])
    if kernel.outputs > 1 and layout.integrals + layout.holds:
        raise ConfigError("averages and differences need a kernel of one output", fix="observe points")
    if not layout.integrals + layout.holds:
        A, Q = unique_steps(steps, kernel.transition)
        return A, Q, kernel.initial()
    A, Q = _remembering(kernel, layout, steps)
    P0 = nn.functional.pad(kernel.initial(), (0, A.shape[-1] - kernel.state_dim) * 2)
    T = _openings(kernel, layout)
    return T @ A, T @ Q @ T.mT, T[0] @ P0 @ T[0].mT


def _remembering(kernel: Kernel, layout: Layout, steps: Tensor) -> tuple[Tensor, Tensor]:
    d, k = kernel.state_dim, layout.integrals
    n = d + k + layout.holds
    if not k:
        A, Q = unique_steps(steps, kernel.transition)
    else:
        # one integral is followed exactly; all open ones grow by the same amount
        F, D = kernel.dynamics()
        F = torch.cat([nn.functional.pad(F, (0, 1)), nn.functional.pad(kernel.readout()[None], (0, 1))])
        A, Q = unique_steps(steps, lambda dt: discretise(F, nn.functional.pad(D, (0, 1, 0, 1)), dt))
        spread = torch.eye(d + k, d + 1, dtype=A.dtype, device=A.device)
        spread[d:, d] = 1.0
        keep = torch.zeros_like(A[0]).fill_diagonal_(1.0)[:, :d]
        Q = spread @ Q @ spread.mT
        A = nn.functional.pad(spread @ A @ keep, (0, k))
        A = A + torch.diag(torch.cat([A.new_zeros(d), A.new_ones(k)]))
    held = torch.diag(torch.cat([A.new_zeros(d + k), A.new_ones(layout.holds)]))
    grow = (0, n - d - k) * 2
    return nn.functional.pad(A, grow) + held, nn.functional.pad(Q, grow)


def _openings(kernel: Kernel, layout: Layout) -> Tensor:
    """``T [G, n, n]``."""
    d, n = kernel.state_dim, kernel.state_dim + layout.integrals + layout.holds
    h = nn.functional.pad(kernel.readout(), (0, n - d))
    eye = torch.eye(n, dtype=h.dtype, device=h.device)
    # one map for each slot, and the identity last, where -1 points to
    maps = []
    for slot in range(layout.integrals + layout.holds):
        row = torch.zeros_like(h) if slot < layout.integrals else h
        maps.append(torch.cat([eye[: d + slot], row[None], eye[d + slot + 1 :]]))
    return torch.stack([*maps, eye])[layout.opened]


def readouts(kernel: Kernel, items: Observed, layout: Layout) -> Tensor:
    """``[N, C, n]``: each functional as a row of the state at its event.

    Raises:
        ConfigError: a derivative of a process that has none.
    """
    h = kernel.readout().reshape(kernel.outputs, -1)
    if bool((items.kind == 0).all()):
        return h.expand(len(items.kind), *h.shape)
    slots = layout.integrals + layout.holds
    rows = nn.functional.pad(h, (0, slots)).expand(len(items.kind), kernel.outputs, -1).clone()
    slope = items.kind == DERIVATIVE
    if bool(slope.any()):
        rows[slope] = nn.functional.pad(_slope(kernel, h), (0, slots))
    at = kernel.state_dim + layout.slot
    for kind, sign in ((AVERAGE, 1.0), (DIFFERENCE, -1.0)):
        chosen = torch.nonzero(items.kind == kind)[:, 0]
        if kind == AVERAGE:
            rows[chosen] = 0.0
        length = (items.end - items.start)[chosen] if kind == AVERAGE else torch.ones_like(items.end[chosen])
        rows[chosen, 0, at[chosen]] = sign / length
    return rows


def _slope(kernel: Kernel, h: Tensor) -> Tensor:
    F, D = kernel.dynamics()
    rough = (h @ D @ h.mT).diagonal().detach()
    size = (h @ kernel.initial() @ h.mT).diagonal().detach() * F.detach().abs().max()
    if bool((rough > 1e-12 * size).any()):
        raise ConfigError(f"{type(kernel).__name__} has no derivative", fix="use a smoother kernel, e.g. Matern32")
    return h @ F
