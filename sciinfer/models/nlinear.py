"""``nlinear``: all leads at once by ridge regression on the window before, in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from .window_grid import GridRows, held
from .window_model import KNOTS, Answer, WindowModel, contexts, targets
from .window_spread import lead_memory, normal_table, pinball, quantile_table

__entries__ = [
    {
        "kind": "models",
        "name": "nlinear",
        "target": "nlinear",
        "summary": "all leads at once by ridge regression on the window before, in closed form; conformal intervals",
        "references": [
            "Zeng, Chen, Zhang, Xu (2023), Are transformers effective for time series forecasting?",
            "Hoerl, Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems",
        ],
        "options": {
            "context": "cells read, on the data's grid",
            "horizon": "cells answered at once",
            "holdout": "last share of the rows that chooses the penalty and gives the intervals",
            "refit": "whether the weights are fitted again to all rows afterwards",
        },
    },
]

#: penalties in units of the windows' mean square; infinite: the last value; windows per pass, windows for intervals
_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, math.inf)
_PASS, _MOST = 4096, 4000
#: powers of a window's restlessness that may scale its intervals
_POWERS = (0.0, 0.5, 1.0)
#: errors looked at to choose among them, fewest windows
_TRIED, _FEWEST = 1_000_000, 40


def nlinear(
    schema: Schema, *, seed: int = 0, context: int = 96, horizon: int = 24, holdout: float = 0.25, refit: bool = False
) -> NLinear:
    r"""Build a linear forecaster for regular data of this schema.

    :math:`\hat y_{t+h} = y_t + \sum_j w_{hj} (y_{t-j} - y_t)`, the same weights for every channel, from the
    normal equations; the penalty (up to infinity, which is the last value) and the intervals come from the last rows.

    Args:
        schema: channels and time scale. seed: unused. context, horizon: ``L, H``, cells of the data's grid.
        holdout: share of the rows. refit: fit again to all rows.

    Raises:
        ConfigError: an option out of its range.

    References:
        Zeng, Chen, Zhang, Xu (2023), Are transformers effective for time series forecasting?

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> nlinear(Schema(axis, None, (Variable("a"),), (Channel("a"),)), context=12, horizon=6).weight.shape
        torch.Size([12, 6])
    """
    if not isinstance(holdout, int | float) or isinstance(holdout, bool) or not 0 < holdout < 1:
        raise ConfigError(f"holdout must be in (0, 1), got {holdout!r}", variable="holdout", fix="holdout=0.25")
    if not isinstance(refit, bool):
        raise ConfigError(f"refit must be true or false, got {refit!r}", variable="refit", fix="refit=False")
    return NLinear(schema.n_channels, context, horizon, float(holdout), refit)


class SolvedWindows(WindowModel):
    """A window model whose errors are a table of quantiles by lead and channel; nothing is left to train but a factor.

    Args:
        name: of the model. channels, context, horizon: ``C, L, H``.
    """

    quantiles: Tensor
    memory: Tensor
    adapt: Tensor
    against: Tensor

    def __init__(self, name: str, channels: int, context: int, horizon: int) -> None:
        super().__init__(name, channels, context, horizon)
        start = normal_table(self.sd).expand(horizon, len(KNOTS), channels).clone()
        self.register_buffer("quantiles", start)
        self.register_buffer("memory", torch.full((), 0.5, dtype=torch.float64))
        self.register_buffer("adapt", torch.zeros((), dtype=torch.float64))
        self.register_buffer("against", torch.ones((), dtype=torch.float64))

    def mean(self, context: Tensor) -> Tensor:
        """Forecast ``[B, H, C]`` from ``context [B, L, C]``."""
        raise NotImplementedError

    def answer(self, context: Tensor) -> Answer:
        """The forecast, and how restless the window is (not where the held-out rows say that this does not matter)."""
        mean = self.mean(context)
        return Answer(mean, self._restless(context, self.adapt).expand_as(mean))

    def _restless(self, context: Tensor, adapt: Tensor | float) -> Tensor:
        """Root mean square step of the window over the usual one, to a power: ``[B, 1, C]``."""
        if context.shape[1] < 2:
            return torch.ones_like(context[:, :1])
        square = context.diff(dim=1).square().mean(1, keepdim=True) / self.sd.square()
        return square.clamp(1e-2, 1e2) ** (0.5 * adapt)

    def table(self) -> tuple[Tensor, Tensor]:
        """As it was found."""
        return self.quantiles, self.memory

    def first_sd(self) -> Tensor:
        """From the 80 % interval one cell ahead."""
        first = self.quantiles[0]
        return ((first[-6] - first[5]) / (2 * KNOTS[-6])).clamp(min=1e-6)

    def set_errors(self, grid: GridRows, series: Tensor, ends: Tensor) -> None:
        """Table, memory and the comparison with the last value, from these windows."""
        if not len(series):
            return
        every = max(1, -(-len(series) // _MOST))
        series, ends = series[::every], ends[::every]
        filled = held(grid, self.centre)
        error, seen, last, restless = [], [], [], []
        for rows in torch.arange(len(series), device=series.device).split(_PASS):
            context = contexts(filled, grid.cells, series[rows], ends[rows], self.context)
            target, mask = targets(grid, series[rows], ends[rows], self.horizon)
            error.append(torch.where(mask, target - self.mean(context), 0.0))
            last.append((mask * (target - context[:, -1:]).abs()).sum())
            seen.append(mask)
            restless.append(self._restless(context, 1.0))
        errors, masks = torch.cat(error), torch.cat(seen)
        if not bool(masks.any()):
            return
        self.against.copy_(errors.abs().sum() / torch.stack(last).sum().clamp(min=1e-12))
        wide = torch.cat(restless)
        self.adapt.fill_(_chosen_power(errors, masks, wide))
        errors = errors / wide**self.adapt
        self.quantiles.copy_(quantile_table(errors, masks))
        self.memory.copy_(lead_memory(errors, masks, self.quantiles))

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """No steps: :meth:`initialise` knows everything."""
        return {"optimiser": "adam", "steps": 0, "learning_rate": 0.01, "validation": 0.0, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Held-out mean absolute error over that of the last value (above one: the last value wins), and the step."""
        return {"error_over_last_value": float(self.against), "step": float(self.step)}


