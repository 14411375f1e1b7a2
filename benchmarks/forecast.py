"""Every forecaster's default beside its baseline: exchange rates, ETTh1, and the hidden entries of AQI-36.

Exchange rates: five windows of thirty days from row 6071, quantile loss with nine levels, the random walk as peer.
ETTh1: three windows of 96 hours of the test part, the season of a day as peer. Needs ``SCIINFER_DATA``; about five
minutes, most of it the three networks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

import sciinfer as si
from sciinfer.errors import SciInferError

from .harness import Row, versions

SOLVED = ("random-walk", "seasonal-naive", "nlinear", "var-kalman")
NETWORKS = ("ar-net", "n-hits", "lstnet")
LEVELS = np.arange(1, 10) / 10
#: quantile loss of the 250-day bootstrap; absolute error, loss with 19 levels of the vector autoregression on AQI-36
WALK, VAR_ERROR, VAR_LOSS = 0.0074, 11.73, 0.1456


def loss(quantiles: np.ndarray, y: np.ndarray, levels: np.ndarray) -> float:
    """Mean over levels of ``2 sum |(q - y)(1{y <= q} - level)| / sum |y|``, levels first."""
    off = (quantiles - y) * ((y <= quantiles) - levels.reshape(-1, *(1,) * y.ndim))
    return float(2 * np.abs(off).sum() / len(levels) / np.abs(y).sum())


def forecast(
    name: str, data: xr.DataArray, starts: Sequence[int], horizon: int, training: dict[str, Any] | None = None
) -> tuple[float, float, float]:
    """Quantile loss, coverage of the 80 % interval and seconds: fitted once before the first start."""
    ds, began = data.to_dataset(name="y"), time.perf_counter()
    fitted = si.fit(ds.isel(time=slice(0, starts[0])), name, training=training, progress="silent")
    found, truth = [], []
    for start in starts:
        known, asked = ds.isel(time=slice(0, start)), ds["time"].values[start : start + horizon]
        drawn = fitted.predict(known, time=asked, draws=300)["posterior_predictive"]["y"].isel(chain=0)
        found.append(drawn.quantile(LEVELS, "draw").transpose("quantile", "time", ...).values)
        truth.append(data.values[start : start + horizon])
    quantiles, y = np.concatenate(found, axis=1), np.concatenate(truth)
    inside = (quantiles[0] <= y) & (y <= quantiles[-1])
    return loss(quantiles, y, LEVELS), float(inside.mean()), time.perf_counter() - began


def exchange(names: Sequence[str], *, tiny: bool) -> Iterable[Row]:
    """Goal: no worse than .0080 (the peer is the known figure of the random walk)."""
    data = si.open_dataset("exchange_rate")["rate"]
    starts = range(6071, 6101 if tiny else 6221, 30)
    for name in names:
        value, inside, seconds = forecast(name, data, starts, 30)
        note = f"coverage of 80 %: {inside:.3f}; {seconds:.1f} s"
        yield Row(
            name=f"forecast/exchange-{name}", ours=value, peer=WALK, unit="wQL9", goal=WALK / 0.0080, note=note,
            versions=versions(),
        )  # fmt: skip


def transformer(names: Sequence[str], *, tiny: bool) -> Iterable[Row]:
    """Goal: at least as good as the value a day ago."""
    ds = si.open_dataset("ett")
    data = ds.to_dataarray("load").transpose("time", "load")
    data = ((data - data[:8640].mean("time")) / data[:8640].std("time")).isel(time=slice(8640 if tiny else 0, None))
    shift = 8640 if tiny else 0
    starts = [start - shift for start in ((11520,) if tiny else (11520, 12480, 13440))]
    peer, _, _ = forecast("seasonal-naive", data, starts, 96)
    for name in names:
        value, inside, seconds = forecast(name, data, starts, 96)
        note = f"peer: the default seasonal naive; coverage of 80 %: {inside:.3f}; {seconds:.1f} s"
        yield Row(
            name=f"forecast/etth1-{name}", ours=value, peer=peer, unit="wQL9", goal=1.0, note=note, versions=versions()
        )


def air(*, tiny: bool) -> Iterable[Row]:
    """Hidden entries of four months, by the smoother on logarithms."""
    seen, hidden = (si.open_dataset("aqi36", part=part)["pm25"] for part in ("observed", "heldout"))
    if tiny:
        seen, hidden = (part.isel(time=slice(1400, 1700)) for part in (seen, hidden))
    began = time.perf_counter()
    logs = xr.Dataset({"y": seen.copy(data=np.log(np.maximum(seen.values, 1.0)))}).drop_vars(["latitude", "longitude"])
    fitted = si.fit(logs, "var-kalman", options={"iterations": 0} if tiny else None, progress="silent")
    batch, scale = fitted._conditioning().batch, fitted.schema
    with torch.no_grad():
        g = torch.Generator().manual_seed(0)
        answer = fitted.model.predict(batch, batch.time[None], draws=1, generator=g)
    seconds = time.perf_counter() - began
    if answer.mean is None or answer.variance is None:
        return
    scored = np.isfinite(hidden.values) & np.isin(hidden["time"].dt.month.values, [3, 6, 9, 12])[:, None]
    mean = (answer.mean[0].numpy() * scale.scale + scale.shift)[scored]
    sd = (answer.variance[0].sqrt().numpy() * scale.scale)[scored]
    levels = np.arange(1, 20) / 20
    quantiles = np.exp(mean + sd * torch.special.ndtri(torch.tensor(levels)).numpy()[:, None])
    y = hidden.values[scored]
    inside = float(((quantiles[0] <= y) & (y <= quantiles[-1])).mean())
    note = f"{scored.sum()} entries; coverage of 90 %: {inside:.3f}; {seconds:.0f} s"
    error = float(np.abs(quantiles[9] - y).mean())
    goal = None if tiny else 1.0
    yield Row(name="forecast/aqi36-mae", ours=error, peer=VAR_ERROR, unit="ug m-3", goal=goal, note=note)
    yield Row(name="forecast/aqi36-wql19", ours=loss(quantiles, y, levels), peer=VAR_LOSS, unit="wQL19", goal=goal)


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """All of the above; ``tiny``: the solved models on one window."""
    names = SOLVED[:3] if tiny else (*SOLVED, *NETWORKS)
    try:
        yield from exchange(names, tiny=tiny)
        yield from transformer(names[1:], tiny=tiny)
        yield from air(tiny=tiny)
    except SciInferError as err:
        yield Row(name="forecast/absent", ours=float("nan"), peer=None, unit="", note=str(err), versions=versions())
