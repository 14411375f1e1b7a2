"""Forecasters that read the last cells of a regular grid and answer for the next ones."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.series import SeriesBatch
from .base import Draws, Loss, Model
from .grids import pad_for
from .window_grid import GridRows, grid_step, held, padded_left, to_grid
from .window_paths import between
from .window_spread import KNOTS, looked_up, wandering

#: numbers in one pass over windows, largest number of cells that are drawn ahead, smallest scale
_CHUNK, _AHEAD, _FLOOR = 4_000_000, 20_000, 1e-6


class Answer(NamedTuple):
    """``mean, scale [B, H, C]`` of the next cells; an error is ``scale`` times a value of the table of quantiles."""

    mean: Tensor
    scale: Tensor


class Windows(NamedTuple):
    """``context [B, L, C]`` (no gaps left), ``target, seen [B, H, C]``."""

    context: Tensor
    target: Tensor
    seen: Tensor


class WindowModel(Model):
    """What such forecasters share. Gaps are filled with the last value before them; up to the last row the answer is
    the data and Brownian bridges between; beyond the horizon, answers are read as if they were data.

    Args:
        name: of the model, for messages. channels: ``C``. context, horizon: ``L, H``, cells.
    """

    step: Tensor
    sd: Tensor
    centre: Tensor
    spread: Tensor
    starts: Tensor

    def __init__(self, name: str, channels: int, context: int, horizon: int) -> None:
        super().__init__()
        require_whole(context, "context", 1, 96)
        require_whole(horizon, "horizon", 1, 24)
        self.name, self.channels, self.context, self.horizon = name, channels, context, horizon
        f64 = torch.float64
        known = {
            "step": torch.ones((), dtype=f64), "sd": torch.ones(channels, dtype=f64),
            "centre": torch.zeros(channels, dtype=f64), "spread": torch.ones(channels, dtype=f64),
            "starts": torch.zeros(16, context, channels, dtype=f64),
        }  # fmt: skip
        for key, value in known.items():
            self.register_buffer(key, value)
        self.log_scale = nn.Parameter(torch.zeros(channels, dtype=f64))

    @abstractmethod
    def answer(self, context: Tensor) -> Answer:
        """Forecast from ``context [B, L, C]``."""

    @abstractmethod
    def table(self) -> tuple[Tensor, Tensor]:
        """Quantiles of the errors at the knots, ``[H or 1, K, C or 1]``, and their correlation from lead to lead."""

    # -- from data ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def measure(self, batch: SeriesBatch) -> GridRows | None:
        """Step, scales and a few stretches to start from; the rows on the grid, None without data."""
        batch = batch.to(self.step.device, self.step.dtype).drop_empty()
        if batch.observed == 0:
            return None
        self.step.fill_(grid_step(batch))
        for c in range(self.channels):
            seen = batch.values[:, c][batch.mask[:, c]]
            if len(seen):
                self.centre[c], self.spread[c] = seen.mean(), seen.std(correction=0).clamp(min=1e-9)
        grid = to_grid(batch, self.step, model=self.name)
        filled = held(grid, self.centre)
        both = grid.mask[:, 1:] & grid.mask[:, :-1]
        change = (filled.diff(dim=1).square() * both).sum((0, 1)) / both.sum((0, 1)).clamp(min=1)
        self.sd.copy_(torch.where(both.any(1).any(0), change.sqrt(), self.spread).clamp(min=1e-9))
        series, ends = self._origins(grid, len(self.starts))
        self.starts.copy_(contexts(filled, grid.cells, series, ends, self.context))
        return grid

    def _origins(self, grid: GridRows, count: int) -> tuple[Tensor, Tensor]:
        """Evenly chosen ``(series, cells read)``, ``[count]`` each."""
        total = grid.cells.cumsum(0)
        even = torch.arange(count, device=total.device).double() + 0.5
        place = (even / count * float(total[-1])).long()
        series = torch.searchsorted(total, place, right=True).clamp(max=len(total) - 1)
        return series, place - total[series] + grid.cells[series] + 1

    def windows(self, grid: GridRows, series: Tensor, ends: Tensor) -> Windows:
        """Windows that have read ``ends`` cells of ``series``."""
        context = contexts(held(grid, self.centre), grid.cells, series, ends, self.context)
        return Windows(context, *targets(grid, series, ends, self.horizon))

    # -- the contract ------------------------------------------------------------------------------------------------

    def one_ahead(self, batch: SeriesBatch) -> Tensor:
        """``sum_k log p(y_k | rows before k)`` of each series, ``[S]``, Gaussian, channels apart."""
        grid = to_grid(batch, self.step, model=self.name)
        filled = held(grid, self.centre)
        cell = torch.arange(grid.values.shape[1], device=filled.device)
        first = grid.values.shape[1] - grid.cells
        used = (cell >= first[:, None]).nonzero()
        found = filled.new_zeros(batch.n_series)
        size = max(1, _CHUNK // (max(self.context, self.horizon) * self.channels))
        for part in used.split(size):
            series, at = part.unbind(1)
            read = at - first[series]
            answer = self.answer(contexts(filled, grid.cells, series, read, self.context))
            fresh = (read == 0)[:, None]
            mean = torch.where(fresh, self.centre, answer.mean[:, 0])
            sd = torch.where(fresh, self.spread, answer.scale[:, 0] * self.first_sd()) * self.log_scale.exp()
            error = (grid.values[series, at] - mean) / sd.clamp(min=_FLOOR)
            entries = -0.5 * error.square() - sd.clamp(min=_FLOOR).log() - 0.5 * math.log(2 * math.pi)
            found = found.index_add(0, series, (entries * grid.mask[series, at]).sum(1))
        return found

    def first_sd(self) -> Tensor | float:
        """Standard deviation of an error one cell ahead, in units of its scale."""
        return 1.0

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """See :meth:`one_ahead`."""
        return self.one_ahead(batch)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative one-step predictive log-density per entry."""
        value = -self.one_ahead(batch).sum() / max(batch.observed, 1)
        return Loss(value, {"ahead": value.detach()})

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws; there is no noise besides what the path itself does."""
        padded = pad_for(batch, times)
        sd = self.sd * self.log_scale.exp() / self.step.sqrt()
        known = between(padded, times, sd, self.centre, self.spread, draws=draws, generator=generator)
        lead = (times - padded.time[:, -1:]).clamp(min=0.0) / self.step
        if not lead.numel() or not bool((lead > 0).any()):
            return Draws(known, known)
        cells = math.ceil(float(lead.max()))
        if cells > _AHEAD:
            raise ConfigError(
                f"{self.name} was asked {cells} steps of {float(self.step):.4g} after the last row", dim="time",
                fix=f"ask for at most {_AHEAD} steps",
            )  # fmt: skip
        grid = to_grid(batch, self.step, model=self.name)
        context = padded_left(self._filled(grid), self.context)
        ahead = self.roll(context[None].expand(draws, -1, -1, -1), cells, generator)
        never = ~grid.mask.any(dim=1)[:, None]
        blank = self.centre + self.spread * torch.randn(
            ahead.shape, generator=generator, dtype=ahead.dtype, device=ahead.device
        )
        ahead = torch.where(never, blank, ahead)
        # what is known at the last row is the first point of the path
        end = context[None, :, -1:].expand(draws, -1, -1, -1)
        path = torch.cat([torch.where(never, ahead[:, :, :1], end), ahead], dim=2)
        found = _interpolated(path, lead)
        found = torch.where((lead > 0)[..., None], found, known)
        return Draws(found, found)

    def _filled(self, grid: GridRows) -> Tensor:
        """Held values; cells before a series' first row repeat that row."""
        filled = held(grid, self.centre)
        cell = torch.arange(filled.shape[1], device=filled.device)
        first = (filled.shape[1] - grid.cells).clamp(max=filled.shape[1] - 1)
        index = torch.maximum(cell, first[:, None])[..., None].expand_as(filled)
        return filled.gather(1, index)

    def roll(self, context: Tensor, cells: int, generator: torch.Generator) -> Tensor:
        """Draws of the next ``cells`` after ``context [n, S, L, C]``: ``[n, S, cells, C]``."""
        draws, series = context.shape[:2]
        table, memory = self.table()
        done: list[Tensor] = []
        blocks = -(-cells // self.horizon)
        shape = (draws, series, blocks * self.horizon, self.channels)
        # errors stay alike from block to block as well
        noise = wandering(memory, shape, generator).split(self.horizon, dim=2)
        for block, z in enumerate(noise):
            # all draws start from one history: asked once
            given = context[:1] if block == 0 and context.stride(0) == 0 else context
            answer = self.answer(given.flatten(0, 1))
            mean, scale = (part.unflatten(0, (-1, series)) for part in answer)
            fresh = mean + scale * self.log_scale.exp() * looked_up(table, z)
            done.append(fresh)
            context = torch.cat([context, fresh], dim=2)[:, :, -self.context :]
        return torch.cat(done, dim=2)[:, :, :cells]

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """What follows stretches of the training data, drawn at random."""
        u = torch.rand(draws, generator=generator, dtype=times.dtype, device=times.device)
        context = self.starts[(u * len(self.starts)).long()][:, None]
        lead = ((times - times[0]) / self.step)[None]
        cells = min(math.ceil(float(lead.max())) + 1, _AHEAD)
        path = self.roll(context, cells, generator)
        found = _interpolated(path, lead.clamp(max=cells - 1))
        return Draws(found, found)


def contexts(filled: Tensor, cells: Tensor, series: Tensor, ends: Tensor, width: int) -> Tensor:
    """The ``width`` cells before the one after ``ends`` cells of each series; its first cell stands for those before.

    A window that has read nothing (``ends`` 0) is given the first cell: whoever asks replaces the answer.
    """
    first = filled.shape[1] - cells[series]
    at = first[:, None] + ends[:, None] + torch.arange(-width, 0, device=filled.device)
    at = torch.maximum(at, first[:, None]).clamp(max=filled.shape[1] - 1)
    return filled[series[:, None], at]


def targets(grid: GridRows, series: Tensor, ends: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` cells after the first ``ends`` of each series, and which of them were observed."""
    T = grid.values.shape[1]
    at = (T - grid.cells[series] + ends)[:, None] + torch.arange(width, device=grid.values.device)
    inside = (at < T)[..., None]
    at = at.clamp(max=T - 1)
    return grid.values[series[:, None], at], grid.mask[series[:, None], at] & inside


def _interpolated(path: Tensor, lead: Tensor) -> Tensor:
    """``path [n, S, K, C]`` at fractional cells ``lead [S, Q]``, linear between them."""
    low = lead.floor().long().clamp(max=path.shape[2] - 1)
    high = (low + 1).clamp(max=path.shape[2] - 1)
    share = (lead - low)[None, ..., None]
    pick = lambda at: path.gather(2, at[None, ..., None].expand(len(path), path.shape[1], -1, path.shape[3]))  # noqa: E731
    return torch.where(share > 0, (1 - share) * pick(low) + share * pick(high), pick(low))


def require_whole(value: object, name: str, least: int, example: int) -> None:
    """A whole number, at least ``least``.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(
            f"{name} must be a whole number >= {least}, got {value!r}", variable=name, fix=f"{name}={example}"
        )


__all__ = ["KNOTS", "Answer", "WindowModel", "Windows", "contexts", "require_whole", "targets"]
