"""Gradients four ways, error estimates, and errors that name parameters."""

from __future__ import annotations

import math

import pytest
import torch

from sciinfer.errors import ConfigError, NumericalError, TimeError
from sciinfer.integrate import BrownianPath, JumpPath, girsanov, sdeint

F64 = torch.float64
TIMES = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
SOLVERS = {
    "diagonal": ("euler-maruyama", "milstein", "srk", "heun", "reversible-heun", "implicit-euler"),
    "additive": ("euler-maruyama", "srk", "midpoint", "reversible-heun"),
    "general": ("euler-maruyama", "srk", "heun", "reversible-heun"),
}
CASES = [(noise_type, solver) for noise_type, names in SOLVERS.items() for solver in names]


def gradients(solver, noise_type, gradient, *, n=5, steps=20, times=TIMES, **more):
    theta, sigma, x0 = (torch.full((n, 2), v, dtype=F64, requires_grad=True) for v in (0.7, 0.5, 1.0))

    def diffusion(t, z):
        if noise_type == "diagonal":
            return sigma * (1 + 0.3 * torch.sin(z))
        return sigma[..., None] * torch.tensor([[1.0, 0.0, 0.3], [0.2, 1.0, 0.0]], dtype=F64)

    out = sdeint(
        lambda t, z: -theta * torch.sin(z) + t, diffusion, x0, times,
        steps=steps, noise=5, solver=solver, noise_type=noise_type, gradient=gradient, **more,
    )  # fmt: skip
    loss = (out.z[-1] ** 2).sum() + out.z[1:].sum() + out.z[0].sum()
    if out.report is not None:
        loss = loss + sum(e.sum() for e in (out.report.error, out.report.local_error) if e is not None)
    return [float(loss.detach()), *torch.autograd.grad(loss, (theta, sigma, x0))]


def gap(one, other):
    return max(float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("noise_type", "solver"), CASES)
def test_every_gradient_is_that_of_backpropagation(noise_type, solver):
    wanted = gradients(solver, noise_type, "backprop")
    assert gap(gradients(solver, noise_type, "checkpoint"), wanted) < 1e-12
    assert gap(gradients(solver, noise_type, "adjoint"), wanted) < 1e-9
    if solver == "reversible-heun":
        assert gap(gradients(solver, noise_type, "reversible"), wanted) < 1e-12


@pytest.mark.parametrize("every", [1, 7, 1000])
def test_pieces_of_any_length(every):
    given = gradients("heun", "diagonal", "checkpoint", checkpoint=every)
    assert gap(given, gradients("heun", "diagonal", "backprop")) < 1e-12


def test_gradients_along_a_given_path_backward_in_time():
    path = BrownianPath(0, dim=2, batch=5, t1=2.0)

    def found(gradient):
        a = torch.tensor(0.8, dtype=F64, requires_grad=True)
        out = sdeint(
            lambda t, z: -a * z, lambda t, z: 0.2 + 0.1 * torch.sin(a * z), torch.ones(5, 2, dtype=F64), TIMES.flip(0),
            steps=50, noise=path, solver="heun", gradient=gradient,
        )  # fmt: skip
        return torch.autograd.grad(out.z[-1].sum(), a)

    wanted = found("backprop")
    assert gap(found("adjoint"), wanted) < 1e-9 and gap(found("checkpoint"), wanted) < 1e-12


def test_single_precision():
    def found(gradient, dtype, solver="heun"):
        a = torch.tensor(0.8, dtype=dtype, requires_grad=True)
        z = sdeint(
            lambda t, z: -a * torch.sin(z), lambda t, z: 0.2 + 0.1 * z, torch.ones(5, 2, dtype=dtype), TIMES,
            steps=20, noise=0, solver=solver, gradient=gradient,
        ).z  # fmt: skip
        return float(torch.autograd.grad(z.sum(), a)[0])

    for gradient in ("checkpoint", "adjoint"):
        assert found(gradient, torch.float32) == pytest.approx(found("backprop", F64), rel=1e-4)
    reversible = found("reversible", torch.float32, "reversible-heun")
    assert reversible == pytest.approx(found("backprop", F64, "reversible-heun"), rel=1e-4)


