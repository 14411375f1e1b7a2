"""One forecast of the rows of a window, as what is kept of it: quantiles, mean, scores of each entry."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..diagnostics import Forecast, Samples
from ..diagnostics.cores import covered, covered_normal, crps_fair, crps_normal, normal_quantile
from ..diagnostics.quantile_scores import LEVELS_19
from ..errors import NumericalError

#: kept of every forecast, and the probabilities of the central intervals that are scored
LEVELS = (0.025, *LEVELS_19, 0.975)
PROBS = (0.5, 0.8, 0.9, 0.95)


class Predicted(NamedTuple):
    """``N`` rows of ``C`` channels in the caller's units; scores are NaN where there is no truth.

    ``quantile [N, C, L]``, ``mean [N, C]``, ``crps [N, C]``, ``covered [N, C, P]``.
    """

    quantile: np.ndarray
    mean: np.ndarray
    crps: np.ndarray
    covered: np.ndarray


def predicted(
    forecast: Samples | Forecast, rows: np.ndarray, truth: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> Predicted:
    """A forecast ``[S, T, C]`` in model units at the entries ``rows [S, T]``.

    Args:
        forecast: draws, or normals. truth: ``[N, C]``, NaN = missing. scale, shift: ``[C]`` of the caller's units.

    Returns:
        :class:`Predicted`.

    Raises:
        NumericalError: a forecast that is not finite.
    """
    if isinstance(forecast, Samples):
        draws = forecast.draws.double().numpy()[:, rows] * scale + shift
        return of_draws(np.moveaxis(draws, 0, -1), truth)
    mean = forecast.mean.double().numpy()[rows] * scale + shift
    return of_normal(mean, forecast.sd.double().numpy()[rows] * scale, truth)


def of_draws(draws: np.ndarray, truth: np.ndarray) -> Predicted:
    """From draws ``[N, C, m]``."""
    _check_finite(draws)
    seen = np.isfinite(truth)
    y = np.where(seen, truth, 0.0)
    inside = np.stack([covered(y, draws, prob) for prob in PROBS], axis=-1)
    return Predicted(
        np.moveaxis(np.quantile(draws, LEVELS, axis=-1), 0, -1),
        draws.mean(axis=-1),
        np.where(seen, crps_fair(y, draws), np.nan),
        np.where(seen[..., None], inside, np.nan),
    )


def of_normal(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> Predicted:
    """From moments ``[N, C]``."""
    _check_finite(mean, sd)
    seen = np.isfinite(truth)
    y = np.where(seen, truth, mean)
    sd = np.maximum(sd, 1e-300)
    inside = np.stack([covered_normal(mean, sd, y, prob) for prob in PROBS], axis=-1)
    return Predicted(
        mean[..., None] + sd[..., None] * normal_quantile(np.array(LEVELS)),
        mean,
        np.where(seen, crps_normal(mean, sd, y), np.nan),
        np.where(seen[..., None], inside, np.nan),
    )


def _check_finite(*arrays: np.ndarray) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise NumericalError(
            "a forecast is not finite", code="numerical/forecast", fix="change the model's options or its training"
        )
