"""Neural controlled differential equations: the log-ODE, the shared checks, long series, learning."""

from __future__ import annotations

import itertools
import time as clock

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream
from support.waves import baselines, waves

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.neural_cde import correlated, neural_cde
from sciinfer.nets.signature import log_signature, prefixes, straight
from sciinfer.processes.controlled import ControlledField, Push, push_of
from sciinfer.random import generator

F64 = torch.float64
TINY = {"latent": 4, "hidden": 6, "windows": 3}


@pytest.mark.parametrize("options", [{}, {"control": "rectilinear"}, {"control": "hermite", "depth": 1, "intensity": False}])  # fmt: skip  # noqa: E501
def test_the_shared_checks(options):
    check_model(lambda seed=0: neural_cde(SCHEMA, seed=seed, **TINY, **options), sample_batch())


def test_brackets_equal_automatic_differentiation():
    field, g = ControlledField(3, 4, 5, generator=generator(0, "f")), generator(1, "x")
    z = torch.randn((2, 4), generator=g, dtype=F64)
    step, root = torch.randn((2, 3), generator=g, dtype=F64), torch.randn((2, 3, 3), generator=g, dtype=F64)
    area = root - root.mT
    expected = torch.zeros(2, 4, dtype=F64)
    for s in range(2):
        F, D = field.columns(z[s]), torch.autograd.functional.jacobian(field.columns, z[s])  # [c, d], [c, d, d]
        expected[s] = step[s] @ F
        for a in range(3):
            for b in range(a + 1, 3):
                expected[s] += area[s, a, b] * (D[b] @ F[a] - D[a] @ F[b])
    torch.testing.assert_close(field.velocity(z, Push(step, area)), expected)


def test_depth_two_is_far_nearer_to_the_fine_solution():
    """A rough path in one window: the Levy area is what the increment alone does not tell."""
    field, g = ControlledField(2, 3, 8, generator=generator(3, "f")), generator(4, "x")
    angle = torch.linspace(0, 6 * np.pi, 601, dtype=F64)
    path = 0.25 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    steps, z = path.diff(dim=0)[None], torch.randn((1, 3), generator=g, dtype=F64)
    whole = prefixes(straight(steps))
    log = log_signature(type(whole)(whole.one[:, -1], whole.two[:, -1]))
    with torch.no_grad():
        fine = z
        for k in range(steps.shape[1]):
            fine = field.advance(fine, Push(steps[:, k], torch.zeros(1, 2, 2, dtype=F64)))
        ones = torch.ones(1, 2, dtype=F64)
        errors = [float((field.advance(z, push_of(log, ones, depth=d), 8) - fine).norm()) for d in (1, 2)]
    assert errors[1] < 0.3 * errors[0]


def test_a_long_gap_inside_the_data_does_not_blow_the_state_up():
    """One step over a stretch that is long against the memory: near the fine solution, where explicit steps explode."""
    for sign in (1.0, -1.0):
        field = ControlledField(3, 8, 16, sign=sign, generator=generator(0, "f"))
        z = torch.randn((1, 8), generator=generator(1, "z"), dtype=F64)
        push = Push(sign * torch.tensor([[7.0, 0.1, 0.2]], dtype=F64), torch.zeros(1, 3, 3, dtype=F64))
        with torch.no_grad():
            found, fine = (field.advance(z, push, steps) for steps in (1, 400))
        assert float((found - fine).norm()) < 0.5 * float(fine.norm())


def test_a_window_is_solved_to_second_order():
    field, g = ControlledField(3, 4, 8, generator=generator(0, "f")), generator(1, "x")
    z, step = torch.randn((2, 4), generator=g, dtype=F64), torch.rand((2, 3), generator=g, dtype=F64)
    root = torch.randn((2, 3, 3), generator=g, dtype=F64)
    push = Push(step, 0.3 * (root - root.mT))
    with torch.no_grad():
        fine = field.advance(z, push, 512)
        errors = [float((field.advance(z, push, n) - fine).norm()) for n in (8, 16, 32)]
    for rough, finer in itertools.pairwise(errors):
        assert 3.5 < rough / finer < 4.7


