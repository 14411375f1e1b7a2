"""Forecasters on windows and their paths: the contract of a model, what they learn, and where they refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr
from support.model_walk import SCHEMA, check_model, sample_batch

import sciinfer as si
from sciinfer.errors import ConfigError, TimeError
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.ar_net import ar_net
from sciinfer.models.base import Model
from sciinfer.models.copula import copula
from sciinfer.models.copula_margins import margins, to_normal, to_value
from sciinfer.models.lstnet import lstnet
from sciinfer.models.n_hits import n_hits
from sciinfer.models.nlinear import nlinear
from sciinfer.models.random_walk import random_walk
from sciinfer.models.seasonal_naive import seasonal_naive
from sciinfer.models.var_kalman import var_kalman
from sciinfer.models.window_grid import grid_step, held, to_grid
from sciinfer.models.window_spread import looked_up, quantile_table, wandering
from sciinfer.random import generator

F64 = torch.float64
Build = Callable[[int], Model]
MODELS: dict[str, Build] = {
    "random-walk": lambda seed: random_walk(SCHEMA, seed=seed, increments=30),
    "seasonal-naive": lambda seed: seasonal_naive(SCHEMA, seed=seed, longest=6, horizon=3),
    "nlinear": lambda seed: nlinear(SCHEMA, seed=seed, context=4, horizon=3),
    "ar-net": lambda seed: ar_net(SCHEMA, seed=seed, order=4, horizon=3),
    "n-hits": lambda seed: n_hits(SCHEMA, seed=seed, context=8, horizon=4, width=5),
    "lstnet": lambda seed: lstnet(SCHEMA, seed=seed, context=8, horizon=3, skip=3, width=4),
    "var-kalman": lambda seed: var_kalman(SCHEMA, seed=seed, order=2, iterations=1),
    "copula": lambda seed: copula(SCHEMA, seed=seed, window=20),
}


def regular(lengths: tuple[int, ...] = (12, 1, 17)) -> SeriesBatch:
    """Ragged walks of two channels on a grid of 0.5; the longer ones miss an entry and a whole row."""
    g = generator(0, "data")
    times, values = [], []
    for n in lengths:
        v = torch.randn((n, 2), generator=g, dtype=F64).cumsum(0)
        if n > 3:
            v[1, 0], v[5] = float("nan"), float("nan")
        times.append(torch.arange(n, dtype=F64) * 0.5)
        values.append(v)
    return SeriesBatch.of(times, values)


def started(name: str, batch: SeriesBatch, seed: int = 0) -> Model:
    model = MODELS[name](seed)
    model.initialise(batch)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_keeps_the_contract_of_a_model(name: str):
    moved = 0.02 if name == "var-kalman" else 0.1
    check_model(lambda seed=0: started(name, regular(), seed), regular(), moved=moved, single=2e-2)


def test_a_random_walk_keeps_the_contract_on_irregular_times():
    check_model(lambda seed=0: started("random-walk", sample_batch(), seed), sample_batch())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "random-walk"])
def test_irregular_times_are_refused_with_place_and_remedy(name: str):
    batch = SeriesBatch.of([torch.tensor([0.0, 1.0, 2.0, 3.4, 4.4], dtype=F64)], [torch.ones(5, 2, dtype=F64)])
    with pytest.raises(TimeError, match=r"series 0 .* 1.4 steps") as caught:
        started(name, batch).loss(batch, generator=generator(0, "loss"))
    assert caught.value.index == 3
    assert "resample" in str(caught.value.fix)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_up_to_the_last_row_it_says_the_data(name: str):
    batch = regular()
    padded = batch.padded()
    known = started(name, batch).predict(batch, padded.time, draws=2, generator=generator(0, "known")).signal
    tolerance = 0.5 if name == "var-kalman" else 1e-9  # which has noise of its own
    assert float((known - padded.values).abs()[:, padded.mask].max()) < tolerance


def test_what_a_window_reads_does_not_depend_on_what_comes_later():
    batch = regular((40,))
    later = batch._replace(values=torch.where(batch.time[:, None] > 10.0, 1e6, batch.values))
    series, ends = torch.zeros(21, dtype=torch.int64), torch.arange(1, 22)
    model = nlinear(SCHEMA, context=8, horizon=4)
    model.step.fill_(0.5)
    first, second = (model.windows(to_grid(b, 0.5, model="test"), series, ends).context for b in (batch, later))
    assert torch.equal(first, second)


def test_cells_and_held_values():
    batch = regular()
    assert grid_step(batch) == 0.5
    grid = to_grid(batch, 0.5, model="test")
    assert grid.cells.tolist() == [12, 1, 17]
    assert not grid.mask[0, -7].any(), "a missing row keeps its cell"
    filled = held(grid, torch.zeros(2, dtype=F64))
    assert torch.equal(filled[0, -7], filled[0, -8]), "and has the values before it"
    assert torch.equal(grid.values[2][grid.mask[2]], batch.select([2]).values[batch.select([2]).mask])
    months = torch.tensor([0.0, 31, 59, 90, 120, 151], dtype=F64)
    assert to_grid(SeriesBatch.of([months], [torch.ones(6, 1)]), 30.5, model="test").cells.tolist() == [6]


def test_a_table_of_quantiles_gives_back_its_errors():
    g = generator(0, "errors")
    error = torch.randn((4000, 2, 1), generator=g, dtype=F64).exp() * torch.tensor([1.0, 3.0], dtype=F64)[:, None]
    table = quantile_table(error, torch.ones_like(error, dtype=torch.bool))
    z = wandering(torch.tensor(0.9, dtype=F64), (20_000, 1, 2, 1), g)
    assert float((z[:, 0, 0] * z[:, 0, 1]).mean()) == pytest.approx(0.9, abs=0.02)
    drawn = looked_up(table, z)[:, 0]
    for level in (0.05, 0.5, 0.95):
        torch.testing.assert_close(drawn.quantile(level, 0), error.quantile(level, 0), rtol=0.06, atol=0.02)


def season(n: int, noise: float = 0.1, seed: int = 0) -> torch.Tensor:
    """A wave of 12 cells that wanders a little, two channels: ``[n, 2]``."""
    g = generator(seed, "season")
    phase = 2 * torch.pi * torch.arange(n, dtype=F64)[:, None] / 12 + torch.tensor([0.0, 1.0], dtype=F64)
    drift = 0.02 * torch.randn((n, 2), generator=g, dtype=F64).cumsum(0)
    return phase.sin() + drift + noise * torch.randn((n, 2), generator=g, dtype=F64)


def dataset(y: torch.Tensor) -> xr.Dataset:
    time = np.datetime64("2020-01-01", "ns") + np.arange(len(y)) * np.timedelta64(2, "h")
    return xr.Dataset({"y": (("time", "state"), y.numpy())}, coords={"time": time, "state": ["a", "b"]})


QUICK: dict[str, dict[str, object]] = {
    "random-walk": {},
    "seasonal-naive": {},
    "nlinear": {"context": 36, "horizon": 12},
    "ar-net": {"order": 24, "horizon": 12},
    "n-hits": {"context": 36, "horizon": 12, "width": 16},
    "lstnet": {"context": 36, "horizon": 12, "skip": 12, "width": 8},
    "var-kalman": {"order": 4},
    "copula": {"window": 36},
}


@pytest.mark.parametrize("name", QUICK)
def test_fit_forecast_save_load(name: str, tmp_path):
    y = season(420)
    y[torch.rand(420, generator=generator(0, "gaps"), dtype=F64) < 0.03] = float("nan")
    ds = dataset(y)
    training = {"steps": 60} if name in ("ar-net", "n-hits", "lstnet") else None
    fitted = si.fit(ds.isel(time=slice(0, 400)), name, options=QUICK[name], training=training, progress="silent")
    ahead = ds.time.values[400:412]
    again = si.load(fitted.save(tmp_path / "fit"))
    first, second = (f.predict(time=ahead, draws=100)["posterior_predictive"]["y"].values for f in (fitted, again))
    np.testing.assert_array_equal(first, second)
    if name != "random-walk":
        seen = ~np.isnan(ds["y"].values[400:])[:12]
        error = np.abs(np.median(first[0], axis=0) - ds["y"].values[400:412])[seen].mean()
        last = np.abs(y[:400][~y[:400, 0].isnan()][-1].numpy() - ds["y"].values[400:412])[seen].mean()
        assert error < 0.6 * last, f"{name} does not see the season: {error:.3f}, last value {last:.3f}"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_few_rows_and_a_channel_that_never_moves(name: str, rows: int):
    values = torch.stack([torch.full((rows,), 1e3, dtype=F64), torch.arange(rows, dtype=F64) ** 0.5], dim=1)
    batch = SeriesBatch.of([torch.arange(rows, dtype=F64)], [values])
    model = started(name, batch)
    with torch.no_grad():
        times = torch.tensor([[0.0, rows + 2.5]], dtype=F64)
        answer = model.predict(batch, times, draws=3, generator=generator(0, "few"))
        drawn = model.generate(torch.arange(4, dtype=F64), draws=3, generator=generator(0, "few"))
        summary = model.summary()
    assert all(bool(torch.isfinite(found.observation).all()) for found in (answer, drawn))
    assert all(np.isfinite(value) for value in summary.values())


def test_the_season_is_found_or_given_as_a_duration():
    ds = dataset(season(300))
    for option in ({}, {"season": "24h"}, {"season": 12}):
        fitted = si.fit(ds, "seasonal-naive", options=option, progress="silent")
        assert fitted.model.summary()["season"] == 12
    walk = dataset(torch.randn((300, 2), generator=generator(0, "walk"), dtype=F64).cumsum(0))
    assert si.fit(walk, "seasonal-naive", progress="silent").model.summary()["season"] == 1


@torch.no_grad()
def test_intervals_hold_and_the_summary_says_when_the_last_value_wins():
    g = generator(3, "walks")
    walk = torch.randn((3000, 2), generator=g, dtype=F64).cumsum(0)
    batch = SeriesBatch.of([torch.arange(2000, dtype=F64)], [walk[:2000]])
    model = nlinear(SCHEMA, context=24, horizon=12)
    model.initialise(batch)
    assert model.summary()["error_over_last_value"] == pytest.approx(1.0, abs=0.03)
    within = []
    for end in range(2000, 2988, 12):
        known = SeriesBatch.of([torch.arange(end, dtype=F64)], [walk[:end]])
        times = torch.arange(end, end + 12, dtype=F64)[None]
        drawn = model.predict(known, times, draws=200, generator=generator(0, "draws")).observation[:, 0]
        low, high = drawn.quantile(0.05, 0), drawn.quantile(0.95, 0)
        within.append(((walk[end : end + 12] >= low) & (walk[end : end + 12] <= high)).double().mean())
    assert 0.84 < float(torch.stack(within).mean()) < 0.95


@torch.no_grad()
def test_a_vector_autoregression_asked_for_the_future_alone_says_the_same():
    model = started("var-kalman", regular((60, 3, 41)))
    batch = regular((60, 3, 41))
    ends = batch.time[batch.offsets[1:] - 1][:, None]
    ahead = ends + torch.tensor([0.5, 1.25, 4.0], dtype=F64)
    whole = torch.cat([ahead, ends * 0], dim=1)
    answers = [model.predict(batch, t, draws=2, generator=generator(0, "ahead")) for t in (ahead, whole)]
    for moment in ("mean", "variance"):
        first, second = (getattr(answer, moment)[:, :3] for answer in answers)
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)
    one = model.predict(batch.select([0]), ahead[:1], draws=2000, generator=generator(0, "ahead"))
    assert one.mean is not None and one.variance is not None
    torch.testing.assert_close(
        one.observation.mean(0), one.mean, rtol=0, atol=5 * float(one.variance.max() / 2000) ** 0.5
    )
    whole_cells = [0, 2]  # between cells the variance is the cautious one
    found = one.observation.var(0)[:, whole_cells]
    torch.testing.assert_close(found, one.variance[:, whole_cells], rtol=0.15, atol=0)


@torch.no_grad()
def test_a_copula_conditions_exactly_where_everything_is_gaussian():
    g = generator(0, "ar")
    y = torch.zeros(3000, 12, 1, dtype=F64)
    y[:, 0] = torch.randn((3000, 1), generator=g, dtype=F64)
    for t in range(1, 12):
        y[:, t] = 0.9 * y[:, t - 1] + 0.19**0.5 * torch.randn((3000, 1), generator=g, dtype=F64)
    knots = margins(y, torch.ones_like(y, dtype=torch.bool))
    inner = y[(y.abs() < 2).all(dim=1).squeeze(1)]
    torch.testing.assert_close(to_value(to_normal(inner, knots), knots), inner, rtol=0, atol=1e-6)
    schema = type(SCHEMA)(SCHEMA.time, "series", SCHEMA.variables[:1], SCHEMA.channels[:1])
    model = copula(schema, window=12)
    model.initialise(SeriesBatch.of([torch.arange(12, dtype=F64)] * 3000, list(y)))
    seen = SeriesBatch.of([torch.arange(10, dtype=F64)], [torch.full((10, 1), 1.0, dtype=F64)])
    drawn = model.predict(seen, torch.tensor([[10.0, 11.0]], dtype=F64), draws=4000, generator=g).observation[
        :, 0, :, 0
    ]
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.9, 0.81], dtype=F64), rtol=0, atol=0.06)
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.436, 0.586], dtype=F64), rtol=0.08, atol=0)
    with pytest.raises(ConfigError, match="window has 12"):
        model.predict(seen, torch.tensor([[30.0]], dtype=F64), draws=1, generator=g)


def test_refused_options():
    bad: list[tuple[str, Callable[..., Model], dict[str, object]]] = [
        ("increments", random_walk, {"increments": 0}), ("drift", random_walk, {"drift": 1}),
        ("season", seasonal_naive, {"season": 0.5}), ("season", seasonal_naive, {"season": 500}),
        ("context", nlinear, {"context": 0}), ("holdout", nlinear, {"holdout": 1.0}), ("refit", nlinear, {"refit": 2}),
        ("order", ar_net, {"order": 0}), ("sparsity", ar_net, {"sparsity": -1.0}), ("width", n_hits, {"width": True}),
        ("skip", lstnet, {"skip": 0}), ("order", var_kalman, {"order": 0}), ("ridge", var_kalman, {"ridge": -1}),
        ("window", copula, {"window": 1}), ("window", copula, {"window": 9999}),
        ("shrinkage", copula, {"shrinkage": 2}),
    ]  # fmt: skip
    for name, build, options in bad:
        with pytest.raises(ConfigError, match=name):
            build(SCHEMA, **options)
