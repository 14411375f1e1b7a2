"""The latent state-space model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, move, sample_batch, stream, terms_of

import sciinfer as si
from sciinfer.errors import ConfigError, DataError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.ls4 import ls4
from sciinfer.models.ls4_rows import gaps_around, merge
from sciinfer.random import generator

F64 = torch.float64
TINY = {"width": 8, "states": 4, "latent": 2}


def _regular(S=2, T=120, seed=0):
    g = generator(seed, "data")
    time = 0.25 * torch.arange(T, dtype=F64)
    values = torch.sin(time[None, :, None] + torch.arange(2) + torch.rand(S, 1, 1, generator=g, dtype=F64) * 6)
    noisy = values + 0.1 * torch.randn(S, T, 2, generator=g, dtype=F64)
    noisy[0, 3, 1] = torch.nan
    return SeriesBatch.of([time] * S, list(noisy))


@pytest.mark.parametrize("options", [{}, {"layers": 2, "likelihood": "student-t", "hide": 0.0, "warmup": 0.0}])
def test_walk(options):
    check_model(lambda seed=0: ls4(SCHEMA, seed=seed, **TINY, **options), sample_batch())


def test_fit_save_load_predict(tmp_path):
    t = np.linspace(0, 5, 12)
    y = np.sin(t + np.arange(3)[:, None])
    y[1, 4] = np.nan
    ds = xr.Dataset({"y": (("series", "time"), y)}, coords={"series": list("abc"), "time": t})
    fitted = si.fit(ds, model="ls4", options=TINY, training={"steps": 3}, progress="silent")
    fitted.save(tmp_path / "run")
    one, two = (f.predict(time=[2.2, 6.0], draws=3) for f in (fitted, si.load(tmp_path / "run")))
    xr.testing.assert_identical(one["posterior_predictive"].to_dataset(), two["posterior_predictive"].to_dataset())


def test_convolution_and_recurrence_give_the_same_bound_and_gradient():
    batch = _regular()
    models = [move(ls4(SCHEMA, mode=mode, layers=2, **TINY)) for mode in ("conv", "scan", "auto")]
    losses = [model.loss(batch, generator=stream("loss")).value for model in models]
    terms = [terms_of(model, batch) for model in models]
    for other in (1, 2):
        torch.testing.assert_close(terms[other], terms[0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(losses[other], losses[0], rtol=1e-8, atol=1e-8)
    for loss in losses[:2]:
        loss.backward()
    for (name, one), two in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-7, atol=1e-8, msg=name)


def test_the_convolution_mode_says_when_it_cannot():
    with pytest.raises(DataError, match="mode"):
        ls4(SCHEMA, mode="conv", **TINY).loss(sample_batch(), generator=stream("loss"))


def test_one_row_at_a_time_equals_all_at_once():
    prior = move(ls4(SCHEMA, layers=2, **TINY)).prior
    g = generator(0, "z")
    time = torch.rand(3, 6, generator=g, dtype=F64).cumsum(1)
    z = torch.randn(3, 6, 2, generator=g, dtype=F64)
    rows = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])
    time = torch.where(rows, time, time.masked_fill(~rows, -1).amax(1, keepdim=True))
    with torch.no_grad():
        whole = prior.contexts(time, z, rows, None)
        past = prior.begin(time[:, 0], 2)
        for k in range(6):
            one = prior.look(past, time[:, k])
            for part, all_ in zip(one, whole[:3], strict=True):
                torch.testing.assert_close(part[rows[:, k]], all_[:, k][rows[:, k]], rtol=1e-11, atol=1e-11)
            past = prior.push(past, time[:, k], z[:, k], rows[:, k])


def test_divergence_is_that_of_the_normal_laws():
    """One row: the prior's start is N(0, 1) with a fresh net, so the divergence is known."""
    model = ls4(SCHEMA, **TINY)
    batch = sample_batch(lengths=(1,))
    padded = batch.padded()
    with torch.no_grad():
        mean, sd = model.posterior(padded.time, padded.values, padded.mask, None)
        q, p = torch.distributions.Normal(mean, sd), torch.distributions.Normal(0.0, 1.0)
        expected = torch.distributions.kl_divergence(q, p).sum()
        torch.testing.assert_close(terms_of(model, batch)[0, 1], expected)


