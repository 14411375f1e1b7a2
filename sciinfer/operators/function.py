"""An operator given by a plain function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import OperatorError
from .base import Operator, Spec, spec

__entries__ = [
    {
        "kind": "operators",
        "name": "function",
        "target": "from_function",
        "summary": "A plain function of tensors as an operator, with its adjoint derived or given.",
        "options": {
            "fn": "maps [..., *domain] to [..., *range]",
            "domain": "spec of the signal",
            "linear": "whether fn is linear (verified)",
            "adjoint": "the adjoint, or nothing to derive it",
            "range": "spec of the image, or nothing to find it",
        },
    }
]

Function = Callable[[Tensor], Tensor]


class FunctionOperator(Operator):
    """``A x = fn(x)``; build it with :func:`from_function`."""

    def __init__(self, fn: Function, domain: Spec, range_: Spec, linear: bool, adjoint: Function | None) -> None:
        super().__init__()
        self._fn, self._adjoint = fn, adjoint
        self.domain, self.range, self.linear = domain, range_, linear

    def forward(self, x: Tensor) -> Tensor:
        """``fn(x)``."""
        self.domain.check(x)
        return self._fn(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The given adjoint, else the derived one."""
        return super().adjoint(y) if self._adjoint is None else self._adjoint(y)


def from_function(
    fn: Function, domain: Spec, *, linear: bool, adjoint: Function | None = None, range: Spec | None = None
) -> Operator:
    """An operator from a function that keeps leading batch dims; what is claimed about it is verified at once.

    Args:
        fn: maps ``[..., *domain.shape]`` to ``[..., *range.shape]``.
        domain: spec of the signal.
        linear: whether ``fn`` is linear.
        adjoint: its adjoint; derived by automatic differentiation when not given.
        range: spec of the image; found by one evaluation when not given.

    Raises:
        OperatorError: a claim is false (wrong adjoint, not linear, batch members mixed).

    Example:
        >>> op = from_function(lambda x: x.cumsum(-1), Spec(("t",), (3,)), linear=True)
        >>> op.adjoint(torch.tensor([0.0, 0.0, 1.0]))
        tensor([1., 1., 1.])
    """
    if range is None:
        probe = torch.zeros(domain.concrete(7), dtype=torch.float64)
        try:
            image = fn(probe)
        except (RuntimeError, ValueError, TypeError, IndexError) as err:
            raise OperatorError(
                f"the function fails on zeros of shape {tuple(probe.shape)}: {type(err).__name__}: {err}",
                code="operator/shape",
                fix="it must accept [..., *domain.shape] in float64",
            ) from err
        range = domain if image.shape == probe.shape else spec(None, tuple(image.shape), letter="y")
    return FunctionOperator(fn, domain, range, linear, adjoint)
