"""Some entries are measured, the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .base import Operator, Spec, spec

__entries__ = [
    {
        "kind": "operators",
        "name": "mask",
        "target": "Mask",
        "summary": "The entries of a signal where a mask is true, as one vector.",
        "options": {"mask": "boolean array, True = measured", "dims": "names of its dims"},
    }
]


class Mask(Operator):
    """``(A x)_i = x[k_i]`` for the ``m`` places ``k_i`` where ``mask`` is True, in row-major order.

    Args:
        mask: boolean array over the domain, True = measured.
        dims: names of the domain's dims.

    Example:
        >>> Mask([True, False, True])(torch.tensor([1.0, 2.0, 3.0]))
        tensor([1., 3.])
    """

    self_check = False
    index: Tensor

    def __init__(self, mask: Any, dims: Sequence[str] | None = None) -> None:
        super().__init__()
        chosen = torch.as_tensor(mask)
        if chosen.dtype != torch.bool:
            raise DataError(
                f"a mask must be boolean, got {chosen.dtype}", variable="mask", fix="pass values > 0 or isnan"
            )
        if not bool(chosen.any()):
            raise DataError("the mask measures nothing", variable="mask", fix="at least one entry must be True")
        self.register_buffer("index", chosen.flatten().nonzero()[:, 0])
        self.domain = spec(dims, tuple(chosen.shape))
        self.range = Spec(("datum",), (len(self.index),))
        self.linear = True

    def forward(self, x: Tensor) -> Tensor:
        """``[..., *domain]`` to ``[..., m]``."""
        self.domain.check(x)
        return x.flatten(x.ndim - self.domain.ndim)[..., self.index]

    def adjoint(self, y: Tensor) -> Tensor:
        """Measured values in their places, zero elsewhere."""
        self.range.check(y, what="adjoint input")
        filled = y.new_zeros(*y.shape[:-1], self.domain.size).index_copy(-1, self.index, y)
        return filled.reshape(*y.shape[:-1], *self.domain.concrete(0))
