"""Ordinary equations, and the back-ends as oracles of the native solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import BudgetError, ConfigError, DependencyError, NumericalError, SciInferError, ShapeError
from sciinfer.integrate import BrownianPath, odeint, sdeint

F64 = torch.float64
TIMES = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=F64)


def oscillator(t, z):
    return torch.stack([z[..., 1], -4.0 * z[..., 0] + torch.sin(t)], dim=-1)


def start(n=3):
    return torch.rand(n, 2, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("rk4", 4), ("rosenbrock", 2)])
def test_order_of_convergence(solver, order):
    t, a = TIMES[:, None], start()[:, 0]
    b = (start()[:, 1] - 1 / 3) / 2
    fine = torch.stack(
        [
            a * torch.cos(2 * t) + b * torch.sin(2 * t) + torch.sin(t) / 3,
            2 * b * torch.cos(2 * t) - 2 * a * torch.sin(2 * t) + torch.cos(t) / 3,
        ],
        dim=-1,
    )
    counts = (64, 128, 256)
    errors = [float((odeint(oscillator, start(), TIMES, steps=n, solver=solver).z - fine).abs().max()) for n in counts]
    assert abs(np.polyfit(np.log(counts), np.log(errors), 1)[0] + order) < 0.15


def test_agrees_with_torchdiffeq_adaptive():
    native = odeint(oscillator, start(), TIMES, steps=2000).z
    adaptive = odeint(oscillator, start(), TIMES, solver="torchdiffeq:dopri5", rtol=1e-10, atol=1e-12).z
    assert float((native - adaptive).abs().max()) < 1e-8


def test_agrees_with_torchdiffeq_step_by_step():
    times = torch.linspace(0, 2, 5, dtype=F64)
    ours, theirs = (odeint(oscillator, start(), times, steps=40, solver=s) for s in ("euler", "torchdiffeq:euler"))
    assert float((ours.z - theirs.z).abs().max()) < 1e-13 and ours.nfe == 40


def test_backward_and_leading_dims():
    z0 = start(6).reshape(2, 3, 2)
    there = odeint(oscillator, z0, TIMES, steps=400)
    back = odeint(oscillator, there.z[-1], TIMES.flip(0), steps=400)
    assert there.z.shape == (4, 2, 3, 2) and float((back.z[-1] - z0).abs().max()) < 1e-6


@pytest.mark.parametrize("solver", ["rk4", "rosenbrock"])
def test_gradients(solver):
    def loss(z0, a):
        return odeint(lambda t, z: -a * z**2 + t, z0, TIMES, steps=8, solver=solver).z[-1]

    z0 = torch.rand(2, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (z0, torch.tensor(0.8, dtype=F64, requires_grad=True)))


def stiff(t, z):
    return torch.stack([z[..., 1], 1e5 * (1 - z[..., 0] ** 2) * z[..., 1] - z[..., 0]], dim=-1)


def test_a_stiff_equation_exhausts_the_budget_and_the_error_suggests_the_implicit_solver():
    z0, times = torch.tensor([[2.0, 0.0]], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    with pytest.raises(BudgetError, match="rosenbrock") as caught:
        odeint(stiff, z0, times, solver="torchdiffeq:dopri5", max_steps=100)
    assert caught.value.details["nfe"] > 100
    implicit = odeint(stiff, z0, times, solver="rosenbrock", steps=200).z[-1]
    # on the slow manifold dx/dt = x / (1e5 (1 - x^2)): x(1) = 2 - 2/3e5 to first order
    assert abs(float(implicit[0, 0]) - (2.0 - 2.0 / 3e5)) < 1e-7


def test_nan_drift():
    def broken(t, z):
        return torch.where((t > 0.5) & (torch.arange(3)[:, None] == 1), torch.nan, -z)

    with pytest.raises(NumericalError) as caught:
        odeint(broken, start(), TIMES, steps=100)
    assert caught.value.index == 1 and caught.value.variable == "drift"
    with pytest.raises(NumericalError):
        odeint(broken, start(), TIMES, solver="torchdiffeq:dopri5")
    with pytest.raises(NumericalError) as caught:
        odeint(broken, start(), TIMES, solver="torchdiffeq:rk4", steps=100)
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"solver": "rk5", "steps": 4}, SciInferError),
        ({"solver": "torchdiffeq:rk5"}, ConfigError),
        ({"solver": "nowhere:rk4", "steps": 4}, SciInferError),
        ({"solver": "torchdiffeq:rk4"}, ConfigError),
        ({}, ConfigError),
    ],
)
def test_unusable_arguments_are_refused(given, error):
    with pytest.raises(error):
        odeint(oscillator, start(), TIMES, **given)


def test_a_drift_of_the_wrong_shape_is_refused():
    with pytest.raises(ShapeError, match="drift"):
        odeint(lambda t, z: z[..., 0], start(), TIMES, steps=4)


# --- torchsde


def drift(t, z):
    return torch.sin(3 * t) - z


def diagonal(t, z):
    return 0.3 + 0.2 * torch.cos(z)


def matrix(t, z):
    return torch.stack([0.3 + 0.1 * z, 0.2 * torch.ones_like(z), 0.1 * z.flip(-1)], dim=-1)


def constant(t, z):
    return torch.tensor([[0.3, 0.1, 0.0], [0.2, 0.5, 0.1]], dtype=F64)


@pytest.mark.parametrize(
    ("ours", "theirs", "noise_type", "diffusion", "width"),
    [
        ("euler-maruyama", "euler", "diagonal", diagonal, 2),
        ("euler-maruyama", "euler", "general", matrix, 3),
        ("euler-maruyama", "euler", "additive", constant, 3),
        ("milstein", "milstein", "diagonal", diagonal, 2),
        ("heun", "heun", "diagonal", diagonal, 2),
        ("heun", "heun", "general", matrix, 3),
    ],
)
def test_agrees_with_torchsde_on_the_same_increments(ours, theirs, noise_type, diffusion, width):
    path, times = BrownianPath(0, dim=width, batch=3), torch.linspace(0, 1, 5, dtype=F64)
    native = sdeint(drift, diffusion, start(), times, steps=64, noise=path, solver=ours, noise_type=noise_type).z
    peer = sdeint(
        drift, diffusion, start(), times, steps=64, noise=path, solver=f"torchsde:{theirs}", noise_type=noise_type
    ).z
    assert float((native - peer).detach().abs().max()) < 1e-12


@pytest.mark.parametrize("method", ["euler", "milstein", "srk", "midpoint", "reversible_heun"])
def test_torchsde_is_reproducible_and_leaves_the_global_state(method):
    def draw(seed):
        return sdeint(drift, diagonal, start(), TIMES, steps=16, noise=seed, solver=f"torchsde:{method}").z

    torch.manual_seed(0)
    np.random.seed(0)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = draw(3)
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == legacy).all()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(draw(3), first) and not torch.equal(draw(4), first)


def test_torchsde_has_the_law_of_the_native_solver():
    z0, times = torch.zeros(20_000, 1, dtype=F64), torch.tensor([0.0, 1.0])
    out = sdeint(
        lambda t, z: -z, lambda t, z: torch.ones_like(z), z0, times, steps=50, noise=0, solver="torchsde:euler"
    ).z[-1]
    exact = sum(0.02 * (1 - 0.02) ** (2 * k) for k in range(50))
    assert abs(float(out.var()) - exact) < 5 * exact * math.sqrt(2 / 20_000)


def test_torchsde_explosions_are_named():
    with pytest.raises(NumericalError) as caught:
        sdeint(
            lambda t, z: z**3,
            diagonal,
            30 * torch.ones(2, 1, dtype=F64),
            TIMES,
            steps=100,
            noise=0,
            solver="torchsde:euler",
        )
    assert caught.value.dim == "series"


@pytest.mark.parametrize(
    "change",
    [
        {"solver": "torchsde:rk4"},
        {"solver": "torchsde:euler", "noise_type": "coloured"},
        {"solver": "torchsde:euler", "keys": torch.arange(3)},
        {"solver": "torchsde:euler", "times": TIMES.flip(0)},
        {"solver": "torchsde:srk", "noise": BrownianPath(0, dim=2, t1=2.0, batch=3)},
    ],
)
def test_torchsde_refusals(change):
    given = {"drift": drift, "diffusion": diagonal, "z0": start(), "times": TIMES, "steps": 8, "noise": 0}
    with pytest.raises(ConfigError):
        sdeint(**{**given, **change})


@pytest.mark.parametrize("package", ["torchsde", "torchdiffeq"])
def test_a_missing_back_end_says_how_to_install_it(package, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match="pip install"):
        if package == "torchsde":
            sdeint(drift, diagonal, start(), TIMES, steps=8, noise=0, solver="torchsde:euler")
        else:
            odeint(drift, start(), TIMES, solver="torchdiffeq:dopri5")


def test_importing_integrate_imports_no_back_end():
    import subprocess
    import sys

    code = "import sys, sciinfer.integrate; sys.exit(any(m in sys.modules for m in ('torchsde', 'torchdiffeq')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
