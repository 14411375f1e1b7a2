"""``k2-koopman`` beside a linear map on ETTh1: squared error, and weighted quantile loss of raw values (19 levels).

The usual split (8640 rows to train, 2880 to choose, 2880 to test, every window of them, seven channels). ``nlinear`` is
solved, ``k2-koopman`` trained for a fixed number of steps on one thread. Needs ``SCIINFER_DATA``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

import sciinfer as si
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch
from sciinfer.models.k2_koopman import k2_koopman
from sciinfer.models.nlinear import nlinear
from sciinfer.models.window_model import WindowModel
from sciinfer.models.window_spread import looked_up
from sciinfer.random import generator

from .harness import Row, versions

#: rows for training, choosing, testing; published: K2VAE at 720 ahead
_TRAIN, _CHOOSE, _TEST, K2VAE_720 = 8640, 2880, 2880, 0.314
_LEVELS = torch.arange(1, 20, dtype=torch.float64) / 20


class Score(NamedTuple):
    """``mse`` standardised, ``wql`` raw, ``cover`` of the 90 % interval, ``seconds`` of fit."""

    mse: float
    wql: float
    cover: float
    seconds: float


def records() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Standardised rows ``[T, 7]``, and the centre and scale of the training rows."""
    ds = si.open_dataset("ett")
    raw = torch.as_tensor(np.stack([ds[name].values for name in ds.data_vars], 1))[: _TRAIN + _CHOOSE + _TEST]
    centre, scale = raw[:_TRAIN].mean(0), raw[:_TRAIN].std(0, correction=0)
    return (raw - centre) / scale, centre, scale


def schema(channels: int) -> Schema:
    """Channels on hourly rows."""
    names = [f"c{k}" for k in range(channels)]
    axis = TimeAxis("t", "number", 0.0, 1.0)
    return Schema(axis, None, tuple(map(Variable, names)), tuple(map(Channel, names)))


def batch_of(rows: torch.Tensor) -> SeriesBatch:
    """One series."""
    return SeriesBatch.of([torch.arange(len(rows), dtype=torch.float64)], [rows])


def trained(model: WindowModel, rows: torch.Tensor, steps: int, rate: float = 3e-3, limit: float = 400.0) -> None:
    """Adam with a cosine schedule, in the model's own loss; stops after ``limit`` seconds."""
    batch, g, begun = batch_of(rows), generator(0, "train"), time.perf_counter()
    model.initialise(batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for k in range(steps):
        part = max(k / steps, (time.perf_counter() - begun) / limit)
        if part >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * part)))
        optimiser.zero_grad()
        model.loss(batch, generator=g).value.backward()
        optimiser.step()


@torch.no_grad()
def scored(model: WindowModel, rows: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor, seconds: float) -> Score:
    """Every window whose targets lie in the last ``_TEST`` rows."""
    first, horizon = len(rows) - _TEST, model.horizon
    ends = torch.arange(first, len(rows) - horizon + 1)
    table, _ = model.table()
    z = torch.special.ndtri(_LEVELS)[:, None, None, None].expand(-1, 1, horizon, rows.shape[1])
    error = looked_up(table, z.contiguous())[:, 0] * model.log_scale.exp()
    total = np.zeros(5)
    for part in ends.split(64):
        context = torch.stack([rows[int(e) - model.context : int(e)] for e in part])
        truth = torch.stack([rows[int(e) : int(e) + horizon] for e in part])
        answer = model.answer(context)
        total[:2] += [float((answer.mean - truth).square().sum()), truth.numel()]
        found = answer.mean + answer.scale * error[:, None]
        apart = (truth - found) * scale
        level = _LEVELS[:, None, None, None]
        total[2] += float((2 * torch.maximum(level * apart, (level - 1) * apart)).sum()) / len(_LEVELS)
        total[3] += float((truth * scale + centre).abs().sum())
        total[4] += float(((truth >= found[0]) & (truth <= found[-1])).sum())
    return Score(total[0] / total[1], total[2] / total[3], total[4] / total[1], seconds)


def compared(context: int, horizon: int, steps: int, **options: Any) -> tuple[Score, Score]:
    """``k2-koopman`` and ``nlinear``."""
    rows, centre, scale = records()
    known, found = rows[: _TRAIN + _CHOOSE], []
    for name in ("k2", "nlinear"):
        begun = time.perf_counter()
        if name == "k2":
            model: WindowModel = k2_koopman(schema(7), context=context, horizon=horizon, **options)
            trained(model, known, steps)
        else:
            model = nlinear(schema(7), context=context, horizon=horizon)
            model.initialise(batch_of(known))
        found.append(scored(model, rows, centre, scale, time.perf_counter() - begun))
    return found[0], found[1]


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goal: no worse than the linear map."""
    cases = [(48, 24, 2)] if tiny else [(336, 96, 400), (96, 720, 300)]
    for context, horizon, steps in cases:
        ours, linear = compared(context, horizon, steps)
        where = f"k2_koopman/etth1-{context}-{horizon}"
        note = f"{ours.seconds:.0f} s beside {linear.seconds:.0f} s; 90 % cover {ours.cover:.3f}, {linear.cover:.3f}"
        shared: dict[str, Any] = {"unit": "1", "goal": 1.0, "note": note, "versions": versions()}
        yield Row(name=f"{where}/mse", ours=ours.mse, peer=linear.mse, **shared)
        yield Row(name=f"{where}/wql19", ours=ours.wql, peer=linear.wql, **shared)
        if horizon == 720:
            published = "K2VAE, as published"
            yield Row(
                name=f"{where}/k2vae", ours=ours.wql, peer=K2VAE_720, unit="1", note=published, versions=versions()
            )
