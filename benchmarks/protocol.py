"""The one protocol of the forecasting benchmarks: models and trivial baselines on the same splits.

Each split trains on its first part and is scored on its last, after the history that ends at ``after``; baselines whose
settings are chosen choose them within the training part. Rows: the model against each baseline in squared error (all
entries, and variables first) and CRPS, and its coverage. A win needs two standard deviations of the difference over the
splits; the note says so, and whether it also exceeds two of the scores themselves ("clearly").
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from sciinfer import api
from sciinfer.diagnostics import evaluate, split_scores
from sciinfer.extend import registry
from sciinfer.fitted import Fitted
from sciinfer.labelled.ingest import encode
from sciinfer.labelled.series import Padded
from sciinfer.labelled.times import query_times
from sciinfer.models.base import Model
from sciinfer.scoring import baseline_forecasts, forecast_of, split_at

from .harness import Row, versions

#: metric -> what the rows call it
SHOWN = {"mse": "mse", "mse_variable_mean": "mse-by-variable", "crps": "crps"}


class Split(NamedTuple):
    """Three disjoint parts; ``validation`` is for choices made by hand or by a benchmark."""

    train: xr.Dataset
    validation: xr.Dataset
    test: xr.Dataset


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model to be fitted on every split; ``references(fitted)`` are further models scored beside it."""

    model: str
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    references: Callable[[Fitted], Mapping[str, Model]] = lambda fitted: {}
    seed: int = 0

    @property
    def name(self) -> str:
        """Label, or the model's name."""
        return self.label or self.model

    def short(self, **options: Any) -> Contender:
        """Two steps, which only show that it runs, with other options if these are large."""
        return replace(self, training={**self.training, "steps": 2}, options={**self.options, **options})

    def fit(self, train: xr.Dataset) -> Fitted:
        """Trained without a word."""
        training = dict(self.training)
        return api.fit(train, self.model, seed=self.seed, options=self.options, training=training, progress="silent")


class Seen(NamedTuple):
    """What was scored on a split: the last contender, the truth, and ``forecasts`` by name, all in model units."""

    fitted: Fitted
    truth: Padded
    forecasts: dict[str, Any]


class Measured(NamedTuple):
    """``scores``: see ``split_scores``; ``seconds [contender][split]`` of fit and answer; ``tables``: one per split."""

    scores: xr.Dataset
    seconds: dict[str, list[float]]
    tables: list[xr.Dataset]


def measure(
    splits: Sequence[Split],
    contenders: Sequence[Contender],
    *,
    after: Any,
    unit: Any = None,
    step: float | None = None,
    draws: int = 200,
    inspect: Callable[[Seen], None] = lambda seen: None,
) -> Measured:
    """Fit every contender on every split and score all forecasters on the same entries.

    Args:
        splits: at least two. contenders: at least one.
        after: caller's time that ends the history.
        unit: ``[C]`` what errors are divided by, caller's units; None: errors in standard deviations of the training
            part, which differ from split to split.
        step: of the grid of PCA + VAR, caller's units, for data without a step of their own.
        draws: for models without closed-form moments.
        inspect: called with what was scored on each split, for figures of a benchmark's own.
    """
    tables, seconds = [], {contender.name: [] for contender in contenders}
    for index, split in enumerate(splits):
        tables.append(_table(split, contenders, after, step, draws, seconds, inspect))
        _say(f"split {index}", tables[-1], seconds)
        gc.collect()
    return Measured(split_scores(tables, unit=unit), seconds, tables)


def _table(
    split: Split,
    contenders: Sequence[Contender],
    after: Any,
    step: float | None,
    draws: int,
    seconds: dict[str, list[float]],
    inspect: Callable[[Seen], None],
) -> xr.Dataset:
    forecasts: dict[str, Any] = {}
    shared: Any = None
    for contender in contenders:
        start = time.perf_counter()
        fitted = contender.fit(split.train)
        truth, given, cutoff = _cut(fitted, split.test, after)
        padded = truth.batch.drop_empty().padded()
        forecasts[contender.name] = forecast_of(fitted, given.batch, padded.time, draws, contender.seed)
        seconds[contender.name].append(time.perf_counter() - start)
        for name, model in contender.references(fitted).items():
            forecasts[name] = forecast_of(fitted, given.batch, padded.time, draws, contender.seed, model)
        shared = fitted, given, padded, cutoff
    fitted, given, padded, cutoff = shared
    spacing = None if step is None else fitted.schema.time.duration(step)
    known = fitted._conditioning().batch
    baselines = baseline_forecasts(known, given.batch, padded.time, cutoff=cutoff, step=spacing)
    inspect(Seen(fitted, padded, forecasts | baselines))
    return evaluate(
        padded.values,
        padded.mask,
        forecasts | baselines,
        channel_names=[channel.label or channel.variable for channel in fitted.schema.channels],
        scale=fitted.schema.scale,
        baselines=list(baselines),
        resamples=2,  # the spread shown is that over splits
    )


def _cut(fitted: Fitted, test: xr.Dataset, after: Any) -> tuple[Any, Any, float]:
    cutoff = float(query_times(fitted.schema, after)[1][0])
    given, truth = split_at(encode(test, fitted.schema), cutoff)
    return truth, given, cutoff


