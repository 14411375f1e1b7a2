"""The state-space forecaster."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream

import sciinfer as si
from sciinfer.errors import ConfigError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.s5 import s5
from sciinfer.models.s5_anchor import Anchor
from sciinfer.models.s5_density import Density
from sciinfer.models.s5_masks import around, hide
from sciinfer.models.s5_start import fit_anchor
from sciinfer.random import generator

F64 = torch.float64
TINY = {"width": 8, "states": 4, "layers": 2}
OPTIONS = [
    {},
    {"sides": "past", "jitter": 0.1},
    {"density": "student-t", "dropout": 0.2},
    {"rank": 2, "beta": 0.5},
]


def _model(**options):
    return move(s5(SCHEMA, **{**TINY, **options}))


@pytest.mark.parametrize("options", OPTIONS)
def test_walk(options):
    check_model(lambda seed=0: s5(SCHEMA, seed=seed, **TINY, **options), sample_batch())


def test_fit_save_load_predict(tmp_path):
    t = np.linspace(0, 5, 12)
    y = np.sin(t + np.arange(3)[:, None])
    y[1, 4] = np.nan
    ds = xr.Dataset({"y": (("series", "time"), y)}, coords={"series": list("abc"), "time": t})
    fitted = si.fit(ds, model="s5", options=TINY, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 6.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())


def test_what_comes_later_does_not_enter_the_likelihood_of_a_row():
    model, batch = _model(), sample_batch(lengths=(6,))
    later = batch._replace(values=torch.cat([batch.values[:4], batch.values[4:] + 3.0]))
    first = [model.log_likelihood(b.keep(b.time <= b.time[3])) for b in (batch, later)]
    torch.testing.assert_close(*first)
    assert not torch.allclose(model.log_likelihood(batch), model.log_likelihood(later))


def test_held_out_rows_are_scored_as_forecasts():
    """In evaluation the difference of two losses is the score of the last rows alone."""
    model = _model().eval()
    batch = sample_batch(lengths=(6, 9))
    early, _ = batch.split_time(0.3)
    with torch.no_grad():
        whole = model.loss(batch, generator=stream("a")).value * batch.observed
        part = model.loss(early, generator=stream("a")).value * early.observed
        far = batch._replace(values=batch.values + 9.0 * (torch.arange(15) == 14)[:, None])
        changed = model.loss(far, generator=stream("a")).value * batch.observed
    assert float(changed - whole) > 1.0  # a wild last row costs
    assert math.isfinite(float(whole - part))


def test_reading_on_equals_reading_at_once():
    model, padded = _model(), sample_batch(lengths=(7,)).padded()
    reader = model.readers[0]
    with torch.no_grad():
        whole = reader(model.anchor, padded.time, padded.values, padded.mask)
        side = None
        for k in range(7):
            cut = slice(k, k + 1)
            side = reader(model.anchor, padded.time[:, cut], padded.values[:, cut], padded.mask[:, cut], side)
            torch.testing.assert_close(side.context[:, 0], whole.context[:, k], rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(side.state[:, 0], whole.state[:, k], rtol=1e-11, atol=1e-11)
            for one, all_ in zip(side.memory, whole.memory, strict=True):
                torch.testing.assert_close(one[:, 0], all_[:, k], rtol=1e-11, atol=1e-11)


def _markov_anchor(tau):
    """An anchor whose only memory is the last value, without noise."""
    anchor = Anchor(1)
    with torch.no_grad():
        anchor.weight.zero_()
        anchor.weight[:, -1] = 1.0
        anchor.shares.fill_(-60.0)
        anchor.shares[:, -2] = 0.0
        anchor.log_last.fill_(math.log(tau))
        anchor.log_variance.fill_(math.log(1.7))
        anchor.mean.fill_(0.4)
    return anchor


def test_the_anchor_of_a_markov_channel_is_its_exact_bridge():
    tau, time, y = 3.0, torch.tensor([[0.0, 2.0]], dtype=F64), torch.tensor([[[1.5], [-0.7]]], dtype=F64)
    anchor, query = _markov_anchor(tau), torch.tensor([[0.5, 1.0, 1.9]], dtype=F64)
    seen, has = torch.ones_like(y, dtype=torch.bool), torch.ones_like(query, dtype=torch.bool)
    step = torch.tensor([[0.0, 2.0]], dtype=F64)
    with torch.no_grad():
        ahead = anchor.remember(time, step, y, seen, None)
        back = anchor.remember(-time.flip(1), step, y.flip(1), seen, None)
        zero = torch.zeros_like(query, dtype=torch.int64)
        sides = [
            anchor.recall(ahead, zero, has, query, query),
            anchor.recall(back, zero, has, 2.0 - query, -query),
        ]
        mean, variance = anchor.join(sides)
    at = torch.cat([time[0], query[0]])
    K = 1.7 * (-(at[:, None] - at).abs() / tau).exp()
    gain = K[2:, :2] @ torch.linalg.inv(K[:2, :2])
    torch.testing.assert_close(mean[0, :, 0], 0.4 + gain @ (y[0, :, 0] - 0.4), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(variance[0, :, 0], (K[2:, 2:] - gain @ K[:2, 2:]).diagonal(), rtol=1e-9, atol=1e-9)


def test_spread_grows_with_the_horizon_to_the_channels_own():
    g = np.random.default_rng(0)
    paths = np.zeros((24, 60))
    for k in range(1, 60):
        paths[:, k] = 0.9 * paths[:, k - 1] + np.sqrt(1 - 0.81) * g.normal(size=24)
    time = torch.arange(60, dtype=F64)
    batch = SeriesBatch.of([time] * 24, [torch.as_tensor(p)[:, None] for p in paths])
    model = s5(_one_channel(), **TINY)
    model.initialise(batch)
    ahead = torch.tensor([[60.0, 62.0, 70.0, 150.0]], dtype=F64).expand(24, -1)
    with torch.no_grad():
        found = model.predict(batch, ahead, draws=2, generator=stream("p"))
    sd = found.variance.sqrt().mean(0)[:, 0]
    assert bool((sd.diff() > 0).all())
    # the truth: sd sqrt(1 - 0.81^h), mean 0.9^h of the last value
    assert float(sd[0]) == pytest.approx(math.sqrt(1 - 0.9**2), rel=0.25)
    assert float(sd[-1]) == pytest.approx(float(batch.values.std()), rel=0.1)
    slope = (found.mean[:, 0, 0] @ batch.values.view(24, 60)[:, -1]) / batch.values.view(24, 60)[:, -1].square().sum()
    assert float(slope.detach()) == pytest.approx(0.9, abs=0.12)


def _one_channel():
    return SCHEMA.__class__(SCHEMA.time, SCHEMA.series, SCHEMA.variables[:1], SCHEMA.channels[:1])


def test_the_quick_fit_of_the_anchor_lowers_its_loss_and_leaves_rare_channels_alone():
    anchor, batch = Anchor(2), sample_batch(lengths=(9, 9))
    rare = batch._replace(mask=torch.stack([batch.mask[:, 0], torch.zeros(18, dtype=torch.bool)], -1))
    fit_anchor(anchor, rare)
    assert all(bool(torch.isfinite(p).all()) for p in anchor.parameters())
    torch.testing.assert_close(anchor.weight[1], torch.full((4,), 0.25, dtype=F64), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rank", [0, 2])
def test_density_of_a_row_is_the_dense_normal_one(rank):
    law = Density(4, "gaussian", rank, generator=generator(0, "law"))
    g = generator(1, "rows")
    y, mean = (torch.randn(3, 4, generator=g, dtype=F64) for _ in range(2))
    scale = 0.5 + torch.rand(3, 4, generator=g, dtype=F64)
    mask = torch.tensor([[True, True, True, True], [True, False, True, False], [False] * 4])
    found = law.log_prob(y, mean, scale, mask).detach()
    R = torch.eye(4, dtype=F64)
    if rank:
        loadings, own = law._rows()
        R = (torch.diag(own) + loadings @ loadings.mT).detach()
        torch.testing.assert_close(R.diagonal(), torch.ones(4, dtype=F64))
    for k, keep in enumerate(mask):
        cov = (scale[k][:, None] * R * scale[k])[keep][:, keep]
        ref = stats.multivariate_normal(mean[k][keep], cov).logpdf(y[k][keep]) if bool(keep.any()) else 0.0
        assert float(found[k]) == pytest.approx(float(ref), rel=1e-10, abs=1e-12)


def test_heavy_tails_are_students():
    law = Density(2, "student-t", 0, generator=generator(0, "law"))
    y, scale = torch.tensor([[0.3, 4.0]], dtype=F64), torch.tensor([[0.5, 2.0]], dtype=F64)
    found = law.log_prob(y, torch.zeros_like(y), scale, torch.ones_like(y, dtype=torch.bool))
    ref = sum(stats.t(6.0, scale=s).logpdf(v) for v, s in zip(y[0].tolist(), scale[0].tolist(), strict=True))
    assert float(found.detach()) == pytest.approx(ref, rel=1e-12)


@pytest.mark.parametrize("options", OPTIONS[1:])
def test_draws_have_the_stated_moments(options):
    model, batch = _model(**options), sample_batch()
    times = torch.tensor([[1.0, 5.0]], dtype=F64).expand(3, 2)
    with torch.no_grad():
        found = model.predict(batch, times, draws=4000, generator=stream("many"))
    sd = found.variance.sqrt()
    assert float(((found.observation.mean(0) - found.mean).abs() / sd).max()) < 0.09
    torch.testing.assert_close(found.observation.std(0) / sd, torch.ones_like(sd), rtol=0, atol=0.12)
    assert bool((found.signal.std(0) < found.observation.std(0)).all())


def test_correlated_channels_are_drawn_correlated():
    model = _model(rank=1)
    with torch.no_grad():
        model.density.loading.fill_(3.0)
        times = torch.tensor([[1.0]], dtype=F64).expand(3, 1)
        found = model.predict(sample_batch(), times, draws=2000, generator=stream("many")).observation[:, 0, 0]
    assert float(torch.corrcoef(found.T)[0, 1]) == pytest.approx(0.9, abs=0.03)


def test_what_is_hidden_and_from_where_it_is_filled_in():
    padded = sample_batch(lengths=(30, 12, 1)).padded()
    for attempt in range(8):
        seen = hide(padded.mask, generator(attempt, "hide"))
        assert not bool((seen & ~padded.mask).any())
        past, future, targets = around(padded, seen, generator(attempt, "around"))
        number = torch.arange(30).expand(3, 30)
        partly = (padded.mask & ~seen).any(-1)
        assert bool(((past < number) & (future > number))[~partly].all())  # a row never sees itself
        assert not bool((targets & seen)[partly].any())  # nor a hidden entry its own value
        assert bool((past >= -1).all())
        assert bool((future <= 30).all())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 0}, "width"),
        ({"layers": 1.5}, "layers"),
        ({"rank": -1}, "rank"),
        ({"sides": "left"}, "both, past"),
        ({"density": "cauchy"}, "gaussian, student-t"),
        ({"density": "student-t", "rank": 1}, "rank=0"),
        ({"dropout": 1.0}, "dropout"),
        ({"beta": 2.0}, "beta"),
        ({"floor": 0.0}, "floor"),
    ],
)
def test_options_that_make_no_sense(options, says):
    with pytest.raises(ConfigError, match=says):
        s5(SCHEMA, **options)


@pytest.mark.slow
def test_it_learns_to_beat_the_trivial_forecasts():
    """Noisy oscillations of unknown phase and common frequency, irregular times, a fifth missing."""
    g = np.random.default_rng(0)
    time = np.sort(g.uniform(0, 20, (60, 50)), axis=1)
    phase = g.uniform(0, 2 * np.pi, (60, 1))
    y = np.stack([np.sin(1.1 * time + phase), np.cos(1.1 * time + phase)], -1) + 0.1 * g.normal(size=(60, 50, 2))
    y[g.random(y.shape) < 0.2] = np.nan
    t, v = torch.as_tensor(time), torch.as_tensor(y)
    train = SeriesBatch.of(list(t[:48]), list(v[:48]))
    model = s5(SCHEMA, width=24, states=12)
    model.initialise(train)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300):
        optimiser.zero_grad()
        chosen = torch.randperm(48, generator=generator(step, "batch"))[:16]
        model.loss(train.select(chosen), generator=generator(step, "loss")).value.backward()
        optimiser.step()
    test = SeriesBatch.of(list(t[48:, :40]), list(v[48:, :40]))
    model.eval()
    with torch.no_grad():
        found = model.predict(test, t[48:, 40:], draws=400, generator=stream("test"))
    truth, asked = v[48:, 40:], ~v[48:, 40:].isnan()
    error = float((found.mean - truth)[asked].square().mean())
    constant = float(truth[asked].square().mean())
    low, high = torch.quantile(found.observation, torch.tensor([0.05, 0.95], dtype=F64), dim=0)
    covered = float(((truth >= low) & (truth <= high))[asked].double().mean())
    assert error < 0.35 * constant
    assert 0.75 <= covered <= 0.98
