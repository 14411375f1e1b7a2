"""Scores summed over blocks (series, or stretches of time), so that a bootstrap only adds up blocks again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..errors import DataError, ShapeError
from . import cores
from .forecast import Forecast, Samples

#: fewest blocks wanted; fewer series than this are cut into stretches of time
_BLOCKS = 20
#: with at least this many series, each is one block
_SERIES = 8

Array = np.ndarray


class Blocks(NamedTuple):
    """``sums[name] [K, C]`` (squared and absolute errors, CRPS, coverages) over ``entries [K, C]`` of them."""

    sums: dict[str, Array]
    entries: Array


def coverage_name(prob: float) -> str:
    """``coverage_90`` for 0.9."""
    return f"coverage_{100 * prob:g}"


def score_blocks(truth: Tensor, mask: Tensor, forecast: Samples | Forecast, probs: Sequence[float]) -> Blocks:
    """Score every observed entry and add up over blocks.

    Args:
        truth: ``[S, T, C]``, model units.
        mask: ``[S, T, C]`` bool, True where there is a truth.
        forecast: draws or normals for the same entries.
        probs: probabilities of central intervals.
    """
    block = _block_of(truth.shape[0], truth.shape[1])
    names = ["squared", "absolute", "crps", *map(coverage_name, probs)]
    n_blocks, n_channels = int(block.max()) + 1, truth.shape[2]
    sums = {name: np.zeros((n_blocks, n_channels)) for name in names}
    count = np.zeros((n_blocks, n_channels))
    for channel in range(n_channels):
        seen = mask[..., channel]
        where = block[seen.numpy()]
        y = _array(truth[..., channel][seen])
        count[:, channel] = np.bincount(where, minlength=n_blocks)
        for name, entry in zip(names, _entries(y, forecast, seen, channel, probs), strict=True):
            sums[name][:, channel] = np.bincount(where, weights=entry, minlength=n_blocks)
    return Blocks(sums, count)


def check_shapes(truth: Tensor, mask: Tensor, forecasts: dict[str, Samples | Forecast]) -> None:
    """Raise unless everything is about the same entries and finite where there is a truth."""
    if truth.ndim != 3 or truth.shape != mask.shape:
        raise ShapeError(
            f"truth has shape {tuple(truth.shape)}, mask {tuple(mask.shape)}", fix="use [S, T, C] for both"
        )
    if not bool(truth[mask].isfinite().all()):
        raise DataError("the truth is not finite at an entry that the mask calls observed", fix="mask it")
    for name, forecast in forecasts.items():
        for part in _parts(forecast):
            if part.shape[-3:] != truth.shape or part.ndim not in (3, 4):
                raise ShapeError(
                    f"its shape {tuple(part.shape)} does not fit the truth's {tuple(truth.shape)}",
                    variable=name,
                    fix="use [S, T, C] for means and sds, [n, S, T, C] for draws",
                )
            if not bool(part[..., mask].isfinite().all()):
                raise DataError("the forecast is not finite where there is a truth", variable=name)
        if isinstance(forecast, Forecast) and not bool((forecast.sd[mask] > 0).all()):
            raise DataError("a forecast's sd must be positive", variable=name)


def _parts(forecast: Samples | Forecast) -> list[Tensor]:
    return [part for part in forecast if part is not None]


def _entries(y: Array, forecast: Samples | Forecast, seen: Tensor, channel: int, probs: Sequence[float]) -> list[Array]:
    if isinstance(forecast, Forecast):
        mean, sd = _array(forecast.mean[..., channel][seen]), _array(forecast.sd[..., channel][seen])
        covered = [cores.covered_normal(mean, sd, y, prob) for prob in probs]
        return [(mean - y) ** 2, np.abs(mean - y), cores.crps_normal(mean, sd, y), *covered]
    draws = _array(forecast.draws[..., channel][:, seen]).T
    mean = draws.mean(axis=1) if forecast.mean is None else _array(forecast.mean[..., channel][seen])
    covered = [cores.covered(y, draws, prob) for prob in probs]
    return [(mean - y) ** 2, np.abs(np.median(draws, axis=1) - y), cores.crps_fair(y, draws), *covered]


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().cpu().numpy()


def _block_of(n_series: int, n_times: int) -> Array:
    """``[S, T]``: each series one block, or cut in time when the series are few."""
    pieces = 1 if n_series >= _SERIES else min(-(-_BLOCKS // n_series), max(n_times, 1))
    stretch = np.arange(n_times) * pieces // max(n_times, 1)
    return np.arange(n_series)[:, None] * pieces + stretch[None, :]
