"""Sums of kernels: independent processes, states side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import ShapeError
from .base import Kernel


class Sum(Kernel):
    """``k = sum_i k_i``; the state is the parts' states one after the other.

    Example:
        >>> from sciinfer.gp.kernels import Matern12, Matern32
        >>> (Matern12() + Matern32()).state_dim
        3
    """

    def __init__(self, *parts: Kernel) -> None:
        super().__init__()
        flat = [leaf for part in parts for leaf in (part.parts if isinstance(part, Sum) else [part])]
        self._parts = nn.ModuleList(flat)
        self.state_dim = sum(part.state_dim for part in flat)
        self.stationary = all(part.stationary for part in flat)
        self.outputs = flat[0].outputs
        if any(part.outputs != self.outputs for part in flat):
            raise ShapeError("kernels of different numbers of outputs cannot be added", fix="give all the same outputs")

    @property
    def parts(self) -> list[Kernel]:
        """The summed kernels."""
        return [part for part in self._parts if isinstance(part, Kernel)]

    def transition(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Block-diagonal ``A`` and ``Q``."""
        pairs = [part.transition(dt) for part in self.parts]
        return block_diagonal([A for A, _ in pairs]), block_diagonal([Q for _, Q in pairs])

    def initial(self) -> Tensor:
        """Block-diagonal ``P0``."""
        return block_diagonal([part.initial() for part in self.parts])

    def readout(self) -> Tensor:
        """All readouts one after the other."""
        return torch.cat([part.readout() for part in self.parts], dim=-1)

    def truncation(self) -> float:
        """The worst of the parts."""
        return max(part.truncation() for part in self.parts)


def block_diagonal(blocks: list[Tensor]) -> Tensor:
    """Batched block-diagonal matrix of square blocks with equal leading dims."""
    size = sum(block.shape[-1] for block in blocks)
    rows, start = [], 0
    for block in blocks:
        n = block.shape[-1]
        rows.append(nn.functional.pad(block, (start, size - start - n)))
        start += n
    return torch.cat(rows, dim=-2)
