"""How far a score would move with other test data: a bootstrap over series, or over stretches of time of few series."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .blocks import Blocks

Array = np.ndarray
Scores = dict[str, Array]


def aggregate(blocks: Blocks, scale: Array, weights: Array | None = None) -> Scores:
    """Scores ``[B, C + 2]``: each channel, all entries pooled, and the mean over channels.

    The last column averages squared errors (not their roots) over channels before the root is taken, and leaves out
    channels without a truth. ``scale [C]`` multiplies the errors; ``weights [B, K]`` counts each block (None: once).
    """
    weights = np.ones((1, len(blocks.entries))) if weights is None else weights
    count = weights @ blocks.entries
    power = {"squared": scale**2, "absolute": scale, "crps": scale}
    found = {}
    for name, sums in blocks.sums.items():
        total = weights @ (sums * power.get(name, np.ones_like(scale)))
        found[name] = np.concatenate([_ratio(total, count), *_overall(total, count)], axis=1)
    found["rmse"] = np.sqrt(found.pop("squared"))
    found["mae"] = found.pop("absolute")
    return found


def resample(n_blocks: int, resamples: int, generator: np.random.Generator) -> Array:
    """``[B, K]``: how often each block is drawn, ``K`` draws with replacement."""
    return generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=resamples).astype(np.float64)


def noise_floor(
    blocks: Mapping[str, Blocks], *, generator: np.random.Generator, scale: Array | None = None, resamples: int = 400
) -> dict[str, Scores]:
    """Standard error ``[C + 2]`` of every score of every forecaster, NaN where there are fewer than two blocks.

    Args:
        blocks: name -> what :func:`sciinfer.diagnostics.blocks.score_blocks` returns, all with the same blocks.
        generator: source of the bootstrap; every forecaster sees the same resamples.
        scale: ``[C]``, caller's units per model unit; None: 1.
        resamples: number of bootstrap resamples.
    """
    first = next(iter(blocks.values()))
    scale = np.ones(first.entries.shape[1]) if scale is None else scale
    weights = resample(len(first.entries), resamples, generator)
    enough = enough_blocks(first)
    found = {}
    for name, part in blocks.items():
        scores = aggregate(part, scale, weights)
        found[name] = {key: np.where(enough, spread(value), np.nan) for key, value in scores.items()}
    return found


def spread(values: Array) -> Array:
    """Standard deviation over the resamples, those without an entry left out; NaN where nothing is left."""
    kept = ~np.isnan(values)
    n = kept.sum(axis=0)
    centre = np.where(kept, values, 0.0).sum(axis=0) / np.maximum(n, 1)
    square = np.where(kept, values - centre, 0.0) ** 2
    return np.where(n > 1, np.sqrt(square.sum(axis=0) / np.maximum(n - 1, 1)), np.nan)


def enough_blocks(blocks: Blocks) -> Array:
    """``[C + 2]``: whether at least two blocks hold entries, so that resampling shows noise."""
    per_channel = (blocks.entries > 0).sum(axis=0)
    overall = int((blocks.entries.sum(axis=1) > 0).sum())
    return np.concatenate([per_channel, [overall, overall]]) >= 2


def _ratio(total: Array, count: Array) -> Array:
    return np.where(count > 0, total / np.maximum(count, 1e-300), np.nan)


def _overall(total: Array, count: Array) -> tuple[Array, Array]:
    pooled = _ratio(total.sum(axis=1, keepdims=True), count.sum(axis=1, keepdims=True))
    channels = (count > 0).sum(axis=1, keepdims=True).astype(np.float64)
    per_channel = np.where(count > 0, _ratio(total, count), 0.0).sum(axis=1, keepdims=True)
    return pooled, _ratio(per_channel, channels)
