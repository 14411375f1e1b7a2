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


class GridNoise(NamedTuple):
    """A path on a grid: blocks ``[n, ..., m]``, or ``[n, 2, ..., m]`` where the solver needs the area.

    ``level``: the grid has ``2^level`` steps in every cell of the path, None where it has not. ``idle``: components
    without noise that follow those of the path. ``jumps``: increments that follow in the last dim.
    """

    path: NoisePath
    grid: StepGrid
    level: int | None
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
        """The steps ``first..stop - 1``, with the bits that :meth:`blocks` gives them (to rounding off the uniform)."""
        path, times = self.path, self.grid.times[first : stop + 1]
        pairs = self._pairs()
        if self.level is not None:
            block = (path.window if pairs is None else pairs.window_pairs)(self.level, first, stop)
        else:
            block = torch.cat(list(path.increments(times) if pairs is None else pairs.pairs(times)))
        return self._filled(block, first, stop)

    def _blocks(self) -> Iterator[Tensor]:
        path, times, pairs = self.path, self.grid.times, self._pairs()
        if self.level is not None:
            return path.uniform(self.level) if pairs is None else pairs.uniform_pairs(self.level)
        return path.increments(times) if pairs is None else pairs.pairs(times)

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
