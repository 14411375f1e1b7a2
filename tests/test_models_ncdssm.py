"""Continuous-discrete state-space models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream, terms_of

import sciinfer as si
from sciinfer.errors import BudgetError, ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.ncdssm import ncdssm
from sciinfer.models.ncdssm_dynamics import FreeLinear, MixedLinear, Perceptron, advance, filter_moments
from sciinfer.models.ncdssm_model import TINY as SPREAD
from sciinfer.processes import build_bridge
from sciinfer.random import generator
from sciinfer.statespace import kalman_smoother

F64 = torch.float64
TINY = {"latent": 3, "hidden": 6, "features": 2, "matrices": 3}
NAMES = ["linear", "mixed-linear", "nonlinear"]


def _model(dynamics, auxiliary="identity", seed=0, **more):
    return move(ncdssm(SCHEMA, seed=seed, dynamics=dynamics, auxiliary=auxiliary, **{**TINY, **more}), seed=seed)


@pytest.mark.parametrize("dynamics", NAMES)
@pytest.mark.parametrize("auxiliary", ["net", "identity"])
def test_walk(dynamics, auxiliary):
    def build(seed=0):
        return ncdssm(SCHEMA, seed=seed, dynamics=dynamics, auxiliary=auxiliary, **TINY)

    check_model(build, sample_batch())


def test_fit_save_load_predict(tmp_path):
    t = np.linspace(0, 5, 10)
    y = np.sin(t + np.arange(2)[:, None])
    y[1, 4] = np.nan
    ds = xr.Dataset({"y": (("series", "time"), y)}, coords={"series": list("ab"), "time": t})
    options = {"latent": 2, "hidden": 4}
    fitted = si.fit(ds, model="ncdssm", options=options, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 6.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())


def _dense_loglik(model, time, y):
    """log N(y; ., .) of one complete series, from the process's transitions alone."""
    n, C = y.shape
    W, b, R = model.emission.weight, model.emission.bias, model.noise.noise.square()
    mean, P = model.process.initial()
    means, covs = [mean], [P]
    steps = time.diff()
    for A, Q in zip(*model.process.transition(steps), strict=True):
        means.append(A @ means[-1])
        covs.append(A @ covs[-1] @ A.mT + Q)
    K = torch.zeros(n, C, n, C, dtype=F64)
    for i in range(n):
        for j in range(i, n):
            A, _ = model.process.transition(time[j] - time[i])
            K[j, :, i] = W @ A @ covs[i] @ W.mT
            K[i, :, j] = K[j, :, i].mT
    K = K.reshape(n * C, n * C)
    K = K + torch.diag(R.repeat(n))
    centre = torch.cat([W @ m + b for m in means])
    return torch.distributions.MultivariateNormal(centre, K).log_prob(y.flatten())


def test_with_the_data_as_auxiliary_the_linear_bound_is_the_exact_likelihood():
    """The gap is that of a spread of 1e-3: half its square times the trace of the inverse covariance."""
    model, g = _model("linear"), generator(0, "y")
    time = torch.rand(7, generator=g, dtype=F64).mul(4).sort().values
    y = torch.randn(7, 2, generator=g, dtype=F64)
    batch = SeriesBatch.of([time], [y])
    with torch.no_grad():
        exact = _dense_loglik(model, time, y)
        fit, divergence = terms_of(model, batch)[0]
        torch.testing.assert_close(fit - divergence, exact, rtol=1e-10, atol=1e-9)
        draws = [model.elbo_terms(batch, generator=generator(s, "a")) for s in range(200)]
        bound = torch.stack([(fit - divergence)[0] for fit, divergence in draws])
    error = float(bound.std()) / math.sqrt(200)
    assert abs(float(bound.mean() - exact)) < 4 * error + 1e-4
    assert float(bound.std()) < 50 * SPREAD


