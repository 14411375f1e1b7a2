"""Kernels in state-space form against their closed forms, and kernels written as text."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciinfer.errors import ConfigError, NameNotFoundError
from sciinfer.gp.kernels import (
    Constant,
    IntegratedWiener,
    Kernel,
    Matern12,
    Matern32,
    Matern52,
    Seasonal,
    Sum,
    Wiener,
    parse_kernel,
)
from sciinfer.labelled.schema import TimeAxis
from sciinfer.processes import KernelProcess, build_bridge

F64 = torch.float64
STATIONARY = {
    "matern12": (lambda: Matern12(1.7, 2.0), lambda r: 2.0 * (-r / 1.7).exp()),
    "matern32": (
        lambda: Matern32(0.7, 1.5),
        lambda r: 1.5 * (1 + math.sqrt(3) * r / 0.7) * (-math.sqrt(3) * r / 0.7).exp(),
    ),
    "matern52": (
        lambda: Matern52(2.0, 0.5),
        lambda r: 0.5 * (1 + math.sqrt(5) * r / 2 + 5 * r**2 / 12) * (-math.sqrt(5) * r / 2).exp(),
    ),
    "constant": (lambda: Constant(3.0), lambda r: 3.0 + 0 * r),
    "seasonal": (
        lambda: Seasonal(period=3.0, harmonics=2, variance=1.5),
        lambda r: 1.2 * (2 * math.pi * r / 3).cos() + 0.3 * (4 * math.pi * r / 3).cos(),
    ),
    "fading seasonal": (
        lambda: Seasonal(period=3.0, harmonics=1, lengthscale=5.0),
        lambda r: (-r / 5).exp() * (2 * math.pi * r / 3).cos(),
    ),
    "sum": (lambda: Matern12(1.7, 2.0) + Constant(3.0), lambda r: 2.0 * (-r / 1.7).exp() + 3.0),
}
OTHERS = {"wiener": lambda: Wiener(0.4, 2.0), "integrated-wiener": lambda: IntegratedWiener(0.4, 3.0, 2.0)}
ALL = {name: build for name, (build, _) in STATIONARY.items()} | OTHERS
STEPS = torch.logspace(-9, 3, 13, dtype=F64)


@pytest.mark.parametrize("name", STATIONARY)
def test_covariance_is_the_closed_form_and_even(name):
    build, closed = STATIONARY[name]
    lag = torch.tensor([0.0, 1e-6, 0.1, 1.0, 2.5, 20.0], dtype=F64)
    torch.testing.assert_close(build().covariance(lag).detach(), closed(lag), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(build().covariance(-lag).detach(), closed(lag), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", STATIONARY)
def test_the_initial_covariance_is_stationary_for_any_step(name):
    kernel = STATIONARY[name][0]()
    with torch.no_grad():
        A, Q = kernel.transition(STEPS)
        P = kernel.initial()
    torch.testing.assert_close(A @ P @ A.mT + Q, P.expand_as(Q), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_two_steps_are_one(name):
    """Chapman-Kolmogorov: ``A(s + t) = A(t) A(s)``, ``Q(s + t) = A(t) Q(s) A(t)^T + Q(t)``."""
    kernel = ALL[name]()
    with torch.no_grad():
        for s, t in ((0.3, 1.1), (1e-6, 2.0), (4.0, 0.5)):
            (As, Qs), (At, Qt), (A, Q) = (kernel.transition(torch.tensor(h, dtype=F64)) for h in (s, t, s + t))
            torch.testing.assert_close(At @ As, A, rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(At @ Qs @ At.mT + Qt, Q, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ALL)
def test_no_time_changes_nothing_and_noise_is_positive(name):
    kernel = ALL[name]()
    with torch.no_grad():
        A, Q = kernel.transition(torch.zeros(2, dtype=F64))
        assert torch.equal(A, torch.eye(kernel.state_dim, dtype=F64).expand_as(A))
        assert not Q.any()
        # scaled to correlations: round-off must not make a long state indefinite
        _, Q = kernel.transition(STEPS)
        sd = Q.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-300)
        assert float(torch.linalg.eigvalsh(Q / sd[:, None] / sd[..., None]).min()) > -1e-12


def _reference_noise(F, P, h):
    """``P - A P A^T`` with 80 digits."""
    with mpmath.workdps(80):
        A = mpmath.expm(F * mpmath.mpf(h), method="taylor")
        Q = P - A * P * A.T
        return torch.tensor([[float(Q[i, j]) for j in range(Q.cols)] for i in range(Q.rows)], dtype=F64)


@pytest.mark.parametrize("h", [1e-9, 1e-6, 1e-3, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("order", [12, 32, 52])
def test_noise_of_short_steps_has_full_relative_accuracy(order, h):
    """Matérn noise of the first component is of order ``h^(2 nu)``: it must not drown in round-off."""
    with mpmath.workdps(80):
        rate = mpmath.sqrt(order // 10) / mpmath.mpf(0.7)
        if order == 12:
            kernel, F, P = Matern12(0.7), mpmath.matrix([[-rate]]), mpmath.matrix([[1]])
        elif order == 32:
            kernel, P = Matern32(0.7), mpmath.diag([1, rate**2])
            F = mpmath.matrix([[0, 1], [-(rate**2), -2 * rate]])
        else:
            kernel, third = Matern52(0.7), rate**2 / 3
            F = mpmath.matrix([[0, 1, 0], [0, 0, 1], [-(rate**3), -3 * rate**2, -3 * rate]])
            P = mpmath.matrix([[1, 0, -third], [0, third, 0], [-third, 0, rate**4]])
        expected = _reference_noise(F, P, h)
    _, Q = kernel.transition(torch.tensor(h, dtype=F64))
    sd = expected.diagonal().sqrt()
    assert float(((Q.detach() - expected).abs() / sd[:, None] / sd).max()) < 1e-11


def test_brownian_motion_and_its_integral():
    A, Q = Wiener(rate=0.4).transition(torch.tensor([0.5, 2.0], dtype=F64))
    torch.testing.assert_close(Q.detach().flatten(), torch.tensor([0.2, 0.8], dtype=F64))
    A, Q = IntegratedWiener(rate=0.4).transition(torch.tensor(2.0, dtype=F64))
    torch.testing.assert_close(A.detach(), torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=F64))
    expected = 0.4 * torch.tensor([[8 / 3, 2.0], [2.0, 2.0]], dtype=F64)
    torch.testing.assert_close(Q.detach(), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_a_kernel_that_is_not_stationary_has_no_covariance_of_the_lag(name):
    with pytest.raises(ConfigError, match="not stationary"):
        OTHERS[name]().covariance(torch.zeros(1, dtype=F64))
    assert not (OTHERS[name]() + Constant()).stationary


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_learned(name):
    """Gradients of a log-likelihood: finite, and not zero for any parameter."""
    kernel, t = ALL[name](), torch.tensor([[0.0, 0.4, 0.4, 3.0]], dtype=F64)
    H = kernel.readout().expand(1, 4, 1, -1)
    y = torch.tensor([[[1.0], [0.2], [-0.3], [0.9]]], dtype=F64)
    build_bridge(KernelProcess(kernel), t, H, y, t[:, :0]).loglik.sum().backward()
    for label, parameter in kernel.named_parameters():
        assert bool(torch.isfinite(parameter.grad).all()), label
        assert bool((parameter.grad != 0).all()), label


def test_sums_are_flat():
    total = Matern12() + (Matern32() + Constant())
    assert isinstance(total, Sum)
    assert [type(part) for part in total.parts] == [Matern12, Matern32, Constant]
    assert total.readout().tolist() == [1, 1, 0, 1]


# -- text ------------------------------------------------------------------------------------------------------------


def test_text_gives_the_kernel_it_says():
    kernel = parse_kernel("matern32(lengthscale=2.5, variance=0.3) + seasonal(period=12, harmonics=3)+constant")
    matern, seasonal, constant = kernel.parts
    assert matern.lengthscale.item() == pytest.approx(2.5, rel=1e-12)
    assert matern.variance.item() == pytest.approx(0.3, rel=1e-12)
    assert (seasonal.period, seasonal.state_dim) == (12.0, 6)
    assert isinstance(constant, Constant)


def test_durations_follow_the_time_axis():
    dates = TimeAxis("time", "datetime", 0.0, 7 * 86400e9)
    assert parse_kernel("seasonal(period=14D)", dates.duration).period == pytest.approx(2.0, rel=1e-15)
    numbers = TimeAxis("t", "number", 3.0, 4.0)
    assert parse_kernel("seasonal(period=14)", numbers.duration).period == pytest.approx(3.5, rel=1e-15)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from(["matern12", "matern32", "matern52"]),
    st.floats(1e-6, 1e6),
    st.floats(1e-6, 1e6),
    st.sampled_from(["", " ", "\n  "]),
)
def test_any_number_survives_the_text(name, lengthscale, variance, space):
    kernel = parse_kernel(
        f"{space}{name}{space}({space}lengthscale={lengthscale!r},{space}variance={variance!r}){space}"
    )
    assert isinstance(kernel, Kernel)
    assert kernel.lengthscale.item() == pytest.approx(lengthscale, rel=1e-12)
    assert kernel.variance.item() == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("matern33", NameNotFoundError, "matern32"),
        ("matern32(length=2)", ConfigError, "lengthscale"),
        ("matern32(2.0)", ConfigError, "no option"),
        ("matern32(variance=big)", ConfigError, "must be a number"),
        ("matern32(lengthscale=-1)", ConfigError, "positive"),
        ("matern32(lengthscale=inf)", ConfigError, "positive"),
        ("matern32(lengthscale=1", ConfigError, "cannot read"),
        ("matern32)", ConfigError, "cannot read"),
        ("2*matern32", ConfigError, "cannot read"),
        ("", ConfigError, "empty"),
        (" + ", ConfigError, "empty"),
        ("seasonal", ConfigError, "period"),
        ("seasonal(period=0)", ConfigError, "period"),
        ("seasonal(period=12, harmonics=0)", ConfigError, "harmonics"),
        ("seasonal(period=12, harmonics=1.5)", ConfigError, "harmonics"),
        ("seasonal(period=12, variance=-1)", ConfigError, "variance"),
        ("seasonal(period=365.25D)", ConfigError, "duration"),
        ("wiener(variance=-1)", ConfigError, "variance"),
    ],
)
def test_text_that_cannot_be_read_is_an_error_that_helps(text, error, says):
    with pytest.raises(error, match=says):
        parse_kernel(text)
