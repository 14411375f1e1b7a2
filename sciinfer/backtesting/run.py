"""The verb: forecasts from rolling origins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..diagnostics import BASELINES
from ..errors import ConfigError
from ..fitted import Fitted
from .conformal import first_window, recalibrated
from .forecasters import Baseline, Forecaster, Given, Trained, answers, question
from .names import named_baselines, named_models, per_label
from .panel import Panel, read_panel
from .predicted import Predicted
from .result import Backtest, forecasts_dataset
from .score import entries_of, score_table
from .windows import length_of, rolling_windows

#: added to the label of a recalibrated forecast
CONFORMAL = " (conformal)"


def backtest(
    model: Any,
    data: Any,
    *,
    horizon: Any,
    windows: int = 5,
    step: Any = None,
    context: Any = None,
    refit: bool | int = False,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    baselines: Sequence[str] | None = None,
    season: Any = None,
    conformal: bool = False,
    draws: int = 100,
    seed: int = 0,
    time: str | None = None,
    series: str | None = None,
    variables: Sequence[str] | None = None,
    progress: str = "silent",
) -> Backtest:
    """Forecast from rolling origins, as one would have at the time, and score against baselines.

    Models, scalers and baselines see only rows before an origin; the last window ends with the data.

    Args:
        model: a registered name, a fitted model, a list of these, or a mapping ``{label: model}``.
        data: Dataset, DataArray or table (long: ``unique_id, ds, y``). NaN = missing; times may be irregular, series
            of unequal length.
        horizon: rows (a whole number; counted from the end of each series) or a duration (``"30D"``, a timedelta, a
            float in the data's time units; every series is cut at the same moments).
        windows: number of origins. step: from one to the next, in the same terms; default the horizon.
        context: rows or duration before an origin that a forecast is given; default all.
        refit: False: fit once, before the first origin, and condition on what is known at each; True: fit at every
            origin; k: at every k-th.
        options, training: as for :func:`sciinfer.fit`; of several models ``{label: {...}}``.
        baselines: names of :data:`sciinfer.diagnostics.BASELINES` or registered models; default all that need no model.
        season: rows or duration; adds the seasonal baseline, and is the lag of MASE (default 1 row).
        conformal: also recalibrate each model by the errors of earlier windows, of which two must be known; windows
            before that calibrate and are scored for nobody.
        draws, seed: of models without closed-form predictions. time, series, variables, progress: as for ``fit``.

    Returns:
        A :class:`~sciinfer.backtesting.Backtest`: ``.forecasts``, ``.frame()``, ``.summary()`` and ``.scores``, over
        ``model, channel`` (the row ``all`` pools channels), each also ``_by_lead`` and ``_by_window``: ``crps`` (exact:
        fair for draws, closed form for normals), ``crps_quantile_9`` and ``_19`` (and ``_normalised`` by the sum of
        ``|y|``), ``mase``, ``mae``, ``rmse``, ``coverage_50 .. _95``; ``crps_normalised`` (in standard deviations
        before the first origin) with ``crps_difference`` to the best baseline, its error, ``p_value`` and ``verdict``.

    Raises:
        DataError: series too short (named), a model that has seen the future, nothing to score.
        ConfigError: arguments that cannot be. NumericalError: a forecast that is not finite.

    Example:
        >>> import sciinfer as si
        >>> found = si.backtest("random-walk", si.open_dataset("nile"), horizon=5, windows=3)
        >>> dict(found.forecasts["forecast"].isel(model=0).sizes)
        {'window': 3, 'lead': 5, 'channel': 1, 'quantile': 21}
    """
    _check(draws, refit)
    panel = read_panel(data, time=time, series=series, variables=variables)
    parts = rolling_windows(panel, horizon=horizon, windows=windows, step=step, context=context)
    asked = [question(panel, part, number) for number, part in enumerate(parts)]
    lag_rows = None if season is None else length_of(panel, season, "season")[0]
    named, names = named_models(model), named_baselines(baselines, lag_rows)
    common = {"refit": int(refit), "draws": draws, "seed": seed, "progress": progress}
    forecasters = _forecasters(named, names, options, training, lag_rows, common)
    first = first_window(panel, asked) if conformal else 0
    found: dict[str, Sequence[Predicted]] = {}
    for label, answered in answers(forecasters, panel, asked):
        found[label] = answered
        if conformal and label in named:
            found[label + CONFORMAL] = recalibrated(panel, asked, answered, first=first, draws=max(draws, 100))
    entries = entries_of(panel, asked, max(1, round(lag_rows or 1)), first)
    flat = {label: _joined(parts) for label, parts in found.items()}
    scores = score_table(panel, flat, entries, names, _overlap(panel, horizon, step))
    scores.attrs |= {
        "horizon": str(horizon), "step": str(horizon if step is None else step), "n_series": panel.n_series,
        "refit": _refit_words(refit), "draws": draws, "seed": seed,
    }  # fmt: skip
    return Backtest(forecasts_dataset(panel, asked, found), scores)


def _check(draws: int, refit: bool | int) -> None:
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 2:
        raise ConfigError(f"draws must be a whole number >= 2, got {draws!r}", variable="draws", fix="draws=100")
    if not isinstance(refit, bool | int) or refit < 0:
        raise ConfigError(f"refit must be True, False or a number of windows, got {refit!r}", variable="refit")


def _forecasters(
    named: Mapping[str, str | Fitted],
    baselines: Sequence[str],
    options: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    season: float | None,
    common: dict[str, Any],
) -> dict[str, Forecaster]:
    twice = [name for name in baselines if name in named]
    if twice:
        raise ConfigError(
            f"{twice[0]!r} is a model and a baseline", variable="baselines", fix="name it once, or relabel the model"
        )
    labels = [*named, *(name for name in baselines if name not in BASELINES)]
    chosen = per_label(options, labels if len(named) > 1 else _single(labels, options), "options")
    trained = per_label(training, labels if len(named) > 1 else _single(labels, training), "training")
    out: dict[str, Forecaster] = {}
    for label, one in named.items():
        out[label] = _model(label, one, chosen.get(label, {}), trained.get(label, {}), common)
    for name in baselines:
        if name in BASELINES:
            out[name] = Baseline(name, season)
        else:
            out[name] = Trained(name, name, chosen.get(name, {}), trained.get(name, {}), **common)
    return out


def _single(labels: Sequence[str], settings: Mapping[str, Any] | None) -> Sequence[str]:
    """Flat settings of a single model are its own, not those of a baseline that is a model too."""
    return labels if settings and set(settings) <= set(labels) else labels[:1]


def _model(label: str, one: str | Fitted, options: Any, training: Any, common: dict[str, Any]) -> Forecaster:
    if isinstance(one, str):
        return Trained(label, one, options, training, **common)
    if common["refit"]:
        return Trained(label, one.name, {**one.options, **options}, {**one.training, **training}, **common)
    if options or training:
        raise ConfigError(
            f"model {label!r} is fitted already", variable="options", fix="pass refit=True, or its name instead"
        )
    return Given(label, one, draws=common["draws"], seed=common["seed"])


def _joined(parts: Sequence[Predicted]) -> Predicted:
    return Predicted(*(np.concatenate([getattr(part, name) for part in parts]) for name in Predicted._fields))


def _overlap(panel: Panel, horizon: Any, step: Any) -> int:
    """How many later windows share rows with one."""
    if step is None:
        return 0
    return math.ceil(length_of(panel, horizon, "horizon")[0] / length_of(panel, step, "step")[0] - 1e-9) - 1


def _refit_words(refit: bool | int) -> str:
    if not refit:
        return "fitted once"
    return "refitted at every origin" if int(refit) == 1 else f"refitted at every {int(refit)}th origin"