class NLinear(SolvedWindows):
    """See :func:`nlinear`."""

    weight: Tensor
    penalty: Tensor

    def __init__(self, channels: int, context: int, horizon: int, holdout: float, refit: bool) -> None:
        super().__init__("nlinear", channels, context, horizon)
        self.holdout, self.refit = holdout, refit
        self.register_buffer("weight", torch.zeros(context, horizon, dtype=torch.float64))
        self.register_buffer("penalty", torch.full((), math.inf, dtype=torch.float64))

    def mean(self, context: Tensor) -> Tensor:
        """The last value and a linear map of what was different before."""
        last = context[:, -1:]
        return last + torch.einsum("blc,lh->bhc", context - last, self.weight)

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """The whole fit."""
        grid = self.measure(batch)
        if grid is None:
            return
        early, late = self._split(grid)
        sums = self._sums(grid, *early)
        candidates = self._weights(sums)
        errors = [self._error(grid, late, weight) for weight in candidates]
        best = min(range(len(errors)), key=errors.__getitem__) if len(late[0]) else len(errors) - 1
        self.penalty.fill_(_PENALTIES[best])
        self.weight.copy_(candidates[best])
        self.set_errors(grid, *late)
        if self.refit:
            after = self._sums(grid, *late)
            self.weight.copy_(self._weights((sums[0] + after[0], sums[1] + after[1]))[best])

    def _split(self, grid: GridRows) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """``(series, ends)`` of the windows before the held-out rows, whose targets end there, and of those in them."""
        early, late = [], []
        for s, cells in enumerate(grid.cells.tolist()):
            cut = cells - math.ceil(self.holdout * cells)
            # a window whose target is cut short counts only where there is no whole one
            whole = max(cut - self.horizon, min(cut - 1, 1))
            early.append((s, 1 if whole < 2 * self.context else self.context, whole + 1))
            late.append((s, max(cut, 1), max(cells - self.horizon + 1, max(cut, 1) + 1)))
        return _indices(early, grid), _indices(late, grid)

    def _rows(self, grid: GridRows, series: Tensor, ends: Tensor) -> Any:
        filled = held(grid, self.centre)
        for rows in torch.arange(len(series), device=series.device).split(_PASS):
            context = contexts(filled, grid.cells, series[rows], ends[rows], self.context)
            target, seen = targets(grid, series[rows], ends[rows], self.horizon)
            last = context[:, -1:]
            x = ((context - last) / self.spread).permute(0, 2, 1).flatten(0, 1)
            y = ((target - last) / self.spread).permute(0, 2, 1).flatten(0, 1)
            yield x, y, seen.permute(0, 2, 1).flatten(0, 1)

    def _sums(self, grid: GridRows, series: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Normal equations of the windows of which every target was seen, or most: gaps count as the window's mean."""
        gram = self.weight.new_zeros(self.context, self.context)
        cross = torch.zeros_like(self.weight)
        for x, y, seen in self._rows(grid, series, ends):
            usable = seen.to(x.dtype).mean(1) > 0.5
            x, y, seen = x[usable], y[usable], seen[usable]
            gram += x.mT @ x
            cross += x.mT @ _bridged(y, seen)
        return gram, cross

    def _weights(self, sums: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Solutions for all penalties, from one eigendecomposition."""
        gram, cross = sums
        values, vectors = torch.linalg.eigh(gram)
        values, projected = values.clamp(min=0.0), vectors.mT @ cross
        unit = gram.diagonal().mean().clamp(min=1e-12)
        found = []
        for penalty in _PENALTIES:
            share = 1 / (values + penalty * unit)
            found.append(vectors @ (share[:, None] * projected))
        return found

    def _error(self, grid: GridRows, windows: tuple[Tensor, Tensor], weight: Tensor) -> float:
        """Sum of squared errors on every few held-out windows."""
        every = max(1, len(windows[0]) // 1000)
        total = 0.0
        for x, y, seen in self._rows(grid, windows[0][::every], windows[1][::every]):
            total += float((torch.where(seen, y, 0.0) - seen * (x @ weight)).square().sum())
        return total


def _chosen_power(errors: Tensor, masks: Tensor, wide: Tensor) -> float:
    """The power of the windows' restlessness whose intervals, found on the first half, suit the second half best."""
    if len(wide) < _FEWEST:
        return 0.0
    every = max(1, min(errors.numel() // _TRIED, len(wide) // _FEWEST))
    errors, masks, wide = errors[::every], masks[::every], wide[::every]
    half, losses = len(wide) // 2, []
    for power in _POWERS:
        trial = wide**power
        table = quantile_table((errors / trial)[:half], masks[:half])
        losses.append(float(pinball(errors[half:], masks[half:], table, trial[half:])))
    return _POWERS[min(range(len(_POWERS)), key=losses.__getitem__)]


def _bridged(y: Tensor, seen: Tensor) -> Tensor:
    """Targets ``[B, H]`` with gaps filled by straight lines; ends by their neighbour."""
    if bool(seen.all()):
        return y
    at = torch.arange(y.shape[1], device=y.device)
    before = torch.where(seen, at, -1).cummax(1).values
    after = torch.where(seen, at, y.shape[1]).flip(1).cummin(1).values.flip(1)
    before, after = torch.where(before < 0, after, before), torch.where(after >= y.shape[1], before, after)
    share = (at - before) / (after - before).clamp(min=1)
    return (1 - share) * y.gather(1, before) + share * y.gather(1, after)


def _indices(ranges: list[tuple[int, int, int]], grid: GridRows) -> tuple[Tensor, Tensor]:
    """``(series, first, stop)`` to one entry for each window."""
    device = grid.values.device
    series = [torch.full((max(stop - first, 0),), s, device=device) for s, first, stop in ranges]
    ends = [torch.arange(first, max(stop, first), device=device) for _, first, stop in ranges]
    return torch.cat(series), torch.cat(ends)


__all__ = ["NLinear", "SolvedWindows", "nlinear"]
