"""The signal itself is measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Operator, spec

__entries__ = [
    {
        "kind": "operators",
        "name": "identity",
        "target": "Identity",
        "summary": "The signal itself.",
        "options": {"dims": "names of the dims", "shape": "sizes, None = free"},
    }
]


class Identity(Operator):
    """``A x = x``.

    Args:
        dims: names of the dims.
        shape: sizes, ``None`` = free.

    Example:
        >>> import torch
        >>> Identity(("t",), (2,))(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """

    self_check = False

    def __init__(self, dims: Sequence[str] | None = None, shape: Sequence[int | None] = (None,)) -> None:
        super().__init__()
        self.domain = self.range = spec(dims, shape)
        self.linear = True

    def forward(self, x: Tensor) -> Tensor:
        """``x``."""
        self.domain.check(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``y``."""
        self.range.check(y, what="adjoint input")
        return y
