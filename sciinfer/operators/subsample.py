"""Every k-th entry is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..errors import ConfigError
from .base import Operator, Spec, spec

__entries__ = [
    {
        "kind": "operators",
        "name": "subsample",
        "target": "Subsample",
        "summary": "Every k-th entry along each dim.",
        "options": {
            "shape": "sizes of the signal",
            "step": "k, one for all dims or one each",
            "dims": "names of the dims",
        },
    }
]


class Subsample(Operator):
    """``(A x)_i = x[k i]`` along each dim.

    Args:
        shape: sizes of the signal.
        step: ``k >= 1``, one for all dims or one each.
        dims: names of the dims.

    Example:
        >>> import torch
        >>> Subsample((5,), 2)(torch.arange(5.0))
        tensor([0., 2., 4.])
    """

    self_check = False

    def __init__(self, shape: Sequence[int], step: int | Sequence[int] = 2, dims: Sequence[str] | None = None) -> None:
        super().__init__()
        steps = (step,) * len(shape) if isinstance(step, int) else tuple(step)
        if len(steps) != len(shape) or min(steps) < 1:
            raise ConfigError(f"step {step!r} does not suit {len(shape)} dims", fix="one integer >= 1 per dim")
        self.domain = spec(dims, shape)
        self.range = Spec(self.domain.dims, tuple(math.ceil(n / k) for n, k in zip(shape, steps, strict=True)))
        self.linear = True
        self._places = tuple(slice(None, None, k) for k in steps)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., *domain]`` to ``[..., *range]``."""
        self.domain.check(x)
        return x[(..., *self._places)]

    def adjoint(self, y: Tensor) -> Tensor:
        """Zeros between the measured entries."""
        self.range.check(y, what="adjoint input")
        x = y.new_zeros(*y.shape[: y.ndim - self.range.ndim], *self.domain.concrete(0))
        x[(..., *self._places)] = y
        return x
