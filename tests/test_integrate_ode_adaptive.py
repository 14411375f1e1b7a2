"""Adaptive solvers: every series has its own steps; orders, batches, times, dense output, faults."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciinfer.errors import BudgetError, ConfigError, NumericalError, ShapeError, TimeError
from sciinfer.integrate import odeint
from sciinfer.integrate.dopri5 import DOPRI5
from sciinfer.integrate.kvaerno import KVAERNO5
from sciinfer.integrate.tsit5 import TSIT5

F64 = torch.float64
SOLVERS = ("tsit5", "dopri5", "kvaerno5")
#: the implicit one is ten times as expensive
SOME = ["tsit5", "dopri5", pytest.param("kvaerno5", marks=pytest.mark.slow)]
TIMES = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=F64)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def oscillator(t, z):
    return torch.stack([z[..., 1], -4.0 * z[..., 0] + torch.sin(t)], dim=-1)


def exact(z0, times):
    """At ``times [..., T]``, from z0 at 0: ``[T, ..., 2]``."""
    t = times.expand(*z0.shape[:-1], -1).movedim(-1, 0)
    a, b = z0[..., 0], (z0[..., 1] - 1 / 3) / 2
    x = a * torch.cos(2 * t) + b * torch.sin(2 * t) + torch.sin(t) / 3
    return torch.stack([x, 2 * b * torch.cos(2 * t) - 2 * a * torch.sin(2 * t) + torch.cos(t) / 3], dim=-1)


def start(*shape, seed=0):
    return torch.rand(*(shape or (3,)), 2, dtype=F64, generator=torch.Generator().manual_seed(seed))


def van_der_pol(t, z, mu):
    x, v = z.unbind(-1)
    return torch.stack([v, mu[..., 0] * (1 - x * x) * v - x], dim=-1)


# --- the tables


def _conditions(a, c):
    """Elementary weights of the rooted trees and their densities, by order."""
    one, ac, ac2 = np.ones(len(c)), a @ c, a @ c**2
    aac = a @ ac
    five = [(c**4, 5), (c**2 * ac, 10), (c * ac2, 15), (c * aac, 30), (ac * ac, 20)]
    five += [(a @ c**3, 20), (a @ (c * ac), 40), (a @ ac2, 60), (a @ aac, 120)]
    return {
        1: [(one, 1)],
        2: [(c, 2)],
        3: [(c**2, 3), (ac, 6)],
        4: [(c**3, 4), (c * ac, 8), (ac2, 12), (aac, 24)],
        5: five,
    }


@pytest.mark.parametrize("solver", [TSIT5, DOPRI5, KVAERNO5])
def test_tables_meet_the_order_conditions(solver):
    table = solver.table
    a = np.zeros((table.stages, table.stages))
    for i, row in enumerate(table.a):
        a[i, : len(row)] = row
        a[i, i] = table.gamma if i else 0.0
    b, trees, dense = a[-1], _conditions(a, a.sum(1)), np.array(table.dense)
    np.testing.assert_allclose(table.c, a.sum(1), atol=1e-15)
    for order, known in trees.items():
        for weight, density in known:
            assert abs(b @ weight - 1 / density) < 5e-14
            if order < 5:
                assert abs(np.array(table.error) @ weight) < 5e-14
                wanted = np.eye(dense.shape[1])[order - 1] / density
                np.testing.assert_allclose(weight @ dense, wanted, atol=5e-13)
    # the embedded method is of order 4 and no better, so that the estimate is one
    assert max(abs(np.array(table.error) @ w) for w, _ in trees[5]) > 1e-5
    np.testing.assert_allclose(dense.sum(1), b, atol=1e-13)
    # slopes of the dense output meet those of the equation at both ends
    np.testing.assert_allclose(dense[:, 0], np.eye(table.stages)[0], atol=1e-13)
    np.testing.assert_allclose(dense @ np.arange(1, dense.shape[1] + 1), np.eye(table.stages)[-1], atol=1e-13)


@pytest.mark.parametrize("solver", SOME)
def test_fixed_steps_are_of_order_five(solver):
    counts = (8, 16, 32) if solver == "kvaerno5" else (16, 32, 64)
    errors = [
        float((odeint(oscillator, start(), TIMES, steps=n, solver=solver).z - exact(start(), TIMES)).abs().max())
        for n in counts
    ]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    # the leading error terms of tsit5 are so small that the next ones still show
    assert -6.2 < slope < -4.7, slope


# --- accuracy, times, shapes


@pytest.mark.parametrize("solver", SOME)
def test_error_follows_the_tolerance(solver):
    errors, cost = [], []
    for rtol in (1e-5, 1e-7, 1e-9):
        path = odeint(oscillator, start(), TIMES, solver=solver, rtol=rtol, atol=rtol)
        errors.append(float((path.z - exact(start(), TIMES)).abs().max()))
        cost.append(path.nfe)
        assert errors[-1] < 30 * rtol
    assert errors[0] > errors[1] > errors[2] and cost[0] < cost[1] < cost[2]


@pytest.mark.parametrize("solver", SOLVERS)
def test_times_of_each_series_backward_and_leading_dims(solver):
    tolerance = {"rtol": 1e-7, "atol": 1e-9}
    z0 = start(2, 3)
    times = torch.rand(2, 3, 5, dtype=F64, generator=torch.Generator().manual_seed(1)).sort(-1).values
    times = torch.cat([torch.zeros(2, 3, 1, dtype=F64), times * 3], -1)
    times[0, 1, 3:] = times[0, 1, 2]  # a series with fewer times repeats its last one
    path = odeint(oscillator, z0, times, solver=solver, **tolerance)
    assert path.z.shape == (6, 2, 3, 2) and path.report.evaluations.shape == (2, 3)
    assert float((path.z - exact(z0, times)).abs().max()) < 2e-6
    back = odeint(oscillator, path.z[-1], times.flip(-1), solver=solver, **tolerance)
    assert float((back.z[-1] - z0).abs().max()) < 2e-6
    assert torch.equal(path.z[3, 0, 1], path.z[5, 0, 1])


def test_series_may_run_in_both_directions():
    times = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=F64)
    path = odeint(oscillator, start(2), times, solver="tsit5", **TIGHT)
    assert float((path.z - exact(start(2), times)).abs().max()) < 1e-8


def test_one_time_costs_nothing_more_and_float32_stays():
    path = odeint(oscillator, start(), TIMES[:1], solver="tsit5")
    assert torch.equal(path.z[0], start()) and path.nfe == 0
    single = odeint(oscillator, start().float(), TIMES, solver="tsit5", rtol=1e-4, atol=1e-5)
    assert single.z.dtype == torch.float32
    assert float((single.z - exact(start(), TIMES)).abs().max()) < 1e-3


@pytest.mark.parametrize("solver", SOME)
def test_dense_output(solver):
    path = odeint(oscillator, start(), TIMES, solver=solver, dense=True, rtol=1e-8, atol=1e-10)
    dense = path.report.dense
    assert float((dense(TIMES).movedim(-2, 0) - path.z).abs().max()) < 1e-13
    fine = torch.linspace(0, 2, 101, dtype=F64)
    assert float((dense(fine).movedim(-2, 0) - exact(start(), fine)).abs().max()) < 1e-6
    # outside it stays at the ends
    assert torch.equal(dense(torch.tensor([-1.0, 3.0], dtype=F64)), dense(torch.tensor([0.0, 2.0], dtype=F64)))


def test_outputs_do_not_touch_the_steps():
    many = torch.linspace(0, 2, 201, dtype=F64)
    few, lots = (odeint(oscillator, start(), t, solver="tsit5") for t in (TIMES, many))
    assert torch.equal(few.report.evaluations, lots.report.evaluations)
    assert torch.equal(few.z[-1], lots.z[-1])


# --- every series for itself


@pytest.mark.parametrize(("solver", "compact"), [("tsit5", False), ("dopri5", True), ("kvaerno5", True)])
def test_a_series_alone_equals_the_series_in_a_batch(solver, compact):
    n = 3
    z0, mu = start(n), torch.tensor([1.0, 2.0, 20.0], dtype=F64)[:, None]
    times = torch.linspace(0, 1, 4, dtype=F64) * torch.tensor([1.0, 0.3, 0.5], dtype=F64)[:, None]
    whole = odeint(van_der_pol, z0, times, solver=solver, context=mu, compact=compact)
    for s in range(n):
        one = slice(s, s + 1)
        alone = odeint(van_der_pol, z0[one], times[one], solver=solver, context=mu[one], compact=compact)
        torch.testing.assert_close(alone.z[:, 0], whole.z[:, s], rtol=1e-12, atol=1e-12)
        assert int(alone.report.evaluations[0]) == int(whole.report.evaluations[s])
        assert int(alone.report.rejected[0]) == int(whole.report.rejected[s])


def test_a_stiff_series_leaves_the_others_and_their_cost_alone():
    torchdiffeq = pytest.importorskip("torchdiffeq", reason="torchdiffeq is the peer")
    n, times = 24, torch.tensor([0.0, 2.0], dtype=F64)
    z0, mu = start(n), torch.ones(n, 1, dtype=F64)
    stiff = mu.clone()
    stiff[0] = 60.0
    mild, mixed = (odeint(van_der_pol, z0, times, solver="dopri5", context=m, compact=True) for m in (mu, stiff))
    assert torch.equal(mild.report.evaluations[1:], mixed.report.evaluations[1:])
    torch.testing.assert_close(mild.z[:, 1:], mixed.z[:, 1:], rtol=1e-12, atol=1e-12)
    calls = [0, 0]
    for k, m in enumerate((mu, stiff)):

        def counted(t, z, k=k, m=m):
            calls[k] += 1
            return van_der_pol(t, z, m)

        torchdiffeq.odeint(counted, z0, times, method="dopri5", rtol=1e-7, atol=1e-9)
    assert calls[1] > 2 * calls[0]


def test_a_compact_drift_sees_only_those_under_way():
    seen = []

    def drift(t, z):
        assert t.shape == z.shape[:-1]
        seen.append(len(z))
        return -z

    times = torch.tensor([[0.0, 0.1]] * 7 + [[0.0, 50.0]], dtype=F64)
    odeint(drift, start(8), times, solver="tsit5", compact=True)
    assert seen[0] == 8 and seen[-1] == 1
    assert sum(seen) < 8 * len(seen) / 2


# --- stiff equations


def test_kvaerno_takes_a_stiff_equation_in_its_stride():
    mu, times = torch.tensor([[1e5]], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    path = odeint(van_der_pol, torch.tensor([[2.0, 0.0]], dtype=F64), times, solver="kvaerno5", context=mu)
    assert abs(float(path.z[-1, 0, 0]) - (2.0 - 2.0 / 3e5)) < 1e-7
    assert path.nfe < 2000
    with pytest.raises(BudgetError, match="kvaerno5") as caught:
        odeint(van_der_pol, torch.tensor([[2.0, 0.0]], dtype=F64), times, solver="tsit5", context=mu, max_steps=200)
    assert int(caught.value.details["nfe"][0]) > 200


# --- faults


def test_an_explosion_is_named_and_the_others_may_go_on():
    rate = torch.tensor([[0.1], [1.0], [0.2]], dtype=F64)
    z0, times = torch.ones(3, 1, dtype=F64), torch.tensor([0.0, 0.5, 2.0], dtype=F64)

    def drift(t, z):
        return rate * z**2

    with pytest.raises(NumericalError, match="underflow in dt") as caught:
        odeint(drift, z0, times, solver="tsit5")
    error = caught.value
    assert error.index == 1 and error.dim == "series" and error.variable == "drift" and error.fix
    assert abs(error.details["time"] - 1.0) < 1e-3 and error.details["norm"] > 1e3
    partial = error.details["partial"]
    assert abs(float(partial[1, 1, 0]) - 2.0) < 1e-5 and math.isnan(float(partial[1, 2, 0]))
    path = odeint(drift, z0, times, solver="tsit5", check=False)
    assert bool(torch.isnan(path.z[-1, 1]).all())
    good = [0, 2]
    assert float((path.z[-1, good, 0] - 1 / (1 - 2 * rate[good, 0])).abs().max()) < 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_nan_in_the_drift_is_named(solver):
    def late(t, z):
        return torch.where((t > 0.5)[:, None] & (torch.arange(3)[:, None] == 1), torch.nan, -z)

    with pytest.raises(NumericalError) as caught:
        odeint(late, start(), TIMES, solver=solver)
    assert caught.value.index == 1 and abs(caught.value.details["time"] - 0.5) < 1e-3
    with pytest.raises(NumericalError) as caught:
        odeint(lambda t, z: z * torch.nan, start(), TIMES, solver=solver)
    assert caught.value.details["time"] == 0.0


def test_the_parameter_to_blame_is_named():
    net = torch.nn.Linear(2, 2, dtype=F64, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        net.weight.fill_(0.1)
        net.bias.fill_(math.nan)
    field = _Plain(net)
    with pytest.raises(NumericalError, match=r"net\.bias") as caught:
        odeint(field, start(), TIMES, solver="tsit5")
    assert caught.value.details["parameter"] == "net.bias"


class _Plain(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, z):
        return self.net(z)


def test_a_used_up_budget_gives_the_partial_solution():
    times = torch.tensor([[0.0, 0.5, 1.0], [0.0, 50.0, 100.0]], dtype=F64)
    with pytest.raises(BudgetError) as caught:
        odeint(oscillator, start(2), times, solver="tsit5", max_steps=60)
    details = caught.value.details
    assert details["series"].tolist() == [1] and caught.value.index == 1
    torch.testing.assert_close(details["partial"][0].T, exact(start(2), times)[:, 0].T, rtol=1e-5, atol=1e-5)
    assert bool(torch.isnan(details["partial"][1, -1]).all()) and float(details["time"][1]) > 0.5


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"rtol": 0.0}, ConfigError),
        ({"max_steps": 0}, ConfigError),
        ({"gradient": "magic"}, ConfigError),
        ({"gradient": "adjoint", "error": True}, ConfigError),
        ({"steps": 4, "error": True}, ConfigError),
        ({"steps": 4, "gradient": "adjoint"}, ConfigError),
        ({"probe": torch.zeros(2)}, ShapeError),
        ({"times": torch.zeros(2, 4)}, ShapeError),
        ({"times": torch.tensor([0.0, 1.0, 0.5])}, TimeError),
        ({"times": torch.tensor([0.0, math.nan])}, TimeError),
    ],
)
def test_unusable_arguments_are_refused(given, error):
    given = {"times": TIMES, "solver": "tsit5"} | given
    with pytest.raises(error):
        odeint(oscillator, start(), given.pop("times"), **given)


def test_a_drift_of_the_wrong_shape_is_refused():
    with pytest.raises(ShapeError, match="drift"):
        odeint(lambda t, z: torch.cat([z, z], -1), start(), TIMES, solver="tsit5")
