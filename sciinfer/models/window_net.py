"""Small networks trained on windows: what they share. Errors are recalibrated on the last windows of the data."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..labelled.series import SeriesBatch
from .base import Loss
from .window_grid import held, to_grid
from .window_model import Answer, WindowModel, contexts, targets
from .window_spread import lead_memory, normal_table, quantile_table

#: windows per step, held-out windows, share of the rows they come from, degrees of freedom of the loss
_BATCH, _HELD, _LATE, _FREEDOM = 128, 64, 0.2, 5.0


class WindowNet(WindowModel):
    """``y = last + g s f((context - last) / s)``, ``s`` the context's spread about its last value; errors are
    ``sqrt(s s0) exp(scale[h, c])``, ``s0`` the usual ``s``, times Student's t while training.

    The last fifth of the rows is never trained on: 64 windows from it are kept with the model, and give the quantiles
    of its errors and the share ``g`` of the network's answer (0: the last value) with the least absolute error.
    """

    typical: Tensor
    late: Tensor
    late_target: Tensor
    late_seen: Tensor

    def __init__(self, name: str, channels: int, context: int, horizon: int) -> None:
        super().__init__(name, channels, context, horizon)
        self.log_spread = nn.Parameter(torch.zeros(horizon, channels, dtype=torch.float64))
        self.register_buffer("typical", torch.ones(channels, dtype=torch.float64))
        self.register_buffer("late", torch.zeros(_HELD, context, channels, dtype=torch.float64))
        self.register_buffer("late_target", torch.zeros(_HELD, horizon, channels, dtype=torch.float64))
        self.register_buffer("late_seen", torch.zeros(_HELD, horizon, channels, dtype=torch.bool))

    @abstractmethod
    def shape_of(self, context: Tensor) -> Tensor:
        """Change ``[B, H, C]`` from a context ``[B, L, C]`` that ends at 0 with unit spread."""

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """Scales, and the windows that are held out."""
        grid = self.measure(batch)
        if grid is None:
            return
        longest = int(grid.cells.argmax())
        share = torch.linspace(0, 1, _HELD, dtype=torch.float64, device=grid.values.device)
        series = torch.arange(_HELD, device=grid.values.device) % len(grid.cells)
        series = torch.where(grid.cells[series] > 1, series, longest)
        cells = grid.cells[series]
        first = (cells * (1 - _LATE)).floor()
        last = torch.maximum(cells - self.horizon, first)
        ends = (first + share * (last - first)).round().long().clamp(min=1)
        self.late.copy_(contexts(held(grid, self.centre), grid.cells, series, ends, self.context))
        target, seen = targets(grid, series, ends, self.horizon)
        self.late_target.copy_(target)
        self.late_seen.copy_(seen)
        wide = (target - self.late[:, -1:]).abs() * seen
        local = self._local(torch.cat([self.starts, self.late]))
        self.typical.copy_(local.square().mean((0, 1)).sqrt())
        level = (wide / self.typical).sum(0) / seen.sum(0).clamp(min=1)
        self.log_spread.copy_(level.clamp(min=1e-3).log())

    def _local(self, context: Tensor) -> Tensor:
        """Spread of each context about its last value, ``[B, 1, C]``."""
        near = (context - context[:, -1:]).square().mean(1, keepdim=True)
        return (near + (0.1 * self.sd).square()).sqrt()

    def raw(self, context: Tensor) -> Answer:
        """The network's own answer."""
        local, last = self._local(context), context[:, -1:]
        change = self.shape_of((context - last) / local)
        return Answer(last + local * change, (local * self.typical).sqrt() * self.log_spread.exp())

    def answer(self, context: Tensor) -> Answer:
        """With the share of the network that the held-out windows ask for."""
        raw = self.raw(context)
        last = context[:, -1:]
        return Answer(last + self.share() * (raw.mean - last), raw.scale)

    @torch.no_grad()
    def share(self) -> Tensor:
        """``g`` in [0, 1], from the held-out windows."""
        change = self.raw(self.late).mean - self.late[:, -1:]
        asked = self.late_target - self.late[:, -1:]
        tried = torch.linspace(1, 0, 11, dtype=change.dtype, device=change.device)
        missed = [((asked - g * change).abs() / self.sd * self.late_seen).sum() for g in tried]
        # the first of equals: the network
        return tried[torch.stack(missed).argmin()]

    @torch.no_grad()
    def table(self) -> tuple[Tensor, Tensor]:
        """Quantiles of the held-out errors in units of the scale, all leads and channels together."""
        if not bool(self.late_seen.any()):
            return normal_table(self.sd), self.sd.new_full((), 0.5)
        answer = self.answer(self.late)
        error = torch.where(self.late_seen, (self.late_target - answer.mean) / answer.scale, 0.0)
        table = quantile_table(error.flatten()[:, None, None], self.late_seen.flatten()[:, None, None])
        by_lead = table.expand(self.horizon, -1, self.channels)
        return table, lead_memory(error, self.late_seen, by_lead)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Student's t of whole horizons after random windows, per observed entry."""
        grid = to_grid(batch, self.step, model=self.name)
        usable = (grid.cells - (grid.cells * _LATE).floor().long() - 1).clamp(min=0)
        total = usable.cumsum(0)
        u = torch.rand(_BATCH, generator=generator, dtype=self.step.dtype, device=self.step.device)
        if int(total[-1]) == 0:
            usable, total = grid.cells.clamp(min=1), grid.cells.clamp(min=1).cumsum(0)
        place = (u * float(total[-1])).long().clamp(max=int(total[-1]) - 1)
        series = torch.searchsorted(total, place, right=True)
        ends = place - total[series] + usable[series] + 1
        answer = self.raw(contexts(held(grid, self.centre), grid.cells, series, ends, self.context))
        target, seen = targets(grid, series, ends, self.horizon)
        limit = (usable[series] + 1)[:, None]
        inside = ends[:, None] + torch.arange(self.horizon, device=ends.device) < torch.maximum(
            limit, ends[:, None] + 1
        )
        seen = seen & inside[..., None]
        scale = answer.scale * self.log_scale.exp()
        error = torch.where(seen, target - answer.mean, 0.0) / scale
        entries = 0.5 * (_FREEDOM + 1) * (error.square() / _FREEDOM).log1p() + scale.log()
        value = (entries * seen).sum() / seen.sum().clamp(min=1) + self.penalty()
        return Loss(value, {"windows": value.detach()})

    def penalty(self) -> Tensor:
        """What is added to the loss."""
        return self.log_scale.square().sum() * 1e-3

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Short: a step is 128 windows."""
        return {"optimiser": "adam", "steps": 300, "learning_rate": 3e-3, "validation": 0.0, "batch_size": 64}

    @torch.no_grad()
    def summary(self) -> dict[str, float]:
        """Held-out mean absolute error over that of the last value (one: it is the last value), and the share."""
        wide = (self.late_target - self.late[:, -1:]).abs() * self.late_seen
        off = (self.late_target - self.answer(self.late).mean).abs() * self.late_seen
        ratio = float((off / self.sd).sum() / (wide / self.sd).sum().clamp(min=1e-12))
        return {"error_over_last_value": ratio, "share": float(self.share()), "step": float(self.step)}


def perceptron(sizes: list[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between; the last one starts near zero."""
    layers: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        last = k == len(sizes) - 2
        layers.append(dense(sizes[k], sizes[k + 1], generator, 0.1 if last else 1.0))
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def dense(inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0) -> nn.Linear:
    """A linear layer with starting weights from the given stream."""
    layer = nn.Linear(inputs, outputs, dtype=torch.float64, device="meta").to_empty(device="cpu")
    draw_weights(layer, generator, gain)
    return layer


def draw_weights(module: nn.Module, generator: torch.Generator, gain: float = 1.0) -> None:
    """Uniform starting weights, biases zero, from the given stream."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim < 2:
                parameter.zero_()
                continue
            bound = gain * math.sqrt(3.0 / parameter[0].numel())
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1) * bound)
