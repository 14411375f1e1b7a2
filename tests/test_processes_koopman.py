"""The Koopman process: closed forms against a general solver, hard limits on the spectrum, control, errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciinfer.errors import ConfigError, NumericalError
from sciinfer.processes.koopman import KoopmanProcess, exprel
from sciinfer.random import generator
from sciinfer.statespace.discretise import discretise

F64 = torch.float64
SPECTRA = ("stable", "unit-circle", "mixed", "free")


def moved(dim: int = 5, **options) -> KoopmanProcess:
    process = KoopmanProcess(dim, generator=generator(0, "process"), **options)
    with torch.no_grad():
        for k, parameter in enumerate(process.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(0, "move", k), dtype=F64))
    return process


def drift_matrix(process: KoopmanProcess) -> Tensor:
    F, turns = torch.diag(-process.damping()), process.frequency()
    for k in range(process.pairs):
        F[2 * k, 2 * k + 1], F[2 * k + 1, 2 * k] = -turns[2 * k], turns[2 * k]
    return F.detach()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("noise", ["stationary", "dense"])
@pytest.mark.parametrize("real", [False, True])
def test_transitions_are_those_of_the_sde(spectrum, noise, real) -> None:
    process = moved(spectrum=spectrum, noise=noise)
    process.get_buffer("oscillates")[1] = not real
    h = torch.tensor([0.0, 1e-9, 0.3, 1.7, 40.0], dtype=F64)
    A, Q = (part.detach() for part in process.transition(h))
    wanted = discretise(drift_matrix(process), process.covariance_rate().detach(), h)
    torch.testing.assert_close(A, wanted[0], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(Q, wanted[1], rtol=1e-10, atol=1e-13)
    rates = torch.linalg.eigvals(drift_matrix(process))
    torch.testing.assert_close(
        torch.view_as_real(process.eigenvalues().detach()).sum(0),
        torch.view_as_real(rates).sum(0),
        rtol=1e-9,
        atol=1e-9,
    )


def test_a_long_step_is_two_short_ones() -> None:
    process = moved(noise="dense")
    A, Q = process.transition(torch.tensor([0.4, 1.1, 1.5], dtype=F64))
    torch.testing.assert_close(A[1] @ A[0], A[2], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(A[1] @ Q[0] @ A[1].mT + Q[1], Q[2], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("noise", ["stationary", "dense"])
def test_a_stable_process_starts_where_it_stays(noise) -> None:
    process = moved(noise=noise)
    A, Q = (part.detach() for part in process.transition(torch.tensor(0.7, dtype=F64)))
    P0 = process.initial()[1].detach()
    torch.testing.assert_close(A @ P0 @ A.mT + Q, P0, rtol=1e-12, atol=1e-13)
    assert float(torch.linalg.eigvalsh(P0).min()) > 0
    torch.testing.assert_close(P0.diagonal()[-1], torch.ones((), dtype=F64))


@pytest.mark.parametrize("size", [0.0, 50.0, -50.0])
def test_limits_on_the_spectrum_hold_whatever_the_parameters(size) -> None:
    for spectrum in ("stable", "unit-circle", "mixed"):
        process = moved(6, spectrum=spectrum)
        with torch.no_grad():
            process.raw_damping.add_(size)
        sizes = process.eigenvalues().detach().real.exp()
        assert bool((sizes <= 1).all())
        if spectrum != "stable":
            assert bool((sizes[: 6 if spectrum == "unit-circle" else 4] == 1).all())
    free = moved(6, spectrum="free")
    with torch.no_grad():
        free.raw_damping.fill_(-0.1)
    assert bool((free.eigenvalues().real > 0).all())


@pytest.mark.parametrize("real", [False, True])
def test_the_response_to_inputs_is_that_of_the_augmented_system(real) -> None:
    process = moved(5, inputs=2)
    process.get_buffer("oscillates")[0] = not real
    time = torch.tensor([[0.0, 0.5, 0.5, 2.0]], dtype=F64)
    u = torch.randn(1, 4, 2, dtype=F64, generator=generator(0, "u"))
    query = torch.tensor([[3.0, -1.0, 0.2, 1.0, 0.0]], dtype=F64)
    found = process.response(time, u, query).detach()[0]
    F, B = drift_matrix(process), process.control.detach()

    def go(z: Tensor, force: Tensor, h: float) -> Tensor:
        M = torch.zeros(6, 6, dtype=F64)
        M[:5, :5], M[:5, 5] = F, B @ force
        return (torch.linalg.matrix_exp(M * h) @ torch.cat([z, torch.ones(1, dtype=F64)]))[:5]

    start = torch.zeros(5, dtype=F64)
    half = go(start, u[0, 0], 0.5)
    end = go(half, u[0, 2], 1.5)
    wanted = [go(end, u[0, 3], 1.0), start, go(start, u[0, 0], 0.2), go(half, u[0, 2], 0.5), start]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-11, atol=1e-12)


def test_nothing_is_replaced_silently() -> None:
    process = moved(6)
    with torch.no_grad():
        process.log_frequency[1] = math.nan
    with pytest.raises(NumericalError, match="mode 2") as caught:
        process.transition(torch.ones(1, dtype=F64))
    assert caught.value.index == 2
    free = moved(3, spectrum="free")
    with torch.no_grad():
        free.raw_damping[2] = -800.0
    with pytest.raises(NumericalError, match="mode 2 overflows"):
        free.transition(torch.ones(1, dtype=F64))
    with pytest.raises(ConfigError, match="unit-circle"):
        KoopmanProcess(2, spectrum="round", generator=generator(0, "x"))  # type: ignore[arg-type]


def test_relative_exponential_near_and_far() -> None:
    x = torch.tensor([0.0, 1e-12, -0.3, 0.49999, 0.50001, -30.0], dtype=F64)
    wanted = torch.tensor([1.0, *(math.expm1(v) / v for v in x[1:].tolist())], dtype=F64)
    torch.testing.assert_close(exprel(x), wanted, rtol=2e-15, atol=0)
    z = torch.tensor([0.2 + 0.3j, -1.0 + 2.0j], dtype=torch.complex128)
    torch.testing.assert_close(exprel(z), (z.exp() - 1) / z, rtol=1e-14, atol=0)


def test_gradients_of_both_noises() -> None:
    for noise in ("stationary", "dense"):
        process = moved(3, noise=noise, inputs=1)
        parameters = [p for p in process.parameters() if p.requires_grad]

        def value(*values: Tensor) -> Tensor:
            A, Q = torch.func.functional_call(process, dict(zip(names, values, strict=True)), (steps,))  # noqa: B023
            return A.sum() + (Q * Q.cumsum(-1)).sum()

        names = [name for name, p in process.named_parameters() if p.requires_grad]
        steps = torch.tensor([0.3, 2.0], dtype=F64)
        process.forward = process.transition  # type: ignore[method-assign]
        assert torch.autograd.gradcheck(value, tuple(p.detach().clone().requires_grad_() for p in parameters))
