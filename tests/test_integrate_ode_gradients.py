"""Gradients of adaptive solutions, three ways and against torchdiffeq; events; the solver's error as a regulariser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sciinfer.errors import ConfigError
from sciinfer.integrate import odeint
from sciinfer.integrate.plan import uniform_plan
from sciinfer.nets import MLP
from sciinfer.random import generator
from sciinfer.training.adam import Adam

F64 = torch.float64
TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=F64)
TIGHT = {"rtol": 1e-9, "atol": 1e-11}
WAYS = ("backprop", "checkpoint", "adjoint")


class Net(nn.Module):
    """A small nonlinear drift."""

    def __init__(self, seed=0, hidden=(6,), scale=1.0):
        super().__init__()
        self.net, self.scale = MLP(2, 2, hidden, generator=generator(seed, "ode")), scale

    def forward(self, t, z):
        return self.scale * self.net(z) + torch.sin(3 * t)[..., None]


def start(n=3):
    return torch.rand(n, 2, dtype=F64, generator=generator(0, "start"))


def loss_of(z):
    return (z**2).sum() + z[1, 0, 0] * z[-1, 1, 1]


def gradients(loss, *wanted):
    return torch.autograd.grad(loss, wanted)


FEW = [pytest.param("tsit5", way) for way in WAYS] + [pytest.param("kvaerno5", "checkpoint")]
MORE = [("dopri5", "backprop"), ("dopri5", "adjoint"), ("kvaerno5", "backprop"), ("kvaerno5", "adjoint")]


@pytest.mark.parametrize(("solver", "way"), FEW + [pytest.param(*case, marks=pytest.mark.slow) for case in MORE])
def test_gradients_agree_with_torchdiffeq(solver, way):
    torchdiffeq = pytest.importorskip("torchdiffeq", reason="torchdiffeq is the oracle")
    net, z0 = Net(), start().requires_grad_()
    wanted = (z0, *net.parameters())
    given = {"rtol": 1e-7, "atol": 1e-9} if solver == "kvaerno5" else TIGHT
    ours = gradients(loss_of(odeint(net, z0, TIMES, solver=solver, gradient=way, **given).z), *wanted)
    peer = torchdiffeq.odeint_adjoint if way == "adjoint" else torchdiffeq.odeint
    theirs = gradients(loss_of(peer(net, z0, TIMES, method="dopri5", **TIGHT)), *wanted)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_with_context_and_times_of_each_series(way):
    def drift(t, z, c):
        return torch.stack([z[..., 1], -c[..., 0] * z[..., 0]], -1)

    z0, c = start(), torch.tensor([[1.0], [2.0], [3.0]], dtype=F64, requires_grad=True)
    times = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.3, 0.3], [1.0, 0.5, 0.5]], dtype=F64)
    for compact in (False, True):
        path = odeint(drift, z0, times, solver="tsit5", context=c, compact=compact, gradient=way, rtol=1e-8, atol=1e-10)
        found = torch.autograd.grad(path.z[..., 0].square().sum(), c)[0]
        w, t = c.sqrt(), (times - times[:, :1]).T
        wt = w[:, 0] * t
        x = z0[:, 0] * torch.cos(wt) + z0[:, 1] / w[:, 0] * torch.sin(wt)
        torch.testing.assert_close(found, torch.autograd.grad(x.square().sum(), c)[0], rtol=1e-6, atol=1e-7)


def test_backprop_is_the_gradient_of_the_discrete_solution():
    # loose tolerances: the solution is wrong by far more than the gradient of it is
    a = torch.tensor(0.8, dtype=F64, requires_grad=True)
    z0 = start(2).requires_grad_()

    def solve(z0, a, way):
        return odeint(
            lambda t, z: -a * z**2 + t[:, None], z0, TIMES, solver="dopri5", gradient=way, parameters=[a],
            rtol=1e-2, atol=1e-2,
        ).z  # fmt: skip

    plain, forgetful = (gradients(solve(z0, a, way).sum(), z0, a) for way in ("backprop", "checkpoint"))
    for one, other in zip(plain, forgetful, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    step = 1e-6
    with torch.no_grad():
        # steps move with the parameters only by what the tolerance allows
        slope = (solve(z0, a + step, "backprop").sum() - solve(z0, a - step, "backprop").sum()) / (2 * step)
    assert abs(float(slope - plain[1])) < 1e-2


def test_checkpoints_keep_less():
    net, z0 = Net(hidden=(16,)), start(4)
    times = torch.tensor([0.0, 6.0], dtype=F64)
    kept = {}
    for way in ("backprop", "checkpoint"):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            path = odeint(net, z0, times, solver="tsit5", gradient=way, rtol=1e-8, atol=1e-10)
        kept[way] = sum(sizes)
        assert int(path.report.steps.min()) > 40
    assert kept["checkpoint"] < 0.15 * kept["backprop"]


def test_the_adjoint_asks_what_the_drift_depends_on():
    a = torch.tensor(0.8, dtype=F64, requires_grad=True)
    for way in ("adjoint", "checkpoint"):
        with pytest.raises(ConfigError, match="parameters"):
            odeint(lambda t, z: -a * z, start(), TIMES, solver="tsit5", gradient=way)
        path = odeint(lambda t, z: -a * z, start(), TIMES, solver="tsit5", gradient=way, parameters=[a], **TIGHT)
        found = torch.autograd.grad(path.z[-1].sum(), a)[0]
        assert abs(float((found + (start() * torch.exp(-a)).sum()).detach())) < 1e-8


def test_the_solution_is_differentiable_in_its_times():
    times = TIMES.clone().requires_grad_()
    path = odeint(lambda t, z: -z, start(), times, solver="tsit5", **TIGHT)
    found = torch.autograd.grad(path.z[1].sum(), times)[0]
    assert abs(float(found[1] + (start() * math.exp(-0.4)).sum())) < 1e-6


# --- events


def fall(t, z):
    return torch.stack([z[..., 1], torch.full_like(z[..., 0], -9.81)], -1)


def test_an_event_ends_each_series_at_its_own_time_with_its_gradient():
    height = torch.tensor([1.0, 5.0, 1e4], dtype=F64, requires_grad=True)
    z0 = torch.stack([height, torch.zeros(3, dtype=F64)], -1)
    times = torch.tensor([0.0, 0.3, 2.0], dtype=F64)
    path = odeint(fall, z0, times, solver="tsit5", event=lambda t, z: z[..., 0], **TIGHT)
    when, state = path.report.event_time, path.report.event_state
    expected = (2 * height[:2] / 9.81).sqrt()
    torch.testing.assert_close(when[:2], expected, rtol=1e-10, atol=1e-10)
    assert math.isinf(when[2].item())
    for k in range(2):
        ours = torch.autograd.grad(when[k], height, retain_graph=True)[0]
        theirs = torch.autograd.grad(expected[k], height, retain_graph=True)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    # the speed at the ground is -sqrt(2 g h); later outputs stay there
    speed = torch.autograd.grad(state[0, 1], height, retain_graph=True)[0][0]
    assert abs(float(speed) + math.sqrt(9.81 / 2)) < 1e-7
    torch.testing.assert_close(path.z[-1, :2], state[:2])
    assert abs(path.z[1, 1, 0].item() - (5 - 9.81 * 0.09 / 2)) < 1e-8


def test_events_backward_in_time_and_beside_others():
    z0 = torch.tensor([[1.0, 0.0], [0.5, 0.0]], dtype=F64)
    circle = odeint(
        lambda t, z: torch.stack([-z[..., 1], z[..., 0]], -1), z0, torch.tensor([0.0, -9.0], dtype=F64),
        solver="dopri5", event=lambda t, z: z[..., 0] - 0.0 * t, **TIGHT,
    )  # fmt: skip
    torch.testing.assert_close(circle.report.event_time, torch.full((2,), -math.pi / 2, dtype=F64))
    with torch.no_grad():
        alone = odeint(fall, z0[:1], torch.tensor([0.0, 3.0], dtype=F64), solver="tsit5", event=lambda t, z: z[..., 0])
        both = odeint(fall, z0, torch.tensor([0.0, 3.0], dtype=F64), solver="tsit5", event=lambda t, z: z[..., 0])
    assert abs(float(alone.report.event_time[0] - both.report.event_time[0])) < 1e-12


# --- the solver's own error


def test_error_estimates_are_those_of_the_steps():
    net, z0 = Net(), start()
    path = odeint(net, z0, TIMES, solver="tsit5", error=True, dense=True)
    plan = path.report.dense.plan
    total = torch.zeros(3, dtype=F64)
    for k in range(plan.t.shape[1]):
        middle = plan.t[:, k] + 0.5 * plan.h[:, k]
        local = odeint(net, z0, TIMES, solver="tsit5", probe=middle).report.local_error
        total += local * plan.h[:, k]
    torch.testing.assert_close(path.error, total, rtol=1e-10, atol=1e-20)
    assert path.error.requires_grad


def _trained(kind, way="backprop", updates=20):
    """Evaluations of the trained equation: z(1) is fitted to one target, with or without the error as a penalty."""
    net, z0, target = Net(seed=2, hidden=(12,), scale=8.0), start(6), torch.tensor([[0.3, -0.4]], dtype=F64)
    times, noise, optimiser = torch.tensor([0.0, 1.0], dtype=F64), generator(0, "probe"), Adam(list(net.parameters()))
    given = {"solver": "tsit5", "rtol": 1e-5, "atol": 1e-5, "gradient": way}
    for _ in range(updates):
        asked = {"global": {"error": True}, "local": {"probe": torch.rand(6, generator=noise, dtype=F64)}}.get(kind, {})
        path = odeint(net, z0, times, **given, **asked)
        size = {"global": path.error, "local": path.report.local_error}.get(kind)
        net.zero_grad()
        loss = (path.z[-1] - target).square().mean()
        (loss if size is None else loss + 1e5 * size.mean()).backward()
        optimiser.step(0.02)
    with torch.no_grad():
        return int(odeint(net, z0, times, **given).report.evaluations.sum())


@pytest.mark.slow
def test_training_with_the_error_makes_the_equation_cheaper():
    plain = _trained("none")
    for kind, way in (("global", "checkpoint"), ("local", "backprop")):
        assert _trained(kind, way) < 0.75 * plain, kind


def test_a_plan_of_equal_steps_covers_each_span():
    plan = uniform_plan(torch.zeros(3, dtype=F64), torch.tensor([1.0, 0.25, 0.0], dtype=F64), 0.25)
    assert plan.number.tolist() == [4, 1, 0]
    assert plan.h.sum(1).tolist() == [1.0, 0.25, 0.0]
    with pytest.raises(ConfigError):
        uniform_plan(torch.zeros(1), torch.ones(1), 0.0)
