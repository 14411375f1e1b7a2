"""Structured autoencoders on data of their kind: regimes recovered, states and durations, films filled."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.metrics import adjusted_rand_score

import sciinfer as si
from sciinfer.labelled.ingest import encode
from sciinfer.random import numpy_generator


def _turn(radius, angle):
    return radius * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _switching(seed, missing, S=6, T=200, C=6, noise=0.3):
    """Three regimes of a state in the plane, which turn and decay at their own pace, seen in six noisy channels."""
    g = numpy_generator(seed, "switching")
    A = [_turn(0.99, 0.15), _turn(0.98, -0.6), _turn(0.9, 1.4)]
    b = [np.zeros(2), np.array([0.2, 0.0]), np.array([-0.5, 0.5])]
    W, y, regimes = g.normal(size=(C, 2)), np.empty((S, T, C)), np.empty((S, T), dtype=int)
    for s in range(S):
        k, x = int(g.integers(3)), 2 * g.normal(size=2)
        for t in range(T):
            if g.random() < 1 / 40:
                k = int(k + 1 + g.integers(2)) % 3
            x = A[k] @ x + b[k] + 0.2 * g.normal(size=2)
            y[s, t], regimes[s, t] = W @ x + noise * g.normal(size=C), k
    y[g.random(y.shape) < missing] = np.nan
    ds = xr.Dataset({"y": (("series", "time", "channel"), y)}, coords={"time": np.arange(float(T))})
    return ds, regimes


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "least"), [(0.0, 0.9), (0.3, 0.85)])
def test_the_regimes_of_a_switching_system_are_recovered(missing, least):
    found = []
    for seed in range(3):
        ds, regimes = _switching(seed, missing)
        options = {"prior": "slds", "latent": 2, "states": 3}
        fitted = si.fit(ds, model="svae", options=options, training={"steps": 5}, seed=seed, progress="silent")
        segments = fitted.model.segments(encode(ds, fitted.schema).batch)
        seen = (~np.isnan(ds["y"].values)).any(-1)
        found.append(adjusted_rand_score(regimes[seen], segments.likeliest.numpy()[segments.rows.numpy()]))
        # the regimes' turns, whatever their order
        turns = sorted(fitted.model.summary()[f"turn[{k}]"] for k in range(3))
        np.testing.assert_allclose(turns, [0.15, 0.6, 1.4], atol=0.15)
    assert min(found) >= least, found


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["lds", "slds"])
def test_a_forecast_beats_the_simple_ones(prior):
    """Six steps ahead, after 60 different histories."""
    train, _ = _switching(0, 0.0)
    new = _switching(0, 0.0, S=60, T=66)[0]["y"].values if prior == "slds" else None
    options = {"prior": "slds", "latent": 2, "states": 3, "natural": 20}
    training = {"steps": 2}
    if prior == "lds":
        g, t = numpy_generator(0, "waves"), np.arange(66.0)
        phase, W = 2 * np.pi * g.random((100, 1, 2)), g.normal(size=(4, 3))
        waves = np.sin(phase + t[:, None] * np.array([0.25, 0.6]))
        y = np.tanh(np.concatenate([waves, waves[..., :1] * waves[..., 1:]], -1) @ W.T) + 0.1 * g.normal(
            size=(100, 66, 4)
        )
        train = xr.Dataset({"y": (("series", "time", "channel"), y[:40])}, coords={"time": t})
        new, options = y[40:], {"prior": "lds", "latent": 8, "hide": 0.2}
        training = {"steps": 250, "learning_rate": 0.015}
    fitted = si.fit(train, model="svae", options=options, training=training, progress="silent")
    t = np.arange(60.0)
    past = xr.Dataset({"y": (("series", "time", "channel"), new[:, :60])}, coords={"time": t})
    answer = fitted.predict(data=past, time=np.arange(60.0, 66.0), draws=60)["posterior_predictive"]["y"]
    order = [d for d in ("chain", "draw", "series", "time", "channel") if d in answer.dims]
    draws = answer.transpose(*order).values.reshape(-1, 60, 6, new.shape[-1])
    truth, last = new[:, 60:], new[:, 59:60]
    error = lambda guess: float(((guess - truth) ** 2).mean())  # noqa: E731
    line = last + (last - new[:, 58:59]) * np.arange(1, 7)[:, None]
    simple = min(error(train["y"].values.mean((0, 1))), error(last), error(line))
    assert error(draws.mean(0)) < 0.5 * simple, (error(draws.mean(0)), simple)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert 0.84 < float(((truth >= low) & (truth <= high)).mean()) < 0.97


@pytest.mark.slow
def test_the_states_of_a_hidden_chain_and_their_durations_are_recovered():
    g = numpy_generator(0, "hidden")
    S, T, hold = 8, 150, np.array([10.0, 25.0, 40.0])
    centre = np.array([[-1.0, 0.0], [1.0, 0.5], [0.5, -1.5]])
    states = np.empty((S, T), dtype=int)
    for s in range(S):
        k = int(g.integers(3))
        for t in range(T):
            if g.random() < 1 - np.exp(-1 / hold[k]):
                k = int(k + 1 + g.integers(2)) % 3
            states[s, t] = k
    y = centre[states] + 0.5 * g.normal(size=(S, T, 2))
    y[g.random(y.shape) < 0.2] = np.nan
    ds = xr.Dataset({"y": (("series", "time", "channel"), y)}, coords={"time": np.arange(float(T))})
    trained = {"exact": {"steps": 40}, "encoder": {"steps": 150}}
    durations = {}
    for potentials, training in trained.items():
        options = {"prior": "hmm", "states": 3, "potentials": potentials}
        fitted = si.fit(ds, model="svae", options=options, training=training, progress="silent")
        batch = encode(ds, fitted.schema).batch
        found, rows = fitted.model.segments(batch), (~np.isnan(y)).any(-1)
        score = adjusted_rand_score(states[rows], found.likeliest.numpy()[found.rows.numpy()])
        assert score >= 0.9, (potentials, score)
        durations[potentials] = np.sort(fitted.model.durations().detach().numpy()) * fitted.schema.time.scale
    # rates are the last that an encoder's training gets right: only those of the likelihood are at their optimum here
    np.testing.assert_allclose(durations["exact"], hold, rtol=0.5)


@pytest.mark.slow
def test_a_structured_posterior_fills_films_better_and_is_better_calibrated_than_a_mean_field_one():
    pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
    found = importlib.import_module("benchmarks.svae_pendulum").compare(0, size=80, steps=300)
    ours, peer = found["svae"], found["mean-field"]
    for metric in ("pixel-mse", "pixel-crps", "position-mse", "position-crps", "miscoverage"):
        assert ours[metric] < peer[metric], (metric, ours[metric], peer[metric])


def test_films_are_drawn_as_they_say():
    pendulum = pytest.importorskip("benchmarks.svae_pendulum", reason="benchmarks/ is part of a checkout")
    one = pendulum.film(3, 0, steps=20)
    assert one.images.shape == one.clean.shape == (3, 20, 256)
    np.testing.assert_allclose((one.position**2).sum(-1), 1.0, atol=1e-9)
    batch = pendulum.batch_of(one)
    assert batch.mask.any(-1).numpy().tolist() == one.taken.ravel().tolist()
    # the mass of the rod lies towards the bob
    x, y = np.meshgrid(*[np.linspace(-1, 1, pendulum.SIDE)] * 2, indexing="ij")
    middle = one.clean @ np.stack([x.ravel(), y.ravel()], -1)
    middle = middle / np.linalg.norm(middle, axis=-1, keepdims=True)
    assert float(np.abs(middle - one.position).max()) < 0.05
    truth = torch.zeros(2).numpy()
    assert pendulum.crps(np.stack([truth + 1, truth - 1]), truth) == pytest.approx(0.0)
