"""Forecasts recalibrated by what earlier windows missed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from .forecasters import Question
from .panel import Panel
from .predicted import LEVELS, Predicted, of_draws

#: windows that must be known before one can be recalibrated
LEAST = 2
_MIDDLE, _LOW, _HIGH = LEVELS.index(0.5), LEVELS.index(0.1), LEVELS.index(0.9)


def first_window(panel: Panel, asked: Sequence[Question]) -> int:
    """The first window that two earlier ones can recalibrate, with what was known of them at its origin.

    Raises:
        ConfigError: there is none.
    """
    for one in asked:
        if sum(bool(_known(panel, earlier, one).any()) for earlier in asked[: one.number]) >= LEAST:
            return one.number
    raise ConfigError(
        f"{len(asked)} windows cannot be recalibrated: it takes {LEAST} that are known before the next begins",
        variable="conformal",
        fix=f"windows={LEAST + 1} or more, and no step that is much shorter than the horizon",
    )


def recalibrated(
    panel: Panel, asked: Sequence[Question], found: Sequence[Predicted], *, first: int, draws: int
) -> list[Predicted]:
    r"""Split-conformal distributions: :math:`m \pm s\,|y_i - m_i|/s_i` over the entries i of earlier windows.

    ``m`` is a forecast's median, ``s`` the distance of its 10 % and 90 % quantiles, so the model keeps its say in where
    and when a forecast is wide; both signs are used, because a few windows that all went one way say nothing of the
    next. Residuals are pooled over series and leads of a channel. Of an earlier window only the rows that are known at
    the origin are used. Windows before ``first`` stay as they are.

    Args:
        asked, found: windows and a model's forecasts of them. first: see :func:`first_window`.
        draws: points of the recalibrated distribution.

    References:
        Vovk, Shen, Manokhin, Xie (2017), Nonparametric predictive distributions based on conformal prediction
    """
    residuals = [_residuals(one, forecast) for one, forecast in zip(asked, found, strict=True)]
    out = list(found)
    for one in asked[first:]:
        earlier = asked[: one.number]
        known = np.concatenate([residuals[e.number][_known(panel, e, one)] for e in earlier])
        out[one.number] = _shifted(found[one.number], known, one.truth, draws)
    return out


def _known(panel: Panel, earlier: Question, now: Question) -> np.ndarray:
    """``[N]``: which rows of an earlier window lie before the origin of this one."""
    return earlier.row < (panel.starts[:-1] + now.window.origin)[earlier.series]


def _spread(forecast: Predicted) -> np.ndarray:
    width = forecast.quantile[..., _HIGH] - forecast.quantile[..., _LOW]
    # a forecast without width is moved as it is
    return np.where(width > 0, width, 1.0)


def _residuals(asked: Question, forecast: Predicted) -> np.ndarray:
    return (asked.truth - forecast.quantile[..., _MIDDLE]) / _spread(forecast)


def _shifted(forecast: Predicted, known: np.ndarray, truth: np.ndarray, draws: int) -> Predicted:
    places = (np.arange(draws) + 0.5) / draws
    quantiles = np.zeros((known.shape[1], draws))
    for channel, column in enumerate(known.T):
        seen = column[np.isfinite(column)]
        if len(seen):
            # order statistic at p (n + 1): the convention under which n exchangeable residuals cover what they should
            quantiles[channel] = np.quantile(np.concatenate([seen, -seen]), places, method="weibull")
    middle, spread = forecast.quantile[..., _MIDDLE], _spread(forecast)
    return of_draws(middle[..., None] + spread[..., None] * quantiles, truth)
