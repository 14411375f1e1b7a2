"""What a datum says about a function of time: its value, derivative, mean over an exposure, or a difference."""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, ShapeError, TimeError

POINT, DERIVATIVE, AVERAGE, DIFFERENCE = range(4)


class Observed(NamedTuple):
    """``N`` linear functionals of ``f``: ``kind [N]``, ``start [N]``, ``end [N]`` (the same for points)."""

    kind: Tensor
    start: Tensor
    end: Tensor

    @property
    def simple(self) -> bool:
        """Are all of them values or derivatives at one time each."""
        return bool((self.kind <= DERIVATIVE).all())

    def to(self, device: torch.device) -> Observed:
        """The same on another device."""
        return Observed(*(column.to(device) for column in self))

    def keep(self, rows: Tensor) -> Observed:
        """Some of them."""
        return Observed(self.kind[rows], self.start[rows], self.end[rows])


def points(time: Any) -> Observed:
    """``f(t)``.

    Example:
        >>> len(points([0.0, 1.5]).start)
        2
    """
    return _of(POINT, time, time)


def derivatives(time: Any) -> Observed:
    """``f'(t)``.

    Example:
        >>> derivatives([0.0, 1.5]).kind.tolist()
        [1, 1]
    """
    return _of(DERIVATIVE, time, time)


def averages(start: Any, end: Any) -> Observed:
    """``1/(b - a) int_a^b f dt``: exposures, which may overlap; of no length: the value.

    Raises:
        DataError: an exposure ends before it starts.

    Example:
        >>> averages([0.0, 0.5], [1.0, 1.5]).kind.tolist()
        [2, 2]
    """
    found = _of(AVERAGE, start, end)
    return found._replace(kind=torch.where(found.start == found.end, torch.full_like(found.kind, POINT), found.kind))


def differences(start: Any, end: Any) -> Observed:
    """``f(b) - f(a)``.

    Raises:
        DataError: ``b <= a``.

    Example:
        >>> differences([0.0], [1.0]).kind.tolist()
        [3]
    """
    found = _of(DIFFERENCE, start, end)
    if bool((found.start == found.end).any()):
        raise DataError("a difference needs two times", variable="end", fix="give times with end > start")
    return found


def join(*parts: Observed) -> Observed:
    """One after the other.

    Example:
        >>> join(points([0.0]), derivatives([1.0])).kind.tolist()
        [0, 1]
    """
    return Observed(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def as_observed(time: Any) -> Observed:
    """Times are points."""
    return time if isinstance(time, Observed) else points(time)


def _of(kind: int, start: Any, end: Any) -> Observed:
    a, b = (_times(part) for part in (start, end))
    if a.shape != b.shape:
        raise ShapeError(f"{len(a)} starts and {len(b)} ends", fix="give one end for each start")
    if bool((b < a).any()):
        raise DataError(
            "ends before it starts", variable="end", index=int(torch.nonzero(b < a)[0]), fix="swap start and end"
        )
    return Observed(torch.full(a.shape, kind, dtype=torch.int64, device=a.device), a, b)


def numbers(values: Any, name: str) -> Tensor:
    """A float64 tensor from a tensor or from anything that numpy reads.

    Raises:
        TimeError: dates. DataError: no numbers.
    """
    if isinstance(values, Tensor):
        return values.to(torch.float64)
    try:
        array = np.asarray(values)
        if array.dtype.kind in "mM":
            raise TimeError(
                "dates are not numbers", variable=name, fix='subtract an origin, or use si.fit(ds, model="gp")'
            )
        return torch.as_tensor(array.astype(np.float64))
    except (TypeError, ValueError) as err:
        raise DataError(f"cannot be read as numbers: {err}", variable=name, fix="pass an array of numbers") from err


def _times(values: Any) -> Tensor:
    time = numbers(values, "time").detach()
    if time.ndim != 1:
        raise ShapeError(f"times must be a vector, got shape {tuple(time.shape)}", variable="time")
    bad = torch.nonzero(~time.isfinite())
    if len(bad):
        raise DataError(
            f"time is {float(time[bad[0, 0]])}", variable="time", index=int(bad[0, 0]), fix="drop rows without a time"
        )
    return time


class Layout(NamedTuple):
    """Where on one ascending axis of events each functional is read, and which slots of memory it uses.

    ``time [G]``; ``read [N]``: event of each functional; ``opened [G]``: slot that is opened there, or -1;
    ``slot [N]``: slot of each functional, or -1. Slots ``0..integrals-1`` integrate ``f`` since they were opened,
    ``integrals..integrals+holds-1`` remember ``f`` from when they were opened.
    """

    time: Tensor
    read: Tensor
    opened: Tensor
    slot: Tensor
    integrals: int = 0
    holds: int = 0


def lay_out(items: Observed, start: float | None = None) -> Layout:
    """Order the events of ``items``; ``start``: a time at which nothing is read but the prior begins."""
    time, order = torch.sort(items.end, stable=True)
    read = torch.argsort(order)
    none = torch.full_like(read, -1)
    layout = Layout(time, read, none, none) if items.simple else _with_slots(items)
    if start is None or not len(time) or start >= float(layout.time[0]):
        return layout
    first = layout.time.new_tensor([start])
    return layout._replace(
        time=torch.cat([first, layout.time]),
        read=layout.read + 1,
        opened=torch.cat([layout.opened.new_tensor([-1]), layout.opened]),
    )


def _with_slots(items: Observed) -> Layout:
    integral, integrals = _assign(items, AVERAGE)
    hold, holds = _assign(items, DIFFERENCE)
    slot = torch.where(hold >= 0, hold + integrals, integral)
    memory = torch.nonzero(slot >= 0)[:, 0]
    # at equal times reading comes before opening: a slot may be handed on
    time = torch.cat([items.end, items.start[memory]])
    opening = torch.cat([torch.zeros_like(items.kind), torch.ones_like(memory)])
    order = torch.argsort(opening, stable=True)
    order = order[torch.argsort(time[order], stable=True)]
    where = torch.argsort(order)
    opened = torch.cat([torch.full_like(items.kind, -1), slot[memory]])[order]
    return Layout(time[order], where[: len(items.kind)], opened, slot, integrals, holds)


def _assign(items: Observed, kind: int) -> tuple[Tensor, int]:
    """Give every functional of ``kind`` a slot that is free while it is open: as few slots as can be."""
    slot = torch.full_like(items.kind, -1)
    rows = torch.nonzero(items.kind == kind)[:, 0]
    rows = rows[torch.argsort(items.start[rows], stable=True)]
    busy: list[tuple[float, int]] = []
    used = 0
    for row, a, b in zip(rows.tolist(), items.start[rows].tolist(), items.end[rows].tolist(), strict=True):
        if busy and busy[0][0] <= a:
            _, mine = heapq.heappop(busy)
        else:
            mine, used = used, used + 1
        slot[row] = mine
        heapq.heappush(busy, (b, mine))
    return slot, used
