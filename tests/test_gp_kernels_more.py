"""Oscillators, squared exponential, periodic kernels, products and kernels of several outputs in state-space form."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, ShapeError
from sciinfer.gp.kernels import (
    CARMA,
    RBF,
    SHO,
    Constant,
    Coregionalised,
    Cosine,
    Coupled,
    HidaMatern,
    IntegratedWiener,
    Kernel,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Product,
    QuasiPeriodic,
    Separable,
    Wiener,
    parse_kernel,
)
from sciinfer.gp.kernels.oscillation import harmonic_weights
from sciinfer.labelled.schema import TimeAxis
from sciinfer.processes import KernelProcess, build_bridge

F64 = torch.float64
LAG = torch.tensor([0.0, 1e-6, 0.1, 1.0, 2.5, 20.0], dtype=F64)
STEPS = torch.logspace(-9, 3, 13, dtype=F64)


def sho(period: float, quality: float, variance: float):
    def closed(lag):
        w, a = 2 * mpmath.pi / period, mpmath.mpf(1) / (2 * quality)
        e = mpmath.sqrt(1 - a * a)

        def at(r):
            x = w * mpmath.mpf(r)
            ratio = mpmath.sin(e * x) / e if e else x
            return float(mpmath.re(variance * mpmath.exp(-a * x) * (mpmath.cos(e * x) + a * ratio)))

        with mpmath.workdps(60):
            return torch.tensor([at(float(r)) for r in lag], dtype=F64)

    return closed


def m32(r, scale, variance=1.0):
    return variance * (1 + math.sqrt(3) * r / scale) * (-math.sqrt(3) * r / scale).exp()


def periodic(r, period, rough):
    return (-2 * (math.pi * r / period).sin().square() / rough**2).exp()


STATIONARY = {
    "sho, ringing": (lambda: SHO(2.0, 30.0, 1.5), sho(2.0, 30.0, 1.5)),
    "sho, one": (lambda: SHO(2.0, 1.0, 1.5), sho(2.0, 1.0, 1.5)),
    "sho, nearly critical": (lambda: SHO(2.0, 0.5000001, 1.5), sho(2.0, 0.5000001, 1.5)),
    "sho, critical": (lambda: SHO(2.0, 0.5, 1.5), sho(2.0, 0.5, 1.5)),
    "sho, relaxing": (lambda: SHO(2.0, 0.3, 1.5), sho(2.0, 0.3, 1.5)),
    "sho, strongly damped": (lambda: SHO(2.0, 0.01, 1.5), sho(2.0, 0.01, 1.5)),
    "cosine": (lambda: Cosine(3.0, 1.5), lambda r: 1.5 * (2 * math.pi * r / 3).cos()),
    "periodic": (lambda: Periodic(3.0, 1.3, 0.7, harmonics=14), lambda r: 0.7 * periodic(r, 3.0, 1.3)),
    "quasi-periodic": (
        lambda: QuasiPeriodic(3.0, 7.0, 1.3, 0.7, harmonics=14),
        lambda r: 0.7 * periodic(r, 3.0, 1.3) * m32(r, 7.0),
    ),
    "hida-matern": (lambda: HidaMatern(4.0, 3.0, 0.7), lambda r: m32(r, 4.0, 0.7) * (2 * math.pi * r / 3).cos()),
    "product": (
        lambda: Matern12(2.0) * (Matern32(4.0) * Cosine(3.0)),
        lambda r: (-r / 2).exp() * m32(r, 4.0) * (2 * math.pi * r / 3).cos(),
    ),
    "carma, first order": (lambda: CARMA([1 / 1.7], variance=2.0), lambda r: 2.0 * (-r / 1.7).exp()),
    "carma, three equal roots": (
        lambda: CARMA([4.0, 4.0, 2.0], variance=1.5),
        lambda r: 1.5 * (1 + 2 * r + 4 * r**2 / 3) * (-2 * r).exp(),
    ),
    "carma, an oscillator": (
        lambda: CARMA([math.pi**2, math.pi / 30.0], variance=1.5),
        sho(2.0, 30.0, 1.5),
    ),
    "scaled sum": (lambda: 2.0 * (Matern12(1.7) + Constant(3.0)), lambda r: 2 * (-r / 1.7).exp() + 6.0),
}
OTHERS = {
    "carma": lambda: CARMA([4.0, 0.5, 1.0, 3.0, 0.7], [0.3, -0.1], 1.5),
    "rbf": lambda: RBF(0.7, 2.0),
    "rbf 12": lambda: RBF(0.7, 2.0, order=12),
    "linear": lambda: Linear(0.4),
}
ALL = {name: build for name, (build, _) in STATIONARY.items()} | OTHERS
MULTI = {
    "coregionalised": lambda: Coregionalised([Matern12(2.0), SHO(3.0, 2.0)], [[1.0, 0.5], [-0.3, 2.0], [0.0, 1.0]]),
    "separable": lambda: Separable(Matern32(2.0), [[1.0, 0.6], [0.6, 2.0]]),
    "coupled": lambda: Coupled([[1.0, 0.2], [0.4, -1.0]], [0.5, 1.5], [[0.0, 2.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize("name", STATIONARY)
def test_covariance_is_the_closed_form_and_even(name):
    build, closed = STATIONARY[name]
    with torch.no_grad():
        torch.testing.assert_close(build().covariance(LAG), closed(LAG), rtol=1e-10, atol=2e-12)
        torch.testing.assert_close(build().covariance(-LAG), closed(LAG), rtol=1e-10, atol=2e-12)


@pytest.mark.parametrize("name", [*STATIONARY, "rbf", "rbf 12", "carma", *MULTI])
def test_the_initial_covariance_is_stationary_for_any_step(name):
    kernel = (ALL | MULTI)[name]()
    with torch.no_grad():
        A, Q = kernel.transition(STEPS)
        P = kernel.initial()
    torch.testing.assert_close(A @ P @ A.mT + Q, P.expand_as(Q), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ALL | MULTI)
def test_two_steps_are_one(name):
    kernel = (ALL | MULTI)[name]()
    with torch.no_grad():
        for s, t in ((0.3, 1.1), (1e-6, 2.0), (4.0, 0.5)):
            (As, Qs), (At, Qt), (A, Q) = (kernel.transition(torch.tensor(h, dtype=F64)) for h in (s, t, s + t))
            torch.testing.assert_close(At @ As, A, rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(At @ Qs @ At.mT + Qt, Q, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ALL | MULTI)
def test_no_time_changes_nothing_and_noise_is_positive(name):
    kernel = (ALL | MULTI)[name]()
    with torch.no_grad():
        A, Q = kernel.transition(torch.zeros(2, dtype=F64))
        torch.testing.assert_close(A, torch.eye(kernel.state_dim, dtype=F64).expand_as(A), rtol=0, atol=1e-15)
        assert not Q.any()
        A, Q = kernel.transition(torch.cat([STEPS, torch.tensor([1e6, 1e9], dtype=F64)]))
        assert bool(A.isfinite().all())
        assert bool(Q.isfinite().all())
        # the squared exponential's states are scaled to one and its noise has ranks far below round-off
        sd = Q.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1.0 if name.startswith("rbf") else 1e-300)
        assert float(torch.linalg.eigvalsh(Q / sd[:, None] / sd[..., None]).min()) > -1e-11


@pytest.mark.parametrize("name", ALL | MULTI)
def test_every_parameter_is_learned(name):
    kernel, t = (ALL | MULTI)[name](), torch.tensor([[0.0, 0.4, 0.4, 3.0]], dtype=F64)
    H = kernel.readout().reshape(kernel.outputs, -1).expand(1, 4, -1, -1)
    y = torch.tensor([1.0, 0.2, -0.3, 0.9], dtype=F64)[:, None].expand(1, 4, kernel.outputs)
    build_bridge(KernelProcess(kernel), t, H, y, t[:, :0]).loglik.sum().backward()
    for label, parameter in kernel.named_parameters():
        assert bool(torch.isfinite(parameter.grad).all()), label
        assert bool((parameter.grad != 0).any()), label


@pytest.mark.parametrize("quality", [0.02, 0.3, 0.5, 0.5000001, 2.0, 100.0])
@pytest.mark.parametrize("h", [1e-9, 1e-4, 0.01, 0.3, 5.0])
def test_oscillator_noise_of_any_step_has_full_relative_accuracy(quality, h):
    kernel = SHO(2.0, quality)
    with mpmath.workdps(80):
        a = 1 / (2 * mpmath.mpf(float(kernel.log_quality.detach().exp())))
        w = 2 * mpmath.pi / mpmath.mpf(float(kernel.log_period.detach().exp()))
        A = mpmath.expm(w * h * mpmath.matrix([[0, 1], [-1, -2 * a]]), method="taylor")
        Q = mpmath.eye(2) - A * A.T
        expected = torch.tensor([[float(Q[i, j]) for j in range(2)] for i in range(2)], dtype=F64)
    sd = expected.diagonal().sqrt()
    gap = (kernel.transition(torch.tensor(h, dtype=F64))[1].detach() - expected).abs() / sd[:, None] / sd
    assert float(gap.max()) < 1e-10


def test_the_oscillator_crosses_critical_damping_smoothly():
    slopes = []
    for quality in (0.5 - 1e-9, 0.5, 0.5 + 1e-9):
        kernel = SHO(2.0, quality)
        (slope,) = torch.autograd.grad(kernel.covariance(LAG).sum(), [kernel.log_quality])
        slopes.append(float(slope))
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)
    assert slopes[2] == pytest.approx(slopes[1], rel=1e-6)


def test_a_moving_average_has_its_rational_spectrum():
    """``S(w) = |beta(iw)|^2 / |alpha(iw)|^2``; its cosine transform is the covariance."""
    kernel, w = OTHERS["carma"](), np.linspace(0, 2000, 2_000_001)
    s = 1j * w
    alpha = (s**2 + 0.5 * s + 4) * (s**2 + 3 * s + 1) * (s + 0.7)
    S = np.abs((1 + 0.3 * s - 0.1 * s**2) / alpha) ** 2
    S[0] *= 0.5
    lag = [0.0, 0.3, 1.0, 4.0]
    expected = np.array([(S * np.cos(w * r)).sum() for r in lag]) / S.sum() * 1.5
    found = kernel.covariance(torch.tensor(lag, dtype=F64)).detach()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_the_oscillator_of_a_spectral_level():
    kernel = SHO.from_power(S0=0.01, w0=10.0, Q=3.0)
    assert kernel.initial()[0, 0].item() == pytest.approx(0.3, rel=1e-12)
    assert kernel.log_period.exp().item() == pytest.approx(0.2 * math.pi, rel=1e-12)


@pytest.mark.parametrize(("order", "error"), [(4, 0.03), (6, 0.005), (8, 1e-3), (12, 1e-4), (16, 1e-5)])
def test_the_squared_exponential_converges_and_knows_its_error(order, error):
    kernel = RBF(0.7, 2.0, order=order)
    with torch.no_grad():
        gap = (kernel.covariance(LAG) - 2 * (-0.5 * (LAG / 0.7).square()).exp()).abs().max() / 2
    assert float(gap) <= kernel.truncation() + 1e-12 < error


def test_harmonic_weights_are_bessel_functions():
    for x in (1e-3, 0.5, 4.0, 100.0):
        found = harmonic_weights(torch.tensor(x, dtype=F64), 8)
        with mpmath.workdps(40):
            expected = [(1 + (j > 0)) * mpmath.besseli(j, x) * mpmath.exp(-x) for j in range(9)]
        np.testing.assert_allclose(found.numpy(), np.array(expected, dtype=float), rtol=1e-12)


def test_periodic_kernels_take_as_many_harmonics_as_they_need():
    assert Periodic(1.0, 1.0).truncation() < 1e-6
    assert Periodic(1.0, 0.3).truncation() < 1e-6
    assert Periodic(1.0, 0.3).state_dim > Periodic(1.0, 3.0).state_dim
    assert Periodic(1.0, 0.3, harmonics=2).truncation() > 0.1


def test_a_period_is_learned_only_when_asked():
    assert "log_period" not in dict(Periodic(1.0).named_parameters())
    assert "log_period" in dict(Periodic(1.0, learn_period=True).named_parameters())
    assert len(list(HidaMatern(2.0, 1.0).parameters())) == 3
    assert len(list(HidaMatern(2.0, 1.0, learn_period=False).parameters())) == 2


def test_dynamics_are_the_slopes_at_zero():
    F, D = Matern32(0.7, 2.0).dynamics()
    rate = math.sqrt(3) / 0.7
    torch.testing.assert_close(F.detach(), torch.tensor([[0, 1], [-(rate**2), -2 * rate]], dtype=F64))
    torch.testing.assert_close(D.detach(), torch.tensor([[0, 0], [0, 4 * 2.0 * rate**3]], dtype=F64))


@pytest.mark.parametrize("name", [*ALL, *MULTI])
def test_dynamics_of_every_kernel_give_its_stationary_covariance(name):
    kernel = (ALL | MULTI)[name]()
    F, D = (part.detach() for part in kernel.dynamics())
    P = kernel.initial().detach()
    if kernel.stationary:
        scale = float((F @ P).abs().max())
        torch.testing.assert_close(F @ P + P @ F.mT, -D, rtol=1e-9, atol=1e-9 * scale)


def test_products_refuse_what_they_cannot_hold():
    with pytest.raises(ConfigError, match="cannot be a factor"):
        Product(Matern12(), Wiener())
    with pytest.raises(ConfigError, match="cannot be a factor"):
        Linear() * Cosine(1.0)
    with pytest.raises(ConfigError, match="factor must be a positive"):
        -1.0 * Matern12()
    assert (2.0 * IntegratedWiener(0.3)).stationary is False


@pytest.mark.parametrize("name", MULTI)
def test_covariance_between_outputs(name):
    kernel = MULTI[name]()
    lag = torch.tensor([-1.3, 0.0, 0.7], dtype=F64)
    with torch.no_grad():
        found = kernel.covariance(lag)
        if name == "coregionalised":
            W = kernel.loadings
            parts = torch.stack([k.covariance(lag) for k in kernel.kernels], -1)
            expected = torch.einsum("cq,tq,eq->tce", W, parts, W)
        elif name == "separable":
            expected = Matern32(2.0).covariance(lag)[:, None, None] * torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=F64)
        else:
            F = torch.tensor([[-0.25, 2.0], [-2.0, -0.75]], dtype=F64)
            A = torch.linalg.matrix_exp(F * lag.abs()[:, None, None])
            A = torch.where((lag < 0)[:, None, None], A.mT, A)
            expected = kernel.loadings @ A @ kernel.loadings.mT
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_coupled_modes_are_not_reversible_and_the_others_are():
    lag = torch.tensor(0.6, dtype=F64)
    for name, build in MULTI.items():
        K = build().covariance(lag).detach()
        assert bool(torch.allclose(K, K.mT)) == (name != "coupled")


def test_kernels_of_outputs_refuse_sizes_that_do_not_fit():
    with pytest.raises(ShapeError, match="loadings"):
        Coregionalised([Matern12()], [[1.0, 2.0]])
    with pytest.raises(ShapeError, match="space covariance"):
        Separable(Matern12(), [1.0, 2.0])
    with pytest.raises(ConfigError, match="positive semi-definite"):
        Separable(Matern12(), [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ShapeError, match="rates"):
        Coupled([[1.0]], [1.0, 1.0], [[0.0]])
    with pytest.raises(ConfigError, match="rates"):
        Coupled([[1.0]], [-1.0], [[0.0]])
    with pytest.raises(ShapeError, match="different numbers of outputs"):
        Matern12() + Separable(Matern12(), [[1.0, 0.0], [0.0, 1.0]])


def test_products_are_written_as_text():
    weekly = TimeAxis("time", "datetime", 0.0, 86400e9)
    text = "matern32(lengthscale=90D) * cosine(period=7D) + sho(period=30D) + periodic(period=1D, harmonics=2)"
    product, oscillator, pattern = parse_kernel(text, weekly.duration).parts
    assert [type(part) for part in product.parts] == [Matern32, Cosine]
    assert product.parts[1].period.item() == pytest.approx(7.0, rel=1e-12)
    assert oscillator.log_period.exp().item() == pytest.approx(30.0, rel=1e-12)
    assert (pattern.state_dim, pattern.period.item()) == (5, 1.0)
    for bad in ("matern32 * wiener", "matern32 ** cosine(period=1", "2 * matern32", "*"):
        with pytest.raises(ConfigError):
            parse_kernel(bad)


@pytest.mark.parametrize(
    "build",
    [
        lambda: CARMA([1.0], [0.5]),
        lambda: CARMA([]),
        lambda: CARMA([1.0, -1.0]),
        lambda: RBF(order=1),
        lambda: RBF(order=40),
        lambda: SHO(quality=0.0),
        lambda: Periodic(1.0, roughness=1e-3),
        lambda: Periodic(1.0, harmonics=0),
        lambda: Periodic(-1.0),
        lambda: HidaMatern(1.0, 1.0, order=72),
        lambda: Matern52(-1.0),
        lambda: SHO.from_power(1.0, -1.0, 1.0),
    ],
)
def test_options_out_of_range_are_named(build):
    with pytest.raises(ConfigError):
        assert isinstance(build(), Kernel)
