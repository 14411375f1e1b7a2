"""Data-parallel training over series with plain ``torch.distributed``; one process alone is a team of one.

Every rank holds the same data and draws the same mini-batch; it works on every ``size``-th series of it. Gradients are
weighted by observed entries and summed, so that the sum does not depend on how the series were dealt out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Team(NamedTuple):
    """This process's place among the others."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True on the rank that writes files and reports."""
        return self.rank == 0

    def share(self, n: int) -> list[int]:
        """The positions of ``0..n-1`` that this rank works on; may be empty.

        Example:
            >>> Team(1, 2).share(5)
            [1, 3]
        """
        return list(range(self.rank, n, self.size))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def union(self, names: list[str]) -> list[str]:
        """The names that any rank has, sorted."""
        if self.size == 1:
            return sorted(names)
        gathered: list[list[str]] = [[] for _ in range(self.size)]
        dist.all_gather_object(gathered, names)
        return sorted({name for part in gathered for name in part})

    def same_weights(self, model: nn.Module) -> None:
        """Rank 0's weights and buffers on every rank."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    if isinstance(tensor, Tensor):
                        dist.broadcast(tensor, src=0)


def current_team() -> Team:
    """The initialised process group, or a team of one.

    Example:
        >>> current_team()
        Team(rank=0, size=1)
    """
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team()
