"""Checks of forward operators."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError
from ..extend.records import Case, Entry
from ..operators import Operator, Spec
from . import toys
from .compare import same
from .failures import build, expect, must_refuse, skip_unless

_FREE = 5


def _made(case: Case, entry: Entry) -> tuple[Operator, Tensor]:
    op = build(case, entry)
    return op, toys.randn(3, *op.domain.concrete(_FREE))


def _linear(case: Case, entry: Entry) -> tuple[Operator, Tensor]:
    op, x = _made(case, entry)
    skip_unless(op.linear, "the operator is not linear")
    return op, x


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / (1 + b.double().norm()))


def check_operators_declaration(case: Case, entry: Entry) -> None:
    """``domain`` and ``range`` are specs, ``linear`` a bool."""
    op = build(case, entry)
    expect(isinstance(op, Operator), f"it is a {type(op).__name__}", fix="derive from sciinfer.operators.Operator")
    expect(isinstance(op.domain, Spec) and isinstance(op.range, Spec), "domain or range is no Spec")
    expect(isinstance(op.linear, bool), "linear is no bool")


def check_operators_dims(case: Case, entry: Entry) -> None:
    """The domain has the dims that the record declares."""
    skip_unless(bool(entry.dims), "the record declares no dims")
    dims = build(case, entry).domain.dims
    expect(dims == entry.dims, f"the domain has dims {dims}, the record says {entry.dims}")


def check_operators_range_shape(case: Case, entry: Entry) -> None:
    """The image has the declared shape."""
    op, x = _made(case, entry)
    op.range.check(op(x), what="the image")
    expect(op(x).shape[0] == 3, f"a batch of 3 gave {tuple(op(x).shape)}")


def check_operators_without_batch(case: Case, entry: Entry) -> None:
    """No batch dim is needed."""
    op, x = _made(case, entry)
    image = op(x[0])
    expect(image.ndim == op.range.ndim, f"without batch the image has shape {tuple(image.shape)}")


def check_operators_batch_equals_loop(case: Case, entry: Entry) -> None:
    """A batch is the loop over its members."""
    op, x = _made(case, entry)
    loop = torch.stack([op(one) for one in x])
    expect(_gap(op(x), loop) < case.tolerance, "a batch differs from the loop over its members")


def check_operators_two_batch_dims(case: Case, entry: Entry) -> None:
    """Two batch dims are as good as one."""
    op, x = _made(case, entry)
    folded = op(torch.stack([x, x]))
    expect(folded.shape == (2, *op(x).shape) and _gap(folded[1], op(x)) < case.tolerance, "two batch dims fail")


def check_operators_empty_batch(case: Case, entry: Entry) -> None:
    """An empty batch gives an empty batch."""
    op, x = _made(case, entry)
    expect(op(x[:0]).shape == (0, *op(x).shape[1:]), "an empty batch fails")


def check_operators_keeps_float64(case: Case, entry: Entry) -> None:
    """float64 stays float64."""
    op, x = _made(case, entry)
    expect(op(x).dtype == torch.float64, f"float64 became {op(x).dtype}")


def check_operators_keeps_float32(case: Case, entry: Entry) -> None:
    """float32 stays float32 and agrees with float64."""
    op, x = _made(case, entry)
    image = op(x.float())
    expect(image.dtype == torch.float32, f"float32 became {image.dtype}", fix="cast constants with .to(x)")
    expect(_gap(image, op(x)) < 1e-4, "float32 and float64 disagree")


def check_operators_leaves_input(case: Case, entry: Entry) -> None:
    """The input is not written to."""
    op, x = _made(case, entry)
    kept = x.clone()
    op(x)
    expect(same(x, kept), "the input was changed", fix="do not use in-place operations on x")


def check_operators_strided_input(case: Case, entry: Entry) -> None:
    """Non-contiguous inputs give the same result."""
    op, x = _made(case, entry)
    strided = torch.stack([x, x], dim=-1)[..., 0]
    expect(_gap(op(strided), op(x)) < case.tolerance, "a non-contiguous input gives another result")


def check_operators_follows_device(case: Case, entry: Entry) -> None:
    """Moved with ``.to``, it computes on the device of its input."""
    op, x = _made(case, entry)
    skip_unless(torch.cuda.is_available(), "no second device here")
    image = op.to("cuda")(x.to("cuda"))
    expect(image.device.type == "cuda" and _gap(image.cpu(), build(case, entry)(x)) < 1e-8, "it left the device")


def check_operators_refuses_wrong_shape(case: Case, entry: Entry) -> None:
    """A wrong size raises ShapeError."""
    op, _ = _made(case, entry)
    skip_unless(op.domain.shape[-1] is not None, "the last size is free")
    shape = list(op.domain.concrete(_FREE))
    shape[-1] += 1
    err = must_refuse(lambda: op(toys.randn(*shape)), f"an input of shape {shape}")
    expect(isinstance(err, ShapeError), f"a wrong shape raises {type(err).__name__}", fix="call self.domain.check(x)")


def check_operators_finite(case: Case, entry: Entry) -> None:
    """A finite input has a finite image."""
    op, x = _made(case, entry)
    expect(bool(op(x).isfinite().all()), "the image is not finite")


def check_operators_gradient(case: Case, entry: Entry) -> None:
    """Derivatives agree with finite differences."""
    op, x = _made(case, entry)
    one = x[0].clone().requires_grad_()
    fine = torch.autograd.gradcheck(op.forward, (one,), raise_exception=False)
    expect(fine, "autograd disagrees with finite differences", fix="use differentiable operations only")


def check_operators_state_round_trip(case: Case, entry: Entry) -> None:
    """``state_dict`` restores it."""
    op, x = _made(case, entry)
    other = build(case, entry)
    other.load_state_dict(op.state_dict())
    expect(same(op(x), other(x)), "a restored operator differs", fix="register tensors as buffers or parameters")


def check_operators_linear(case: Case, entry: Entry) -> None:
    """``A(2x - 3y) = 2Ax - 3Ay``."""
    op, x = _linear(case, entry)
    wanted = 2 * op(x[0]) - 3 * op(x[1])
    expect(_gap(op(2 * x[0] - 3 * x[1]), wanted) < case.tolerance, "it is declared linear and is not")


def check_operators_nonlinear_flag(case: Case, entry: Entry) -> None:
    """One that is declared nonlinear refuses to give an adjoint."""
    op, x = _made(case, entry)
    skip_unless(not op.linear, "the operator is linear")
    must_refuse(lambda: op.adjoint(op(x)), "the adjoint of a nonlinear operator")


def check_operators_adjoint_float64(case: Case, entry: Entry) -> None:
    """``<Ax, v> = <x, A*v>`` to 1e-10."""
    op, x = _linear(case, entry)
    _dot_product(op, x, max(case.tolerance, 1e-10))


def check_operators_adjoint_float32(case: Case, entry: Entry) -> None:
    """``<Ax, v> = <x, A*v>`` to 1e-5 in float32."""
    op, x = _linear(case, entry)
    _dot_product(op, x.float(), 1e-5)


def _dot_product(op: Operator, x: Tensor, tolerance: float) -> None:
    image = op(x)
    v = toys.randn(*image.shape, name="v").to(x.dtype)
    back = op.adjoint(v)
    expect(back.shape == x.shape and back.dtype == x.dtype, f"the adjoint gives {tuple(back.shape)}, {back.dtype}")
    left, right = (image.double() * v.double()).sum(), (x.double() * back.double()).sum()
    scale = max(
        float(image.double().norm() * v.double().norm()), float(x.double().norm() * back.double().norm()), 1e-300
    )
    gap = abs(float(left - right)) / scale
    expect(gap < tolerance, f"the adjoint is wrong: relative gap {gap:.2e}", fix="correct adjoint(), or remove it")


def _norms(a: Tensor, b: Tensor) -> float:
    return float(a.double().norm() * b.double().norm())


def check_operators_adjoint_is_vjp(case: Case, entry: Entry) -> None:
    """A given adjoint agrees with automatic differentiation."""
    op, x = _linear(case, entry)
    v = toys.randn(*op(x).shape, name="v")
    expect(_gap(op.adjoint(v), op.vjp(x, v)) < max(case.tolerance, 1e-10), "adjoint and vjp disagree")
