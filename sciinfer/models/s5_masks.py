"""What a training step hides of a series, and from where it is filled in."""

from __future__ import annotations

import torch
from torch import Tensor

from ..labelled.series import Padded


def hide(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Which observed entries to show: all, or without single entries, whole rows, or a stretch of rows; one way and
    one share for each series.

    Example:
        >>> from sciinfer.random import generator
        >>> bool(hide(torch.ones(2, 5, 3, dtype=torch.bool), generator(0, "hide")).any())
        True
    """
    S, T, C = mask.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64, device=mask.device)

    share, kind = 0.7 * uniform(S, 1, 1), (4 * uniform(S, 1, 1)).long()
    entries, rows = uniform(S, T, C) < share, (uniform(S, T, 1) < share).expand(S, T, C)
    length = mask.any(-1).sum(1).to(torch.float64)[:, None, None]
    begin = uniform(S, 1, 1) * length * (1 + share) - share * length
    number = torch.arange(T, dtype=torch.float64, device=mask.device)[None, :, None]
    stretch = ((number >= begin) & (number < begin + share * length)).expand(S, T, C)
    hidden = torch.where(kind == 0, entries, torch.where(kind == 1, rows, stretch & (kind == 2)))
    return mask & ~hidden


def around(padded: Padded, seen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """From where each row is filled in: the last row of the past, the first of the future (``[S, T]``, -1 and ``T``:
    none), and which entries are asked for. A row with hidden entries shows the others; any other row is left out
    together with as many neighbours as a log-uniform draw says."""
    S, T = padded.rows.shape
    number = torch.arange(T, device=padded.time.device).expand(S, T)
    draw = torch.rand((2, S, T), generator=generator, dtype=torch.float64, device=padded.time.device)
    room = torch.stack([number, T - 1 - number]) + 1
    skip = room.pow(draw).long()
    partly = (padded.mask & ~seen).any(-1)
    past = torch.where(partly, number, (number - skip[0]).clamp(min=-1))
    future = torch.where(partly, number + 1, (number + skip[1]).clamp(max=T))
    return past, future, torch.where(partly[..., None], padded.mask & ~seen, padded.mask)
