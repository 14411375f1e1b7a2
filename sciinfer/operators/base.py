"""What every forward operator is: ``forward``, ``adjoint``, two specs and a flag."""

from __future__ import annotations

import inspect
import math
from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OperatorError, ShapeError


@dataclass(frozen=True)
class Spec:
    """Named dims and sizes of one side of an operator; ``None`` is a free size. Batch dims come before and are free.

    Example:
        >>> Spec(("y", "x"), (8, None)).concrete(5)
        (8, 5)
    """

    dims: tuple[str, ...]
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.shape):
            raise ShapeError(
                f"a spec names {len(self.dims)} dims {self.dims} and {len(self.shape)} sizes {self.shape}",
                fix="give one size (or None) per dim",
            )

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.dims)

    @property
    def fixed(self) -> bool:
        """True if no size is free."""
        return None not in self.shape

    @property
    def size(self) -> int:
        """Number of entries; a free size raises."""
        if not self.fixed:
            raise ShapeError(f"dims {self.dims} have the free shape {self.shape}", fix="build the operator with sizes")
        return math.prod(size for size in self.shape if size is not None)

    def concrete(self, free: int) -> tuple[int, ...]:
        """The shape with ``free`` in place of each free size."""
        return tuple(free if size is None else size for size in self.shape)

    def check(self, x: Tensor, *, what: str = "input") -> None:
        """Raise :class:`~sciinfer.errors.ShapeError` unless ``x`` is ``[..., *shape]``."""
        got = tuple(x.shape[x.ndim - self.ndim :]) if x.ndim >= self.ndim else tuple(x.shape)
        if len(got) != self.ndim:
            raise ShapeError(f"{what} has {x.ndim} dims, expected at least {self.ndim}: {self.dims}")
        for dim, size, wanted in zip(self.dims, got, self.shape, strict=True):
            if wanted is not None and size != wanted:
                raise ShapeError(
                    f"{what} has size {size}, expected {wanted}", dim=dim, fix=f"pass [..., {', '.join(self.dims)}]"
                )


def as_values(given: Any) -> Tensor:
    """A private floating-point copy: tensors and arrays keep their precision, everything else becomes float64."""
    tensor = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    return tensor.detach().clone() if tensor.is_floating_point() else tensor.detach().to(torch.float64)


def spec(dims: Sequence[str] | None, shape: Sequence[int | None], *, letter: str = "x") -> Spec:
    """A spec with default dim names (``x0, x1, ...``; a lone dim is just ``x``)."""
    if dims is None:
        dims = (letter,) if len(shape) == 1 else tuple(f"{letter}{axis}" for axis in range(len(shape)))
    return Spec(tuple(dims), tuple(shape))


class _SelfChecked(ABCMeta):
    """Runs the self-check once an operator is fully built: a wrong adjoint must never reach an inference."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        built = super().__call__(*args, **kwargs)
        if built.self_check:
            from .check import check_operator

            check_operator(built)
        return built

    @property
    def __signature__(cls) -> inspect.Signature:  # what help() and editors show: the constructor's own arguments
        own = list(inspect.signature(cls.__init__).parameters.values())
        return inspect.Signature(own[1:])


class Operator(nn.Module, ABC, metaclass=_SelfChecked):
    r"""A forward operator ``A``; ``forward`` maps ``[..., *domain.shape]`` to ``[..., *range.shape]``.

    A subclass sets ``domain``, ``range`` and ``linear`` and writes ``forward``; ``adjoint`` is derived by automatic
    differentiation unless it is written too. On construction the declaration is verified:
    :math:`|\langle Ax, v\rangle - \langle x, A^*v\rangle| \le 10^{-10} \|Ax\|\|v\|`, linearity, batch = loop.

    Example:
        >>> class Double(Operator):
        ...     linear, domain, range = True, Spec(("t",), (3,)), Spec(("t",), (3,))
        ...     def forward(self, x): return 2 * x
        >>> Double().adjoint(torch.ones(3))
        tensor([2., 2., 2.])
    """

    #: set False only where the operator's own tests cover what the self-check does
    self_check: ClassVar[bool] = True

    domain: Spec
    range: Spec
    linear: bool

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A(x)``: ``[..., *domain.shape]`` to ``[..., *range.shape]``."""

    def adjoint(self, y: Tensor) -> Tensor:
        """``A* y``: ``[..., *range.shape]`` to ``[..., *domain.shape]``; only a linear operator has one.

        Raises:
            OperatorError: the operator is not linear.
        """
        if not self.linear:
            raise OperatorError(
                f"{type(self).__name__} is not linear and has no adjoint",
                fix="use vjp(x, y), the adjoint of its Jacobian",
            )
        return adjoint_by_vjp(self.forward, self.domain, y, self.range)

    def vjp(self, x: Tensor, y: Tensor) -> Tensor:
        """``J(x)* y``: the adjoint of the Jacobian at ``x``."""
        return torch.func.vjp(self.forward, x)[1](y)[0]


def adjoint_by_vjp(forward: Callable[[Tensor], Tensor], domain: Spec, y: Tensor, range_: Spec) -> Tensor:
    """The adjoint of a linear ``forward``, by the reverse mode at zero."""
    range_.check(y, what="adjoint input")
    batch = y.shape[: y.ndim - range_.ndim]
    if not domain.fixed:
        raise OperatorError(
            f"the adjoint cannot be derived while dims {domain.dims} have the free shape {domain.shape}",
            fix="give the domain fixed sizes, or write adjoint()",
        )
    zero = torch.zeros(*batch, *domain.concrete(0), dtype=y.dtype, device=y.device)
    return torch.func.vjp(forward, zero)[1](y)[0]
