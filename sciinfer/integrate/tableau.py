"""What an embedded Runge-Kutta method is: a table of numbers, and the solver made of it."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor

from .solver import Field, OdeSolver

Rows = tuple[tuple[float, ...], ...]


class Tableau(NamedTuple):
    """Coefficients of a method whose first stage is explicit and whose last stage is the new state.

    ``Y_i = z + h sum_j a_ij k_j``, ``k_i = f(t + c_i h, Y_i)``, ``z' = Y_s`` (so that ``k_s`` starts the next step).

    Args:
        a: row i holds ``a_i1 .. a_i(i-1)``; the diagonal is ``gamma`` for i > 1.
        error: weights of the difference to the embedded method, so that ``h sum_i error_i k_i`` estimates the error.
        dense: row i holds the coefficients of ``theta, theta^2, ...`` in ``b_i(theta)``:
            ``z(t + theta h) = z + h sum_i b_i(theta) k_i``.
        order: of the state. gamma: diagonal of an implicit method, 0 for an explicit one.
    """

    a: Rows
    error: tuple[float, ...]
    dense: Rows
    order: int
    gamma: float = 0.0

    @property
    def stages(self) -> int:
        """``s``."""
        return len(self.a)

    @property
    def c(self) -> tuple[float, ...]:
        """Places of the stages in the step."""
        return tuple(sum(row) + (self.gamma if i else 0.0) for i, row in enumerate(self.a))


class Weights(NamedTuple):
    """A tableau as tensors: ``a`` rows ``[i]``, ``c [s]``, ``error [s]``, ``dense [s, m]``."""

    a: tuple[Tensor, ...]
    c: Tensor
    error: Tensor
    dense: Tensor
    gamma: float
    order: int

    @classmethod
    def of(cls, table: Tableau, like: Tensor) -> Weights:
        """In the dtype and on the device of ``like``."""

        def tensor(values: object) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        rows = tuple(tensor(row) for row in table.a)
        return cls(rows, tensor(table.c), tensor(table.error), tensor(table.dense), table.gamma, table.order)


@final
class EmbeddedRK(OdeSolver):
    """An embedded Runge-Kutta method: adaptive, or, when ``steps`` or ``dt`` is given, with fixed steps.

    Example:
        >>> from sciinfer.integrate import odeint
        >>> path = odeint(lambda t, z: -z, torch.ones(3, 1, dtype=torch.float64), torch.tensor([0.0, 1.0]),
        ...     solver="tsit5")
        >>> round(float(path.z[-1, 0, 0]), 6)
        0.367879
    """

    def __init__(self, table: Tableau) -> None:
        self.table, self.order = table, table.order
        # the last slope of a fixed step is not carried over to the next one; Newton's iterations come on top
        self.evaluations = table.stages

    def step(self, drift: Field, t: Tensor, z: Tensor, dt: float) -> Tensor:
        """One step of given size."""
        from .stages import stages

        flat = z.reshape(-1, z.shape[-1])

        def field(time: Tensor, state: Tensor) -> Tensor:
            return drift(time[0], state.reshape(z.shape)).reshape(flat.shape)

        when, size = t.to(z).expand(len(flat)), torch.full_like(flat[:, 0], dt)
        taken = stages(field, when, flat, size, field(when, flat), Weights.of(self.table, z))
        return taken.state.reshape(z.shape)
