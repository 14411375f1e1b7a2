"""The noise of one integration: increments step by step, from the start or from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .dyadic import NoisePath
from .grid import StepGrid
from .jumps import Jumps
from .space_time import SpaceTimePath


class Run(NamedTuple):
    """Steps ``first..stop - 1`` that cut each of the cells from ``cell`` on into ``2^level`` equal parts."""

    first: int
    stop: int
    cell: int
    level: int


class GridNoise(NamedTuple):
    """A path on a grid: blocks ``[n, ..., m]``, or ``[n, 2, ..., m]`` where the solver needs the area.

    ``runs``: how the grid cuts the cells of the path, None where it does so in no regular way (and single times are
    looked up). ``idle``: components without noise that follow those of the path. ``jumps``: increments that follow in
    the last dim.
    """

    path: NoisePath
    grid: StepGrid
    runs: tuple[Run, ...] | None
    area: bool
    idle: int = 0
    jumps: Jumps | None = None

    def blocks(self) -> Iterator[Tensor]:
        """All steps, in order."""
        first = 0
        for block in self._blocks():
            stop = first + len(block)
            yield self._filled(block, first, stop)
            first = stop

    def window(self, first: int, stop: int) -> Tensor:
        """The steps ``first..stop - 1``, with the bits that :meth:`blocks` gives them (to rounding without runs)."""
        if self.runs is None:
            pairs, times = self._pairs(), self.grid.times[first : stop + 1]
            found = list(self.path.increments(times) if pairs is None else pairs.pairs(times))
        else:
            found = [
                self._part(run, max(first, run.first), min(stop, run.stop))
                for run in self.runs
                if run.first < stop and first < run.stop
            ]
        return self._filled(found[0] if len(found) == 1 else torch.cat(found), first, stop)

    def _part(self, run: Run, first: int, stop: int) -> Tensor:
        pairs, offset = self._pairs(), (run.cell << run.level) - run.first
        take = self.path.window if pairs is None else pairs.window_pairs
        return take(run.level, first + offset, stop + offset)

    def _blocks(self) -> Iterator[Tensor]:
        path, pairs, runs = self.path, self._pairs(), self.runs
        if runs is None:
            yield from path.increments(self.grid.times) if pairs is None else pairs.pairs(self.grid.times)
        elif len(runs) == 1:
            yield from path.uniform(runs[0].level) if pairs is None else pairs.uniform_pairs(runs[0].level)
        else:
            size = path.block
            for run in runs:
                for first in range(run.first, run.stop, size):
                    yield self._part(run, first, min(first + size, run.stop))

    def _pairs(self) -> SpaceTimePath | None:
        return self.path if self.area and isinstance(self.path, SpaceTimePath) else None

    def _filled(self, block: Tensor, first: int, stop: int) -> Tensor:
        if self.idle:
            block = pad(block, (0, self.idle))
        if self.jumps is None:
            return block
        leaps = self.jumps.increments(self.grid.times[first : stop + 1]).to(block)
        if self.area:
            leaps = torch.stack([leaps, torch.zeros_like(leaps)], dim=1)
        return torch.cat([block, leaps], dim=-1)


def runs_of(grid: StepGrid, path: NoisePath, *, made: bool) -> tuple[Run, ...] | None:
    """How the grid cuts the cells of a path, which was ``made`` for it or given."""
    level = grid.level if made else path.level_of(grid.times)
    if level is not None:
        return (Run(0, grid.steps, 0, level),)
    if not made or grid.steps == 0 or float(grid.times[0]) > float(grid.times[-1]):
        return None
    # the cells are the intervals between outputs, each cut into a power of two
    runs: list[Run] = []
    first = 0
    for cell, count in enumerate(grid.counts):
        here = count.bit_length() - 1
        if runs and runs[-1].level == here:
            runs[-1] = runs[-1]._replace(stop=first + count)
        else:
            runs.append(Run(first, first + count, cell, here))
        first += count
    return tuple(runs)
