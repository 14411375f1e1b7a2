"""Stochastic solvers: orders, gradients, refinement, batches, compilation, refusals."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from sciinfer.errors import ConfigError, DataError, NumericalError, SciInferError, ShapeError, TimeError
from sciinfer.extend import registry
from sciinfer.integrate import (
    BrownianPath,
    DiagonalSRK,
    EulerMaruyama,
    Heun,
    Milstein,
    Solver,
    SpaceTimePath,
    sdeint,
    step_grid,
)
from sciinfer.integrate.loop import steps as advance_steps

F64 = torch.float64
UNIT = torch.tensor([0.0, 1.0], dtype=F64)


def drift(t, z):
    return -z


def spread(t, z):
    return 0.3 + 0.1 * z


def slope(sizes, errors):
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def gbm_error(solver, level, path, calculus, power=1.0, mu=1.0, sigma=0.5):
    """Mean |X - exact| and mean (X - exact) of geometric Brownian motion at t = 1 on a given path."""
    found = sdeint(
        lambda t, z: mu * z, lambda t, z: sigma * z, torch.ones(path.shape, dtype=F64), UNIT,
        steps=2**level, noise=path, solver=solver,
    ).z[-1]  # fmt: skip
    correction = 0.5 * sigma**2 if calculus == "ito" else 0.0
    exact = torch.exp((mu - correction) + sigma * path(1.0))
    return float((found - exact).abs().mean()), float((found - exact).mean())


# --- orders of convergence


@pytest.mark.parametrize(
    ("solver", "calculus", "order"),
    [("euler-maruyama", "ito", 0.5), ("milstein", "ito", 1.0), ("heun", "stratonovich", 1.0)],
)
def test_strong_order_on_geometric_brownian_motion(solver, calculus, order):
    path, levels = BrownianPath(11, dim=1, batch=4000), range(4, 9)
    errors = [gbm_error(solver, level, path, calculus)[0] for level in levels]
    assert abs(slope([2.0**-level for level in levels], errors) - order) < 0.1


def test_weak_order_of_euler():
    path, levels = BrownianPath(12, dim=1, batch=60_000), range(2, 6)
    errors = [abs(gbm_error("euler-maruyama", level, path, "ito", sigma=0.2)[1]) for level in levels]
    assert abs(slope([2.0**-level for level in levels], errors) - 1.0) < 0.2


def test_strong_order_with_additive_noise():
    # Ornstein-Uhlenbeck on one path: the finest grid stands for the exact solution
    path, levels = BrownianPath(3, dim=1, batch=2000), range(3, 8)
    ones = torch.ones(2000, 1, dtype=F64)

    def solve(level):
        out = sdeint(
            drift,
            lambda t, z: 0.5 * torch.eye(1, dtype=F64),
            ones,
            UNIT,
            steps=2**level,
            noise=path,
            noise_type="additive",
        )
        return out.z[-1]

    fine = solve(12)
    errors = [float((solve(level) - fine).abs().mean()) for level in levels]
    assert abs(slope([2.0**-level for level in levels], errors) - 1.0) < 0.1


def test_heun_without_noise_has_order_two():
    def error(n):
        z = sdeint(drift, lambda t, z: 0 * z, torch.ones(1, dtype=F64), UNIT, steps=n, noise=0, solver="heun").z[-1]
        return abs(float(z) - math.exp(-1))

    assert abs(slope([1 / 16, 1 / 32, 1 / 64], [error(16), error(32), error(64)]) - 2) < 0.05


def test_heun_differs_from_euler_by_the_ito_correction():
    path, z0 = BrownianPath(0, dim=1, batch=2000), torch.ones(2000, 1, dtype=F64)

    def corrected(t, z):
        return z - 0.5 * 0.5**2 * z

    heun = sdeint(corrected, lambda t, z: 0.5 * z, z0, UNIT, steps=512, noise=path, solver="heun").z[-1]
    ito = sdeint(lambda t, z: z, lambda t, z: 0.5 * z, z0, UNIT, steps=512, noise=path, solver="milstein").z[-1]
    assert float((heun - ito).abs().mean()) < 0.01


def test_matrix_noise_equals_diagonal_noise():
    z0, path = torch.rand(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0)), BrownianPath(1, dim=3, batch=6)
    plain = sdeint(drift, spread, z0, UNIT, steps=64, noise=path).z
    matrix = sdeint(
        drift, lambda t, z: torch.diag_embed(spread(t, z)), z0, UNIT, steps=64, noise=path, noise_type="general"
    ).z
    assert float((plain - matrix).abs().max()) < 1e-14


def test_correlated_noise_of_another_width():
    mixing = torch.tensor([[1.0, 0.5, 0.0, 0.2], [0.0, 0.3, 0.7, 0.1]], dtype=F64)
    out = sdeint(
        lambda t, z: 0 * z,
        lambda t, z: mixing,
        torch.zeros(20_000, 2, dtype=F64),
        UNIT,
        steps=1,
        noise=0,
        noise_type="additive",
    )
    covariance = torch.cov(out.z[-1].T)
    assert float((covariance - mixing @ mixing.T).abs().max()) < 0.05


# --- gradients: case G of the design notes, Ornstein-Uhlenbeck, E[X_T^2]


def test_pathwise_gradients_agree_with_the_exact_ones():
    n, theta0, sigma0, expected = 4096, 0.7, 0.5, (0.2285225514, -0.4393937612, 0.6708499553, 0.1216201251)
    theta, sigma, x0 = (torch.full((n, 1), v, dtype=F64, requires_grad=True) for v in (theta0, sigma0, 1.0))
    out = sdeint(
        lambda t, z: -theta * z, lambda t, z: sigma.expand_as(z), x0, torch.tensor([0.0, 2.0]), steps=512, noise=5
    )
    square = out.z[-1] ** 2
    samples = [square.detach(), *torch.autograd.grad(square.sum(), (theta, sigma, x0))]
    for sample, value in zip(samples, expected, strict=True):
        assert abs(float(sample.mean()) - value) < 4 * float(sample.std()) / math.sqrt(n)


@pytest.mark.parametrize("solver", ["euler-maruyama", "milstein", "heun"])
def test_backpropagation_equals_finite_differences(solver):
    path = BrownianPath(0, dim=2, batch=3)

    def loss(z0, a):
        return sdeint(
            lambda t, z: -a * z + t, lambda t, z: torch.sin(a * z) + 1.5, z0, UNIT, steps=8, noise=path, solver=solver
        ).z[-1]

    z0 = torch.rand(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (z0, torch.tensor(0.8, dtype=F64, requires_grad=True)))


# --- the same path under refinement, in any batch


@pytest.mark.parametrize("times", [[0.0, 2.0], [0.0, 0.5, 1.0, 1.5, 2.0], [0.0, 0.3, 1.1, 2.0]])
def test_the_same_seed_gives_the_same_path_when_steps_are_halved(times):
    ends = torch.tensor(times, dtype=F64)
    walks = [
        sdeint(
            lambda t, z: 0 * z, lambda t, z: torch.ones_like(z), torch.zeros(4, 2, dtype=F64), ends, steps=n, noise=3
        ).z
        for n in (100, 200, 400)
    ]
    assert float((walks[0] - walks[1]).abs().max()) < 1e-13 and float((walks[0] - walks[2]).abs().max()) < 1e-13


def test_a_given_path_is_followed_on_every_grid():
    path = BrownianPath(3, dim=1, batch=2)
    for n in (7, 64, 200):
        z = sdeint(
            lambda t, z: 0 * z, lambda t, z: torch.ones_like(z), torch.zeros(2, 1, dtype=F64), UNIT, steps=n, noise=path
        ).z
        assert float((z[-1] - path(1.0)).abs().max()) < 1e-13


@pytest.mark.parametrize("solver", ["euler-maruyama", "milstein", "heun"])
def test_a_series_has_the_same_bits_alone_and_in_a_batch(solver):
    z0 = torch.rand(37, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.0, 0.2, 1.0])
    batch = sdeint(drift, spread, z0, times, steps=50, noise=8, solver=solver).z
    for k in (0, 17, 36):
        alone = sdeint(drift, spread, z0[k : k + 1], times, steps=50, noise=8, solver=solver, keys=torch.tensor([k])).z
        assert torch.equal(batch[:, k : k + 1], alone)


def test_leading_dims_are_free():
    z0 = torch.rand(2, 3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    nested = sdeint(drift, spread, z0, UNIT, steps=20, noise=1).z
    flat = sdeint(drift, spread, z0.reshape(6, 4), UNIT, steps=20, noise=1).z
    assert nested.shape == (2, 2, 3, 4) and torch.equal(nested.reshape(2, 6, 4), flat)
    single = sdeint(drift, spread, z0[0, 0], UNIT, steps=20, noise=1).z
    assert torch.equal(single, nested[:, 0, 0])


def test_backward_in_time_returns_to_the_start():
    path, z0 = BrownianPath(0, dim=1, batch=50), torch.ones(50, 1, dtype=F64)
    there = sdeint(drift, spread, z0, UNIT, steps=2000, noise=path, solver="heun").z[-1]
    back = sdeint(drift, spread, there, UNIT.flip(0), steps=2000, noise=path, solver="heun").z[-1]
    assert float((back - z0).abs().max()) < 5e-3


def test_time_is_passed_to_the_fields():
    z = sdeint(
        lambda t, z: 2 * t + 0 * z,
        lambda t, z: 0 * z,
        torch.zeros(1, dtype=F64),
        torch.tensor([0.0, 1.0, 3.0]),
        steps=3000,
        noise=0,
        solver="heun",
    ).z
    assert torch.allclose(z[:, 0], torch.tensor([0.0, 1.0, 9.0], dtype=F64), atol=1e-9)


@pytest.mark.parametrize("steps", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_many_steps_without_recursion(steps):
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(300)  # one frame for each step, or for each few hundred, would not fit
        out = sdeint(drift, lambda t, z: z, torch.ones(1, dtype=F64), torch.tensor([0.0, 20.0]), steps=steps, noise=0)
    finally:
        sys.setrecursionlimit(before)
    assert out.nfe == steps and bool(torch.isfinite(out.z).all())


def test_single_precision_stays_single():
    out = sdeint(drift, spread, torch.ones(5, 2), UNIT, steps=64, noise=0)
    double = sdeint(drift, spread, torch.ones(5, 2, dtype=F64), UNIT, steps=64, noise=0)
    assert out.z.dtype == torch.float32 and float((out.z - double.z).abs().max()) < 1e-5


def test_a_generator_is_a_source_of_seeds():
    def draw(generator):
        return sdeint(drift, spread, torch.ones(2, 1, dtype=F64), UNIT, steps=4, noise=generator).z

    generator = torch.Generator().manual_seed(4)
    first, second = draw(generator), draw(generator)
    assert not torch.equal(first, second)
    assert torch.equal(draw(torch.Generator().manual_seed(4)), first)


def test_global_state_and_arguments_are_untouched():
    z0, times = torch.ones(3, 2, dtype=F64), torch.tensor([0.0, 1.0])
    copies = z0.clone(), times.clone()
    torch.manual_seed(1)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = sdeint(drift, spread, z0, times, steps=10, noise=0).z
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == legacy).all()
    torch.manual_seed(2)
    assert torch.equal(sdeint(drift, spread, z0, times, steps=10, noise=0).z, first)
    assert torch.equal(z0, copies[0]) and torch.equal(times, copies[1])


# --- compilation


@pytest.mark.parametrize(
    "solver", [EulerMaruyama(), Milstein(), Heun(), pytest.param(DiagonalSRK(), marks=pytest.mark.slow)]
)
def test_the_step_loop_is_one_graph(solver):
    grid, path = step_grid(UNIT, steps=10), SpaceTimePath(0, dim=2, batch=3)
    noise = torch.cat(list(path.pairs(grid.times) if solver.area else path.increments(grid.times)))
    sizes, keep = grid.sizes(), grid.keep()

    def loop(z, noise):
        def advance(t, z, dt, dw):
            return solver.step(drift, spread, t, z, dt, dw)

        return advance_steps(advance, z, grid.times[:-1], sizes, noise, keep)[0]

    z0 = torch.ones(3, 2, dtype=F64)
    compiled = torch.compile(loop, fullgraph=True, backend="eager")(z0, noise)
    # the compiler folds the constants of the weights of SRK in another order
    assert torch.allclose(compiled, loop(z0, noise), rtol=0, atol=1e-14 if solver.area else 0)


# --- refusals


def test_a_drift_that_turns_nan_is_named():
    def broken(t, z):
        return torch.where((t >= 0.5) & (torch.arange(5)[:, None] == 3), torch.nan, -z)

    with pytest.raises(NumericalError) as caught:
        sdeint(broken, spread, torch.ones(5, 2, dtype=F64), UNIT, steps=1000, noise=0)
    err = caught.value
    assert err.dim == "series" and err.index == 3 and err.details["step"] == 500
    assert abs(err.details["time"] - 0.5) < 1e-12 and bool(torch.isfinite(err.details["state"]).all())
    assert abs(err.details["norm"] - float(err.details["state"][3].norm())) < 1e-12
    assert "NaN" in err.what and "1 of 5 series" in err.what and err.fix


def test_an_explosion_is_named_and_can_be_let_through():
    def run(check):
        return sdeint(
            lambda t, z: z**3, spread, torch.full((2, 1), 30.0, dtype=F64), UNIT, steps=100, noise=0, check=check
        )

    with pytest.raises(NumericalError, match="series"):
        run(True)
    assert not bool(torch.isfinite(run(False).z).all())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": None}, ConfigError),
        ({"dt": 0.1}, ConfigError),
        ({"steps": 0}, ConfigError),
        ({"steps": None, "dt": -1.0}, ConfigError),
        ({"times": torch.tensor([0.0, 1.0, 1.0])}, TimeError),
        ({"times": torch.tensor([0.0, float("nan")])}, TimeError),
        ({"times": torch.zeros(0)}, ShapeError),
        ({"z0": torch.ones(3, 2, dtype=torch.int64)}, DataError),
        ({"z0": torch.tensor(1.0)}, ShapeError),
        ({"drift": lambda t, z: z.sum(-1)}, ShapeError),
        ({"diffusion": lambda t, z: torch.ones(5)}, ShapeError),
        ({"noise_type": "general"}, ShapeError),
        ({"noise_type": "coloured"}, ConfigError),
        ({"noise_type": "general", "solver": "milstein"}, ConfigError),
        ({"solver": "eulr-maruyama"}, SciInferError),
        ({"solver": "ode-rk4"}, ConfigError),
        ({"noise": BrownianPath(0, dim=2, batch=4)}, ShapeError),
        ({"noise": BrownianPath(0, dim=2, batch=3, dtype=torch.float32)}, ConfigError),
        ({"noise": BrownianPath(0, dim=2, batch=3, t1=0.5)}, TimeError),
        ({"noise": 0.5}, ConfigError),
        ({"keys": torch.arange(4)}, ShapeError),
    ],
)
def test_unusable_arguments_are_refused(change, error):
    given = {
        "drift": drift,
        "diffusion": spread,
        "z0": torch.ones(3, 2, dtype=F64),
        "times": UNIT,
        "steps": 4,
        "noise": 0,
    }
    with pytest.raises(error):
        sdeint(**{**given, **change})


def test_one_time_is_the_start():
    assert sdeint(drift, spread, torch.ones(1, 1), torch.tensor([2.0]), steps=3, noise=0).z.tolist() == [[[1.0]]]


# --- the grid, the registry


def test_the_grid_meets_every_output():
    grid = step_grid(torch.tensor([0.0, 0.1, 1.0, 1.05]), dt=0.04)
    ends = torch.tensor([0, *grid.counts]).cumsum(0)
    assert torch.equal(grid.times[ends], torch.tensor([0.0, 0.1, 1.0, 1.05]).double())
    assert max(grid.sizes()) <= 0.04 and sum(grid.keep()) == 3 and len(grid.sizes()) == grid.steps
    assert step_grid(UNIT, dt=0.1).counts == (10,)


def test_native_solvers_are_registered_and_final():
    for name, solver in (("euler-maruyama", EulerMaruyama), ("milstein", Milstein), ("heun", Heun)):
        assert registry().get("solvers", name) is solver and getattr(solver, "__final__", False)
        assert solver.calculus in ("ito", "stratonovich") and issubclass(solver, Solver)
