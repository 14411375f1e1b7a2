"""Ragged batches of series: each has its own times, a channel may be missing at any time, nothing is resampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ShapeError


class Padded(NamedTuple):
    """A rectangular view of a batch. Padding repeats the last time, so that its steps have length zero.

    ``time [S, T]``, ``values [S, T, C]`` (0 where missing), ``mask [S, T, C]``, ``rows [S, T]`` (False = padding).
    """

    time: Tensor
    values: Tensor
    mask: Tensor
    rows: Tensor


class SeriesBatch(NamedTuple):
    """``S`` series laid end to end (compressed sparse rows).

    Args:
        time: ``[N]``, ascending within each series, model time units.
        values: ``[N, C]``, 0 where missing.
        mask: ``[N, C]`` bool, True where observed.
        offsets: ``[S + 1]`` int64; series ``i`` is the rows ``offsets[i]:offsets[i + 1]``.
        covariates: ``[N, K]`` known inputs, or None.

    Example:
        >>> b = SeriesBatch.of([torch.tensor([0.0, 1.0])], [torch.tensor([[1.0], [float("nan")]])])
        >>> b.n_series, b.n_channels, int(b.mask.sum())
        (1, 1, 1)
    """

    time: Tensor
    values: Tensor
    mask: Tensor
    offsets: Tensor
    covariates: Tensor | None = None

    @classmethod
    def of(
        cls, times: Sequence[Tensor], values: Sequence[Tensor], covariates: Sequence[Tensor] | None = None
    ) -> SeriesBatch:
        """From one tensor per series, NaN = missing. Each ``times[i]`` is ``[n_i]``, ``values[i]`` is ``[n_i, C]``."""
        if len(times) != len(values) or not times:
            raise ShapeError(
                f"got {len(times)} time tensors and {len(values)} value tensors", fix="pass one per series"
            )
        for index, (t, v) in enumerate(zip(times, values, strict=True)):
            if t.ndim != 1 or v.ndim != 2 or len(t) != len(v):
                raise ShapeError(
                    f"times have shape {tuple(t.shape)}, values {tuple(v.shape)}", index=index, fix="use [n] and [n, C]"
                )
        stacked = torch.cat(list(values))
        mask = ~stacked.isnan()
        lengths = torch.tensor([len(t) for t in times], device=stacked.device)
        known = torch.cat(list(covariates)) if covariates is not None else None
        return cls(torch.cat(list(times)), stacked.nan_to_num(nan=0.0), mask, offsets_of(lengths), known)

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.offsets) - 1

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return self.values.shape[1]

    @property
    def lengths(self) -> Tensor:
        """``[S]``: rows of each series."""
        return self.offsets.diff()

    @property
    def observed(self) -> int:
        """Number of observed entries."""
        return int(self.mask.sum())

    @property
    def series_of_row(self) -> Tensor:
        """``[N]``: the series that each row belongs to."""
        return torch.repeat_interleave(torch.arange(self.n_series, device=self.time.device), self.lengths)

    def select(self, indices: Tensor | Sequence[int]) -> SeriesBatch:
        """The series ``indices``, in that order."""
        chosen = torch.as_tensor(indices, device=self.offsets.device)
        lengths = self.lengths[chosen]
        offsets = offsets_of(lengths)
        rows = torch.arange(int(offsets[-1]), device=self.time.device)
        rows = rows + torch.repeat_interleave(self.offsets[chosen] - offsets[:-1], lengths)
        return self._rows(rows)._replace(offsets=offsets)

    def keep(self, rows: Tensor) -> SeriesBatch:
        """Only the rows where ``rows [N]`` is True; every series stays, possibly empty."""
        counts = torch.zeros(self.n_series, dtype=torch.int64, device=self.time.device)
        counts.index_add_(0, self.series_of_row, rows.to(torch.int64))
        return self._rows(rows)._replace(offsets=offsets_of(counts))

    def drop_empty(self) -> SeriesBatch:
        """Without the rows in which nothing was observed: a masked row equals a deleted one."""
        return self.keep(self.mask.any(dim=1))

    def split_time(self, fraction: float) -> tuple[SeriesBatch, SeriesBatch]:
        """The first rows of each series and its last ``fraction`` (by count of rows, at least one row stays first)."""
        position = torch.arange(len(self.time), device=self.time.device) - self.offsets[:-1][self.series_of_row]
        cut = (self.lengths - (self.lengths * fraction).floor().long()).clamp(min=1)[self.series_of_row]
        early = position < cut
        return self.keep(early), self.keep(~early)

    def padded(self) -> Padded:
        """The rectangular view, ``T`` = longest series (at least 1)."""
        lengths = self.lengths
        width = max(int(lengths.max()), 1)
        column = torch.arange(width, device=self.time.device)
        rows = column < lengths[:, None]
        last = (lengths - 1).clamp(min=0)[:, None]
        source = (self.offsets[:-1, None] + torch.minimum(column[None], last)).clamp(max=max(len(self.time) - 1, 0))
        if len(self.time) == 0:
            empty = self.values.new_zeros(self.n_series, width, self.n_channels)
            return Padded(empty[..., 0] if self.n_channels else empty.sum(-1), empty, empty.bool(), rows)
        nonempty = (lengths > 0)[:, None]
        time = torch.where(nonempty, self.time[source], torch.zeros_like(self.time[source]))
        mask = self.mask[source] & rows[..., None]
        return Padded(time, self.values[source] * mask, mask, rows)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SeriesBatch:
        """Moved to a device, values and times cast to ``dtype``."""
        return SeriesBatch(
            self.time.to(device=device, dtype=dtype),
            self.values.to(device=device, dtype=dtype),
            self.mask.to(device=device),
            self.offsets.to(device=device),
            None if self.covariates is None else self.covariates.to(device=device, dtype=dtype),
        )

    def _rows(self, rows: Tensor) -> SeriesBatch:
        known = None if self.covariates is None else self.covariates[rows]
        return SeriesBatch(self.time[rows], self.values[rows], self.mask[rows], self.offsets, known)


def offsets_of(lengths: Tensor) -> Tensor:
    """``[S]`` lengths to ``[S + 1]`` offsets."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int64)
