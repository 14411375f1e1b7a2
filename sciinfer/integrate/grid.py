"""The step grid: from output times and a step count to the times of all steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError, TimeError

#: relative spread of the gaps below which output times count as equally spaced
_EQUAL = 1e-9


class StepGrid(NamedTuple):
    """Times of all steps.

    ``times [N + 1]`` float64 on the CPU; ``counts``: steps in each interval between outputs; ``knots``: the cells that
    a path made for this grid should have, with ``2^level`` equal steps in each, or ``level`` None where they differ.
    """

    times: Tensor
    counts: tuple[int, ...]
    knots: Tensor
    level: int | None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    def sizes(self) -> list[float]:
        """Size of each step (negative when time runs backward); the same float wherever steps are equal."""
        outputs = self._outputs()
        return [gap / n for gap, n in zip(outputs.diff().tolist(), self.counts, strict=True) for _ in range(n)]

    def keep(self) -> list[bool]:
        """True for the steps that end at an output time."""
        return [k == n - 1 for n in self.counts for k in range(n)]

    def _outputs(self) -> Tensor:
        ends = torch.tensor([0, *self.counts], device="cpu").cumsum(0)
        return self.times[ends]


def step_grid(times: Tensor, *, steps: int | None = None, dt: float | None = None) -> StepGrid:
    """The grid of about ``steps`` steps, or of steps no longer than ``dt``, that meets every output time.

    Equally spaced outputs get ``ceil(steps / intervals)`` steps each. Otherwise an interval gets the least power of two
    of steps that is fine enough. Doubling ``steps`` therefore halves every step (for equally spaced outputs, when
    ``steps`` is a multiple of the intervals), and the same seed gives the same path.

    Raises:
        ConfigError: not exactly one of ``steps`` and ``dt``, or not positive.
        TimeError: the times are not strictly monotone and finite.

    Example:
        >>> import torch
        >>> step_grid(torch.tensor([0.0, 0.5, 1.0]), steps=200).counts
        (100, 100)
    """
    outputs = checked_times(times)
    if len(outputs) == 1:
        return StepGrid(outputs, (), torch.stack([outputs[0], outputs[0] + 1.0]), None)
    gaps = outputs.diff()
    length = _longest_step(float(outputs[-1] - outputs[0]), steps, dt)
    equal = bool((gaps - gaps.mean()).abs().max() <= _EQUAL * gaps.mean().abs())
    wanted = [max(1, math.ceil(abs(gap) / length * (1 - 1e-9))) for gap in gaps.tolist()]
    counts = (max(wanted),) * len(wanted) if equal else tuple(1 << (n - 1).bit_length() for n in wanted)
    knots, level = _cells(outputs, counts)
    return StepGrid(_cut(outputs, counts), counts, knots, level)


def checked_times(times: Tensor) -> Tensor:
    """``times [T]`` as float64 on the CPU, strictly ascending or descending, or a TimeError that names the index."""
    outputs = torch.as_tensor(times, device="cpu").detach().to(torch.float64)
    if outputs.dim() != 1 or len(outputs) == 0:
        raise ShapeError(f"times must be [T] with T >= 1, got shape {tuple(outputs.shape)}", variable="times")
    gaps = outputs.diff()
    direction = 1.0 if len(gaps) == 0 or bool(outputs[-1] > outputs[0]) else -1.0
    if len(gaps) == 0 and not bool(torch.isfinite(outputs[0])):
        raise TimeError(f"times must be finite, got {float(outputs[0])}", variable="times", index=0)
    bad = ~(gaps * direction > 0) | ~torch.isfinite(gaps)
    if bool(bad.any()):
        index = int(bad.nonzero()[0]) + 1
        raise TimeError(
            f"times must be finite and strictly monotone, {float(outputs[index])} follows {float(outputs[index - 1])}",
            variable="times",
            index=index,
            fix="sort the times and drop duplicates",
        )
    return outputs


def _longest_step(span: float, steps: int | None, dt: float | None) -> float:
    if (steps is None) == (dt is None):
        raise ConfigError("exactly one of steps and dt is needed", fix="pass steps=200, or dt=0.01")
    if steps is not None:
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, got {steps}", fix="pass a positive integer")
        return abs(span) / steps
    if dt is None or not 0 < dt < math.inf:
        raise ConfigError(f"dt must be positive and finite, got {dt}", fix="pass the longest step, in units of times")
    return float(dt)


def _cut(edges: Tensor, counts: tuple[int, ...]) -> Tensor:
    if len(set(counts)) == 1:
        part = torch.arange(counts[0], dtype=torch.float64, device="cpu") / counts[0]
        return torch.cat([(edges[:-1, None] + edges.diff()[:, None] * part).flatten(), edges[-1:]])
    pieces = [
        a + gap * torch.arange(n, dtype=torch.float64, device="cpu") / n
        for a, gap, n in zip(edges, edges.diff(), counts, strict=False)
    ]
    return torch.cat([*pieces, edges[-1:]])


def _cells(edges: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, int | None]:
    # the odd part of a count is a number of cells, its power of two a depth inside them: halving steps keeps the cells
    twos = min((n & -n).bit_length() - 1 for n in counts)
    cells = tuple(n >> twos for n in counts) if len(set(counts)) == 1 else (1,) * len(counts)
    knots = _cut(edges, cells)
    backward = bool(edges[0] > edges[-1])
    return (knots.flip(0) if backward else knots), (twos if len(set(counts)) == 1 and not backward else None)
