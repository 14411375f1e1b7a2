"""Operators made of operators."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from ..errors import ShapeError
from .base import Operator, Spec

__entries__ = [
    {
        "kind": "operators",
        "name": "composition",
        "target": "Composition",
        "summary": "Operators one after another; the last one given acts first.",
    },
    {
        "kind": "operators",
        "name": "sum",
        "target": "Sum",
        "summary": "The sum of operators on the same signal.",
    },
]


class Composition(Operator):
    """``A_1 A_2 ... A_k``: the last acts first, as in the formula.

    Example:
        >>> import torch
        >>> from sciinfer.operators import Matrix, Subsample
        >>> op = Composition(Subsample((2,), 2), Matrix([[1.0, 1.0], [0.0, 1.0]]))
        >>> op(torch.tensor([1.0, 2.0]))
        tensor([3.])
    """

    self_check = False

    def __init__(self, *operators: Operator) -> None:
        super().__init__()
        if not operators:
            raise ShapeError("a composition of nothing", fix="pass at least one operator")
        for outer, inner in itertools.pairwise(operators):
            if not _fits(inner.range, outer.domain):
                raise ShapeError(
                    f"the range {inner.range} of {type(inner).__name__} is not the domain {outer.domain} of "
                    f"{type(outer).__name__}",
                    fix="sizes must agree; the last operator given acts first",
                )
        self.operators = nn.ModuleList(operators)
        self._chain = operators
        self.domain, self.range = operators[-1].domain, operators[0].range
        self.linear = all(op.linear for op in operators)

    def forward(self, x: Tensor) -> Tensor:
        """``A_1(A_2(...(x)))``."""
        for op in reversed(self._chain):
            x = op.forward(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """``A_k*(...(A_1* y))``."""
        for op in self._chain:
            y = op.adjoint(y)
        return y


class Sum(Operator):
    """``A_1 + ... + A_k`` on the same signal.

    Example:
        >>> import torch
        >>> from sciinfer.operators import Identity
        >>> Sum(Identity(("t",), (2,)), Identity(("t",), (2,)))(torch.ones(2))
        tensor([2., 2.])
    """

    self_check = False

    def __init__(self, *operators: Operator) -> None:
        super().__init__()
        if not operators:
            raise ShapeError("a sum of nothing", fix="pass at least one operator")
        first = operators[0]
        for op in operators[1:]:
            if op.domain.shape != first.domain.shape or op.range.shape != first.range.shape:
                raise ShapeError(
                    f"{type(op).__name__} maps {op.domain} to {op.range}, not {first.domain} to {first.range}",
                    fix="all summands must share both shapes",
                )
        self.operators = nn.ModuleList(operators)
        self._terms = operators
        self.domain, self.range = first.domain, first.range
        self.linear = all(op.linear for op in operators)

    def forward(self, x: Tensor) -> Tensor:
        """``A_1 x + ... + A_k x``."""
        total = self._terms[0].forward(x)
        for op in self._terms[1:]:
            total = total + op.forward(x)
        return total

    def adjoint(self, y: Tensor) -> Tensor:
        """``A_1* y + ... + A_k* y``."""
        total = self._terms[0].adjoint(y)
        for op in self._terms[1:]:
            total = total + op.adjoint(y)
        return total


def _fits(range_: Spec, domain: Spec) -> bool:
    if range_.ndim != domain.ndim:
        return False
    return all(a is None or b is None or a == b for a, b in zip(range_.shape, domain.shape, strict=True))
