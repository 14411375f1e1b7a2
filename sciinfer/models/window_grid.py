"""Rows on a regular grid: the step of the data, cells counted from the last row, gaps filled from the past."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import TimeError
from ..labelled.series import SeriesBatch, offsets_of

#: how far a gap may be from a whole number of steps (months differ by a tenth), largest number of cells for one row
_LOOSE, _SPARSE = 0.25, 50


class GridRows(NamedTuple):
    """Series on a grid, right-aligned: the last cell is each series' last row.

    ``values [S, T, C]`` (0 where missing), ``mask [S, T, C]``, ``cells [S]`` used, ``end [S]`` time of the last row.
    """

    values: Tensor
    mask: Tensor
    cells: Tensor
    end: Tensor


def grid_step(batch: SeriesBatch) -> float:
    """Median gap between the rows of a series, model time units; 1 where there is none.

    Example:
        >>> grid_step(SeriesBatch.of([torch.tensor([0.0, 2.0, 4.0])], [torch.ones(3, 1)]))
        2.0
    """
    batch = batch.drop_empty()
    gap = batch.time.double().diff()[batch.series_of_row.diff() == 0]
    gap = gap[gap > 0]
    return float(gap.median()) if len(gap) else 1.0


def to_grid(batch: SeriesBatch, step: Tensor | float, *, model: str) -> GridRows:
    """Rows of the batch in cells ``step`` long. Two rows in one cell are averaged.

    Raises:
        TimeError: a gap between two rows is no whole number of steps, or the grid would be nearly empty.
    """
    batch = batch.drop_empty()
    if not len(batch.time):
        blank = batch.values.new_zeros(batch.n_series, 1, batch.n_channels)
        return GridRows(blank, blank.bool(), batch.lengths, blank[:, 0, 0] if batch.n_channels else blank.sum((1, 2)))
    inner = torch.cat([batch.series_of_row.new_zeros(1).bool(), batch.series_of_row.diff() == 0])
    gap = torch.cat([batch.time.new_zeros(1), batch.time.diff()]) / step
    whole = torch.where(inner, gap, 0.0).round()
    _require_regular(batch, torch.where(inner, (gap - whole).abs(), 0.0), float(step), model)
    position = whole.long().cumsum(0)
    last = position[(batch.offsets[1:] - 1).clamp(min=0)]
    first = position[batch.offsets[:-1].clamp(max=len(position) - 1)]
    cells = torch.where(batch.lengths > 0, last - first + 1, 0)
    width = max(int(cells.max()), 1)
    if width > _SPARSE * int(batch.lengths.max()) + 1000:
        raise TimeError(f"a grid of {float(step):.4g} would hold {width} cells, most without a row", fix=_fix(model))
    series = batch.series_of_row
    cell = series * width + width - 1 - (last[series] - position)
    flat = batch.values.new_zeros(batch.n_series * width, batch.n_channels)
    count = torch.zeros_like(flat).index_add_(0, cell, batch.mask.to(flat.dtype))
    total = flat.index_add(0, cell, torch.where(batch.mask, batch.values, 0.0))
    shape = (batch.n_series, width, batch.n_channels)
    end = torch.where(batch.lengths > 0, batch.time[(batch.offsets[1:] - 1).clamp(min=0)], 0.0)
    return GridRows((total / count.clamp(min=1)).view(shape), (count > 0).view(shape), cells, end)


def _fix(model: str) -> str:
    return (
        "resample to a regular step (ds.resample), or take a model for irregular times: random-walk, koopman, "
        f"latent-sde, history-regression; {model} needs a regular grid, where rows may be missing"
    )


def _require_regular(batch: SeriesBatch, off: Tensor, step: float, model: str) -> None:
    worst = int(off.argmax())
    if float(off[worst]) > _LOOSE:
        series = int(batch.series_of_row[worst])
        raise TimeError(
            f"{model} needs times on a regular grid: in series {series} the gap before model time "
            f"{float(batch.time[worst]):.6g} is {float(batch.time[worst] - batch.time[worst - 1]) / step:.3g} steps of "
            f"{step:.4g}",
            dim="time",
            index=worst - int(batch.offsets[series]),
            fix=_fix(model),
        )


def held(grid: GridRows, start: Tensor) -> Tensor:
    """``[S, T, C]``: every cell has the last value seen up to it, ``start [C]`` before any. Nothing later is read."""
    T = grid.values.shape[1]
    position = torch.arange(T, device=grid.values.device)[None, :, None]
    last = torch.where(grid.mask, position, -1).cummax(dim=1).values
    found = grid.values.gather(1, last.clamp(min=0))
    return torch.where(last >= 0, found, start.to(found.dtype).expand_as(found))


def padded_left(values: Tensor, width: int) -> Tensor:
    """The last ``width`` cells; where there are fewer, the first is repeated before them."""
    short = width - values.shape[1]
    if short <= 0:
        return values[:, values.shape[1] - width :]
    return torch.cat([values[:, :1].expand(-1, short, -1), values], dim=1)


def one_by_one(batch: SeriesBatch) -> SeriesBatch:
    """Every channel of every series as a series of its own (order: series, then channel), without empty rows."""
    parts = []
    for channel in range(batch.n_channels):
        alone = batch._replace(values=batch.values[:, [channel]], mask=batch.mask[:, [channel]])
        parts.append(alone.drop_empty())
    order = torch.arange(batch.n_series * batch.n_channels, device=batch.offsets.device)
    order = (order % batch.n_channels) * batch.n_series + order // batch.n_channels
    lengths = torch.cat([part.lengths for part in parts])
    time, values, mask = (torch.cat([getattr(part, name) for part in parts]) for name in ("time", "values", "mask"))
    joined = SeriesBatch(time, values, mask, offsets_of(lengths))
    return joined.select(order)
