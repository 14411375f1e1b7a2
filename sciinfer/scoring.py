"""A fitted model against the trivial baselines on one split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import xarray as xr
from torch import Tensor

from .diagnostics import Forecast, Samples, evaluate, per_variable_linear, run_baselines
from .diagnostics.pca_var import pca_var, pca_var_applies
from .errors import DataError, SchemaError
from .labelled.ingest import Encoded
from .labelled.series import SeriesBatch
from .models.base import Draws, Model

if TYPE_CHECKING:
    from .fitted import Fitted


def split_at(encoded: Encoded, cutoff: float) -> tuple[Encoded, Encoded]:
    """Rows up to a model time, and rows after it."""
    early = encoded.batch.time <= cutoff
    return encoded._replace(batch=encoded.batch.keep(early)), encoded._replace(batch=encoded.batch.keep(~early))


def score_forecasts(
    fitted: Fitted,
    truth: Encoded,
    given: Encoded,
    *,
    cutoff: float | None,
    season: float | None,
    draws: int,
    seed: int,
    references: Mapping[str, Model],
) -> xr.Dataset:
    """Baselines, the model and references at the truth's times, given the conditioning data."""
    conditioning = _match(given, truth)
    padded = truth.batch.drop_empty().padded()
    if not bool(padded.mask.any()):
        raise DataError("nothing is observed in the data to be scored", fix="score held-out data, after the split")
    forecasts: dict[str, Samples | Forecast] = {"model": forecast_of(fitted, conditioning, padded.time, draws, seed)}
    for name, reference in references.items():
        forecasts[name] = forecast_of(fitted, conditioning, padded.time, draws, seed, reference)
    training = fitted._conditioning().batch
    forecasts |= baseline_forecasts(training, conditioning, padded.time, cutoff=cutoff, season=season)
    schema = fitted.schema
    scores = evaluate(
        padded.values,
        padded.mask,
        forecasts,
        channel_names=[channel.label or channel.variable for channel in schema.channels],
        scale=schema.scale,
        shift=schema.shift,
        units=[channel.units for channel in schema.channels],
        baselines=[name for name in forecasts if name != "model" and name not in references],
    )
    return scores.assign_attrs(model_name=fitted.name, seed=seed)


def _match(given: Encoded, truth: Encoded) -> SeriesBatch:
    """The conditioning series of each series to be predicted, by label."""
    if truth.series_labels is None or given.series_labels is None:
        if given.batch.n_series != truth.batch.n_series:
            raise SchemaError(
                f"{given.batch.n_series} series to condition on, {truth.batch.n_series} to predict, and no labels",
                fix="give both data sets a series coordinate",
            )
        return given.batch
    place = {label: index for index, label in enumerate(given.series_labels.tolist())}
    missing = [label for label in truth.series_labels.tolist() if label not in place]
    if missing:
        raise SchemaError(
            f"{len(missing)} series to be predicted have no data to condition on",
            dim="series",
            index=missing[0],
            fix="pass given=..., or after=... to condition on the test data's own history",
        )
    return given.batch.select([place[label] for label in truth.series_labels.tolist()])


def baseline_forecasts(
    training: SeriesBatch,
    conditioning: SeriesBatch,
    times: Tensor,
    *,
    cutoff: float | None,
    season: float | None = None,
    step: float | None = None,
) -> dict[str, Forecast]:
    """The baselines that apply; those that learn from other series need a time that splits them.

    Args:
        times: ``[S, T]``. cutoff: model time that ends the history. season: length of one.
        step: grid of the autoregression, model time units; None: only where the data have one of their own.
    """
    found = run_baselines(conditioning, times, season=season)
    if cutoff is not None and bool((training.time > cutoff).any()):
        found["per_variable_linear"] = per_variable_linear(training, conditioning, times, cutoff=cutoff)
        if step is not None or pca_var_applies(training, cutoff):
            found["pca_var"] = pca_var(training, conditioning, times, cutoff=cutoff, step=step)
    return found


def forecast_of(
    fitted: Fitted, batch: SeriesBatch, times: Tensor, draws: int, seed: int, model: Model | None = None
) -> Samples | Forecast:
    """Predictions of ``batch`` at ``times [S, T]``. Closed-form moments where the model has them, draws otherwise."""
    trial = next(iter(fitted.draw_chunks(batch.select([0]), times[:1], 1, seed, model)))
    exact = trial.mean is not None and trial.variance is not None
    parts: list[Draws] = list(fitted.draw_chunks(batch, times, 1 if exact else draws, seed, model))
    if exact:
        mean, variance = _joined(parts, "mean"), _joined(parts, "variance")
        return Forecast(mean.double(), variance.double().clamp(min=1e-300).sqrt())
    observation = torch.cat([part.observation for part in parts], dim=1).double()
    return Samples(observation)


def _joined(parts: list[Draws], name: str) -> Tensor:
    return torch.cat([value for part in parts if (value := getattr(part, name)) is not None], dim=0)