def test_adjoint_gradients_agree_with_the_exact_ones():
    # case G of the design notes: E[X_2^2] of an Ornstein-Uhlenbeck process
    n, expected = 4096, (0.2285225514, -0.4393937612, 0.6708499553, 0.1216201251)
    theta, sigma, x0 = (torch.full((n, 1), v, dtype=F64, requires_grad=True) for v in (0.7, 0.5, 1.0))
    square = sdeint(
        lambda t, z: -theta * z, lambda t, z: sigma, x0, torch.tensor([0.0, 2.0]),
        steps=128, noise=5, solver="reversible-heun", gradient="reversible",
    ).z[-1] ** 2  # fmt: skip
    samples = [square.detach(), *torch.autograd.grad(square.sum(), (theta, sigma, x0))]
    for sample, value in zip(samples, expected, strict=True):
        assert abs(float(sample.mean()) - value) < 4 * float(sample.std()) / math.sqrt(n)


@pytest.mark.parametrize("gradient", ["adjoint", "checkpoint", "reversible"])
def test_networks_and_jumps(gradient):
    torch_net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in torch_net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, dtype=F64, generator=generator))
    solver, jumps = "heun", JumpPath(3, dim=2, rate=2.0, t1=2.0, batch=6, size=lambda n: 0.3 * n)
    if gradient == "reversible":
        solver, jumps = "reversible-heun", None

    def found(kind):
        z = sdeint(
            lambda t, z: torch_net(z), lambda t, z: 0.2 + 0 * z, torch.ones(6, 2, dtype=F64), TIMES,
            steps=40, noise=1, solver=solver, gradient=kind, jumps=jumps,
        ).z  # fmt: skip
        return torch.autograd.grad((z**2).sum(), list(torch_net.parameters()))

    assert gap(found(gradient), found("backprop")) < 1e-9


def test_memory_does_not_grow_with_the_steps():
    def kept(gradient, steps):
        sizes = []

        def pack(x):
            sizes.append(x.numel())
            return x

        a = torch.tensor(0.8, dtype=F64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            sdeint(
                lambda t, z: -torch.sin(a * z), lambda t, z: 0.1 + 0 * z, torch.ones(50, 2, dtype=F64), TIMES[[0, 2]],
                steps=steps, noise=0, solver="reversible-heun", gradient=gradient,
            )  # fmt: skip
        return sum(sizes)

    assert kept("adjoint", 1024) == kept("adjoint", 64)
    assert kept("checkpoint", 1024) < 5 * kept("checkpoint", 64) < kept("backprop", 64) * 5
    assert kept("backprop", 1024) > 12 * kept("backprop", 64)


def test_a_tensor_computed_before_must_be_named():
    raw = torch.tensor(0.5, dtype=F64, requires_grad=True)
    rate = torch.exp(raw)

    def found(gradient, **more):
        z = sdeint(
            lambda t, z: -rate * z, lambda t, z: 0.1 + 0 * z, torch.ones(2, 1, dtype=F64), TIMES,
            steps=20, noise=0, solver="heun", gradient=gradient, **more,
        ).z  # fmt: skip
        return torch.autograd.grad(z.sum(), raw, retain_graph=True)

    for gradient in ("adjoint", "checkpoint"):
        with pytest.raises(ConfigError, match="params"):
            found(gradient)
        with pytest.raises(ConfigError, match="params"):
            found(gradient, params=[torch.ones(1, requires_grad=True)])
        assert gap(found(gradient, params=[rate]), found("backprop")) < 1e-9


def test_a_leaf_that_params_leaves_out_is_refused():
    a, b = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.5, 0.2))
    with pytest.raises(ConfigError, match="does not name"):
        sdeint(
            lambda t, z: -a * z, lambda t, z: b + 0 * z, torch.ones(2, 1, dtype=F64), TIMES,
            steps=4, noise=0, gradient="adjoint", params=[a],
        )  # fmt: skip


def test_path_divergence_has_the_same_gradient_by_adjoint():
    def found(gradient):
        a = torch.tensor(0.7, dtype=F64, requires_grad=True)
        out = girsanov(
            lambda t, z: -a * z, lambda t, z: 0 * z, lambda t, z: 0.4 + 0 * z, torch.zeros(8, 2, dtype=F64), TIMES,
            steps=32, noise=1, solver="reversible-heun", gradient=gradient,
        )  # fmt: skip
        return torch.autograd.grad(out.kl[-1].sum(), a)

    wanted = found("backprop")
    assert gap(found("reversible"), wanted) < 1e-11 and gap(found("checkpoint"), wanted) < 1e-11


