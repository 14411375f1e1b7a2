"""Rows of data and rows of questions in one order of time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..labelled.series import Padded


class Merged(NamedTuple):
    """``time [S, N]`` ascending, ``values, mask [S, N, C]`` (nothing seen at a question), ``rows [S, N]`` (False =
    padding), ``ahead [S, N]``: questions after the last datum, ``query [S, K]``: places of the questions."""

    time: Tensor
    values: Tensor
    mask: Tensor
    rows: Tensor
    ahead: Tensor
    query: Tensor


def merge(padded: Padded, times: Tensor) -> Merged:
    """Data first where times are equal, padding last.

    Args:
        times: ``[S, K]`` in any order.
    """
    S, K = times.shape
    T = padded.time.shape[1]
    key = torch.cat([torch.where(padded.rows, padded.time, torch.inf), times], dim=1)
    ordered, order = torch.sort(key, dim=1, stable=True)
    place = torch.argsort(order, dim=1)
    none = padded.rows.new_ones(S, K)
    rows = torch.cat([padded.rows, none], dim=1).gather(1, order)
    blank = padded.values.new_zeros(S, K, padded.values.shape[2])
    columns = order[..., None].expand(-1, -1, blank.shape[2])
    values = torch.cat([padded.values, blank], dim=1).gather(1, columns)
    mask = torch.cat([padded.mask, blank.bool()], dim=1).gather(1, columns)
    end = torch.where(rows, ordered, -torch.inf).amax(dim=1, keepdim=True)
    end = torch.where(end.isfinite(), end, 0.0)
    last = torch.where(padded.rows, padded.time, -torch.inf).amax(dim=1, keepdim=True)
    ahead = rows & (order >= T) & (ordered > last)
    return Merged(torch.where(rows, ordered, end), values, mask, rows, ahead, place[:, T:])


def gaps_around(time: Tensor, some: Tensor) -> Tensor:
    """Freshness ``1 / (1 + time)`` since the last row with data and to the next one (0: none), ``[S, T, 2]``."""
    since, until = _since(time, some), _since(-time.flip(1), some.flip(1)).flip(1)
    return torch.stack([since, until], dim=-1)


def _since(time: Tensor, some: Tensor) -> Tensor:
    number = torch.arange(time.shape[1], device=time.device).expand(time.shape)
    last = torch.where(some, number, -1).cummax(dim=1).values
    gap = time - time.gather(1, last.clamp(min=0))
    return torch.where(last >= 0, 1 / (1 + gap), 0.0)
