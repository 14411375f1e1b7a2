"""The steps that each series takes, found once and walked again wherever a gradient is needed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError


class StepPlan(NamedTuple):
    """``t, h [S, K]``: start and size of each step (time runs upward); ``number [S]``: steps of each series.

    Behind its last step a series has steps of size zero at its end.
    """

    t: Tensor
    h: Tensor
    number: Tensor

    def place(self, times: Tensor) -> Tensor:
        """The step that holds each of ``times [S, T]``, ``[S, T]``."""
        steps = torch.arange(self.t.shape[1], device=self.t.device)
        # the last step takes all that lies behind it, and none is left for those without length
        ends = torch.where(steps >= (self.number - 1)[:, None], torch.inf, self.t + self.h)
        return torch.searchsorted(ends.contiguous(), times.detach().contiguous())


def pack(rows: list[Tensor], t: list[Tensor], h: list[Tensor], end: Tensor) -> StepPlan:
    """A plan of what was recorded step by step: ``rows`` say which series took the steps from ``t`` of size ``h``."""
    which, start, size = torch.cat(rows), torch.cat(t), torch.cat(h)
    order = torch.argsort(which, stable=True)
    which, count = which[order], torch.bincount(which, minlength=len(end))
    position = torch.arange(len(which), device=which.device) - (count.cumsum(0) - count)[which]
    width = max(int(count.max()), 1)
    plan = StepPlan(end[:, None].repeat(1, width), torch.zeros_like(end)[:, None].repeat(1, width), count)
    plan.t[which, position], plan.h[which, position] = start[order], size[order]
    return plan


def uniform_plan(start: Tensor, end: Tensor, step: float) -> StepPlan:
    """Equal steps of size ``step`` from ``start [S]`` until ``end [S]`` is covered: they do not depend on the outputs.

    Raises:
        ConfigError: the step is not positive.
    """
    if not step > 0:
        raise ConfigError(f"the step must be positive, got {step}", variable="step")
    count = torch.ceil((end - start) / step * (1 - 1e-9)).clamp(min=0).long()
    number = torch.arange(max(int(count.max()), 1), device=start.device)
    inside = number < count[:, None]
    t = start[:, None] + step * torch.minimum(number, count[:, None]).to(start)
    return StepPlan(t, inside.to(start) * step, count)