def test_a_step_that_cannot_be_undone_is_named():
    a = torch.tensor(40.0, dtype=F64, requires_grad=True)
    z = sdeint(
        lambda t, z: -a * torch.sin(3 * z), lambda t, z: 0.1 + 0 * z, torch.ones(2, 1, dtype=F64), TIMES,
        steps=20, noise=0, gradient="adjoint",
    ).z  # fmt: skip
    with pytest.raises(NumericalError, match="cannot be undone") as caught:
        z.sum().backward()
    assert 0 <= caught.value.details["time"] <= 2 and "checkpoint" in caught.value.fix


@pytest.mark.parametrize(
    "given",
    [
        {"gradient": "forward"},
        {"gradient": "reversible"},
        {"checkpoint": 4},
        {"gradient": "checkpoint", "checkpoint": 0},
        {"gradient": "adjoint", "error": True},
        {"params": []},
        {"solver": "torchsde:euler", "gradient": "adjoint"},
        {"solver": "reversible-heun", "jumps": JumpPath(0, dim=1, rate=1.0, t1=2.0, batch=2)},
    ],
)
def test_combinations_that_cannot_be_are_refused(given):
    with pytest.raises(ConfigError, match="Fix"):
        sdeint(
            lambda t, z: -z, lambda t, z: 0.1 + 0 * z, torch.ones(2, 1, dtype=F64), TIMES, steps=4, noise=0, **given
        )  # fmt: skip


# --- the solver's own error estimate


@pytest.mark.parametrize("solver", ["euler-maruyama", "milstein", "heun", "srk"])
def test_the_summed_error_is_the_mean_over_probes(solver):
    z0, n = torch.ones(3, 2, dtype=F64), 8

    def solve(**more):
        return sdeint(
            lambda t, z: -torch.sin(2 * z), lambda t, z: 0.3 + 0.1 * z, z0, torch.tensor([0.0, 1.0, 2.0]),
            steps=n, noise=2, solver=solver, **more,
        )  # fmt: skip

    plain, summed = solve(), solve(error=True)
    assert torch.equal(plain.z, summed.z) and plain.report is None and plain.error is None
    probed = [solve(probe=(k + 0.5) * 2 / n) for k in range(n)]
    assert all(torch.equal(out.z, plain.z) for out in probed)
    total = sum(out.report.local_error * 2 / n for out in probed)
    assert float((total / summed.error - 1).abs().max()) < 1e-12 and float(summed.error.min()) > 0


@pytest.mark.parametrize("gradient", ["adjoint", "checkpoint", "backprop"])
def test_error_estimates_are_differentiable(gradient):
    wanted = gradients("heun", "diagonal", "backprop", probe=1.3)
    assert gap(gradients("heun", "diagonal", gradient, probe=1.3), wanted) < 1e-9
    if gradient != "adjoint":
        wanted = gradients("heun", "diagonal", "backprop", error=True)
        assert gap(gradients("heun", "diagonal", gradient, error=True), wanted) < 1e-11


def test_the_error_shrinks_with_the_step_and_without_curvature():
    def error(rate, steps):
        out = sdeint(
            lambda t, z: -rate * z, lambda t, z: 0.1 + 0 * z, torch.ones(4, 1, dtype=F64), TIMES,
            steps=steps, noise=2, solver="heun", error=True,
        )  # fmt: skip
        return float(out.error.mean())

    assert error(1.0, 256) < 0.1 * error(1.0, 16) and error(0.0, 16) < 1e-12 < error(0.1, 16) < error(1.0, 16)


def test_a_probe_outside_is_refused():
    with pytest.raises(TimeError, match="probe"):
        sdeint(lambda t, z: -z, lambda t, z: 0 * z, torch.ones(1, dtype=F64), TIMES, steps=4, noise=0, probe=2.5)


# --- errors name the parameter


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: net.forward, lambda net: lambda t, z: net(t, z)])
@pytest.mark.parametrize(("value", "text"), [(1e8, "largest parameter is gain"), (math.nan, "gain is not finite")])
def test_a_diverging_state_names_the_parameter(wrap, value, text):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(value, dtype=F64))
            self.shift = torch.nn.Parameter(torch.tensor(2.0, dtype=F64))

        def forward(self, t, z):
            return self.gain * z**3 + self.shift

    for gradient in ("backprop", "checkpoint"):
        with pytest.raises(NumericalError, match=text) as caught:
            sdeint(
                wrap(Net()), lambda t, z: 0 * z, torch.ones(2, 1, dtype=F64), TIMES,
                steps=50, noise=0, gradient=gradient,
            )  # fmt: skip
        assert caught.value.details["parameter"] == "gain" and "time" in caught.value.details