def test_rollouts_ten_times_beyond_stay_within_bounds():
    model = move(ls4(SCHEMA, **TINY), 0.2)
    times = torch.arange(300, dtype=F64)
    with torch.no_grad():
        z = model.generate(times, draws=64, generator=stream("long")).latent[:, 0]
    assert bool(torch.isfinite(z).all())
    early, late = z[:, 100:200].std((0, 1)), z[:, 200:].std((0, 1))
    torch.testing.assert_close(late / early, torch.ones_like(early), rtol=0, atol=0.2)


def test_data_and_questions_in_one_order():
    padded = sample_batch(lengths=(3, 2)).padded()
    end = padded.time[0, -1]
    times = torch.stack([torch.stack([end + 1, padded.time[0, 1], end]), torch.tensor([9.0, -1.0, 8.0], dtype=F64)])
    merged = merge(padded, times)
    assert bool((merged.time.diff(dim=1) >= 0).all())
    torch.testing.assert_close(merged.time.gather(1, merged.query), times)
    assert merged.ahead.gather(1, merged.query).tolist() == [[True, False, False], [True, False, True]]
    assert int(merged.mask.sum()) == int(padded.mask.sum())
    assert merged.rows.sum(1).tolist() == [6, 5]
    # a datum comes before a question at the same time
    assert not bool(merged.mask[0].any(-1)[merged.query[0, 1]])
    assert bool(merged.mask[0].any(-1)[merged.query[0, 1] - 1])


def test_freshness_of_the_data_around_a_row():
    time = torch.tensor([[0.0, 1.0, 3.0, 4.0]], dtype=F64)
    found = gaps_around(time, torch.tensor([[False, True, False, False]]))
    expected = [[0.0, 0.5], [1.0, 1.0], [1 / 3, 0.0], [0.25, 0.0]]
    torch.testing.assert_close(found[0], torch.tensor(expected, dtype=F64))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"latent": 0}, "latent"),
        ({"states": 0}, "states"),
        ({"mode": "fast"}, "auto, conv, scan"),
        ({"hide": 1.5}, "hide"),
        ({"warmup": -1}, "warmup"),
        ({"noise": 0}, "noise"),
    ],
)
def test_options_that_make_no_sense(options, says):
    with pytest.raises(ConfigError, match=says):
        ls4(SCHEMA, **options)


@pytest.mark.slow
def test_it_learns_to_forecast_and_to_fill_gaps():
    data = _regular(S=48, T=60)
    full = data.values.view(48, 60, 2)
    model = ls4(SCHEMA, width=24, latent=4)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.initialise(data)
    for step in range(600):
        optimiser.zero_grad()
        chosen = torch.randperm(40, generator=generator(step, "batch"))[:16]
        found = model.loss(data.select(chosen), generator=generator(step, "loss"), progress=step / 600)
        found.value.backward()
        optimiser.step()
    model.eval()
    test = data.select(list(range(40, 48)))
    position = torch.arange(60).repeat(8)
    kept = test.keep((position < 25) | ((position >= 31) & (position < 52)))
    asked = torch.cat([torch.arange(25, 31), torch.arange(52, 60)])
    with torch.no_grad():
        times = (0.25 * asked.to(F64)).expand(8, -1)
        found = model.predict(kept, times, draws=200, generator=stream("test"))
    error = (found.signal.mean(0) - full[40:, asked]).square().mean((0, 2))
    gap, ahead = float(error[:6].mean()), float(error[6:].mean())
    last = float((full[40:, 51:52] - full[40:, 52:]).square().mean())
    constant = float(full[40:, asked].square().mean())
    assert gap < 0.3 * constant
    assert ahead < 0.6 * min(constant, last)
    spread = found.observation.std(0).mean((0, 2))
    assert float(spread[-1]) > float(spread[6])  # a forecast widens
