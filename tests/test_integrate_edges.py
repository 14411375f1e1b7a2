"""What is easily lost without a word: gradients, options, devices, evaluations, precision, empty batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sciinfer.errors import ConfigError, DataError, NumericalError, SciInferError, ShapeError, TimeError
from sciinfer.integrate import BrownianPath, ExponentialEuler, JumpPath, StablePath, flow, girsanov, odeint, sdeint
from sciinfer.integrate.exponential import _phi
from sciinfer.integrate.fractional import geometric_rates, markov_weights

D = torch.float64
SPAN = torch.tensor([0.0, 1.0])


def _decay(t: Tensor, z: Tensor) -> Tensor:
    return -z


def _spread(t: Tensor, z: Tensor) -> Tensor:
    return 0.1 + 0 * z


def _ones(*shape: int, **options: bool) -> Tensor:
    return torch.ones(*shape, dtype=D, **options)


# --- devices: whatever is made without a device lands on the default one, here one that mixes with no other


@pytest.mark.parametrize("solver", ["euler-maruyama", "milstein", "srk", "heun", "midpoint", "implicit-euler"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_nothing_is_made_on_the_default_device(solver: str, gradient: str) -> None:
    z0, times = _ones(3, 2, requires_grad=True), torch.tensor([0.0, 0.3, 1.0])
    with torch.device("meta"):
        z = sdeint(_decay, _spread, z0, times, steps=16, noise=0, solver=solver, gradient=gradient).z
        z.sum().backward()
    assert z.device.type == "cpu"
    assert z0.grad is not None


def test_nothing_is_made_on_the_default_device_by_other_paths() -> None:
    z0, times = _ones(3, 1), torch.tensor([0.0, 0.3, 1.0])
    with torch.device("meta"):
        for jumps in (JumpPath(0, 1, rate=3.0, batch=3), StablePath(0, 1, alpha=1.5, batch=3)):
            sdeint(_decay, _spread, z0, times, dt=0.1, noise=0, jumps=jumps, probe=0.4, error=True)
        sdeint(_decay, _spread, z0, times, steps=8, noise=BrownianPath(0, 1, batch=3), solver="reversible-heun")
        wide = lambda t, z: _spread(t, z)[..., None]  # noqa: E731
        sdeint(_decay, wide, z0, times, steps=8, noise=0, solver="srk", noise_type="general")
        girsanov(_decay, lambda t, z: 0 * z, _spread, z0, times, steps=8, noise=0)
        BrownianPath(0, 1, batch=3)(0.3, 0.7)
        sdeint(_decay, _spread, z0, times, steps=4, noise=0, solver=ExponentialEuler(linear=-z0[0]))


@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "kvaerno5", "rk43"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_adaptive_solvers_make_nothing_on_the_default_device(solver: str, gradient: str) -> None:
    z0, times = _ones(3, 1, requires_grad=True), torch.tensor([0.0, 0.3, 1.0])
    extra = {} if gradient == "adjoint" else {"dense": True, "event": lambda t, z: z[:, 0] - 0.5, "error": True}
    with torch.device("meta"):
        path = odeint(_decay, z0, times, solver=solver, gradient=gradient, **extra)
        path.z.sum().backward()
        if path.report is not None and path.report.dense is not None:
            path.report.dense(times)
        odeint(_decay, z0, times, steps=6, solver=solver)
        flow(_decay, z0, 0 * z0[:, 0], times.expand(3, -1).to(D) - 0.5)
    assert z0.grad is not None


def test_a_path_on_another_device_is_refused() -> None:
    path = BrownianPath(0, 1, batch=2)
    path.device = torch.device("meta")
    with pytest.raises(ConfigError, match="on meta, the state on cpu"):
        sdeint(_decay, _spread, _ones(2, 1), SPAN, steps=4, noise=path)


# --- evaluations


@pytest.mark.parametrize(
    ("solver", "fixed"),
    [(name, True) for name in ("euler", "heun", "rk4", "rk43", "tsit5", "dopri5", "kvaerno5", "rosenbrock")]
    + [(name, False) for name in ("rk43", "tsit5", "dopri5", "kvaerno5")],
)
def test_reported_evaluations_are_the_calls(solver: str, fixed: bool) -> None:
    calls = 0

    def drift(t: Tensor, z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -z

    nfe = odeint(drift, _ones(1, 1), SPAN, steps=10 if fixed else None, solver=solver).nfe
    assert nfe == calls - 1  # the trial that checks shapes


# --- gradients that could be lost


class _Held(torch.nn.Module):
    """A drift that also depends on a tensor that is none of its parameters."""

    def __init__(self, held: Tensor) -> None:
        super().__init__()
        self.weight, self.held = torch.nn.Parameter(_ones(1)), held

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return -self.weight * z * self.held


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_adaptive_gradients_refuse_what_was_not_named(gradient: str) -> None:
    leaf = _ones(1, requires_grad=True)
    for held in (leaf, leaf * 2):
        drift = _Held(held)
        with pytest.raises(ConfigError, match="parameters"):
            odeint(drift, _ones(2, 1), SPAN, solver="tsit5", gradient=gradient)
        found = []
        for way, named in (("backprop", ()), (gradient, [held])):
            z = odeint(drift, _ones(2, 1), SPAN, solver="tsit5", gradient=way, parameters=named).z[-1].sum()
            found.append(torch.stack(torch.autograd.grad(z, (leaf, drift.weight), retain_graph=True)))
        torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


def test_the_adjoint_refuses_times_that_want_a_gradient() -> None:
    times = SPAN.to(D).requires_grad_()
    with pytest.raises(ConfigError, match="times"):
        odeint(_decay, _ones(2, 1, requires_grad=True), times, solver="tsit5", gradient="adjoint")


def test_a_flow_in_segments_takes_frozen_parameters_and_refuses_unnamed_ones() -> None:
    net = torch.nn.Linear(1, 1, dtype=D)
    net.bias.requires_grad_(False)
    start, times = torch.zeros(2, dtype=D), _ones(2, 1)

    def slope(checkpoint: bool, known: tuple[Tensor, ...]) -> Tensor:
        made = flow(lambda t, z: net(z), _ones(2, 1), start, times, step=0.1, checkpoint=checkpoint, known=known)
        return torch.autograd.grad(made.z.sum(), net.weight)[0]

    torch.testing.assert_close(slope(True, tuple(net.parameters())), slope(False, ()))
    with pytest.raises(ConfigError, match="known"):
        slope(True, ())


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_parameters_used_between_the_ends_only_keep_their_gradient(gradient: str) -> None:
    weights = torch.nn.ParameterList([torch.nn.Parameter(_ones(1)) for _ in range(4)])

    class Pieces(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = weights

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return -self.weights[min(2, int(t))] * z

    found = []
    for way in ("backprop", gradient):
        weights.zero_grad(set_to_none=True)
        sdeint(Pieces(), _spread, _ones(2, 1), SPAN * 3, steps=24, noise=0, gradient=way).z[-1].sum().backward()
        found.append([weight.grad for weight in weights])
    torch.testing.assert_close(found[1][:3], found[0][:3])
    assert found[0][3] is None
    assert found[1][3] is None


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_the_linear_part_keeps_its_gradient(gradient: str) -> None:
    found = []
    for way in ("backprop", gradient):
        linear = (-_ones(1)).requires_grad_()
        scheme = ExponentialEuler(linear=linear)
        z = sdeint(_decay, _spread, _ones(2, 1), SPAN, steps=8, noise=0, solver=scheme, gradient=way).z[-1].sum()
        found.append(torch.autograd.grad(z, linear)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)


def test_series_without_an_event_leave_no_nan_in_gradients() -> None:
    rate, z0 = _ones(1, requires_grad=True), torch.tensor([[1.0], [0.0]], dtype=D)
    path = odeint(lambda t, z: -rate * z, z0, SPAN, solver="tsit5", event=lambda t, z: z[:, 0] - 0.6)
    assert path.report is not None
    assert path.report.event_time is not None
    slope = torch.autograd.grad(path.report.event_time[0], rate, retain_graph=True)[0]
    torch.testing.assert_close(slope, torch.tensor([0.6], dtype=D).log(), rtol=1e-6, atol=1e-8)
    assert bool(torch.isfinite(torch.autograd.grad(path.z.sum(), rate)[0]))


# --- precision


def test_phi_of_float32_is_exact_with_its_derivative() -> None:
    exact = torch.logspace(-8, 0, 60, dtype=D)
    values = []
    for dtype in (torch.float32, D):
        x = exact.to(torch.float32).to(dtype).requires_grad_()
        phi = _phi(x)
        values.append((phi.detach().double(), torch.autograd.grad(phi.sum(), x)[0].double()))
    torch.testing.assert_close(values[0][0], values[1][0], rtol=3e-7, atol=0.0)
    torch.testing.assert_close(values[0][1], values[1][1], rtol=2e-4, atol=0.0)


def test_fractional_weights_of_float32_are_those_of_float64() -> None:
    rates, hurst = geometric_rates(5, 20.0), torch.tensor([0.1, 0.25, 0.5, 0.75], dtype=D)
    wide = markov_weights(hurst, rates.float().double(), 1.0)
    narrow = markov_weights(hurst.float(), rates.float(), 1.0)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-5)


def test_a_drift_wider_than_the_state_is_refused() -> None:
    z0 = torch.ones(2, 1)
    for call in (
        lambda f: sdeint(f, _spread, z0, SPAN, steps=4, noise=0),
        lambda f: odeint(f, z0, SPAN, steps=4),
        lambda f: odeint(f, z0, SPAN, solver="tsit5"),
    ):
        with pytest.raises(DataError, match="float64"):
            call(lambda t, z: -z.double())


# --- options, shapes


@pytest.mark.parametrize(
    "options", [{"gradient": "adjoint"}, {"dense": True}, {"event": _decay}, {"parameters": [SPAN]}, {"context": SPAN}]
)
def test_a_back_end_refuses_options_that_it_does_not_know(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="adaptive solver"):
        odeint(_decay, _ones(2, 1), SPAN, solver="torchdiffeq:dopri5", **options)  # pyright: ignore[reportArgumentType]


def test_jump_size_needs_jumps() -> None:
    with pytest.raises(ConfigError, match="no jumps"):
        sdeint(_decay, _spread, _ones(2, 1), SPAN, steps=4, noise=0, jump_size=_decay)
    with pytest.raises(ConfigError, match="params"):
        sdeint(_decay, _spread, _ones(2, 1), SPAN, steps=4, noise=0, solver="torchsde:euler", params=[SPAN])


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("want", [False, True])
def test_no_series(gradient: str, want: bool) -> None:
    z0 = _ones(0, 2, requires_grad=want)
    path = odeint(_decay, z0, SPAN, solver="tsit5", gradient=gradient)
    assert path.z.shape == (2, 0, 2)
    if want:
        path.z.sum().backward()
    dense = odeint(_decay, z0, SPAN, solver="tsit5", dense=True).report
    assert dense is not None
    assert dense.dense is not None
    assert dense.dense(torch.tensor([0.5])).shape == (0, 1, 2)


def test_dense_output_ends_at_the_event() -> None:
    path = odeint(_decay, _ones(1, 1), SPAN, solver="tsit5", event=lambda t, z: z[:, 0] - 0.6, dense=True)
    assert path.report is not None
    assert path.report.dense is not None
    found = path.report.dense(torch.tensor([0.4, 0.52, 0.6, 1.0], dtype=D))[0, :, 0]
    wanted = torch.tensor([-0.4], dtype=D).exp(), torch.full((3,), 0.6, dtype=D)
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-6, atol=1e-8)


def test_wrong_arguments_say_what_they_are() -> None:
    cases: list[tuple[type[SciInferError], str, object]] = [
        (ShapeError, "context", lambda: odeint(
            lambda t, z, c: z * c, _ones(2, 1), SPAN, solver="tsit5", context=_ones(3, 1))),
        (ShapeError, "prior_drift", lambda: girsanov(
            _decay, lambda t, z: z[:1], _spread, _ones(2, 1), SPAN, steps=2, noise=0)),
        (ConfigError, "keys", lambda: BrownianPath(0, 1, batch=2, keys=torch.tensor([0.2, 0.7]))),
        (ConfigError, "keys", lambda: JumpPath(0, 1, rate=1.0, keys=torch.tensor([0.2, 0.7]))),
        (TimeError, "finite", lambda: odeint(_decay, _ones(2, 1), SPAN[:1] * torch.nan, steps=2)),
    ]  # fmt: skip
    for error, said, call in cases:
        with pytest.raises(error, match=said):
            call()  # pyright: ignore[reportCallIssue]


def test_a_fixed_step_ode_that_diverges_names_its_parameter() -> None:
    net, z0 = torch.nn.Linear(1, 1, dtype=D), _ones(2, 1)
    torch.nn.init.constant_(net.weight, 1e200)
    with torch.device("meta"), pytest.raises(NumericalError, match="weight"):
        odeint(lambda t, z: net(z), z0, SPAN, steps=20)