@pytest.mark.parametrize("mixed", [True, False])
def test_linear_drift_through_the_moment_filter_is_the_exact_filter(mixed):
    exact = _model("linear").process
    other = (
        MixedLinear(3, 1, 4, generator=generator(0, "m")) if mixed else Perceptron(3, 4, generator=generator(0, "m"))
    )
    with torch.no_grad():
        if not mixed:
            other.out.zero_()
        other.matrices.load_state_dict(exact.matrices.state_dict())
        other.start.load_state_dict(exact.start.state_dict())
        g = generator(1, "rows")
        time = torch.rand(2, 6, generator=g, dtype=F64).mul(6).sort(dim=1).values
        H, y = (torch.randn(2, 6, 2, *tail, generator=g, dtype=F64) for tail in ((3,), ()))
        query = torch.tensor([[0.5, 3.1]], dtype=F64).expand(2, 2)
        bridge = build_bridge(exact, time, H, y, query, backend="sequential")
        grid, order = torch.sort(torch.cat([time, query], 1), dim=1)
        H = torch.cat([H, H[:, :2] * 0], 1)[torch.arange(2)[:, None], order]
        y = torch.cat([y, y[:, :2] * 0], 1)[torch.arange(2)[:, None], order]
        problem, filtered = filter_moments(other, grid, H, y, 0.05)
        smoothed = kalman_smoother(problem, filtered, backend="sequential")
    torch.testing.assert_close(filtered.loglik, bridge.loglik, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(problem.A[:, 1:], bridge.problem.A[:, 1:], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(problem.Q[:, 1:], bridge.problem.Q[:, 1:], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(smoothed.mean, bridge.smoothed.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(smoothed.cov, bridge.smoothed.cov, rtol=1e-6, atol=1e-6)


def test_the_perceptrons_linearisation_is_its_jacobian():
    process = move(_model("nonlinear").process, 0.3)
    z = torch.randn(4, 3, generator=generator(0, "z"), dtype=F64)
    with torch.no_grad():
        J = process.jacobian(z, process.matrices())
    F = process.matrices()
    expected = torch.stack([torch.func.jacrev(lambda x: process.velocity(x, F))(row) for row in z])
    torch.testing.assert_close(J, expected.detach(), rtol=1e-10, atol=1e-12)


def test_moments_move_with_the_stated_orders():
    process = move(_model("nonlinear").process, 0.3)
    m, D = torch.randn(1, 3, generator=generator(0, "m"), dtype=F64), torch.eye(3, dtype=F64)

    def after(parts):
        with torch.no_grad():
            return advance(process, m, torch.ones(1, dtype=F64), 1 / parts, process.matrices(), D)

    fine = after(512)
    for part, order in (("mean", 4.0), ("A", 2.0), ("Q", 2.0)):
        errors = [float((getattr(after(n), part) - getattr(fine, part)).abs().max()) for n in (4, 8)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.5), part


def test_covariances_stay_positive_on_coarse_steps():
    """A Runge-Kutta step of the covariance itself would leave the cone."""
    process = move(_model("nonlinear").process, 1.5)
    grid = torch.linspace(0, 24, 9, dtype=F64)[None]
    H, y = torch.zeros(1, 9, 1, 3, dtype=F64), torch.zeros(1, 9, 1, dtype=F64)
    with torch.no_grad():
        found = filter_moments(process, grid, H, y, 3.0)[1]
    assert float((torch.linalg.eigvalsh(found.cov)[..., 0] / torch.linalg.eigvalsh(found.cov)[..., -1]).min()) > -1e-12


@pytest.mark.parametrize("dynamics", NAMES)
def test_no_dynamics_can_run_away(dynamics):
    model = move(_model(dynamics), 1.0)
    times = torch.tensor([0.0, 50.0, 100.0], dtype=F64)
    with torch.no_grad():
        z = model.generate(times, draws=16, generator=stream("far")).latent
    assert bool(torch.isfinite(z).all())
    assert float(z.abs().max()) < 1e4


def test_a_process_tells_its_drift_and_diffusion():
    z = torch.randn(5, 3, generator=generator(0, "z"), dtype=F64)
    for name in NAMES:
        process = _model(name).process
        assert process.drift(torch.zeros(5), z).shape == process.diffusion(torch.zeros(5), z).shape == (5, 3)
        assert bool((process.diffusion(torch.zeros(5), z) > 0).all())
    linear = _model("linear").process
    A, _ = linear.transition(torch.tensor(1e-6, dtype=F64))
    torch.testing.assert_close(z @ (A - torch.eye(3)).mT / 1e-6, linear.drift(torch.zeros(5), z), rtol=1e-4, atol=1e-5)


def test_a_gap_too_long_to_integrate_is_refused():
    process = Perceptron(2, 3, generator=generator(0, "p"))
    gap = torch.tensor([1e9], dtype=F64)
    with pytest.raises(BudgetError, match="too long"):
        advance(process, torch.zeros(1, 2, dtype=F64), gap, 0.5, process.matrices(), torch.eye(2, dtype=F64))


@pytest.mark.parametrize("dynamics", NAMES)
def test_a_forecast_widens(dynamics):
    model, batch = _model(dynamics), sample_batch(lengths=(8,))
    end = float(batch.time[-1])
    times = torch.tensor([[end, end + 1.0, end + 30.0]], dtype=F64)
    with torch.no_grad():
        spread = model.predict(batch, times, draws=300, generator=stream("p")).observation.std(0)[0]
    assert bool((spread[2] > spread[0]).all())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dynamics": "cubic"}, "linear, mixed-linear, nonlinear"),
        ({"auxiliary": "none"}, "net, identity"),
        ({"auxiliary": "identity", "likelihood": "poisson"}, "net"),
        ({"latent": 0}, "latent"),
        ({"matrices": 1.5}, "matrices"),
        ({"step": 0}, "step"),
        ({"warmup": 2}, "warmup"),
    ],
)
def test_options_that_make_no_sense(options, says):
    with pytest.raises(ConfigError, match=says):
        ncdssm(SCHEMA, **options)


def _pendulum(S, seed):
    """Damped pendulum from random starts; what is seen is the noisy position of the bob."""
    g = np.random.default_rng(seed)
    angle, speed = np.pi + np.clip(g.normal(size=S), -2, 2), 4 * np.clip(g.normal(size=S), -2, 2)
    path = []
    for k in range(600):
        if k % 10 == 0:
            path.append(np.stack([np.sin(angle), np.cos(angle)], -1))
        for _ in range(2):  # semi-implicit Euler, dt = 0.005
            speed = speed + 0.005 * (-9.81 / 2 * np.sin(angle) - 0.25 * speed)
            angle = angle + 0.005 * speed
    clean = np.stack(path, 1)
    return clean, clean + 0.05 * g.normal(size=clean.shape)


@pytest.mark.slow
@pytest.mark.parametrize("dynamics", ["mixed-linear", "nonlinear"])
def test_it_learns_the_pendulum(dynamics):
    clean, noisy = _pendulum(80, 0)
    t = torch.arange(60, dtype=F64)
    v = torch.as_tensor(noisy)
    train = SeriesBatch.of([t[:45]] * 64, list(v[:64, :45]))
    model = ncdssm(SCHEMA, dynamics=dynamics, auxiliary="identity", latent=4, hidden=24, step=1.0)
    model.initialise(train)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    steps = 160
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        optimiser.zero_grad()
        chosen = torch.randperm(64, generator=generator(step, "batch"))[:32]
        model.loss(train.select(chosen), generator=generator(step, "loss")).value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
    test = SeriesBatch.of([t[:25]] * 16, list(v[64:, :25]))
    with torch.no_grad():
        found = model.predict(test, t[25:40].expand(16, 15), draws=100, generator=stream("test"))
    truth = torch.as_tensor(clean[64:, 25:40])
    error = float((found.signal.mean(0) - truth).square().mean())
    last = float((v[64:, 24:25] - truth).square().mean())
    slope = v[64:, 24:25] - v[64:, 23:24]
    line = float((v[64:, 24:25] + slope * torch.arange(1, 16)[:, None] - truth).square().mean())
    constant = float((v[:64].mean((0, 1)) - truth).square().mean())
    assert error < 0.7 * min(last, line, constant)


def test_transitions_of_equal_steps_are_shared():
    process = FreeLinear(3, generator=generator(0, "p"))
    A, Q = process.transition(torch.full((2, 5), 0.7, dtype=F64))
    assert bool((A[0, 0] == A).all())
    assert bool((torch.linalg.eigvalsh(Q[0, 0]) > 0).all())