def compare(
    name: str,
    splits: Sequence[Split],
    contenders: Sequence[Contender],
    *,
    after: Any,
    unit: Any = None,
    unit_name: str = "standard deviations",
    factor: float = 1.0,
    step: float | None = None,
    goals: Mapping[str, float] | None = None,
    goal_split: int | None = None,
    draws: int = 200,
) -> Iterable[Row]:
    """The rows of a benchmark: :func:`measure`, then :func:`rows_of`."""
    found = measure(splits, contenders, after=after, unit=unit, step=step, draws=draws)
    yield from rows_of(name, found, unit_name=unit_name, factor=factor, goals=goals, goal_split=goal_split)


def rows_of(
    name: str,
    found: Measured,
    *,
    unit_name: str = "standard deviations",
    factor: float = 1.0,
    goals: Mapping[str, float] | None = None,
    goal_split: int | None = None,
    models: Sequence[str] | None = None,
) -> Iterable[Row]:
    """Every model against every baseline and reference, its coverage, and fixed goals.

    Args:
        factor: squared errors are shown times this; the CRPS keeps its unit.
        goals: metric -> figure that the error must stay below.
        goal_split: the split that the goals are for; None: the mean over splits.
        models: forecasters that get rows; default all contenders.
    """
    scores = found.scores
    others, wanted = [str(f) for f in scores["forecaster"].values], dict(goals or {})
    for model in models or list(found.seconds):
        prefix = f"{name}/" if len(found.seconds) == 1 else f"{name}/{model}/"
        for metric, label in SHOWN.items():
            unit = f"{unit_name} squared x {1 / factor:g}" if metric.startswith("mse") else unit_name
            scale = factor if metric.startswith("mse") else 1.0
            if metric in wanted:
                which = goal_split
                yield _against_goal(f"{prefix}{label}-goal", scores, model, metric, wanted[metric], unit, scale, which)
            for peer in others:
                if peer not in found.seconds:
                    yield _against(f"{prefix}{label}-{peer}", scores, model, peer, metric, unit, scale)
        yield _coverage(f"{prefix}coverage-90", scores, model, found.seconds[model])


def _against(name: str, ds: xr.Dataset, model: str, peer: str, metric: str, unit: str, scale: float) -> Row:
    ours, theirs = (ds.sel(forecaster=f, metric=metric) for f in (model, peer))
    baseline = bool(theirs["is_baseline"])
    note = f"{_spread(ours, scale)} against {_spread(theirs, scale)} over {ds.sizes['split']} splits"
    if peer == str(ds["best_baseline"].sel(metric=metric).item()):
        clearly = ", clearly" if bool(ours["clearly"]) else ""
        note += f"; the best baseline: {ours['verdict'].item()}{clearly}"
    return Row(
        name=name, ours=float(ours["mean"]) * scale, peer=float(theirs["mean"]) * scale, unit=unit,
        goal=1.0 if baseline else None, note=note, versions=versions(),
    )  # fmt: skip


def _against_goal(
    name: str, ds: xr.Dataset, model: str, metric: str, goal: float, unit: str, scale: float, split: int | None
) -> Row:
    ours = ds.sel(forecaster=model, metric=metric)
    note = f"{_spread(ours, scale)} over {ds.sizes['split']} splits; the peer is the goal"
    value = float(ours["mean"])
    if split is not None:
        value, note = float(ours["score"].sel(split=split)), f"split {split}, which the goal is for; {note}"
    return Row(name=name, ours=value * scale, peer=goal * scale, unit=unit, goal=1.0, note=note, versions=versions())


def _coverage(name: str, ds: xr.Dataset, model: str, seconds: Sequence[float]) -> Row:
    ours = ds.sel(forecaster=model, metric="coverage_90")
    note = f"{_spread(ours, 1.0)} over {ds.sizes['split']} splits, wanted 0.90; {np.mean(seconds):.0f} s per split"
    return Row(name=name, ours=float(ours["mean"]), peer=None, unit="share", note=note, versions=versions())


def _spread(row: xr.Dataset, scale: float) -> str:
    return f"{float(row['mean']) * scale:.3g} +- {float(row['sd']) * scale:.2g}"


def _say(title: str, table: xr.Dataset, seconds: Mapping[str, Sequence[float]]) -> None:
    """Progress on the error stream: a split can take minutes."""
    rmse, crps, inside = (
        table[k].isel(channel=-2).values for k in ("rmse_normalised", "crps_normalised", "coverage_90")
    )
    for name, r, c, p in zip(table["forecaster"].values, rmse, crps, inside, strict=True):
        spent = f", {seconds[str(name)][-1]:.0f} s" if str(name) in seconds else ""
        print(f"{title}: {name}: mse {r**2:.4g}, crps {c:.4g}, coverage {p:.3f}{spent}", file=sys.stderr, flush=True)


def simulated(name: str, size: int, *, seed: int, **options: Any) -> Split:
    """A data set of its own: ``size`` series to train on, half as many to choose with, as many to score."""
    from sciinfer.datasets import split_series  # pyright: ignore[reportMissingImports] - lives beside the package

    ds = registry().get("simulators", name)(seed=seed, n_series=2 * size + size // 2, **options)
    return Split(*split_series(ds, (0.4, 0.2, 0.4), seed=seed))


def single_thread() -> None:
    """Every benchmark runs on one thread, so that times can be compared."""
    torch.set_num_threads(1)
