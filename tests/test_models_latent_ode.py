"""The latent ODE: the common checks, its parts against closed forms, a fit from end to end, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream, terms_of

import sciinfer as si
from sciinfer.errors import BudgetError, ConfigError, NumericalError
from sciinfer.integrate import odeint
from sciinfer.integrate.flow import flow
from sciinfer.integrate.tsit5 import TSIT5
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.grids import pad_for
from sciinfer.models.latent_ode import latent_ode
from sciinfer.nets.prefix import PrefixEncoder
from sciinfer.random import generator, numpy_generator
from sciinfer.training.adam import Adam

F64 = torch.float64
SMALL = {"latent": 2, "hidden": 6, "width": 8}
CASES = [
    {},
    {"order": 2, "decoder": "mlp", "encoder": "attention"},
    {"order": 2, "likelihood": "student-t", "solver": "tsit5", "rtol": 1e-6},
    {"likelihood": "poisson", "gradient": "checkpoint", "regularise": "local"},
    {"dynamics": "oscillators", "decoder": "mlp", "planes": 2, "crop": True},
    {"dynamics": "oscillators", "encoder": "prefix", "history": 3, "doubt": 0.1},
    {"likelihood": "bernoulli", "solver": "dopri5", "regularise": "global", "gradient": "checkpoint"},
]


def _build(seed=0, **options):
    return latent_ode(SCHEMA, seed=seed, **{**SMALL, **options})


@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(map(str, o.values())) or "default")
def test_common_checks(options):
    batch = sample_batch(options.get("likelihood", "gaussian"))
    check_model(lambda seed=0: _build(seed, **options), batch)


# --- oscillators


def test_oscillators_turn_as_their_equation_says():
    field = latent_ode(SCHEMA, dynamics="oscillators", planes=2, latent=1).process
    z0 = torch.randn(1, 3, field.dim, generator=generator(0, "z"), dtype=F64)
    start, times = torch.zeros(3, dtype=F64), torch.linspace(-2, 9, 5, dtype=F64).expand(3, 5)
    solved = flow(field.drift, z0[0], start, times, solver=TSIT5, rtol=1e-10, atol=1e-10).z
    torch.testing.assert_close(field.solution(z0, start, times)[0], solved, rtol=1e-7, atol=1e-7)


def test_a_prefix_is_read_as_level_slope_and_bend_whatever_is_missing():
    t = torch.tensor([0.0, 0.7, 1.5, 2.0], dtype=F64)
    y = torch.stack([1 + 2 * t - 0.5 * t**2, 3 - t], -1)
    y[1, 0] = float("nan")
    encoder = latent_ode(SCHEMA, encoder="prefix").encoder
    level, slope, bend = encoder._fit(SeriesBatch.of([t], [y]).padded())
    middle = float(t.mean())
    torch.testing.assert_close(bend, torch.tensor([[-0.5, 0.0]], dtype=F64), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(slope, torch.tensor([[2 - middle, -1.0]], dtype=F64), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(level[0, 1], torch.tensor(3 - middle, dtype=F64), rtol=1e-2, atol=1e-2)


def test_the_start_comes_from_the_history_alone():
    model, batch = _build(encoder="prefix", history=3), sample_batch(lengths=(8,))
    changed = batch._replace(values=batch.values + (torch.arange(8) >= 4)[:, None])
    for mine, other in zip(model.infer(pad_for(batch)), model.infer(pad_for(changed)), strict=True):
        assert torch.equal(mine, other)


def test_cropping_is_for_training_alone():
    model, batch = _build(crop=True, encoder="prefix", history=3), sample_batch(lengths=(8, 6))
    plain = _build(encoder="prefix", history=3).eval()
    found = [float(model.train(mode).loss(batch, generator=stream("c")).value.detach()) for mode in (True, False)]
    whole = float(plain.loss(batch, generator=stream("c")).value.detach())
    assert found[1] == pytest.approx(whole, rel=1e-12)
    assert found[0] != pytest.approx(whole, rel=1e-3)


def test_short_series_and_many_channels_set_the_directions_too():
    """Ragged series and no history: all are looked at, so that what moves most is seen, wherever it stands."""
    g, channels = generator(0, "wide"), 20
    scale = torch.full((channels,), 0.01, dtype=F64)
    scale[-1] = 1.0
    lengths = (9, 6, 5, 3, 1)
    times = [torch.arange(n, dtype=F64) for n in lengths]
    values = [scale * torch.randn(channels, generator=g, dtype=F64).expand(n, -1) for n in lengths]
    encoder = PrefixEncoder(channels, 4, generator=generator(0, "e"))
    encoder.initialise(SeriesBatch.of(times, values), 9)
    assert float(encoder.get_buffer("directions")[-1].abs().max()) > 0.99


def _cycles(series, rows=90, seed=0):
    rng = numpy_generator(seed, "cycles")
    t = np.arange(rows) * 1.0
    phase = rng.uniform(0, 2 * np.pi, (series, 1)) + 2 * np.pi * t / (25 * np.exp(0.03 * rng.normal(size=(series, 1))))
    shape = np.stack([np.cos(phase), np.sin(phase + 0.5 * np.cos(phase)), np.cos(2 * phase)], -1)
    return xr.Dataset({"y": (("series", "time", "joint"), shape + 0.02 * rng.normal(size=shape.shape))}, {"time": t})


@pytest.mark.slow
def test_oscillators_forecast_cycles_from_three_rows():
    options = {"dynamics": "oscillators", "encoder": "prefix", "history": 3, "crop": True}
    options |= {"decoder": "mlp", "latent": 1, "curriculum": 0.0, "warmup": 0.5}
    training = {"steps": 1000, "validation": 0.0, "learning_rate": 5e-3}
    fitted = si.fit(_cycles(24), "latent-ode", options=options, training=training, progress="silent")
    scores = fitted.score(_cycles(12, seed=1), after=2.0)
    mse = scores["rmse_normalised"].sel(channel="all").to_series() ** 2
    # an autoregression is the right model of these harmonics: 0.270 against 0.276 here
    assert mse["model"] < 0.5 * mse.drop(["model", "pca_var"]).min()
    assert mse["model"] < 1.2 * mse["pca_var"]


# --- the solution map


def test_flow_goes_both_ways_in_any_order():
    z0, start = torch.ones(2, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    times = torch.tensor([[2.0, -1.0, 0.0, 0.5], [0.0, 3.0, 1.0, 1.0]], dtype=F64)
    for how in ({"step": 0.05}, {"solver": TSIT5, "rtol": 1e-9, "atol": 1e-9}):
        z = flow(lambda t, z: -z, z0, start, times, **how).z
        torch.testing.assert_close(z[..., 0], torch.exp(start[:, None] - times), rtol=1e-6, atol=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    turned = flow(lambda t, z: -z, z0, start, times[:, order], step=0.05).z
    assert torch.equal(turned, flow(lambda t, z: -z, z0, start, times, step=0.05).z[:, order])


def test_flow_does_not_depend_on_what_else_is_asked():
    z0, start = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    few = flow(lambda t, z: -(z**3), z0, start, torch.tensor([[0.77]], dtype=F64), step=0.25).z
    many = flow(lambda t, z: -(z**3), z0, start, torch.tensor([[0.1, 5.0, 0.77]], dtype=F64), step=0.25).z
    torch.testing.assert_close(few[:, 0], many[:, 2], rtol=1e-14, atol=1e-14)


def test_flow_names_what_went_wrong():
    z0, start, far = torch.ones(2, 1, dtype=F64), torch.zeros(2, dtype=F64), torch.full((2, 1), 50.0, dtype=F64)
    rate = torch.tensor([0.0, 30.0], dtype=F64)

    def explode(t, z):
        return z**3 * (rate[:, None] if len(z) == 2 else 30.0)

    with pytest.raises(NumericalError) as caught:
        flow(explode, z0, start, far, step=1.0)
    assert caught.value.index == 1
    with pytest.raises(BudgetError):
        flow(lambda t, z: -z, z0, start, far, step=1.0, max_steps=20)


# --- the model's parts


@pytest.mark.parametrize("order", [1, 2])
def test_fixed_and_adaptive_steps_agree(order):
    batch = sample_batch()
    fixed = move(_build(order=order, step=0.05))
    adaptive = _build(order=order, solver="tsit5", rtol=1e-9)
    adaptive.load_state_dict(fixed.state_dict())
    torch.testing.assert_close(terms_of(fixed, batch), terms_of(adaptive, batch), rtol=1e-6, atol=1e-6)


def test_a_second_order_equation_is_one():
    model = move(_build(order=2))
    z, t = torch.randn(7, 4, generator=generator(0, "z"), dtype=F64), torch.zeros(7, dtype=F64)
    slope = model.process.drift(t, z)
    assert torch.equal(slope[:, :2], z[:, 2:])
    # without its network it is a damped oscillator
    with torch.no_grad():
        for p in model.process.net.layers[-1].parameters():
            p.zero_()
    w, c = model.process.log_frequency.exp(), model.process.log_damping.exp()
    torch.testing.assert_close(model.process.drift(t, z)[:, 2:], -(w**2) * z[:, :2] - c * z[:, 2:])


def test_the_bound_is_the_evidence_of_a_linear_equation():
    """One latent dim, all linear: with the exact posterior of the start, the ELBO is the log-likelihood."""
    model, batch = _build(latent=1, solver="tsit5", rtol=1e-8), sample_batch(lengths=(8,))
    padded = pad_for(batch)
    t = padded.time[0] - padded.time[0, 0]
    a = model.process.linear.drift_matrix.detach()[0, 0]
    W, b = model.decoder.weight.detach()[:, 0], model.decoder.bias.detach()
    keep = padded.mask[0].reshape(-1)
    H = (torch.exp(a * t)[:, None] * W).reshape(-1)[keep]
    y = (padded.values[0] - b).reshape(-1)[keep]
    R = model.likelihood.noise.detach().square().expand(len(t), 2).reshape(-1)[keep]
    S = torch.diag(R) + H[:, None] * H  # N(0, 1) at the start
    exact = torch.distributions.MultivariateNormal(torch.zeros_like(y), S).log_prob(y)
    precision = 1 + (H * H / R).sum()
    mean, sd = (H * y / R).sum() / precision, precision.rsqrt()
    model.infer = lambda _: (mean.reshape(1, 1), sd.reshape(1, 1))
    fit, start = model.elbo_terms(batch, generator=None)
    assert abs(float((fit - start).detach()[0] - exact)) < 1e-6
    draws = torch.stack([torch.stack(model.elbo_terms(batch, generator=stream("e", k))) for k in range(16)]).detach()
    spread = draws[:, 0].std() / 16**0.5
    assert abs(float(draws[:, 0].mean() - fit.detach())) < 4 * float(spread)


def test_warm_up_curriculum_and_penalty():
    batch = sample_batch()
    model = move(_build(warmup=0.5, curriculum=0.0))
    at = {p: model.loss(batch, generator=stream("w"), progress=p) for p in (0.0, 0.25, 1.0)}
    fit, start = (float(at[1.0].terms[k]) for k in ("fit", "start"))
    for progress, beta in ((0.0, 0.0), (0.25, 0.5), (1.0, 1.0)):
        assert at[progress].value.item() == pytest.approx(beta * start - fit, rel=1e-12)
    early = move(_build(warmup=0.0, curriculum=0.5))
    whole, part = (early.loss(batch, generator=stream("w"), progress=p).terms for p in (0.5, 0.0))
    assert float(part["fit"]) != float(whole["fit"])
    assert float(whole["fit"]) == pytest.approx(fit, rel=1e-12)
    for kind in ("global", "local"):
        fined = move(_build(regularise=kind, penalty=3.0, warmup=0.0, curriculum=0.0))
        loss = fined.loss(batch, generator=stream("w"))
        rest = loss.value.item() - 3.0 * float(loss.terms["solver"])
        assert float(loss.terms["solver"]) > 0
        assert rest == pytest.approx(float(loss.terms["start"] - loss.terms["fit"]), rel=1e-10)


def test_rollouts_far_beyond_the_data_stay_finite():
    for order in (1, 2):
        model = move(_build(order=order), scale=0.3)
        with torch.no_grad():
            answer = model.generate(torch.linspace(0, 400, 50, dtype=F64), draws=4, generator=stream("far"))
        assert float(answer.signal.abs().max()) < 1e3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"order": 3}, "order"),
        ({"solver": "euler"}, "tsit5"),
        ({"decoder": "deep"}, "linear, mlp"),
        ({"encoder": "lstm"}, "scan"),
        ({"regularise": "both"}, "global"),
        ({"gradient": "adjoint"}, "checkpoint"),
        ({"latent": 0}, "latent"),
        ({"step": 0.0}, "step"),
        ({"warmup": 2.0}, "warmup"),
        ({"crop": "yes"}, "crop"),
        ({"dynamics": "oscillators", "order": 2}, "order"),
        ({"dynamics": "oscillators", "regularise": "local"}, "regularise"),
        ({"doubt": 0.1}, "oscillators"),
        ({"planes": 2}, "oscillators"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        latent_ode(SCHEMA, **options)


# --- from end to end


def _swings(series=8, rows=40, noise=0.05, seed=0):
    """Damped pendulums seen from the side and from above, at irregular times, with gaps."""
    g = numpy_generator(seed, "pendulum")
    time = np.sort(g.uniform(0, 12, (series, rows)), axis=1)
    time[:, 0] = 0.0
    z0 = torch.as_tensor(np.stack([g.uniform(-2, 2, series), g.uniform(-1, 1, series)], -1))

    def pendulum(t, z):
        return torch.stack([z[..., 1], -2.0 * torch.sin(z[..., 0]) - 0.15 * z[..., 1]], -1)

    angle = odeint(pendulum, z0, torch.as_tensor(time), solver="tsit5").z[..., 0].T.numpy()
    y = np.stack([np.sin(angle), np.cos(angle)], -1) + noise * g.standard_normal((series, rows, 2))
    y[g.uniform(size=y.shape) < 0.1] = np.nan
    return time, y


def _dataset(time, y):
    return xr.Dataset(
        {"x": (("series", "row"), y[..., 0]), "height": (("series", "row"), y[..., 1])},
        coords={"time": (("series", "row"), time), "series": np.arange(len(y))},
    )


def test_fit_save_load_predict(tmp_path):
    ds = _dataset(*_swings(3, 12))
    options = {"order": 2, **SMALL, "latent": 1}
    fitted = si.fit(ds, model="latent-ode", options=options, training={"steps": 3}, time="time", progress="silent")
    fitted.save(tmp_path / "run")
    again = si.load(tmp_path / "run")
    one, other = (f.predict(time=[13.0, 0.5, 6.0], draws=5) for f in (fitted, again))
    for group in ("posterior", "posterior_predictive"):
        assert one[group].to_dataset().identical(other[group].to_dataset())
    assert "decay" in fitted.summary()


@pytest.mark.slow
def test_a_second_order_equation_learns_the_pendulum():
    """Forecast of the last third of new pendulums, against the best of constant, last value and straight line."""
    time, y = _swings(96, 40)
    scale = 12 / 40  # typical gap

    def part(rows, columns):
        return SeriesBatch.of(
            [torch.as_tensor(time[i, columns] / scale) for i in rows], [torch.as_tensor(y[i, columns]) for i in rows]
        )

    model = latent_ode(SCHEMA, order=2, latent=2, hidden=24, width=32, decoder="mlp")
    train, seen = part(range(64), slice(0, 40)), part(range(64, 96), slice(0, 26))
    model.initialise(train)
    optimiser, steps = Adam(list(model.parameters())), 300
    for k in range(steps):
        chosen = torch.randperm(64, generator=stream("batch", k))[:32]
        model.zero_grad()
        model.loss(train.select(chosen), generator=stream("loss", k), progress=k / steps).value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step(1e-2 * (1 - 0.9 * k / steps))
    later = torch.as_tensor(time[64:, 26:] / scale)
    with torch.no_grad():
        answer = model.predict(seen, later, draws=64, generator=stream("answer"))
    truth, past = y[64:, 26:], y[64:, :26]
    ours = np.nanmean((answer.signal.mean(0).numpy() - truth) ** 2)
    trivial = [np.nanmean((guess - truth) ** 2) for guess in _guesses(time[64:], past, time[64:, 26:])]
    assert ours < 0.5 * min(trivial), (ours, trivial)
    low, high = answer.observation.quantile(torch.tensor([0.05, 0.95], dtype=F64), dim=0).numpy()
    inside = np.nanmean(np.where(np.isnan(truth), np.nan, (truth >= low) & (truth <= high)))
    assert 0.75 < inside < 0.99, inside


def _guesses(time, past, later):
    """Mean of the past, last value, straight line through the past."""
    mean = np.nanmean(past, axis=1, keepdims=True)
    last = np.stack([[c[~np.isnan(c)][-1] for c in s.T] for s in past])[:, None]
    line = np.zeros((len(past), later.shape[1], 2))
    for s in range(len(past)):
        for c in range(2):
            keep = ~np.isnan(past[s, :, c])
            line[s, :, c] = np.polyval(np.polyfit(time[s, : past.shape[1]][keep], past[s, keep, c], 1), later[s])
    return mean, last, line
