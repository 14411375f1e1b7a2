"""Random numbers of each sample on its own: a draw does not depend on which others are drawn beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..integrate.hashing import node_codes, normal_pairs, path_codes


class RowNoise:
    """Standard normals ``[n, *shape]``, call after call; row ``i`` depends on ``(seed, keys[i])`` only.

    Args:
        seed: any integer. keys: identity of each sample, ``n`` integers, or their number. shape: of one sample.

    Example:
        >>> whole, part = RowNoise(0, 5, (2,)), RowNoise(0, [3], (2,))
        >>> bool((whole.normal()[3] == part.normal()[0]).all())
        True
    """

    def __init__(
        self, seed: int, keys: int | Sequence[int] | Tensor, shape: Sequence[int], *, like: Tensor | None = None
    ) -> None:
        self.dtype = torch.float64 if like is None else like.dtype
        device = torch.device("cpu") if like is None else like.device
        given = torch.arange(keys) if isinstance(keys, int) else torch.as_tensor(keys, dtype=torch.int64)
        self.keys, self.shape, self.calls = given.to(device), tuple(shape), 0
        size = 1
        for length in self.shape:
            size *= length
        self.codes = path_codes(seed, self.keys, size)

    def normal(self) -> Tensor:
        """The next ``[n, *shape]``."""
        at = torch.tensor([self.calls], device=self.codes.device)
        self.calls += 1
        pair = normal_pairs(self.codes.flatten(), node_codes(torch.zeros_like(at), at), self.dtype)
        return pair[0, 0].reshape(len(self.keys), *self.shape)
