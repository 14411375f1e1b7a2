"""Who forecasts: registered models, fitted ones and the baselines that need no model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import xarray as xr

from ..api import fit
from ..diagnostics import Forecast, Samples, run_baselines
from ..errors import DataError, SchemaError, SciInferError, SciInferWarning
from ..fitted import Fitted
from ..labelled.ingest import encode, infer_schema
from ..labelled.schema import Schema
from ..random import derive
from ..scoring import forecast_of
from .panel import Panel
from .predicted import Predicted, predicted
from .windows import Window


class Question(NamedTuple):
    """One window: the rows known, and ``N`` rows to be forecast.

    ``series [N]``, ``row [N]`` (among the panel's rows), ``lead [N]`` from 1, ``truth [N, C]``; ``times [A, T]`` of the
    ``A`` active series in the caller's clock, padded with each one's last, ``rows [A, T]`` False where padded.
    """

    number: int
    window: Window
    series: np.ndarray
    row: np.ndarray
    lead: np.ndarray
    truth: np.ndarray
    times: np.ndarray
    rows: np.ndarray


def question(panel: Panel, window: Window, number: int) -> Question:
    """The rows of a window, and the truth at them."""
    active = np.flatnonzero(window.active)
    counts = (window.stop - window.origin)[active]
    rows = np.arange(counts.max()) < counts[:, None]
    start = (panel.starts[:-1] + window.origin)[active]
    table = start[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)
    chosen = table[rows]
    lead = np.broadcast_to(np.arange(1, counts.max() + 1), rows.shape)[rows]
    series = np.repeat(active, counts)
    return Question(
        number, window, series, chosen, lead, panel.rows.values[chosen], panel.rows.time[table], rows
    )  # fmt: skip


class Forecaster(Protocol):
    """Answers one window after the other, in their order."""

    def answer(self, panel: Panel, asked: Question) -> Predicted:
        """The forecast of the rows of ``asked``."""
        ...


class Baseline:
    """One of :data:`sciinfer.diagnostics.BASELINES`, from the series' own known rows.

    Args:
        name: of the baseline. season: in typical gaps, or None.
    """

    def __init__(self, name: str, season: float | None) -> None:
        self.name, self.season = name, season

    def answer(self, panel: Panel, asked: Question) -> Predicted:
        """See :class:`Forecaster`."""
        past = panel.cut(asked.window.first, asked.window.origin)
        with quiet():
            # scaled by the known rows alone
            time = panel.schema.time.name
            schema = infer_schema(past, time=time, series=panel.schema.series, variables=_names(panel))
            season = self._season(panel, schema)
            forecast = _asked_of(
                schema, past, asked, lambda b, t: run_baselines(b, t, season=season, names=[self.name])[self.name]
            )
        return predicted(forecast, asked.rows, asked.truth, schema.scale, schema.shift)

    def _season(self, panel: Panel, schema: Schema) -> float | None:
        return None if self.season is None else self.season * panel.schema.time.scale / schema.time.scale


class Trained:
    """A registered model, fitted to known rows only: before the first origin, or before every ``refit``-th.

    Args:
        label: in the results. model: its registered name. options, training: of the fit. refit: 0: once.
        draws, seed, progress: as for the fit and its forecasts.
    """

    def __init__(
        self,
        label: str,
        model: str,
        options: Mapping[str, Any],
        training: Mapping[str, Any],
        *,
        refit: int,
        draws: int,
        seed: int,
        progress: str,
    ) -> None:
        self.label, self.model, self.options, self.training = label, model, dict(options), dict(training)
        self.refit, self.draws, self.seed, self.progress = refit, draws, seed, progress
        self.fitted: Fitted | None = None

    def answer(self, panel: Panel, asked: Question) -> Predicted:
        """See :class:`Forecaster`."""
        fitted = self.fitted
        if fitted is None or (self.refit and asked.number % self.refit == 0):
            # what a fit says of the data it says once
            with quiet(asked.number > 0):
                fitted = self.fitted = self._fit(panel, asked.window)
        return forecast_window(fitted, panel, asked, self.label, self.draws, self.seed)

    def _fit(self, panel: Panel, window: Window) -> Fitted:
        time = panel.schema.time.name
        return fit(
            panel.cut(window.first, window.origin) if self.refit else panel.cut(0 * window.first, window.origin),
            self.model,
            seed=self.seed,
            options=self.options,
            training=self.training,
            time=time,
            series=panel.schema.series,
            variables=_names(panel),
            progress=self.progress,
        )


class Given:
    """A model that was fitted before, to rows that lie before the first origin.

    Args:
        label: in the results. fitted: the model. draws, seed: of its forecasts.
    """

    def __init__(self, label: str, fitted: Fitted, *, draws: int, seed: int) -> None:
        self.label, self.fitted, self.draws, self.seed = label, fitted, draws, seed

    def answer(self, panel: Panel, asked: Question) -> Predicted:
        """See :class:`Forecaster`."""
        if asked.number == 0:
            _refuse_future(self.label, self.fitted, panel, asked)
            _refuse_units(self.label, self.fitted.schema, panel.schema)
        return forecast_window(self.fitted, panel, asked, self.label, self.draws, self.seed)


def forecast_window(fitted: Fitted, panel: Panel, asked: Question, label: str, draws: int, seed: int) -> Predicted:
    """A fitted model's forecast of a window, given the rows known at its origin."""
    stream = derive(seed, "backtest", label, asked.number)
    past = panel.cut(asked.window.first, asked.window.origin)
    with quiet():
        forecast = _asked_of(fitted.schema, past, asked, lambda b, t: forecast_of(fitted, b, t, draws, stream))
    order = _channel_order(fitted.schema, panel.schema, label)
    scale, shift = fitted.schema.scale[order], fitted.schema.shift[order]
    return predicted(_reordered(forecast, order), asked.rows, asked.truth, scale, shift)


def _asked_of(schema: Schema, past: xr.Dataset, asked: Question, answer: Any) -> Samples | Forecast:
    batch = encode(past, schema).batch.select(np.flatnonzero(asked.window.active).tolist())
    times = schema.time.to_model(asked.times.ravel()).reshape(asked.times.shape)
    return answer(batch, torch.as_tensor(times, dtype=torch.float64))


def _channel_order(own: Schema, wanted: Schema, label: str) -> list[int]:
    place = {(c.variable, c.cell): k for k, c in enumerate(own.channels)}
    missing = [c for c in wanted.channels if (c.variable, c.cell) not in place]
    if missing:
        raise SchemaError(
            f"model {label!r} was not fitted on {missing[0].label!r}; it knows {[c.label for c in own.channels]}",
            variable=missing[0].variable,
            fix="choose variables=[...] that it knows",
        )
    return [place[c.variable, c.cell] for c in wanted.channels]


def _reordered(forecast: Samples | Forecast, order: Sequence[int]) -> Samples | Forecast:
    if isinstance(forecast, Samples):
        return Samples(forecast.draws[..., list(order)])
    return Forecast(forecast.mean[..., list(order)], forecast.sd[..., list(order)])


def _refuse_units(label: str, own: Schema, wanted: Schema) -> None:
    theirs = {c.variable: c.units for c in own.channels}
    for channel in wanted.channels:
        known = theirs.get(channel.variable)
        if known is not None and channel.units is not None and known != channel.units:
            raise SchemaError(
                f"model {label!r} was fitted in {known}, the data are in {channel.units}",
                variable=channel.variable,
                fix="convert the data first",
            )


def _refuse_future(label: str, fitted: Fitted, panel: Panel, asked: Question) -> None:
    """A model must not have seen what it is asked to forecast."""
    with quiet():
        known = encode(fitted.data, fitted.schema)
    batch = known.batch
    labels = [None] * batch.n_series if known.series_labels is None else known.series_labels.tolist()
    stamps = np.round(batch.time.numpy(), 6)  # in typical gaps: a time may have been counted from elsewhere
    mine = {} if panel.labels is None else {one: k for k, one in enumerate(panel.labels.tolist())}
    for series, one in enumerate(labels):
        place = 0 if panel.labels is None and len(labels) == 1 else mine.get(one)
        rows = slice(int(batch.offsets[series]), int(batch.offsets[series + 1]))
        if place is None or rows.start == rows.stop:
            continue
        future = panel.rows.time[panel.starts[place] + asked.window.origin[place] : panel.starts[place + 1]]
        if np.isin(stamps[rows], np.round(fitted.schema.time.to_model(future), 6)).any():
            raise DataError(
                f"model {label!r} was fitted to rows of {panel.name(place)} after the first origin, which it is "
                "asked to forecast",
                dim=panel.schema.series,
                code="data/leak",
                fix=f"fit it to what lies before {future.min()}, or pass refit=True, or its name for a fit of its own",
            )


def _names(panel: Panel) -> list[str]:
    return [variable.name for variable in panel.schema.variables]


@contextlib.contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Without the package's own notices, which were said when the data were read."""
    with warnings.catch_warnings():
        if wanted:
            warnings.simplefilter("ignore", SciInferWarning)
        yield


def answers(forecasters: Mapping[str, Forecaster], panel: Panel, asked: Sequence[Question]) -> Iterator[Any]:
    """``(label, predictions of each window)``; an error says whose and where."""
    for label, forecaster in forecasters.items():
        found = []
        for one in asked:
            try:
                found.append(forecaster.answer(panel, one))
            except SciInferError as err:
                err.details |= {"model": label, "window": one.number}
                err.add_note(f"in the backtest of {label!r}, window {one.number} of {len(asked)}")
                raise
        yield label, found
