"""Every stochastic solver: strong and weak orders, stiffness, Girsanov, batches, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, ShapeError
from sciinfer.extend import registry
from sciinfer.integrate import (
    AdditiveSRK,
    BrownianPath,
    DiagonalSRK,
    EulerMaruyama,
    ExponentialEuler,
    GeneralSRK,
    Heun,
    ImplicitEuler,
    Midpoint,
    ReversibleHeun,
    Solver,
    SpaceTimePath,
    girsanov,
    sdeint,
    srk,
)

F64 = torch.float64
UNIT = torch.tensor([0.0, 1.0], dtype=F64)
NAMES = ("midpoint", "reversible-heun", "srk-additive", "srk-diagonal", "srk-general", "implicit-euler")


def slope(levels, errors):
    return float(np.polyfit(np.log([2.0**-level for level in levels]), np.log(errors), 1)[0])


# --- strong orders


@pytest.mark.parametrize(
    ("solver", "ito", "least", "most"),
    [
        ("srk", True, 1.35, 1.65),
        ("midpoint", False, 0.85, 1.15),
        ("reversible-heun", False, 0.85, 1.15),
        ("implicit-euler", True, 0.4, 0.75),
    ],
)
def test_strong_order_on_geometric_brownian_motion(solver, ito, least, most):
    path, levels = SpaceTimePath(11, dim=1, batch=2000), range(4, 8)
    exact = torch.exp((1.0 - 0.125 * ito) + 0.5 * path(1.0))

    def error(level):
        z = sdeint(
            lambda t, z: z, lambda t, z: 0.5 * z, torch.ones(2000, 1, dtype=F64), UNIT,
            steps=2**level, noise=path, solver=solver,
        ).z[-1]  # fmt: skip
        return float((z - exact).abs().mean())

    assert least <= slope(levels, [error(level) for level in levels]) <= most


def errors_against_finest(drift, diffusion, solver, noise_type, levels, batch=500):
    path, z0 = SpaceTimePath(3, dim=2, batch=batch), torch.ones(batch, 2, dtype=F64)

    def solve(name, level):
        return sdeint(
            drift, diffusion, z0, UNIT, steps=2**level, noise=path, solver=name, noise_type=noise_type
        ).z[-1]  # fmt: skip

    fine = solve("srk", 9)
    return [float((solve(solver, level) - fine).abs().mean()) for level in levels]


def test_strong_order_of_srk_with_additive_noise():
    mixing = torch.tensor([[0.5, 0.2], [0.1, 0.4]], dtype=F64)
    levels = range(2, 6)
    found = errors_against_finest(
        lambda t, z: torch.sin(3 * z) - z + t, lambda t, z: (1 + t) * mixing, "srk", "additive", levels
    )
    assert slope(levels, found) >= 1.4


def test_strong_order_of_srk_when_components_are_coupled_by_the_drift():
    levels = range(2, 6)
    found = errors_against_finest(
        lambda t, z: torch.stack([z[..., 1], -z[..., 0] - 0.3 * z[..., 1]], -1),
        lambda t, z: 0.4 * torch.sin(z) + 0.5 + 0.2 * t,
        "srk", "diagonal", levels,
    )  # fmt: skip
    assert slope(levels, found) >= 1.35


# --- weak orders without Monte Carlo: the second moments of a linear equation, one step by Gauss-Hermite quadrature

A = torch.tensor([[-0.5, 0.3], [-0.2, -0.4]], dtype=F64)
NOISES = [torch.tensor([[0.3, 0.2], [0.0, 0.1]], dtype=F64), torch.tensor([[0.1, 0.0], [0.4, -0.2]], dtype=F64)]


def moment_error(solver, n):
    """Largest error of E[z z'] at t = 1 after n steps; the two noises do not commute."""
    h, eye = 1.0 / n, torch.eye(2, dtype=F64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    points = [
        (a * math.sqrt(h), b * math.sqrt(h), u, v, p * q / 4)
        for a, p in zip(nodes, weights / weights.sum(), strict=True)
        for b, q in zip(nodes, weights / weights.sum(), strict=True)
        for u in (1.0, -1.0)
        for v in (1.0, -1.0)
    ]
    table = torch.tensor(points, dtype=F64)
    noise = torch.stack([table[:, :2], table[:, 2:4]]) if solver.area else table[:, :2]
    columns = [
        solver.step(
            lambda t, z: z @ A.T, lambda t, z: torch.stack([z @ b.T for b in NOISES], -1),
            torch.tensor(0.0, dtype=F64), row.expand(len(table), 2), h, noise,
        )
        for row in eye
    ]  # fmt: skip
    move = torch.stack(columns, dim=-1)
    step = torch.einsum("n,nij,nkl->ikjl", table[:, 4], move, move).reshape(4, 4)
    drift = A if solver.calculus == "ito" else A + 0.5 * sum(b @ b for b in NOISES)
    rate = torch.kron(drift, eye) + torch.kron(eye, drift) + sum(torch.kron(b, b) for b in NOISES)
    return float((torch.matrix_power(step, n) - torch.matrix_exp(rate)).abs().max())


@pytest.mark.parametrize(
    ("solver", "order"),
    [(EulerMaruyama("general"), 1), (Heun("general"), 1), (Midpoint("general"), 1), (GeneralSRK(), 2)],
)
def test_weak_order_with_noises_that_do_not_commute(solver, order):
    levels = (3, 4, 5)
    assert abs(slope(levels, [moment_error(solver, 2**level) for level in levels]) - order) < 0.1


# --- stiff drifts


def stiff(t, z):
    return -1e4 * (z - torch.cos(t))


@pytest.mark.parametrize(
    "scheme", [ImplicitEuler(), ImplicitEuler(newton=3), ExponentialEuler(linear=torch.tensor([-1e4], dtype=F64))]
)
def test_a_stiff_drift_is_followed_with_large_steps(scheme):
    z0 = torch.zeros(4, 1, dtype=F64)
    z = sdeint(stiff, lambda t, z: 0.1 + 0 * z, z0, UNIT, steps=20, noise=0, solver=scheme).z[-1]
    assert float((z - math.cos(1.0)).abs().max()) < 0.05  # Euler-Maruyama grows by 499 in every step


def test_newton_solves_the_implicit_step():
    z, t, dt, dw = torch.tensor([[1.5]], dtype=F64), torch.tensor(0.0, dtype=F64), 0.5, torch.tensor([[0.3]], dtype=F64)
    scheme = ImplicitEuler(theta=0.5, newton=12)
    found = scheme.step(lambda t, z: -(z**3), lambda t, z: 0.2 * z, t, z, dt, dw)
    miss = found - (z - 0.5 * dt * (found**3 + z**3) + 0.2 * z * dw)
    assert float(miss.abs()) < 1e-12 and scheme.evaluations == 13


def test_exponential_euler_has_the_exact_law_of_ornstein_uhlenbeck():
    theta, sigma, n, h = 3.0, 0.7, 40_000, 0.5
    scheme = ExponentialEuler(linear=torch.tensor([-theta], dtype=F64))
    z = sdeint(
        lambda t, z: -theta * z, lambda t, z: sigma + 0 * z, torch.ones(n, 1, dtype=F64), torch.tensor([0.0, h]),
        steps=1, noise=1, solver=scheme,
    ).z[-1]  # fmt: skip
    variance = sigma**2 * (1 - math.exp(-2 * theta * h)) / (2 * theta)
    assert abs(float(z.mean()) - math.exp(-theta * h)) < 4 * math.sqrt(variance / n)
    assert abs(float(z.var()) / variance - 1) < 4 * math.sqrt(2 / n)


def test_exponential_euler_with_a_matrix_is_exact_without_noise():
    matrix = torch.tensor([[0.0, 1.0], [-400.0, -2.0]], dtype=F64)
    z0, scheme = torch.tensor([[1.0, 0.0]], dtype=F64), ExponentialEuler(linear=matrix)
    z = sdeint(lambda t, z: z @ matrix.T, lambda t, z: 0 * z, z0, UNIT, steps=3, noise=0, solver=scheme).z[-1]
    assert torch.allclose(z, z0 @ torch.matrix_exp(matrix).T, rtol=1e-10, atol=1e-12)


# --- what all solvers share


def schemes():
    yield from (Midpoint(), ReversibleHeun(), AdditiveSRK("diagonal"), DiagonalSRK(), ImplicitEuler())
    yield ExponentialEuler(linear=torch.tensor([-1.0, -1.0, -1.0], dtype=F64))


@pytest.mark.parametrize("scheme", list(schemes()), ids=lambda scheme: type(scheme).__name__)
def test_a_series_is_the_same_alone_and_in_a_batch(scheme):
    z0 = torch.rand(19, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.0, 0.2, 1.0])
    batch = sdeint(lambda t, z: -z, lambda t, z: 0.3 + 0.1 * z, z0, times, steps=20, noise=8, solver=scheme).z
    for k in (0, 7, 18):
        alone = sdeint(
            lambda t, z: -z, lambda t, z: 0.3 + 0.1 * z, z0[k : k + 1], times,
            steps=20, noise=8, solver=scheme, keys=torch.tensor([k]),
        ).z  # fmt: skip
        assert torch.allclose(batch[:, k : k + 1], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_registered_final_and_single_precision(name):
    found = registry().get("solvers", name)
    assert issubclass(found, Solver) and getattr(found, "__final__", False)
    scheme = found()
    shape = (5, 2) if scheme.noise_type == "diagonal" else (5, 2, 2)

    def diffusion(t, z):
        return torch.full(shape, 0.3, dtype=z.dtype)

    single, double = (
        sdeint(lambda t, z: -z, diffusion, torch.ones(5, 2, dtype=dtype), UNIT, steps=32, noise=0, solver=scheme).z
        for dtype in (torch.float32, F64)
    )
    assert single.dtype == torch.float32 and float((single - double).abs().max()) < 1e-5


def test_srk_follows_the_noise_type():
    assert [type(srk(kind)) for kind in ("diagonal", "additive", "general")] == [DiagonalSRK, AdditiveSRK, GeneralSRK]


@pytest.mark.parametrize("solver", ["midpoint", "reversible-heun", "srk", "implicit-euler"])
@pytest.mark.parametrize("noise_type", ["diagonal", "additive", "general"])
def test_path_divergence_of_ornstein_uhlenbeck_against_brownian_motion(noise_type, solver):
    def diffusion(t, z):
        return torch.full_like(z, 0.4) if noise_type == "diagonal" else torch.full((*z.shape, 1), 0.4, dtype=F64)

    kl = girsanov(
        lambda t, z: -0.7 * z, lambda t, z: 0 * z, diffusion, torch.zeros(4096, 1, dtype=F64), torch.tensor([0.0, 2.0]),
        steps=128, noise=1, solver=solver, noise_type=noise_type,
    ).kl[-1]  # fmt: skip
    assert abs(float(kl.mean()) - 0.232601257828) <= 4 * float(kl.std()) / 64


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"solver": "exponential-euler"}, ConfigError),
        ({"solver": ExponentialEuler(linear=torch.ones(5))}, ShapeError),
        ({"solver": "srk-diagonal", "noise_type": "general"}, ConfigError),
        ({"solver": "srk-additive", "noise_type": "general"}, ConfigError),
        ({"solver": "srk", "noise": BrownianPath(0, dim=2, batch=3)}, ConfigError),
        ({"solver": "srk", "times": UNIT.flip(0)}, ConfigError),
        ({"solver": "torchsde"}, ConfigError),
    ],
)
def test_unusable_arguments_are_refused(change, error):
    given = {"times": UNIT, "steps": 4, "noise": 0, **change}
    with pytest.raises(error, match="Fix"):
        sdeint(lambda t, z: -z, lambda t, z: 0.1 + 0 * z, torch.ones(3, 2, dtype=F64), **given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImplicitEuler(theta=0.2),
        lambda: ImplicitEuler(newton=0),
        lambda: ExponentialEuler(),
        lambda: ExponentialEuler(linear=torch.ones(2, 3)),
    ],
)
def test_unusable_options_are_refused(make):
    with pytest.raises((ConfigError, ShapeError)):
        make()
