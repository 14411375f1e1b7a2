"""Controls: a continuous path through irregular, gappy data, one channel at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError

#: steepest slope of a cubic at a datum, standard deviations per typical gap: two data close in time tell no slope
STEEPEST = 5.0

CONTROLS = ("linear", "rectilinear", "hermite")


class Control(NamedTuple):
    """A path through the observed entries of each channel.

    ``time [S, T]`` ascending; ``values [S, T, C]``, 0 where missing; ``slopes [S, T, C]`` for the cubic;
    ``before``, ``after [S, T + 1, C]``: the last observed row ahead of place ``j`` (-1: none) and the first from ``j``
    on (``T``: none).
    """

    kind: str
    time: Tensor
    values: Tensor
    slopes: Tensor
    before: Tensor
    after: Tensor

    @property
    def causal(self) -> bool:
        """Does the path at a time depend on earlier data only."""
        return self.kind == "rectilinear"


class Along(NamedTuple):
    """The control at some times: ``value``, ``slope [S, K, C]``; ``past``, ``future [S, K, C]`` in [0, 1]: how near the
    neighbouring data of each channel are, ``1 / (1 + distance)``, 0 where there is none."""

    value: Tensor
    slope: Tensor
    past: Tensor
    future: Tensor


def build_control(time: Tensor, values: Tensor, mask: Tensor, kind: str = "linear") -> Control:
    """The control of padded rows.

    ``linear``: straight lines between the data. ``rectilinear``: the last value, hence causal. ``hermite``: cubics with
    the slope of the line to the datum before at each datum. All are constant beyond their ends; a channel without data
    is 0, and so is a causal one before its first datum.

    Args:
        time: ``[S, T]``, ascending, model time. values, mask: ``[S, T, C]``.

    Raises:
        ConfigError: unknown kind.

    References:
        Kidger et al. (2020), Neural controlled differential equations for irregular time series.
        Morrill et al. (2021), Neural controlled differential equations for online prediction tasks.

    Example:
        >>> t = torch.tensor([[0.0, 1.0, 2.0]]); y = torch.tensor([[[0.0], [0.0], [4.0]]])
        >>> seen = torch.tensor([[[True], [False], [True]]])
        >>> along(build_control(t, y, seen), torch.tensor([[1.5]])).value.item()
        3.0
    """
    if kind not in CONTROLS:
        raise ConfigError(f"unknown control {kind!r}", variable="control", fix=f"one of: {', '.join(CONTROLS)}")
    values = torch.where(mask, values, torch.zeros_like(values))
    T = time.shape[1]
    row = torch.arange(T, device=time.device)[None, :, None]
    none = torch.full_like(mask[:, :1], -1, dtype=torch.int64)
    before = torch.cat([none, torch.where(mask, row, -1).cummax(dim=1).values], dim=1)
    later = torch.where(mask, row, T).flip(1).cummin(dim=1).values.flip(1)
    after = torch.cat([later, none + 1 + T], dim=1)
    slopes = _backward_slopes(time, values, before[:, :-1]) if kind == "hermite" else torch.zeros_like(values)
    return Control(kind, time, values, slopes, before, after)


def along(control: Control, t: Tensor) -> Along:
    """The control at ``t [S, K]``; at a datum's time, that datum counts as past."""
    place = torch.searchsorted(control.time.contiguous(), t.contiguous(), right=True)
    return at_place(control, t, place)


def at_place(control: Control, t: Tensor, place: Tensor) -> Along:
    """The control at ``t [S, K]`` as seen behind row ``place - 1 [S, K]`` (rows of one time are passed one by one)."""
    T = control.time.shape[1]
    i, j = _rows(control.before, place), _rows(control.after, place)
    has, will = i >= 0, j < T
    i, j = i.clamp(min=0), j.clamp(max=T - 1)
    t0, t1 = _times(control.time, i), _times(control.time, j)
    since, until = (t[..., None] - t0).clamp(min=0.0), (t1 - t[..., None]).clamp(min=0.0)
    past = torch.where(has, 1 / (1 + since), torch.zeros_like(since))
    future = torch.where(will, 1 / (1 + until), torch.zeros_like(until))
    x0, x1 = control.values.gather(1, i) * has, control.values.gather(1, j) * will
    if control.causal:
        return Along(x0, torch.zeros_like(x0), past, torch.zeros_like(future))
    both = has & will
    held = torch.where(has, x0, x1)
    h = (t1 - t0).clamp(min=torch.finfo(t.dtype).tiny)
    u = (since / h).clamp(max=1.0)
    if control.kind == "linear":
        value, slope = x0 + (x1 - x0) * u, (x1 - x0) / h
    else:
        value, slope = _cubic(x0, x1, control.slopes.gather(1, i) * h, control.slopes.gather(1, j) * h, u, h)
    # inside a step of length zero nothing has a slope
    slope = torch.where(both & (t1 > t0), slope, torch.zeros_like(slope))
    return Along(torch.where(both, value, held), slope, past, future)


def _cubic(x0: Tensor, x1: Tensor, s0: Tensor, s1: Tensor, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    v = 1 - u
    value = x0 * (1 + 2 * u) * v**2 + s0 * u * v**2 + x1 * u**2 * (3 - 2 * u) - s1 * u**2 * v
    slope = 6 * u * v * (x1 - x0) + s0 * v * (1 - 3 * u) + s1 * u * (3 * u - 2)
    return value, slope / h


def _backward_slopes(time: Tensor, values: Tensor, previous: Tensor) -> Tensor:
    """``(x_j - x_i) / (t_j - t_i)`` with ``i`` the observed row before ``j``; else 0."""
    i = previous.clamp(min=0)
    h = time[..., None] - _times(time, i)
    known = (previous >= 0) & (h > 0)
    slope = (values - values.gather(1, i)) / torch.where(known, h, torch.ones_like(h))
    return torch.where(known, slope.clamp(-STEEPEST, STEEPEST), torch.zeros_like(slope))


def _rows(index: Tensor, place: Tensor) -> Tensor:
    return index.gather(1, place[..., None].expand(*place.shape, index.shape[-1]))


def _times(time: Tensor, rows: Tensor) -> Tensor:
    """``time [S, T]`` at ``rows [S, K, C]``."""
    return time[..., None].expand(*time.shape, rows.shape[-1]).gather(1, rows)