def test_ten_thousand_rows_cost_as_many_steps_as_ten():
    model = neural_cde(SCHEMA, windows=8, latent=8, hidden=16)
    g = generator(0, "long")
    calls = []
    advance = model.ahead.field.advance
    model.ahead.field.advance = lambda *a, **k: (calls.append(1), advance(*a, **k))[1]  # type: ignore[method-assign]
    seconds = {}
    for n in (10, 10_000):
        batch = SeriesBatch.of([torch.arange(n, dtype=F64)], [torch.randn((n, 2), generator=g, dtype=F64)])
        calls.clear()
        begun = clock.process_time()
        model.loss(batch, generator=stream("long")).value.backward()
        seconds[n] = clock.process_time() - begun, len(calls)
    assert seconds[10][1] == seconds[10_000][1] == 10
    assert seconds[10_000][0] < 8


def test_online_answers_do_not_read_later_values():
    model, batch = move(neural_cde(SCHEMA, control="rectilinear", **TINY)), sample_batch(lengths=(8,))
    times = torch.cat([batch.time[None, :1] - 1, batch.time[None, 3:5]], dim=1)
    late = (batch.time > float(times.max()))[:, None]
    changed = batch._replace(values=torch.where(late & batch.mask, batch.values + 5, batch.values))
    early = batch._replace(values=torch.where(batch.mask, batch.values + 5, batch.values))
    with torch.no_grad():
        a, b, c = (model.predict(x, times, draws=1, generator=stream("p")).mean for x in (batch, changed, early))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a[:, :1], c[:, :1], rtol=1e-12, atol=1e-12)


def test_draws_follow_the_stated_moments():
    x = correlated(torch.tensor([[3.0, 0.0, 1.0]], dtype=F64), 40000, 1, stream("draws"))[:, 0, :, 0]
    expected = torch.tensor([[1.0, np.exp(-3), np.exp(-2)], [np.exp(-3), 1.0, np.exp(-1)], [np.exp(-2), np.exp(-1), 1.0]])  # fmt: skip  # noqa: E501
    torch.testing.assert_close(torch.cov(x.T), expected.to(F64), rtol=0, atol=0.03)
    model, batch = move(neural_cde(SCHEMA, **TINY)), sample_batch(lengths=(6,))
    with torch.no_grad():
        answer = model.predict(batch, torch.tensor([[1.0, 9.0]], dtype=F64), draws=20000, generator=stream("p"))
    torch.testing.assert_close(answer.observation.mean(0), answer.mean, rtol=0, atol=0.04)
    torch.testing.assert_close(answer.observation.var(0), answer.variance, rtol=0.05, atol=0)


def test_fit_save_load_predict(tmp_path):
    time = np.array([0.0, 0.4, 1.1, 2.0, 2.2, 3.1, 4.0])
    ds = xr.Dataset({"y": (("series", "time"), np.sin(time + np.arange(3)[:, None]))}, coords={"time": time})
    fitted = si.fit(ds, model="neural-cde", options=TINY, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "m")
    ask = {"time": [0.5, 3.0, 6.0], "draws": 4}
    first, again = fitted.predict(**ask), si.load(tmp_path / "m").predict(**ask)
    xr.testing.assert_identical(first["posterior"].to_dataset(), again["posterior"].to_dataset())


@pytest.mark.parametrize(
    ("options", "says"), [({"depth": 3}, "1 or 2"), ({"windows": 0}, "windows"), ({"intensity": 1}, "intensity")]
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        neural_cde(SCHEMA, **options)


@pytest.mark.slow
def test_it_learns():
    """Gappy noisy waves of random phase: better than constant, last value and line in the gaps and beyond the end."""
    train, test, truth, asked = waves(n_train=200)
    fitted = si.fit(train, model="neural-cde", progress="silent")
    found = fitted.predict(test, time=asked, draws=100)["posterior_predictive"]["y"].isel(chain=0)
    error = float(((found.mean("draw").values - truth) ** 2).mean())
    assert error < min(baselines(test, asked, truth).values())
    low, high = found.quantile([0.05, 0.95], dim="draw").values
    assert 0.75 < float(((low <= truth) & (truth <= high)).mean()) <= 1.0
