"""Brownian paths that also know their space-time area over every step, for solvers of strong order 3/2.

For an interval [s, u] of length h with increment D the area is H = 1/h int_s^u (W_r - W_s - (r - s)/h D) dr: the mean
height of the path above its chord, N(0, h/12) and independent of D. Halves of an interval follow from the whole and
two normals Z, N of the hash:

    D_left, D_right = D/2 +- (3/2 H + sqrt(h)/4 Z),   H_left, H_right = H/4 - sqrt(h)/8 Z +- sqrt(h/48) N

so that 2 H = H_left + H_right + (D_left - D_right)/2 holds for every halving: the pair is refined as the path is.
Numbering: hash 0 of a cell gives its (D, H), hash 2^l + j splits the interval j of level l.

References: Foster, Lyons, Oberhauser (2020), An optimal polynomial approximation of Brownian motion; Kidger (2021),
On neural differential equations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from .dyadic import NoisePath
from .hashing import node_codes, normal_pairs


@final
class SpaceTimePath(NoisePath):
    """A :class:`~sciinfer.integrate.BrownianPath` with areas; same arguments, twice the work, another path.

    Both kinds agree at the knots, where the increments of the cells are the same; inside the cells they differ.

    Example:
        >>> import torch
        >>> path = SpaceTimePath(0, dim=2, batch=3)
        >>> next(path.pairs(torch.linspace(0, 1, 9))).shape
        torch.Size([8, 2, 3, 2])
    """

    area = True

    def at(self, times: Tensor) -> Tensor:
        """W at ``times [Q]`` (any order, inside the knots): ``[Q, *batch, dim]``.

        Example:
            >>> import torch
            >>> SpaceTimePath(3, dim=1, t1=2.0).at(torch.tensor([0.0, 0.5, 2.0])).shape
            torch.Size([3, 1])
        """
        parts = [self._values(part)[:, 0] for part in self._flat_positions(times).split(self._queries())]
        return self._out(torch.cat(parts) if parts else self._codes.new_zeros(0, len(self._codes)))

    def increments(self, times: Tensor) -> Iterator[Tensor]:
        """Increments alone, over the grid ``times [N + 1]``: blocks ``[n, *batch, dim]``."""
        return (block[:, 0] for block in self.pairs(times))

    def uniform(self, level: int) -> Iterator[Tensor]:
        """Increments alone, of the grid with ``2^level`` steps in every cell."""
        return (block[:, 0] for block in self.uniform_pairs(level))

    def window(self, level: int, first: int, stop: int) -> Tensor:
        """The increments ``first..stop - 1`` of that grid."""
        return self.window_pairs(level, first, stop)[:, 0]

    def pairs(self, times: Tensor) -> Iterator[Tensor]:
        """(D, H) over the grid ``times [N + 1]``, ascending or descending: blocks ``[n, 2, *batch, dim]``.

        Example:
            >>> import torch
            >>> path = SpaceTimePath(0, dim=1)
            >>> fine = torch.cat(list(path.pairs(torch.linspace(0, 1, 65))))
            >>> coarse = next(path.pairs(torch.tensor([0.0, 1.0])))
            >>> bool((fine[:, 0].sum(0) - coarse[0, 0]).abs() < 1e-14)
            True
        """
        flat = self._flat_positions(times)
        if len(flat) < 2:
            return
        level = self._uniform_level(flat)
        if level is not None:
            yield from self.uniform_pairs(level)
            return
        last = self._values(flat[:1])
        for first in range(1, len(flat), self._queries()):
            here = flat[first - 1 : first + self._queries()]
            values = torch.cat([last, self._values(here[1:])])
            yield self._shaped(_between(values, self._exact(here)))
            last = values[-1:]

    def uniform_pairs(self, level: int) -> Iterator[Tensor]:
        """(D, H) of the grid with ``2^level`` equal steps in every cell: blocks ``[n, 2, *batch, dim]``."""
        self._check_level(level)
        return (self._shaped(block) for block in self._blocks(level))

    def window_pairs(self, level: int, first: int, stop: int) -> Tensor:
        """(D, H) of the steps ``first..stop - 1`` of that grid, from the roots down: ``[n, 2, *batch, dim]``."""
        self._check_level(level)
        low = first >> level
        found = self._cells(low, ((stop - 1) >> level) + 1)
        for at in range(level):
            below = level - at - 1
            start, end = first >> below, ((stop - 1) >> below) + 1
            found = self._halve(found, low, at)[start - 2 * low : end - 2 * low]
            low = start
        return self._shaped(found[first - low : stop - low])

    # --- the tree: items [n, 2, K] of consecutive intervals, the first of them number ``first`` of its level

    def _blocks(self, level: int) -> Iterator[Tensor]:
        block = self._steps_per_block()
        depth = min(level, block.bit_length() - 1)
        if depth == level:
            count = block >> level
            for start in range(0, len(self._gaps), count):
                cells = self._cells(start, min(start + count, len(self._gaps)))
                yield self._refined(cells, start, 0, level)
            return
        start = 0
        for parents in self._blocks(level - depth):
            for offset in range(len(parents)):
                yield self._refined(parents[offset : offset + 1], start + offset, level - depth, level)
            start += len(parents)

    def _cells(self, first: int, stop: int) -> Tensor:
        cells = torch.arange(first, stop, device=self.device)
        items = normal_pairs(self._codes, node_codes(cells, torch.zeros_like(cells)), self.dtype)
        roots = self._gaps[cells][:, None].to(self.dtype).sqrt()
        items[:, 0].mul_(roots)
        items[:, 1].mul_(roots * math.sqrt(1 / 12))
        return items

    def _refined(self, items: Tensor, first: int, at: int, level: int) -> Tensor:
        for here in range(at, level):
            items, first = self._halve(items, first, here), 2 * first
        return items

    def _halve(self, items: Tensor, first: int, at: int) -> Tensor:
        index = torch.arange(first, first + len(items), device=self.device)
        cell, roots = index >> at, (self._gaps[index >> at] * 0.5**at)[:, None].to(self.dtype).sqrt()
        normals = normal_pairs(self._codes, node_codes(cell, (index & ((1 << at) - 1)) + (1 << at)), self.dtype)
        return _halves(items, normals, roots)

    # --- single times: W and A = int W dr at each, in float64, down the tree

    def _values(self, flat: Tensor) -> Tensor:
        cell = (flat >> self.levels).clamp(max=len(self._gaps) - 1)
        first, last = int(cell.min()), int(cell.max())
        start = self._starts(first, last)[cell - first]
        items = self._cells(first, last + 1)[cell - first].double()
        return self._descend(start.unbind(1), items.unbind(1), cell, flat - (cell << self.levels))

    def _starts(self, first: int, last: int) -> Tensor:
        # W and A at the knots first..last, summed in the order of the cells
        running = torch.zeros(1, 2, len(self._codes), dtype=torch.float64, device=self.device)
        kept, width = [running[:0]], self._steps_per_block()
        for begin in range(0, last, width):
            stop = min(begin + width, last)
            whole, area = self._cells(begin, stop).double().unbind(1)
            values = torch.cat([running[-1:, 0], whole]).cumsum(0)
            means = values[:-1] + whole * 0.5 + area
            areas = torch.cat([running[-1:, 1], means * self._gaps[begin:stop, None]]).cumsum(0)
            sums = torch.stack([values, areas], dim=1)
            kept.append(sums[max(0, first - begin) : -1])
            running = sums
        return torch.cat([*kept, running[-1:]])

    def _descend(self, start: tuple[Tensor, ...], item: tuple[Tensor, ...], cell: Tensor, place: Tensor) -> Tensor:
        (value, area), (whole, height) = start, item
        gaps = self._gaps[cell][:, None]
        ended = (place == 1 << self.levels)[:, None]
        area = torch.where(ended, area + gaps * (value + whole * 0.5 + height), area)
        value = torch.where(ended, value + whole, value)
        place = torch.where(ended[:, 0], torch.zeros_like(place), place)
        for level in range(self.levels):
            below = self.levels - level
            if not bool((place & ((1 << below) - 1)).any()):
                break
            length = gaps * 0.5**level
            codes = node_codes(cell, (place >> below) + (1 << level))
            normals = normal_pairs(self._codes, codes, self.dtype).double()
            halves = _halves(torch.stack([whole, height], 1), normals, length.sqrt())
            left, right = halves[::2], halves[1::2]
            over = ((place >> (below - 1)) & 1 == 1)[:, None]
            mean = value + left[:, 0] * 0.5 + left[:, 1]
            area = torch.where(over, area + length * 0.5 * mean, area)
            value = torch.where(over, value + left[:, 0], value)
            whole, height = torch.where(over[:, None], right, left).unbind(1)
        return torch.stack([value, area], dim=1)

    def _exact(self, flat: Tensor) -> Tensor:
        """The times that the integers stand for."""
        cell = (flat >> self.levels).clamp(max=len(self._gaps) - 1)
        knots = self.knots.to(self.device)
        return knots[cell] + (flat - (cell << self.levels)).double() * 2.0**-self.levels * self._gaps[cell]

    def _shaped(self, items: Tensor) -> Tensor:
        return items.to(self.dtype).reshape(len(items), 2, *self.shape)


def _halves(items: Tensor, normals: Tensor, roots: Tensor) -> Tensor:
    """``[n, 2, K]`` pairs and normals (both used up), ``[n, 1]`` roots of the lengths, to ``[2 n, 2, K]``."""
    (whole, height), (first, second) = items.unbind(1), normals.unbind(1)
    tilt = first.mul_(roots * 0.25)
    turn = torch.add(tilt, height, alpha=1.5)
    base = height.mul_(0.25).sub_(tilt, alpha=0.5)
    spread, half = second.mul_(roots * math.sqrt(1 / 48)), whole.mul_(0.5)
    halves = torch.empty(len(items), 2, *items.shape[1:], dtype=items.dtype, device=items.device)
    torch.add(half, turn, out=halves[:, 0, 0])
    torch.sub(half, turn, out=halves[:, 1, 0])
    torch.add(base, spread, out=halves[:, 0, 1])
    torch.sub(base, spread, out=halves[:, 1, 1])
    return halves.flatten(0, 1)


def _between(values: Tensor, times: Tensor) -> Tensor:
    """(D, H) of consecutive times from W and A at them: ``[n + 1, 2, K]`` to ``[n, 2, K]``."""
    lengths = times.diff()[:, None]
    steps, areas = values.diff(dim=0).unbind(1)
    mean = areas / torch.where(lengths == 0, torch.ones_like(lengths), lengths)
    height = mean - (values[:-1, 0] + values[1:, 0]) * 0.5
    return torch.stack([steps, torch.where(lengths == 0, torch.zeros_like(height), height)], dim=1)
