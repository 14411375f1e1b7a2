"""The solver's error estimate at one step, chosen by a time: differentiable with every kind of gradient."""

from __future__ import annotations

import bisect
import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import TimeError
from .grid import StepGrid
from .problem import Problem


class Probe(NamedTuple):
    """The ``step`` that holds the time, the ``output`` that it starts from, and whether that output is ``extra``."""

    step: int
    output: int
    extra: bool

    @classmethod
    def at(cls, grid: StepGrid, time: float) -> Probe:
        """For a time on the grid.

        Raises:
            TimeError: the time lies outside the grid, or the grid has no step.
        """
        ends = grid.times[[0, -1]]
        if not (float(ends.min()) <= time <= float(ends.max())) or grid.steps == 0:
            raise TimeError(
                f"probe {time} lies outside the times {float(ends[0])} to {float(ends[1])}", variable="probe",
                fix="draw it between the first and the last time",
            )  # fmt: skip
        sign = 1.0 if float(ends[1]) > float(ends[0]) else -1.0
        found = bisect.bisect_right((grid.times * sign).tolist(), time * sign) - 1
        step = min(max(found, 0), grid.steps - 1)
        starts = [0, *itertools.accumulate(grid.counts)]
        output = bisect.bisect_left(starts, step)
        return cls(step, output, starts[output] != step)

    def split(self, problem: Problem) -> Problem:
        """The problem with the start of the step among its outputs."""
        if not self.extra:
            return problem
        counts, before = list(problem.grid.counts), sum(problem.grid.counts[: self.output - 1])
        inside = counts[self.output - 1]
        counts[self.output - 1 : self.output] = [self.step - before, inside - (self.step - before)]
        grid = problem.grid._replace(counts=tuple(counts))
        return problem._replace(grid=grid, noise=problem.noise._replace(grid=grid))

    def measure(self, problem: Problem, z: Tensor) -> Tensor:
        """``[...]``: E of the step, from ``z [T', ..., d]`` at the outputs of the split problem."""
        grid, start = problem.grid, z[self.output]
        t, scheme = grid.times[self.step].to(start), problem.scheme
        noise = problem.noise.window(self.step, self.step + 1)[0][..., : problem.width]
        carry = scheme.begin(problem.drift, problem.diffusion, t, start)
        return scheme.embedded(problem.drift, problem.diffusion, t, carry, grid.sizes()[self.step], noise)[1]

    def outputs(self, z: Tensor) -> Tensor:
        """The states that were asked for."""
        return torch.cat([z[: self.output], z[self.output + 1 :]]) if self.extra else z
