"""Rat motor cortex: co-smoothing, forward prediction and decoding beside the published and the classical baselines.

Bins of 20 ms, 100 a trial; training trials 0::6, test trials 3::12, held-out neurons 3::4. Every choice (ridge,
features, windows) is made by folds of training trials; held-out neurons are predicted from held-in spikes and the
trial's clock. Needs the files that ``SCIINFER_DATA`` names and the plugin ``sciinfer-neuro``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .harness import Row, installed, versions

SPLIT: dict[str, Any] = {"held_out": slice(3, None, 4), "train": slice(0, None, 6), "test": slice(3, None, 12)}
#: co-bps under the benchmark's null, measured before for the same split; those with "warped" know the behaviour
REFERENCE = {
    "smoothing-30": 0.0349,
    "smoothing-50": 0.0399,
    "smoothing-80": 0.0428,
    "psth": 0.0541,
    "poisson-gpfa": 0.0170,
    "warped-time": 0.0656,
    "smoothing-80-time": 0.0743,
    "smoothing-80-400-time": 0.0788,
    "smoothing-warped": 0.0881,
}
GOAL_CO_BPS, GOAL_INTERVAL = 0.079, 0.31
"""The goals: from held-in spikes and trial time only, and ridge regression of the interval between the presses."""


def load(path: Path) -> tuple[xr.DataArray, np.ndarray]:
    """Counts ``trial, time, unit`` in 20 ms bins and the interval between the two presses in seconds."""
    with np.load(path, allow_pickle=False) as file:
        counts = np.zeros((len(file["tap1"]), 100, 30))
        place = (file["trial_ids"], (file["spiketimes"] // 20).astype(int), file["neuron_ids"])
        np.add.at(counts, place, 1.0)
        interval = (file["tap2"] - file["tap1"]) / 1e3
    time = ("time", (np.arange(100) + 0.5) * 0.02, {"units": "s"})
    attrs = {"bin_width": 0.02, "units": "1"}
    labels = {"trial": np.arange(len(counts)), "time": time, "unit": np.arange(30)}
    return xr.DataArray(counts, dims=("trial", "time", "unit"), coords=labels, attrs=attrs, name="counts"), interval


def candidates() -> dict[str, Any]:
    """Sets of features to choose from on training trials."""
    from sciinfer_neuro.features import PrincipalRates, SmoothedRates, TimeBasis, TimeByTrial

    wide = SmoothedRates((0.04, 0.1, 0.25, 0.7))
    return {
        "rates": (wide, TimeBasis()),
        "rates-patterns": (wide, TimeBasis(), TimeByTrial(4, 12, 0.1)),
        "low-rank-patterns": (PrincipalRates(30, wide.widths), TimeBasis(), TimeByTrial(6, 12, 0.1)),
    }


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Co-bps of ours (goal), of the baselines run here and as published; forward prediction; the interval's R2."""
    path = Path(os.environ.get("SCIINFER_DATA", "")) / "gpvae" / "rat_motor" / "motor_ctx_data.npz"
    if not ("SCIINFER_DATA" in os.environ and path.exists() and installed("sciinfer_neuro")):
        note = "set SCIINFER_DATA to the folder of reference data (area gpvae) and install sciinfer-neuro"
        yield Row(name="neuro_rat_motor/absent", ours=float("nan"), peer=None, unit="", note=note, versions=versions())
        return
    counts, interval = load(path)
    if tiny:
        counts, interval = counts[::6], interval[::6]
    yield from _co_smoothing(counts, tiny)
    yield from _baselines(counts, tiny)
    yield from _others(counts, interval, tiny)


def _co_smoothing(counts: xr.DataArray, tiny: bool) -> Iterable[Row]:
    from sciinfer_neuro.cosmoothing import DEFAULT, cosmooth

    sets = {"default": DEFAULT} if tiny else candidates()
    quick: dict[str, Any] = {"folds": 2, "ridges": [300.0]} if tiny else {}
    found = cosmooth(counts, **SPLIT, features=sets, **quick)
    tried = zip(found.validation["candidate"].values, found.validation.values, strict=True)
    folds = ", ".join(f"{name} {bits:.4f}" for name, bits in tried)
    bits = {null: float(found.scores["co_bps"].sel(null=null)) for null in ("evaluation", "train")}
    note = f"{found.choice}; on folds of training trials: {folds}; null of training means: {bits['train']:.4f}"
    common: dict[str, Any] = {"ours": bits["evaluation"], "unit": "bits/spike", "higher": True, "versions": versions()}
    yield Row(name="neuro_rat_motor/co-bps", peer=GOAL_CO_BPS, goal=1.0, note=f"peer: the goal; {note}", **common)
    for name, value in REFERENCE.items():
        said = "peer: knows the behaviour" if "warped" in name else "peer: measured before, same split"
        yield Row(name=f"neuro_rat_motor/co-bps-against-{name}", peer=value, goal=1.0, note=said, **common)


def _baselines(counts: xr.DataArray, tiny: bool) -> Iterable[Row]:
    from sciinfer_neuro.baselines import FEATURES, QUICK, co_smoothing_baselines

    quick: dict[str, Any] = {"folds": 2, "ridges": [300.0]} if tiny else {}
    for name in ("psth",) if tiny else (*QUICK, *(n for n in FEATURES if n not in QUICK)):
        bits = co_smoothing_baselines(counts, **SPLIT, names=[name], **quick)["co_bps"].squeeze("baseline")
        note = f"run here beside its published figure; null of training means: {float(bits.sel(null='train')):.4f}"
        yield Row(
            name=f"neuro_rat_motor/baseline-{name}",
            ours=float(bits.sel(null="evaluation")),
            peer=REFERENCE.get(name),
            unit="bits/spike",
            higher=True,
            note=note,
            versions=versions(),
        )


def _others(counts: xr.DataArray, interval: np.ndarray, tiny: bool) -> Iterable[Row]:
    from sciinfer_neuro.baselines import decode_trials
    from sciinfer_neuro.forward import forward_predict

    train, test = SPLIT["train"], SPLIT["test"]
    decoded = decode_trials(counts, interval, train=train, test=test, folds=3 if tiny else 10)
    yield Row(
        name="neuro_rat_motor/interval-r2",
        ours=decoded.r2,
        peer=GOAL_INTERVAL,
        unit="R2",
        goal=1.0,
        higher=True,
        note=f"on folds of training trials: {decoded.validation_r2:.3f}; ridge {decoded.ridge:.3g}",
        versions=versions(),
    )
    busy = counts[..., np.flatnonzero(counts[train].sum(("trial", "time")).values > 200)]
    found = forward_predict(busy, after=1.5, train=train, test=test, folds=2 if tiny else 5)
    bits = {null: float(found.scores["co_bps"].sel(null=null)) for null in ("evaluation", "train")}
    known = f"null of training means: {bits['train']:.4f}; on folds of training trials: {found.validation:.4f}"
    note = f"{busy.sizes['unit']} units, after 1.5 s; {known}"
    yield Row(
        name="neuro_rat_motor/fp-bps",
        ours=bits["evaluation"],
        peer=None,
        unit="bits/spike",
        higher=True,
        note=note,
        versions=versions(),
    )
