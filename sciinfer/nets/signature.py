"""Signatures of depth two: what a controlled equation feels of a path, for any window from two prefixes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .control import Control, at_place

#: Gauss-Legendre nodes that integrate a cubic against the derivative of a cubic exactly
_NODES = 3


class Signature(NamedTuple):
    """``one [..., c]`` = int dx, ``two [..., c, c]`` = int (x - x_start) dx^T (iterated integrals of a path)."""

    one: Tensor
    two: Tensor


def straight(step: Tensor) -> Signature:
    """Of a straight piece: ``(d, d d^T / 2)``.

    Example:
        >>> straight(torch.tensor([2.0])).two.item()
        2.0
    """
    return Signature(step, 0.5 * _outer(step, step))


def chen(first: Signature, then: Signature) -> Signature:
    """Of two paths one after the other (Chen's identity): ``two = two_1 + two_2 + one_1 one_2^T``."""
    return Signature(first.one + then.one, first.two + then.two + _outer(first.one, then.one))


def inverse(of: Signature) -> Signature:
    """Of the path run backwards."""
    return Signature(-of.one, _outer(of.one, of.one) - of.two)


def log_signature(of: Signature) -> Signature:
    """``(one, area)``: the increment and the antisymmetric Lévy area ``(two - two^T) / 2``."""
    return Signature(of.one, 0.5 * (of.two - of.two.mT))


def window(start: Signature, stop: Signature) -> Signature:
    """Of the piece between two prefixes of one path: ``start^{-1} stop``."""
    return chen(inverse(start), stop)


def prefixes(pieces: Signature) -> Signature:
    """All prefixes of pieces laid end to end: ``[S, K, ...] -> [S, K + 1, ...]``, the first one empty."""
    start = pieces.one.new_zeros(pieces.one.shape[0], 1, pieces.one.shape[2])
    one = torch.cat([start, pieces.one.cumsum(dim=1)], dim=1)
    steps = pieces.two + _outer(one[:, :-1], pieces.one)
    nothing = steps.new_zeros(steps.shape[0], 1, *steps.shape[2:])
    return Signature(one, torch.cat([nothing, steps.cumsum(dim=1)], dim=1))


class ControlPath(NamedTuple):
    """The path ``x(t) = (t, values, counted)`` of a control and its signatures from the first row on.

    ``counted`` is the number of observed entries so far over the number of channels. ``rows [S, T, c]``: ``x`` at the
    rows; ``prefix``: signatures up to each row ``[S, T, ...]``.
    """

    control: Control
    counted: Tensor
    rows: Tensor
    prefix: Signature


def control_path(control: Control, mask: Tensor) -> ControlPath:
    """Signatures of a control's rows: one pass over the data, whatever is asked later.

    Args:
        mask: ``[S, T, C]``, which entries the control was built from.
    """
    S, T = control.time.shape
    # the count before the first row is zero and the path starts behind it, so that only later data move it
    count = mask.to(control.values.dtype).mean(-1).cumsum(dim=1)
    place = torch.arange(1, T + 1, device=mask.device).expand(S, T)
    value = at_place(control, control.time, place).value
    rows = torch.cat([control.time[..., None], value, count[..., None]], dim=-1)
    pieces = _gap_pieces(control, rows, place[:, :-1])
    return ControlPath(control, count, rows, prefixes(pieces))


def prefix_at(path: ControlPath, t: Tensor) -> Signature:
    """Signature from the first row to ``t [S, K]``, which must lie between the first row and the last."""
    time = path.control.time
    place = torch.searchsorted(time.contiguous(), t.contiguous(), right=True).clamp(min=1)
    before = (place - 1)[..., None]
    start = Signature(
        path.prefix.one.gather(1, before.expand(*t.shape, path.rows.shape[-1])),
        path.prefix.two.flatten(2).gather(1, before.expand(*t.shape, path.rows.shape[-1] ** 2)).view(
            *t.shape, path.rows.shape[-1], path.rows.shape[-1]
        ),
    )  # fmt: skip
    return chen(start, _inside(path, t, place))


def _gap_pieces(control: Control, rows: Tensor, place: Tensor) -> Signature:
    step = rows.diff(dim=1)
    if control.causal:
        wait = torch.cat([step[..., :1], torch.zeros_like(step[..., 1:])], dim=-1)
        return chen(straight(wait), straight(step - wait))
    if control.kind == "linear":
        return straight(step)
    curved = _quadrature(control, rows[:, :-1], place, control.time[:, :-1], control.time[:, 1:], step)
    gap = (step[..., :1] > 0)[..., None]
    return Signature(step, torch.where(gap, curved, straight(step).two))


def _inside(path: ControlPath, t: Tensor, place: Tensor) -> Signature:
    """The piece from row ``place - 1`` to ``t``."""
    control, T = path.control, path.rows.shape[1]
    index = (place - 1)[..., None].expand(*t.shape, path.rows.shape[-1])
    here, ahead = path.rows.gather(1, index), path.rows.gather(1, (index + 1).clamp(max=T - 1))
    value = at_place(control, t, place).value
    gap = (ahead[..., 0] - here[..., 0]).clamp(min=torch.finfo(t.dtype).tiny)
    share = ((t - here[..., 0]) / gap).clamp(0.0, 1.0)
    counted = torch.zeros_like(share) if control.causal else share * (ahead[..., -1] - here[..., -1])
    step = torch.cat([(t - here[..., 0])[..., None], value - here[..., 1:-1], counted[..., None]], dim=-1)
    if control.kind != "hermite":
        return straight(step)
    return Signature(step, _quadrature(control, here, place, here[..., 0], t, step))


def _quadrature(control: Control, start: Tensor, place: Tensor, t0: Tensor, t1: Tensor, step: Tensor) -> Tensor:
    """``int (x - x(t0)) dx^T`` over ``[t0, t1]``, exact for cubic values beside linear time and count."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    total = torch.zeros_like(_outer(step, step))
    # the rate of the count: the time's own is one
    h = (t1 - t0).clamp(min=torch.finfo(t0.dtype).tiny)
    counting = step[..., -1] / h
    for x, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = t0 + (t1 - t0) * float(x)
        found = at_place(control, t, place)
        passed = float(x) * (t1 - t0)
        away = torch.cat(
            [passed[..., None], found.value - start[..., 1:-1], (float(x) * step[..., -1])[..., None]], dim=-1
        )
        speed = torch.cat([torch.ones_like(t)[..., None], found.slope, counting[..., None]], dim=-1)
        total = total + float(w) * (t1 - t0)[..., None, None] * _outer(away, speed)
    return total


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]
