"""What a forecaster says up to the last row: its data, and Brownian bridges between them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labelled.series import Padded


def between(
    padded: Padded, times: Tensor, sd: Tensor, centre: Tensor, spread: Tensor, *, draws: int, generator: torch.Generator
) -> Tensor:
    r"""Draws at ``min(t, last row)``, :math:`y + s\,(W(t) - W)`, tied to the channel's data on both sides.

    Args:
        padded: the data. times: ``[S, Q]``, any order.
        sd: ``[C]`` of a change over one unit of time. centre, spread: ``[C]`` of a channel of which nothing is known.

    Returns:
        ``[n, S, Q, C]``.
    """
    S, Q = times.shape
    C = padded.values.shape[2]
    end = padded.time[:, -1:]
    asked = torch.minimum(times, end)
    unknown = _normal((draws, S, 1, C), times, generator)
    before, after = _neighbours(padded, asked)
    plain = _known(padded, after, end, asked)
    if plain is not None:
        return plain.expand(draws, S, Q, C)
    every = torch.cat([padded.time, asked], dim=1)
    ordered, order = every.sort(dim=1, stable=True)
    step = torch.cat([torch.zeros_like(ordered[:, :1]), ordered.diff(dim=1)], dim=1).sqrt()
    path = (step[None, ..., None] * _normal((draws, S, every.shape[1], C), times, generator)).cumsum(2)
    place = order.argsort(dim=1)
    path = path.gather(2, place[None, ..., None].expand_as(path)) * sd
    at_data, at_query = path[:, :, : padded.time.shape[1]], path[:, :, padded.time.shape[1] :]
    T = padded.time.shape[1]
    left, right = before.clamp(min=0), after.clamp(max=T - 1)
    has_left, has_right = before >= 0, after < T
    pick = lambda x, index: x.gather(-2, index.expand(*x.shape[:-2], *index.shape[-2:]))  # noqa: E731
    time = padded.time[..., None].expand(-1, -1, C)
    low, high = pick(time, left), pick(time, right)
    share = torch.where(high > low, (asked[..., None] - low) / (high - low).clamp(min=1e-300), 0.0)
    share = torch.where(has_left & has_right, share, torch.where(has_left, 0.0, 1.0)).clamp(0.0, 1.0)
    gap_left = pick(padded.values, left) - pick(at_data, left)
    gap_right = pick(padded.values, right) - pick(at_data, right)
    found = at_query + (1 - share) * gap_left + share * gap_right
    blank = centre + spread * unknown + at_query
    return torch.where(has_left | has_right, found, blank)


def _known(padded: Padded, after: Tensor, end: Tensor, asked: Tensor) -> Tensor | None:
    """The last row, where it is complete and nothing earlier is asked for."""
    if not bool((asked == end).all()) or not bool(padded.mask.any()):
        return None
    rows = padded.rows.sum(dim=1) - 1
    last = rows.clamp(min=0)[:, None, None].expand(-1, 1, padded.values.shape[2])
    if not bool(padded.mask.gather(1, last).all()):
        return None
    return padded.values.gather(1, last).expand(-1, asked.shape[1], -1)


def _neighbours(padded: Padded, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Row of the last datum at or before, and of the first at or after each time, by channel: ``[S, Q, C]``.

    -1 and T where there is none.
    """
    _, T, C = padded.values.shape
    position = torch.arange(T, device=asked.device)[None, :, None]
    last = torch.where(padded.mask, position, -1).cummax(dim=1).values
    first = torch.where(padded.mask, position, T).flip(1).cummin(dim=1).values.flip(1)
    time = padded.time.contiguous()
    upto = torch.searchsorted(time, asked.contiguous(), right=True)
    start = torch.searchsorted(time, asked.contiguous())
    last = torch.cat([torch.full_like(last[:, :1], -1), last], dim=1)
    first = torch.cat([first, torch.full_like(first[:, :1], T)], dim=1)
    found = last.gather(1, upto[..., None].expand(-1, -1, C))
    later = first.gather(1, start[..., None].expand(-1, -1, C))
    # a datum at that very time ties the path from both sides
    exact = (found >= 0) & (padded.time[..., None].expand(-1, -1, C).gather(1, found.clamp(min=0)) == asked[..., None])
    return found, torch.where(exact, found, later)


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
