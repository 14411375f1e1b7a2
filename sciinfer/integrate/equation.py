"""A drift as the adaptive solvers see it: flat rows, time running upward, only the rows that are still under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ShapeError
from .solver import Field


class Equation(NamedTuple):
    """``drift`` with its batch ``shape``, the direction of time ``sign [S]``, and ``context [S, ...]``.

    ``compact``: the drift takes any subset of the rows; without it, it always gets the whole batch in its own shape.
    """

    drift: Callable[..., Tensor]
    batch: torch.Size
    sign: Tensor
    forward: bool
    context: Tensor | None
    compact: bool

    @classmethod
    def of(
        cls, drift: Callable[..., Tensor], batch: torch.Size, sign: Tensor, context: Tensor | None, compact: bool
    ) -> Equation:
        """Of a drift ``f(t, z)``, or ``f(t, z, context)`` when there is a context ``[..., c]``."""
        if context is not None and context.shape[: len(batch)] != batch:
            raise ShapeError(
                f"context has shape {tuple(context.shape)}, the batch is {tuple(batch)}", variable="context",
                fix="pass [..., c] with the batch dims of z0",
            )  # fmt: skip
        flat = None if context is None else context.reshape(len(sign), *context.shape[len(batch) :])
        return cls(drift, batch, sign, bool((sign > 0).all()), flat, compact)

    def at(self, rows: Tensor | None = None) -> Field:
        """``f(t [A], z [A, d])`` of the rows (all: None)."""
        call, sign = self._call(self.drift, rows)
        if self.forward and (self.compact or len(self.batch) == 1):
            return call
        return lambda t, z: call(t, z).reshape(z.shape) * sign[:, None]

    def event_at(self, event: Callable[..., Tensor], rows: Tensor | None = None) -> Field:
        """``g(t [A], z [A, d]) -> [A]`` of an event, called as the drift is."""
        call, _ = self._call(event, rows)
        return lambda t, z: call(t, z).reshape(t.shape)

    def _call(self, function: Callable[..., Tensor], rows: Tensor | None) -> tuple[Field, Tensor]:
        if rows is None or not self.compact or len(rows) == len(self.sign):
            rows = None
        sign = self.sign if rows is None else self.sign[rows]
        shape = sign.shape if self.compact else self.batch
        given: tuple[Tensor, ...] = ()
        if self.context is not None:
            context = self.context if rows is None else self.context[rows]
            given = (context.reshape(*shape, *context.shape[1:]),)
        if self.forward and len(shape) == 1:
            return (lambda t, z: function(t, z, *given)), sign

        def shaped(t: Tensor, z: Tensor) -> Tensor:
            return function((sign * t).reshape(shape), z.reshape(*shape, z.shape[-1]), *given)

        return shaped, sign
