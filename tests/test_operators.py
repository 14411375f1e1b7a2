"""Every registered operator against its dense matrix, and the refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciinfer.errors import ConfigError, DataError, OperatorError, ShapeError
from sciinfer.operators import (
    Composition,
    Convolution,
    Identity,
    Mask,
    Matrix,
    Operator,
    Spec,
    Subsample,
    Sum,
    as_operator,
    check_operator,
    from_function,
)
from sciinfer.random import generator

F64 = torch.float64


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=generator(seed, "test"))


def make_all() -> dict[str, Operator]:
    return {
        "identity": Identity(("t",), (5,)),
        "mask": Mask(torch.tensor([[True, False, True], [False, True, True]]), ("y", "x")),
        "subsample": Subsample((5, 4), (2, 3)),
        "matrix": Matrix(randn(3, 6), Spec(("y", "x"), (2, 3))),
        "circular-1d": Convolution(randn(3), (8,)),
        "circular-even": Convolution(randn(4), (9,)),
        "circular-2d": Convolution(randn(3, 5), (6, 7), dims=("y", "x")),
        "valid-1d": Convolution(randn(3), (8,), mode="valid"),
        "valid-2d": Convolution(randn(3, 2), (6, 7), mode="valid"),
        "composition": Composition(Subsample((6,), 2), Convolution(randn(3), (8,), mode="valid")),
        "sum": Sum(Matrix(randn(3, 3)), Matrix(randn(3, 3, seed=1))),
        "function": from_function(lambda x: x.cumsum(-1), Spec(("t",), (5,)), linear=True),
    }


def dense(op: Operator) -> torch.Tensor:
    eye = torch.eye(op.domain.size, dtype=F64).reshape(-1, *op.domain.concrete(0))
    return op(eye).reshape(op.domain.size, -1).T


@pytest.mark.parametrize("name", make_all())
def test_self_check_and_dense_adjoint(name: str) -> None:
    op = make_all()[name]
    check_operator(op)
    matrix = dense(op)
    back = op.adjoint(torch.eye(op.range.size, dtype=F64).reshape(-1, *op.range.concrete(0)))
    torch.testing.assert_close(back.reshape(op.range.size, -1), matrix, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", make_all())
def test_dtype_batch_and_input_untouched(name: str) -> None:
    op = make_all()[name]
    x = randn(2, 3, *op.domain.concrete(0), dtype=torch.float32)
    before = x.clone()
    y = op(x)
    assert y.dtype == torch.float32 and y.shape == (2, 3, *op.range.concrete(0))
    assert op.adjoint(y).dtype == torch.float32
    assert torch.equal(x, before)
    torch.testing.assert_close(op(x[1, 2]), y[1, 2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", make_all())
def test_wrong_shape_names_the_dim(name: str) -> None:
    op = make_all()[name]
    shape = list(op.domain.concrete(0))
    shape[-1] += 1
    with pytest.raises(ShapeError) as caught:
        op(torch.zeros(shape, dtype=F64))
    assert caught.value.dim == op.domain.dims[-1]


@pytest.mark.parametrize("name", make_all())
def test_gradient(name: str) -> None:
    op = make_all()[name]
    x = randn(*op.domain.concrete(0)).requires_grad_()
    assert torch.autograd.gradcheck(op.forward, (x,))


@given(n=st.integers(3, 12), k=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_convolution_equals_the_sum(n: int, k: int, seed: int) -> None:
    kernel, x = randn(k, seed=seed), randn(n, seed=seed + 1)
    valid = torch.stack([(kernel.flip(0) * x[i : i + k]).sum() for i in range(n - k + 1)])
    torch.testing.assert_close(Convolution(kernel, (n,), mode="valid")(x), valid, atol=1e-12, rtol=0)
    circular = torch.stack([sum(kernel[j] * x[(i - j + k // 2) % n] for j in range(k)) for i in range(n)])
    torch.testing.assert_close(Convolution(kernel, (n,))(x), circular, atol=1e-12, rtol=0)


def test_fault_24_wrong_adjoint_is_refused_at_construction() -> None:
    domain = Spec(("t",), (4,))
    with pytest.raises(OperatorError, match="adjoint is wrong") as caught:
        from_function(lambda x: x.cumsum(-1), domain, linear=True, adjoint=lambda y: y.cumsum(-1))
    assert caught.value.code == "operator/adjoint" and caught.value.fix

    class Wrong(Operator):
        def __init__(self) -> None:
            super().__init__()
            self.domain = self.range = domain
            self.linear = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.roll(1, -1)

        def adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return y.roll(1, -1)

    with pytest.raises(OperatorError, match="Wrong: its adjoint is wrong"):
        Wrong()


@pytest.mark.parametrize(
    ("fn", "code"),
    [
        (lambda x: x**2, "operator/linear"),
        (lambda x: x + 1.0, "operator/linear"),
        (lambda x: x - x.mean(), "operator/batch"),
        (lambda x: x.sum(0) * torch.ones(4, dtype=x.dtype), "operator/shape"),
        (lambda x: x.float(), "operator/dtype"),
        (lambda x: x / 0.0, "operator/finite"),
    ],
)
def test_false_claims_are_refused(fn: object, code: str) -> None:
    with pytest.raises(OperatorError) as caught:
        from_function(fn, Spec(("t",), (4,)), linear=True)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_nonlinear_operator_has_a_vjp_and_no_adjoint() -> None:
    op = from_function(torch.sin, Spec(("t",), (3,)), linear=False)
    x, v = randn(3), randn(3, seed=1)
    torch.testing.assert_close(op.vjp(x, v), torch.cos(x) * v)
    with pytest.raises(OperatorError, match="not linear"):
        op.adjoint(v)


def test_nan_in_a_matrix_and_empty_mask() -> None:
    with pytest.raises(DataError) as caught:
        Matrix([[1.0, float("nan")]])
    assert caught.value.index == (0, 1)
    with pytest.raises(DataError, match="measures nothing"):
        Mask([False, False])
    with pytest.raises(DataError, match="boolean"):
        Mask([0.0, 1.0])
    with pytest.raises(ShapeError):
        Composition(Identity(("t",), (3,)), Identity(("t",), (4,)))
    with pytest.raises(ShapeError):
        Sum(Identity(("t",), (3,)), Identity(("t",), (4,)))
    with pytest.raises(ShapeError):
        Convolution(torch.ones(5), (3,))
    with pytest.raises(ConfigError):
        Subsample((4,), 0)


def test_as_operator() -> None:
    op = Identity()
    assert as_operator(op) is op
    assert as_operator([[1.0, 2.0]]).domain.shape == (2,)
    with pytest.raises(ConfigError, match="cannot make an operator"):
        as_operator("radon")


def test_caller_matrix_is_not_shared() -> None:
    given_matrix = torch.ones(2, 2, dtype=F64)
    op = Matrix(given_matrix)
    given_matrix.zero_()
    assert bool((op.matrix == 1).all())
