import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sciinfer_pde.heat1d import Heat1D

from sciinfer.errors import ConfigError
from sciinfer.operators import check_operator

F64 = torch.float64


def stencil(n: int, length: float) -> torch.Tensor:
    off = torch.ones(n - 1, dtype=F64)
    return (torch.diag(off, 1) + torch.diag(off, -1) - 2 * torch.eye(n, dtype=F64)) * ((n + 1) / length) ** 2


@pytest.mark.parametrize("scheme", ["spectral", "discrete", "euler"])
def test_self_check_and_symmetry(scheme: str) -> None:
    rod = Heat1D(9, time=0.02, scheme=scheme)
    check_operator(rod)
    matrix = rod(torch.eye(9, dtype=F64))
    torch.testing.assert_close(matrix, matrix.T, atol=1e-14, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_eigenmodes(k: int) -> None:
    x = 3.0 * torch.arange(1, 20, dtype=F64) / 20
    wave = torch.sin(k * math.pi * x / 3.0)
    rod = Heat1D(19, time=0.3, length=3.0, diffusivity=0.2)
    want = wave * math.exp(-0.2 * (k * math.pi / 3.0) ** 2 * 0.3)
    torch.testing.assert_close(rod(wave), want, atol=1e-12, rtol=0)


def test_discrete_is_the_matrix_exponential() -> None:
    want = torch.linalg.matrix_exp(0.01 * 0.7 * stencil(12, 2.0))
    rod = Heat1D(12, time=0.01, length=2.0, diffusivity=0.7, scheme="discrete")
    torch.testing.assert_close(rod(torch.eye(12, dtype=F64)), want, atol=1e-12, rtol=0)


def test_euler_is_repeated_solves_and_converges_first_order() -> None:
    eye = torch.eye(12, dtype=F64)
    state, one = eye, eye - 0.05 / 4 * stencil(12, 1.0)
    for _ in range(4):
        state = torch.linalg.solve(one, state)
    torch.testing.assert_close(Heat1D(12, time=0.05, scheme="euler", steps=4)(eye), state, atol=1e-12, rtol=0)
    exact = Heat1D(12, time=0.05, scheme="discrete")(eye)
    errors = [float((Heat1D(12, time=0.05, scheme="euler", steps=m)(eye) - exact).norm()) for m in (200, 400)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.05)


def test_semigroup() -> None:
    u = torch.rand(10, dtype=F64, generator=torch.Generator().manual_seed(0))
    twice = Heat1D(10, time=0.01)(Heat1D(10, time=0.02)(u))
    torch.testing.assert_close(twice, Heat1D(10, time=0.03)(u), atol=1e-12, rtol=0)
    torch.testing.assert_close(Heat1D(10, time=0.0)(u), u, atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", [{"time": -1.0}, {"time": 1.0, "length": 0.0}, {"time": 1.0, "scheme": "magic"}])
def test_bad_options(options: dict) -> None:
    with pytest.raises(ConfigError):
        Heat1D(5, **options)


DATA = os.environ.get("SCIINFER_DATA")


@pytest.mark.skipif(not DATA, reason="SCIINFER_DATA is not set: the stored solutions are not here")
def test_stored_implicit_euler_solution() -> None:
    stored = np.load(Path(str(DATA)) / "pde" / "cuqipy" / "Heat1D_5solutions.npz")["sol2"]
    rod = Heat1D(200, time=1.0, length=5.0, scheme="euler", steps=166)
    np.testing.assert_allclose(rod(torch.ones(200, dtype=F64)).numpy(), stored, rtol=1e-10)
