"""Physics with unknown parameters: the shared checks, the exact linear case, recovery, an honest remainder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.errors import BudgetError, ConfigError, NumericalError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.exact import ExactPathModel
from sciinfer.models.physics_sde import physics_sde
from sciinfer.processes import Parameter, Physics, register_physics
from sciinfer.processes.linear import KnownLinear

F64 = torch.float64
TINY = {"remainder": 3, "iterations": 2}


def _decay(t, z, p):
    return -p["rate"][..., None] * z


DECAY = Physics(("x",), {"rate": Parameter(0.8)}, _decay)


@pytest.mark.parametrize(
    "name",
    ["lotka-volterra", *(pytest.param(n, marks=pytest.mark.slow) for n in ("damped-pendulum", "van-der-pol"))],
)
def test_the_shared_checks(name):
    # a wild start makes the linearisation of a chaotic guess sensitive to the last bits: moved less far
    check_model(lambda seed=0: physics_sde(SCHEMA, seed=seed, physics=name, **TINY), sample_batch(), moved=0.05)


def _line_schema(scale=1.0):
    axis = TimeAxis("t", "number", 0.0, scale)
    return Schema(time=axis, series="series", variables=(Variable("x"),), channels=(Channel("x"),))


def _fix(model, *, spread, noise, sd=None):
    with torch.no_grad():
        model.process.log_spread.fill_(np.log(spread))
        model.likelihood.log_noise.fill_(np.log(noise - 1e-4))
        if sd is not None:
            model.process.log_sd.fill_(np.log(sd))


def test_a_linear_drift_is_exact():
    """Ornstein-Uhlenbeck with known numbers: the likelihood equals the engine's with exact transitions."""
    model = physics_sde(_line_schema(), physics=DECAY, remainder=0, step=0.02, iterations=1)
    _fix(model, spread=0.5, noise=0.3, sd=1e-9)
    batch = sample_batch(lengths=(6, 9))
    batch = batch._replace(values=batch.values[:, :1], mask=batch.mask[:, :1])
    one = torch.ones(1, 1, dtype=F64)
    exact = ExactPathModel(KnownLinear(-0.8 * one, (0.25 + 1e-8) * one, one), _identity(), model.likelihood)
    with torch.no_grad():
        torch.testing.assert_close(model.log_likelihood(batch), exact.log_likelihood(batch), rtol=1e-4, atol=1e-4)
        # both after the first datum: before it nothing says where the start of the other model is
        times = torch.tensor([[2.0, 3.5]], dtype=F64).expand(2, 2)
        assert float(batch.time[batch.offsets[:-1]].max()) < 2.0
        draws = model.predict(batch, times, draws=20000, generator=stream("p"))
        answer = exact.predict(batch, times, draws=1, generator=stream("p"))
    torch.testing.assert_close(draws.observation.mean(0), answer.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(draws.observation.var(0), answer.variance, rtol=0.05, atol=0)


def _identity():
    from sciinfer.nets import LinearDecoder
    from sciinfer.random import generator

    decoder = LinearDecoder(1, 1, generator=generator(0, "d"))
    with torch.no_grad():
        decoder.weight.fill_(1.0)
    return decoder


@pytest.mark.slow
def test_the_parameter_posterior_is_that_of_a_grid():
    """One rate, many data: mean and sd of q equal those of a grid over the same likelihood times the prior."""
    model = physics_sde(_line_schema(), physics=DECAY, remainder=0, iterations=1)
    _fix(model, spread=0.4, noise=0.1)
    g, t = np.random.default_rng(0), np.arange(0.0, 40.0, 0.5)
    x, a = np.zeros((8, len(t))), np.exp(-1.1 * 0.5)
    for k in range(1, len(t)):
        x[:, k] = a * x[:, k - 1] + 0.4 * np.sqrt((1 - a**2) / 2.2) * g.standard_normal(8)
    y = torch.as_tensor(x + 0.1 * g.standard_normal(x.shape))[..., None]
    batch = SeriesBatch.of([torch.as_tensor(t)] * 8, list(y))
    u = torch.linspace(-0.6, 1.0, 41, dtype=F64)
    with torch.no_grad():
        logs = []
        model.process.log_sd.fill_(-12.0)
        for value in u:
            model.process.mean.fill_(float(value))
            logs.append(float(model.log_likelihood(batch).sum()) - 0.5 * float(value) ** 2)
        weight = torch.softmax(torch.tensor(logs, dtype=F64), 0)
        mean = float((weight * u).sum())
        sd = float((weight * (u - mean).square()).sum().sqrt())
        model.process.mean.fill_(0.0)
        model.process.log_sd.fill_(-2.0)
    free = [model.process.mean, model.process.log_sd]
    optimiser = torch.optim.LBFGS(free, max_iter=12, line_search_fn="strong_wolfe")

    def objective():
        optimiser.zero_grad()
        value = model.loss(batch, generator=stream("l")).value * batch.observed
        value.backward()
        return value

    optimiser.step(objective)
    assert float(model.process.mean.detach()) == pytest.approx(mean, abs=0.15 * sd)
    assert float(model.process.log_sd.detach().exp()) == pytest.approx(sd, rel=0.15)


def test_units_do_not_matter():
    """Parameters are those of the caller's own time and state, whatever the model's units are."""
    fast = physics_sde(_line_schema(0.1), physics=DECAY, remainder=0)
    slow = physics_sde(_line_schema(), physics=DECAY, remainder=0)
    z, t = torch.ones(2, 1, dtype=F64), torch.zeros(2, dtype=F64)
    with torch.no_grad():
        torch.testing.assert_close(fast.process.drift(t, z), 0.1 * slow.process.drift(t, z))
        torch.testing.assert_close(slow.process.drift(t, z), torch.full((2, 1), -0.8, dtype=F64))


def test_a_time_before_the_data_changes_nothing_and_runs_the_equation_backwards():
    """The learned start holds at the first datum: a decay was larger before it, by the inverse of its flow."""
    model = physics_sde(_line_schema(), physics=DECAY, remainder=0, step=0.1)
    _fix(model, spread=1e-3, noise=0.05, sd=1e-9)
    t = torch.linspace(0.0, 3.0, 13, dtype=F64)
    batch = SeriesBatch.of([t], [(-0.8 * t).exp()[:, None]])
    times = torch.tensor([[-1.0, 0.0, 1.5, -0.5]], dtype=F64)
    with torch.no_grad():
        model.process.start_mean.fill_(1.0)
        model.process.log_start.fill_(-6.0)
        draws = model.predict(batch, times, draws=200, generator=stream("early")).signal[:, 0, :, 0]
    expected = (-0.8 * times[0]).exp()
    torch.testing.assert_close(draws.mean(0), expected, rtol=0, atol=0.02)
    with pytest.raises(BudgetError, match="steps"):
        model.predict(batch, times - 1e6, draws=1, generator=stream("early"))


def test_paths_that_leave_the_numbers_are_refused():
    blind = Physics(("x",), {"k": Parameter()}, lambda t, z, p: z * torch.where(t > 2.0, torch.nan, 0.0)[..., None])
    model = physics_sde(_line_schema(), physics=blind, remainder=0)
    with torch.no_grad(), pytest.raises(NumericalError, match="finite"):
        model.generate(torch.tensor([0.0, 4.0], dtype=F64), draws=2, generator=stream("nan"))


def test_channels_find_their_states():
    labels = [Channel("y", (1,), "y[state=predator]", None, 2.0, 3.0), Channel("y", (0,), "y[state=prey]")]
    schema = Schema(SCHEMA.time, "series", (Variable("y"),), tuple(labels))
    model = physics_sde(schema)
    assert model.get_buffer("H").tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert model.process.get_buffer("centre").tolist() == [0.0, 2.0]
    partly = physics_sde(_line_schema(), observe=["predator"])
    assert partly.get_buffer("H").tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"physics": "warp-drive"}, "register_physics"),
        ({"observe": ["prey", "wolf"]}, "prey, predator"),
        ({"remainder": -1}, "remainder"),
        ({"honesty": -1.0}, "honesty"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        physics_sde(SCHEMA, **options)


def _tiny_data():
    t = np.array([0.0, 0.4, 1.1, 2.0, 2.2, 3.1, 4.0])
    return xr.Dataset({"x": (("series", "t"), np.exp(-t) + 0.1 * np.arange(2)[:, None])}, coords={"t": t})


def test_fit_save_load_predict_of_registered_physics(tmp_path, monkeypatch):
    from sciinfer.models import physics_sde as models
    from sciinfer.processes import physics as module

    monkeypatch.setattr(module, "_KNOWN", dict(module._KNOWN))
    monkeypatch.setattr(models, "_FIRST", 3)
    register_physics("decay", DECAY)
    options = {"physics": "decay", **TINY}
    fitted = si.fit(_tiny_data(), model="physics-sde", options=options, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "m")
    ask = {"time": [0.5, 3.0, 6.0], "draws": 4}
    first, again = fitted.predict(**ask), si.load(tmp_path / "m").predict(**ask)
    xr.testing.assert_identical(first["posterior"].to_dataset(), again["posterior"].to_dataset())
    assert "rate[95%]" in fitted.model.summary()
    module._KNOWN.pop("decay")
    with pytest.raises(ConfigError, match="register_physics"):
        si.load(tmp_path / "m")


def test_code_is_not_saved(tmp_path):
    with pytest.raises(ConfigError, match="physics"):
        si.fit(_tiny_data(), model="physics-sde", options={"physics": DECAY}, out=tmp_path / "m", progress="silent")


def test_the_penalty_tells_a_remainder_from_none():
    model, batch = physics_sde(SCHEMA, remainder=4), sample_batch()
    padded = batch.padded()
    grid, at = model._grid(padded.time)
    with torch.no_grad():
        path = model.nominal(padded, grid, at)
        assert [float(part) for part in model.contribution(grid, path)] == [0.0, 0.0]
        share, gap = move(model).contribution(grid, path)
    assert float(share) > 0.01
    assert float(gap) > 0


def _gappy(seed):
    """The benchmark's predator and prey, 90 of 151 times, 30 % of the entries missing, nothing for four seconds."""
    ds = si.open_dataset("lotka_volterra", duration=30.0, rate=5.0, seed=seed, missing=0.3)
    keep = np.sort(np.random.default_rng(seed).choice(ds.sizes["time"], 90, replace=False))
    return ds.isel(time=keep[(keep < 70) | (keep > 90)])


@pytest.mark.slow
@pytest.mark.parametrize("remainder", [0, 16])
def test_lotka_volterra_is_recovered_from_irregular_gappy_data(remainder):
    options = {"physics": "lotka-volterra", "remainder": remainder}
    fitted = si.fit(_gappy(0), model="physics-sde", options=options, progress="silent")
    truth = {"alpha": 2 / 3, "beta": 4 / 3, "delta": 1.0, "gamma": 1.0}
    for name, (median, low, high) in fitted.model.parameters_table().items():
        assert low < truth[name] < high, name
        assert abs(median - truth[name]) < 0.05
        assert high - low < 0.5
    assert fitted.history.terms["share"][-1] < 0.05


def _without_predation(t, z, p):
    prey, predator = z.unbind(-1)
    return torch.stack([p["alpha"] * prey, p["delta"] * prey * predator - p["gamma"] * predator], dim=-1)


@pytest.mark.slow
def test_the_remainder_learns_a_missing_term(monkeypatch):
    from sciinfer.processes import physics as module

    monkeypatch.setattr(module, "_KNOWN", dict(module._KNOWN))
    known = {n: Parameter(v, spread=0.1) for n, v in (("alpha", 2 / 3), ("delta", 1.0), ("gamma", 1.0))}
    register_physics("no-predation", Physics(("prey", "predator"), known, _without_predation))
    ds = _gappy(0)
    fitted = si.fit(
        ds, model="physics-sde", options={"physics": "no-predation"}, training={"steps": 100}, progress="silent"
    )
    process = fitted.model.process
    y = ds["y"].values[0]
    z = torch.as_tensor(y[~np.isnan(y).any(1)])
    x = (z - process.centre) / process.scale
    t = torch.zeros(len(x), dtype=F64)
    with torch.no_grad():
        learned, whole = process.remainder(x)[:, 0], process.drift(t, x)[:, 0] * process.scale[0] / process.tau
    missing = -4 / 3 * z[:, 0] * z[:, 1]
    # what a wrong alpha leaves the net makes up for, so the whole drift is what must be right
    assert float(torch.corrcoef(torch.stack([learned, missing]))[0, 1]) > 0.9
    error = whole - (2 / 3 * z[:, 0] + missing)
    assert float(error.square().mean().sqrt()) < 0.1 * float(missing.square().mean().sqrt())
    assert fitted.history.terms["share"][-1] > 0.2
