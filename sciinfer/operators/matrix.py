"""An operator given by its matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import DataError, ShapeError
from .base import Operator, Spec, as_values, spec

__entries__ = [
    {
        "kind": "operators",
        "name": "matrix",
        "target": "Matrix",
        "summary": "A matrix acting on the flattened signal.",
        "options": {"matrix": "[m, n]", "domain": "spec of size n", "range": "spec of size m"},
    }
]


class Matrix(Operator):
    """``A x = M vec(x)``, reshaped to the range.

    Args:
        matrix: ``[m, n]``; kept as a buffer, used in the dtype of the input.
        domain: spec of size ``n`` (default one dim ``x``).
        range: spec of size ``m`` (default one dim ``datum``).

    Example:
        >>> import torch
        >>> Matrix([[1.0, 2.0], [0.0, 1.0]])(torch.tensor([1.0, 1.0]))
        tensor([3., 1.])
    """

    self_check = False
    matrix: Tensor

    def __init__(self, matrix: Any, domain: Spec | None = None, range: Spec | None = None) -> None:
        super().__init__()
        dense = as_values(matrix)
        if dense.ndim != 2:
            raise ShapeError(
                f"a matrix has 2 dims, got shape {tuple(dense.shape)}", variable="matrix", fix="pass [m, n]"
            )
        if not bool(dense.isfinite().all()):
            place = tuple((~dense.isfinite()).nonzero()[0].tolist())
            raise DataError("an entry is not finite", variable="matrix", index=place, fix="repair the matrix")
        self.register_buffer("matrix", dense)
        self.domain = domain or spec(None, (dense.shape[1],))
        self.range = range or Spec(("datum",), (dense.shape[0],))
        self.linear = True
        if (self.range.size, self.domain.size) != tuple(dense.shape):
            raise ShapeError(
                f"matrix {tuple(dense.shape)} does not map {self.domain} to {self.range}",
                fix="sizes must multiply to m and n",
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[..., *domain]`` to ``[..., *range]``."""
        self.domain.check(x)
        image = x.flatten(x.ndim - self.domain.ndim) @ self.matrix.to(x).T
        return image.reshape(*image.shape[:-1], *self.range.concrete(0))

    def adjoint(self, y: Tensor) -> Tensor:
        """``M^T vec(y)``."""
        self.range.check(y, what="adjoint input")
        image = y.flatten(y.ndim - self.range.ndim) @ self.matrix.to(y)
        return image.reshape(*image.shape[:-1], *self.domain.concrete(0))
