"""Forecast baselines on real data, beside the figures that were known before."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch

import sciinfer as si
from sciinfer.labelled.schema import Channel, Schema, TimeAxis
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.base import Model
from sciinfer.models.nlinear import nlinear
from sciinfer.models.random_walk import random_walk
from sciinfer.models.seasonal_naive import seasonal_naive
from sciinfer.models.var_kalman import var_kalman
from sciinfer.random import generator

F64 = torch.float64
pytestmark = pytest.mark.skipif(not os.environ.get("SCIINFER_DATA"), reason="needs the data folder SCIINFER_DATA")
NINE, NINETEEN = (torch.arange(1, n + 1, dtype=F64) / (n + 1) for n in (9, 19))


def schema(channels: int) -> Schema:
    return Schema(TimeAxis("t", "number", 0.0, 1.0), None, (), (Channel("y"),) * channels)


def series(y: torch.Tensor) -> SeriesBatch:
    return SeriesBatch.of([torch.arange(len(y), dtype=F64)], [y])


def quantile_loss(quantiles: torch.Tensor, y: torch.Tensor, levels: torch.Tensor) -> float:
    """Mean over levels of ``2 sum |(q - y)(1{y <= q} - level)| / sum |y|``."""
    shaped = levels.view(-1, *(1,) * y.ndim)
    off = (quantiles - y) * ((y <= quantiles).to(F64) - shaped)
    return float(2 * off.abs().sum() / len(levels) / y.abs().sum())


def exchange() -> torch.Tensor:
    return torch.tensor(si.open_dataset("exchange_rate")["rate"].values)


@torch.no_grad()
def exchange_scores(model: Model, draws: int = 1000) -> tuple[float, float, float]:
    """Five windows of thirty days from row 6071: losses with 9 and 19 levels, and coverage of the 80 % interval."""
    y = exchange()
    model.initialise(series(y[:6071]))
    drawn, truth = [], []
    for start in range(6071, 6221, 30):
        times = torch.arange(start, start + 30, dtype=F64)[None]
        answer = model.predict(series(y[:start]), times, draws=draws, generator=generator(start, "draws"))
        drawn.append(answer.observation[:, 0])
        truth.append(y[start : start + 30])
    paths, known = torch.cat(drawn, dim=1), torch.cat(truth)
    nineteen = paths.quantile(NINETEEN, 0)
    nine = nineteen[1::2]
    covered = ((known >= nine[0]) & (known <= nine[-1])).double().mean()
    return quantile_loss(nine, known, NINE), quantile_loss(nineteen, known, NINETEEN), float(covered)


def test_random_walk_on_exchange_rates():
    # so many draws that their own noise is well below the tolerance
    nine, nineteen, covered = exchange_scores(random_walk(schema(8)), draws=6000)
    assert nine == pytest.approx(0.0074, abs=1e-4)
    assert nineteen == pytest.approx(0.00707, abs=1e-4)
    assert covered == pytest.approx(0.864, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("build", [nlinear, seasonal_naive])
def test_solved_forecasters_on_exchange_rates(build):
    model = build(schema(8))
    nine, _, covered = exchange_scores(model, draws=400)
    assert nine <= 0.0080
    assert 0.7 < covered < 0.92
    assert model.summary()["error_over_last_value"] == pytest.approx(1.0, abs=0.01)


def transformer() -> torch.Tensor:
    """ETTh1, z-scored by the first 8640 hours."""
    ds = si.open_dataset("ett")
    y = torch.tensor(np.stack([ds[name].values for name in ds], axis=1))
    return (y - y[:8640].mean(0)) / y[:8640].std(0, correction=0)


@torch.no_grad()
def transformer_scores(context: int, horizon: int) -> tuple[float, float, float, float]:
    """MSE, MAE, coverage of the 90 % interval over all test windows, and seconds of the fit."""
    y, model = transformer(), nlinear(schema(7), context=context, horizon=horizon)
    start = time.process_time()
    model.initialise(series(y[:11520]))
    seconds = time.process_time() - start
    windows = y[11520 - context : 14400].unfold(0, context + horizon, 1).mT
    square, size, inside = [], [], []
    for part in windows.split(200):
        answer = model.answer(part[:, :context])
        off = part[:, context:] - answer.mean
        low, high = (answer.scale * model.quantiles[:, k] for k in (3, -4))
        square.append(off.square().mean((1, 2)))
        size.append(off.abs().mean((1, 2)))
        inside.append(((off >= low) & (off <= high)).double().mean((1, 2)))
    found = [float(torch.cat(part).mean()) for part in (square, size, inside)]
    return found[0], found[1], found[2], seconds


@pytest.mark.slow
def test_nlinear_on_transformer_temperature():
    mse, mae, covered, seconds = transformer_scores(336, 96)
    assert mse <= 0.3726 + 0.002
    assert mae <= 0.3953 + 0.001
    assert covered == pytest.approx(0.94, abs=0.02)
    assert seconds <= 15
    mse, _, _, _ = transformer_scores(96, 720)
    assert mse <= 0.4689


@pytest.mark.slow
@torch.no_grad()
def test_var_kalman_fills_the_hidden_air_quality():
    seen, hidden = (si.open_dataset("aqi36", part=part)["pm25"] for part in ("observed", "heldout"))
    scored = np.isfinite(hidden.values) & np.isin(hidden["time"].dt.month.values, [3, 6, 9, 12])[:, None]
    assert scored.sum() == 20434
    logs = torch.tensor(np.log(np.maximum(seen.values, 1.0)))
    model = var_kalman(schema(36))
    model.initialise(series(logs))
    answer = model.predict(series(logs), torch.arange(len(logs), dtype=F64)[None], draws=1, generator=generator(0, "x"))
    assert answer.mean is not None and answer.variance is not None
    which = torch.tensor(scored)
    y = torch.tensor(hidden.values)[which]
    mean, sd = answer.mean[0][which], answer.variance[0][which].sqrt()
    quantiles = (mean + sd * torch.special.ndtri(NINETEEN)[:, None]).exp()
    mae = float((quantiles[9] - y).abs().mean())
    covered = float(((y >= quantiles[0]) & (y <= quantiles[-1])).double().mean())
    assert mae <= 11.73
    assert quantile_loss(quantiles, y, NINETEEN) <= 0.1456
    assert 0.88 <= covered <= 0.95
