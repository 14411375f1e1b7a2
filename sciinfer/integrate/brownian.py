"""Brownian paths without memory: any value, any grid, any batch, always the same path.

The time axis is cut into *cells* by knots; the increment of every cell is an independent Gaussian, and inside a cell
the path is refined by the Brownian bridge: an interval of length h with increment D splits into D/2 + Z sqrt(h)/2 and
D/2 - Z sqrt(h)/2. Z depends on (seed, path key, cell, node, dim) alone (:mod:`sciinfer.integrate.hashing`).

Numbering of nodes inside a cell: hash 0 gives the cell's own increment (first normal) and the split of the whole cell
(second normal); hash q = 2^(l-1) + j, l >= 1, gives the splits of the intervals 2j and 2j+1 of level l. Hence a grid
of 2^L steps in each cell costs one normal for each step, and equals node by node what a query of single times finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from .dyadic import NoisePath
from .hashing import node_codes, normal_pairs


@final
class BrownianPath(NoisePath):
    """A batch of independent Brownian paths, W(t0) = 0, as a pure function of the seed and the path keys.

    Args:
        seed: any integer.
        dim: number of independent components.
        t0, t1: ends of the time axis (any unit; the variance of W(t) is t - t0).
        batch: leading dims of the paths; the keys are then 0, 1, 2, ...
        keys: int64 of any shape, the identity of each path (instead of ``batch``). Path k is the same in any batch.
        knots: ``[C + 1]`` ascending edges of the cells (instead of ``t0, t1``). They are part of the path's identity; a
            knot appended at the end leaves the path before it unchanged.
        levels: times are resolved to 2^-levels of a cell; times closer than half of that to a node are that node.
        dtype: float64 or float32; the paths agree to the rounding of float32.
        device: where the values are made.

    Example:
        >>> path = BrownianPath(0, dim=2, t0=0.0, t1=1.0, batch=3)
        >>> path(0.3).shape
        torch.Size([3, 2])
        >>> bool(((path(0.9) - path(0.3)) == path(0.3, 0.9)).all())
        True
    """

    def at(self, times: Tensor) -> Tensor:
        """W at ``times [Q]`` (any order, inside the knots): ``[Q, *batch, dim]``.

        Raises:
            TimeError: a time lies outside the knots.

        Example:
            >>> import torch
            >>> path = BrownianPath(3, dim=1, t1=2.0)
            >>> path.at(torch.tensor([0.0, 0.5, 2.0])).shape
            torch.Size([3, 1])
        """
        flat = self._flat_positions(times)
        parts = [self._values(part) for part in flat.split(self._queries())]
        return self._out(torch.cat(parts) if parts else self._codes.new_zeros(0, len(self._codes)))

    def increments(self, times: Tensor) -> Iterator[Tensor]:
        """Increments over the grid ``times [N + 1]``, block by block: ``[n, *batch, dim]`` with the n adding up to N.

        A grid that cuts every cell into the same power of two of equal steps takes the fast route (one normal a step);
        any other ordered grid, also a descending one, is found by single queries of the same path.
        """
        flat = self._flat_positions(times)
        if len(flat) < 2:
            return
        level = self._uniform_level(flat)
        if level is not None:
            yield from self.uniform(level)
            return
        last = self._values(flat[:1])
        for part in flat[1:].split(self._queries()):
            values = torch.cat([last, self._values(part)])
            yield self._out(values.diff(dim=0))
            last = values[-1:]

    def uniform(self, level: int) -> Iterator[Tensor]:
        """Increments of the grid with ``2^level`` equal steps in every cell, block by block, ``[n, *batch, dim]``."""
        self._check_level(level)
        for block in self._blocks(level):
            yield self._out(block)

    def window(self, level: int, first: int, stop: int) -> Tensor:
        """The increments ``first..stop - 1`` of the grid with ``2^level`` steps in every cell: ``[n, *batch, dim]``.

        The same bits as :meth:`uniform`, found from the roots down: O(n + level) normals, whatever lies before.

        Example:
            >>> import torch
            >>> path = BrownianPath(0, dim=1)
            >>> torch.equal(path.window(6, 10, 20), next(path.uniform(6))[10:20])
            True
        """
        self._check_level(level)
        low, high = first >> level, ((stop - 1) >> level) + 1
        cells = torch.arange(low, high, device=self.device)
        found, normals = normal_pairs(self._codes, node_codes(cells, torch.zeros_like(cells)), self.dtype).unbind(1)
        found = found * self._gaps[cells][:, None].to(self.dtype).sqrt()
        for at in range(level):
            index = torch.arange(low, high, device=self.device)
            if at:  # low and high are even: a hash splits a pair of siblings
                pair, mask = index[::2] >> 1, (1 << (at - 1)) - 1
                codes = node_codes(pair >> (at - 1), (pair & mask) + (1 << (at - 1)))
                normals = normal_pairs(self._codes, codes, self.dtype).flatten(0, 1)
            found = _split(found, normals, (self._gaps[index >> at] * 0.5**at)[:, None].to(self.dtype))
            below = level - at - 1
            start, end = first >> below, ((stop - 1) >> below) + 1
            if below:
                start, end = start & ~1, (end + 1) & ~1
            found, low, high = found[start - 2 * low : end - 2 * low], start, end
        return self._out(found[first - low : stop - low])

    # --- bulk: levels of the tree, in blocks that stay in the cache

    def _blocks(self, level: int) -> Iterator[Tensor]:
        block = self._steps_per_block()
        depth = min(level, block.bit_length() - 1)
        if depth == level:
            count = block >> level
            for start in range(0, len(self._gaps), count):
                yield self._cells(torch.arange(start, min(start + count, len(self._gaps)), device=self.device), level)
            return
        yield from self._refined(level, depth)

    def _refined(self, level: int, depth: int) -> Iterator[Tensor]:
        # expand pairs of siblings of a coarser level: a hash serves the splits of both
        coarse, first = level - depth + 1, 0
        for parents in self._blocks(coarse):
            for pair in range(0, len(parents), 2):
                cell, index = divmod(first + pair, 1 << coarse)
                yield self._expand(
                    parents[pair : pair + 2], torch.tensor([cell], device=self.device), coarse, index, level
                )
            first += len(parents)

    def _cells(self, cells: Tensor, level: int) -> Tensor:
        total, split = normal_pairs(self._codes, node_codes(cells, torch.zeros_like(cells)), self.dtype).unbind(1)
        gaps = self._gaps[cells][:, None].to(self.dtype)
        increments = total.mul_(gaps.sqrt())
        if level == 0:
            return increments
        return self._expand(_split(increments, split, gaps), cells, 1, 0, level)

    def _expand(self, increments: Tensor, cells: Tensor, start: int, index: int, level: int) -> Tensor:
        # increments of consecutive intervals of level ``start``, equally many in each cell, the first at ``index``
        for at in range(start, level):
            pairs = len(increments) // len(cells) // 2
            first = (1 << (at - 1)) + (index >> 1)
            nodes = torch.arange(first, first + pairs, device=self.device)
            normals = normal_pairs(self._codes, node_codes(cells[:, None], nodes).flatten(), self.dtype)
            lengths = (self._gaps[cells] * 0.5**at).repeat_interleave(2 * pairs)[:, None].to(self.dtype)
            increments = _split(increments, normals.flatten(0, 1), lengths)
            index *= 2
        return increments

    # --- single times: down the tree, all times at once; sums in float64, because differences of them are taken

    def _values(self, flat: Tensor) -> Tensor:
        resolution = 1 << self.levels
        cell = (flat >> self.levels).clamp(max=len(self._gaps) - 1)
        place = flat - cell * resolution  # in 0..2^levels; the upper end occurs in the last cell only
        start, total, split = self._roots(cell)
        ended = place == resolution
        value = start + torch.where(ended[:, None], total, torch.zeros_like(total))
        return self._descend(value, total, split, cell, torch.where(ended, torch.zeros_like(place), place))

    def _roots(self, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, last = int(cell.min()), int(cell.max())
        start = self._starts(first, last)[cell - first]
        total, split = (
            normal_pairs(self._codes, node_codes(cell, torch.zeros_like(cell)), self.dtype).double().unbind(1)
        )
        return start, total.mul_(self._gaps[cell][:, None].sqrt()), split

    def _starts(self, first: int, last: int) -> Tensor:
        # W at the knots first..last; a running sum in the order of the cells, so that it has the same bits in any block
        running = torch.zeros(1, len(self._codes), dtype=torch.float64, device=self.device)
        kept, width = [], self._steps_per_block()
        for begin in range(0, last, width):
            cells = torch.arange(begin, min(begin + width, last), device=self.device)
            sums = torch.cat([running[-1:], self._cells(cells, 0).double()]).cumsum(0)
            kept.append(sums[:-1][cells >= first])
            running = sums
        return torch.cat([*kept, running[-1:]])

    def _descend(self, value: Tensor, increment: Tensor, normal: Tensor, cell: Tensor, place: Tensor) -> Tensor:
        for level in range(self.levels):
            below = self.levels - level
            if not bool((place & ((1 << below) - 1)).any()):
                break  # every time has been met by a node
            if level:
                index = place >> below
                pair = normal_pairs(
                    self._codes, node_codes(cell, (index >> 1) + (1 << (level - 1))), self.dtype
                ).double()
                normal = torch.where((index & 1 == 1)[:, None], pair[:, 1], pair[:, 0])
            spread = normal * _half_root((self._gaps[cell] * 0.5**level)[:, None])
            half = increment * 0.5
            right = ((place >> (below - 1)) & 1 == 1)[:, None]
            value = torch.where(right, value + (half + spread), value)
            increment = torch.where(right, half - spread, half + spread)
        return value


def _half_root(lengths: Tensor) -> Tensor:
    return lengths.sqrt() * 0.5


def _split(increments: Tensor, normals: Tensor, lengths: Tensor) -> Tensor:
    """Halve intervals: ``[n, K]`` increments and normals (both used up), ``[n, 1]`` lengths, to ``[2 n, K]``."""
    spread, half = normals.mul_(_half_root(lengths)), increments.mul_(0.5)
    halves = torch.empty(len(half), 2, half.shape[1], dtype=half.dtype, device=half.device)
    torch.add(half, spread, out=halves[:, 0])
    torch.sub(half, spread, out=halves[:, 1])
    return halves.flatten(0, 1)
