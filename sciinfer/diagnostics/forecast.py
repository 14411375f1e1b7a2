"""What is scored: a normal forecast per entry, or draws."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Forecast(NamedTuple):
    """Independent normals: ``mean``, ``sd [S, T, C]``, model units."""

    mean: Tensor
    sd: Tensor


class Samples(NamedTuple):
    """Predictive draws, observation noise included: ``draws [n, S, T, C]``, model units.

    ``mean [S, T, C]`` is the predictive mean where it is known better than by averaging the draws; the root mean
    squared error then uses it.
    """

    draws: Tensor
    mean: Tensor | None = None
