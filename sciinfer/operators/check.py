"""The self-check of operators, and the conversion of what a caller has into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, OperatorError, SciInferError
from ..random import generator
from .base import Operator

_FREE = 7  # stands in for a free size


def check_operator(op: Operator, *, seed: int = 0, tolerance: float | None = None) -> None:
    r"""Verify that an operator is what it says.

    Shapes follow the specs, a batch equals the loop over its members, and if it is declared linear,
    :math:`A(ax + by) = aAx + bAy` and
    :math:`|\langle Ax, v\rangle - \langle x, A^*v\rangle| < \text{tolerance} \cdot \|Ax\|\|v\|`.

    Args:
        op: the operator.
        seed: of the random test vectors.
        tolerance: default 1e-10, or 1e-5 for an operator that holds float32 parameters or buffers.

    Raises:
        OperatorError: code ``operator/shape``, ``operator/batch``, ``operator/linear``, ``operator/adjoint`` or
            ``operator/finite``.

    Example:
        >>> from sciinfer.operators import Identity
        >>> check_operator(Identity(("t",), (4,)))
    """
    _check_declaration(op)
    dtype = _dtype(op)
    tol = tolerance if tolerance is not None else (1e-10 if dtype == torch.float64 else 1e-5)
    rng = generator(seed, "check_operator")
    shape = op.domain.concrete(_FREE)
    x = torch.randn(2, *shape, dtype=dtype, generator=rng).to(_device(op))
    with torch.no_grad():
        image = _run(op, op.forward, x, "forward")
        _check_range(op, image, x)
        _check_batch(op, op.forward, x, image, tol)
        if op.linear:
            _check_linear(op, x, image, tol)
    if op.linear:
        _check_adjoint(op, x, image, rng, tol)


def _check_declaration(op: Operator) -> None:
    for name in ("domain", "range", "linear"):
        if getattr(op, name, None) is None:
            raise _error(op, f"it declares no {name}", "declaration", f"set self.{name} in __init__")


def _check_range(op: Operator, image: Tensor, x: Tensor) -> None:
    try:
        op.range.check(image, what="the image")
    except SciInferError as err:
        raise _error(op, f"forward contradicts the range {op.range}: {err.what}", "shape", "correct the range") from err
    if image.shape[: image.ndim - op.range.ndim] != x.shape[:1]:
        raise _error(op, f"a batch of 2 gave the shape {tuple(image.shape)}", "shape", "keep leading batch dims")
    if image.dtype != x.dtype:
        raise _error(op, f"{x.dtype} became {image.dtype}", "dtype", "compute in the dtype of the input")
    if not bool(image.isfinite().all()):
        raise _error(op, "the image of a standard normal input is not finite", "finite", "check for division by zero")


def _check_batch(op: Operator, function: Callable[[Tensor], Tensor], x: Tensor, image: Tensor, tol: float) -> None:
    for index, one in enumerate(x):
        alone = _run(op, function, one, "forward of one member")
        if alone.shape != image.shape[1:] or _norm(alone - image[index]) > tol * (1 + _norm(alone)):
            raise _error(op, "a member alone differs from the same member in a batch", "batch", "keep batch dims apart")


def _check_linear(op: Operator, x: Tensor, image: Tensor, tol: float) -> None:
    combined = _run(op, op.forward, 2.0 * x[0] - 3.0 * x[1], "forward")
    wanted = 2.0 * image[0] - 3.0 * image[1]
    if _norm(combined - wanted) > tol * (_norm(wanted) + _norm(image)):
        raise _error(op, "it is declared linear, but A(2x - 3y) != 2Ax - 3Ay", "linear", "set linear = False")


def _check_adjoint(op: Operator, x: Tensor, image: Tensor, rng: torch.Generator, tol: float) -> None:
    v = torch.randn(image.shape, dtype=x.dtype, generator=rng).to(x.device)
    back = _run(op, op.adjoint, v, "adjoint")
    if back.shape != x.shape:
        raise _error(
            op, f"the adjoint has shape {tuple(back.shape)}, expected {tuple(x.shape)}", "adjoint", "correct adjoint()"
        )
    _check_batch(op, op.adjoint, v, back, tol)
    left, right = float((image * v).sum()), float((x * back).sum())
    scale = max(_norm(image) * _norm(v), _norm(x) * _norm(back), 1e-300)
    if abs(left - right) > tol * scale:
        raise _error(
            op,
            f"its adjoint is wrong: <Ax, v> = {left:.6g}, <x, A*v> = {right:.6g}",
            "adjoint",
            "correct adjoint(), or remove it to have it derived by automatic differentiation",
        )


def _run(op: Operator, function: Callable[[Tensor], Tensor], x: Tensor, what: str) -> Tensor:
    try:
        return function(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as err:
        failure = f"{what} of shape {tuple(x.shape)} raised {type(err).__name__}: {err}"
        raise _error(op, failure, "shape", "accept [..., *dims]") from err


def _error(op: Operator, what: str, code: str, fix: str) -> OperatorError:
    return OperatorError(f"operator {type(op).__name__}: {what}", code=f"operator/{code}", fix=fix)


def _norm(x: Tensor) -> float:
    return float(x.double().norm())


def _dtype(op: Operator) -> torch.dtype:
    floating = [t.dtype for t in (*op.parameters(), *op.buffers()) if t.is_floating_point()]
    return floating[0] if floating else torch.float64


def _device(op: Operator) -> torch.device:
    return next((t.device for t in (*op.parameters(), *op.buffers())), torch.device("cpu"))


def as_operator(given: Any) -> Operator:
    """An operator from an operator, a 2-D tensor or a 2-D array.

    Example:
        >>> as_operator([[1.0, 2.0]]).range.shape
        (1,)
    """
    from .matrix import Matrix

    if isinstance(given, Operator):
        return given
    try:
        matrix = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as err:
        raise ConfigError(
            f"cannot make an operator of a {type(given).__name__}",
            fix="pass an Operator, a matrix, or operators.from_function(fn, domain)",
        ) from err
    return Matrix(matrix)
