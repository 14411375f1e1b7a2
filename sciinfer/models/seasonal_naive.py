"""``seasonal-naive``: the value a season ago, and what that missed before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from .nlinear import SolvedWindows
from .window_grid import GridRows, held

__entries__ = [
    {
        "kind": "models",
        "name": "seasonal-naive",
        "target": "seasonal_naive",
        "summary": "the value a season ago, with the quantiles by lead of what that missed",
        "references": ["Hyndman, Athanasopoulos (2021), Forecasting: principles and practice"],
        "options": {
            "season": "cells, a duration such as '24h', or 'auto': the most alike of up to `longest` cells",
            "longest": "cells kept to look a season back, and the longest season that is found",
            "horizon": "cells answered at once",
        },
    },
]

#: correlation from which changes count as seasonal, windows for the quantiles
_ALIKE, _WINDOWS = 0.3, 4000


def seasonal_naive(
    schema: Schema, *, seed: int = 0, season: str | float = "auto", longest: int = 400, horizon: int = 48
) -> SeasonalNaive:
    r"""Build a seasonal naive forecaster for regular data of this schema.

    :math:`y_{t+h} = y_{t+h-km} + e_h`, ``m`` the season and ``k`` the least number of them; ``e_h`` from the quantiles
    by lead and channel of the training errors. Without a season (``m = 1``) it is the last value.

    Args:
        schema: channels and time scale. seed: unused. season: cells, or a duration. longest: most cells of a season.
        horizon: cells answered at once.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> seasonal_naive(Schema(axis, None, (Variable("a"),), (Channel("a"),)), season=12).context
        400
    """
    if season == "auto":
        return SeasonalNaive(schema.n_channels, None, False, longest, horizon)
    if isinstance(season, str):
        return SeasonalNaive(schema.n_channels, schema.time.duration(season), True, longest, horizon)
    if isinstance(season, bool) or not isinstance(season, int | float) or not 1 <= season < math.inf:
        raise ConfigError(
            f"season must be a number of cells >= 1, a duration or 'auto', got {season!r}",
            variable="season",
            fix='season="24h"',
        )
    return SeasonalNaive(schema.n_channels, float(season), False, longest, horizon)


class SeasonalNaive(SolvedWindows):
    """See :func:`seasonal_naive`.

    Args:
        season: cells, or model time units (``timed``), or None: found.
    """

    period: Tensor

    def __init__(self, channels: int, season: float | None, timed: bool, longest: int, horizon: int) -> None:
        super().__init__("seasonal-naive", channels, longest, horizon)
        self.season, self.timed = season, timed
        start = 1 if season is None or timed else round(season)
        self.register_buffer("period", torch.tensor(self._allowed(start)))

    def _allowed(self, cells: int) -> int:
        if not 1 <= cells <= self.context:
            raise ConfigError(
                f"a season of {cells} cells is outside 1 to longest = {self.context}",
                variable="season",
                fix=f"longest={max(cells, 1)}" if cells > 1 else "a longer season",
            )
        return cells

    def mean(self, context: Tensor) -> Tensor:
        """The last season again and again."""
        at = torch.arange(self.horizon, device=context.device) % self.period - self.period + self.context
        return context[:, at]

    @torch.no_grad()
    def initialise(self, batch: SeriesBatch) -> None:
        """Season and errors."""
        grid = self.measure(batch)
        if grid is None:
            return
        if self.season is None:
            self.period.fill_(self._found(grid))
        elif self.timed:
            self.period.fill_(self._allowed(round(self.season / float(self.step))))
        series, ends = self._origins(grid, min(_WINDOWS, int(grid.cells.sum())))
        whole = (ends >= self.period) & (ends < grid.cells[series])
        self.set_errors(grid, series[whole], ends[whole])

    def _found(self, grid: GridRows) -> int:
        """Lag at which changes are most alike; 1 where none stands out."""
        filled = held(grid, self.centre)
        steps = torch.where(grid.mask[:, 1:] & grid.mask[:, :-1], filled.diff(dim=1), 0.0) / self.sd
        length = steps.shape[1]
        most = min(self.context, length // 2)
        if most < 2:
            return 1
        power = torch.fft.rfft(steps, n=2 * length, dim=1).abs().square()
        alike = torch.fft.irfft(power, dim=1).sum((0, 2))[: most + 1]
        alike = alike / alike[0].clamp(min=1e-12)
        inner = alike[2:]
        best = int(inner.argmax())
        return best + 2 if float(inner[best]) > _ALIKE else 1

    def summary(self) -> dict[str, float]:
        """Also the season, in cells."""
        return {**super().summary(), "season": float(self.period)}
