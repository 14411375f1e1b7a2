"""A model and its baselines scored on the same entries, with the noise of every score and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ..errors import ConfigError, DataError, NameNotFoundError, ShapeError
from ..random import numpy_generator
from .baselines import BASELINES
from .blocks import Blocks, check_shapes, score_blocks
from .forecast import Forecast, Samples
from .noise import aggregate, enough_blocks, noise_floor, resample, spread

#: forecasters with these names are baselines
BASELINE_NAMES = (*BASELINES, "per_variable_linear", "pca_var")
#: the two summary rows of the channel dim
POOLED, VARIABLE_MEAN = "all", "variable_mean"


def evaluate(
    truth: Tensor,
    mask: Tensor,
    forecasts: Mapping[str, Samples | Forecast],
    *,
    channel_names: Sequence[str],
    scale: Any,
    shift: Any = None,
    units: Sequence[str | None] | None = None,
    probs: Sequence[float] = (0.5, 0.9),
    baselines: Sequence[str] = BASELINE_NAMES,
    generator: np.random.Generator | None = None,
    resamples: int = 400,
) -> xr.Dataset:
    """Score forecasters on the observed entries of ``truth``.

    Args:
        truth: ``[S, T, C]``, model units.
        mask: ``[S, T, C]`` bool, True where there is a truth.
        forecasts: name -> draws or normals, model units; those named in ``baselines`` are the baselines.
        channel_names: ``C`` names; the rows ``all`` (entries pooled) and ``variable_mean`` (channels first) are added.
        scale, shift: ``[C]``; caller's value = model value * scale + shift.
        units: caller's unit of each channel; the two summary rows are in caller's units only if all units agree.
        probs: probabilities of the central intervals.
        baselines: which names are baselines.
        generator: for the bootstrap; None: a fixed stream of its own.
        resamples: of the bootstrap over series (over stretches of time when there are few).

    Returns:
        Dims ``forecaster, channel``: rmse, mae, crps in caller's units, ``*_normalised`` in model units, coverages,
        and the standard error ``*_se`` of each; ``n (channel)``; per forecaster ``crps_difference`` to the best
        baseline with its paired standard error (pooled, model units) and ``verdict``. attrs: ``best_baseline``,
        ``model``, ``model_wins``.

    Raises:
        ShapeError: shapes differ. DataError: nothing observed, or a forecast that is not finite.
    """
    _check(truth, mask, forecasts, channel_names)
    blocks = {name: score_blocks(truth, mask, forecast, probs) for name, forecast in forecasts.items()}
    factor = np.asarray(scale, dtype=np.float64)
    generator = numpy_generator(0, "evaluate") if generator is None else generator
    seeds = generator.integers(2**63, size=2)
    ds = _table(blocks, factor, _one_unit(channel_names, units), seeds[0], resamples)
    ds = ds.assign_coords(forecaster=list(blocks), channel=_rows(channel_names))
    ds = ds.assign_coords(overall=("channel", [False] * len(channel_names) + [True, True]))
    ds = ds.assign_coords(is_baseline=("forecaster", [name in set(baselines) for name in blocks]))
    ds["n"] = ("channel", _counts(next(iter(blocks.values()))))
    ds = ds.assign(_truth(truth, mask, factor, shift))
    if units is not None:
        ds = ds.assign_coords(
            units=("channel", [*(u or "" for u in units), *[_one_unit(channel_names, units) or ""] * 2])
        )
    return _judge(ds, blocks, np.random.default_rng(seeds[1]), resamples)


def best_baseline(ds: xr.Dataset) -> str | None:
    """The baseline with the least pooled CRPS, None where no baseline was scored."""
    rows = ds["crps_normalised"].isel(channel=-2).where(ds["is_baseline"], drop=True).dropna("forecaster")
    return str(rows["forecaster"].values[int(np.argmin(rows.values))]) if rows.size else None


def model_wins(ds: xr.Dataset, model: str | None = None) -> str:
    """``wins``, ``ties`` or ``loses``: is the pooled CRPS two paired standard errors off the best baseline's?

    ``none`` where there is nothing to compare. ``model`` is a forecaster; None: the first that is not a baseline.

    Raises:
        NameNotFoundError: no such forecaster.
    """
    names = [str(name) for name in ds["forecaster"].values]
    models = [name for name, known in zip(names, ds["is_baseline"].values, strict=True) if not known]
    if model is not None and model not in names:
        raise NameNotFoundError(f"no forecaster is called {model!r}", fix=f"one of {', '.join(names)}")
    chosen = model or (models[0] if models else None)
    return str(ds["verdict"].sel(forecaster=chosen).item()) if chosen else "none"


def _check(truth: Tensor, mask: Tensor, forecasts: Mapping[str, Any], channel_names: Sequence[str]) -> None:
    if not forecasts:
        raise ConfigError("there is nothing to score", fix="pass at least one forecast")
    check_shapes(truth, mask, dict(forecasts))
    if len(channel_names) != truth.shape[2]:
        raise ShapeError(f"{len(channel_names)} channel names for {truth.shape[2]} channels", dim="channel")
    if not bool(mask.any()):
        raise DataError("nothing was observed at the times to be scored", fix="score at times of the held-out data")


def _rows(channel_names: Sequence[str]) -> list[str]:
    """Channel names and the two summary rows, which step aside for a channel of the same name."""
    names = [str(name) for name in channel_names]
    return names + [row if row not in names else f"({row})" for row in (POOLED, VARIABLE_MEAN)]


def _one_unit(channel_names: Sequence[str], units: Sequence[str | None] | None) -> str | None:
    """The unit that all channels share, None where they may not be added up."""
    if len(channel_names) == 1:
        return (units[0] if units else None) or ""
    known = set(units or [None])
    return known.pop() if len(known) == 1 else None


def _table(blocks: Mapping[str, Blocks], scale: np.ndarray, unit: str | None, seed: int, resamples: int) -> xr.Dataset:
    ones = np.ones_like(scale)
    table: dict[str, np.ndarray] = {}
    for suffix, factor in (("", scale), ("_normalised", ones)):
        values = {name: {k: v[0] for k, v in aggregate(part, factor).items()} for name, part in blocks.items()}
        errors = noise_floor(blocks, generator=np.random.default_rng(seed), scale=factor, resamples=resamples)
        for kind, found in (("", values), ("_se", errors)):
            for key in next(iter(found.values())):
                if not (suffix and key.startswith("coverage")):
                    table[f"{key}{suffix}{kind}"] = np.stack([found[name][key] for name in blocks])
    if unit is None:
        for key in ("rmse", "mae", "crps"):
            table[key][:, -2:] = table[f"{key}_se"][:, -2:] = np.nan
    return xr.Dataset({key: (("forecaster", "channel"), value) for key, value in table.items()})


def _counts(blocks: Blocks) -> np.ndarray:
    per_channel = blocks.entries.sum(axis=0).astype(np.int64)
    return np.concatenate([per_channel, [per_channel.sum()] * 2])


def _truth(truth: Tensor, mask: Tensor, scale: np.ndarray, shift: Any) -> dict[str, Any]:
    """Mean and standard deviation of the scored truth in caller's units: what the errors are to be compared with."""
    shift = np.zeros_like(scale) if shift is None else np.asarray(shift, dtype=np.float64)
    columns = [truth[..., c][mask[..., c]].double().numpy() for c in range(truth.shape[2])]
    mean = [float(y.mean()) if len(y) else np.nan for y in columns]
    sd = [float(y.std()) if len(y) else np.nan for y in columns]
    pad = [np.nan, np.nan]
    return {
        "truth_mean": ("channel", np.concatenate([np.array(mean) * scale + shift, pad])),
        "truth_sd": ("channel", np.concatenate([np.array(sd) * scale, pad])),
    }


def _judge(ds: xr.Dataset, blocks: Mapping[str, Blocks], generator: np.random.Generator, resamples: int) -> xr.Dataset:
    """Paired differences to the best baseline, and what they say."""
    reference = best_baseline(ds)
    n = len(blocks)
    difference, error, verdict = np.full(n, np.nan), np.full(n, np.nan), ["none"] * n
    if reference is not None:
        ones = np.ones(ds.sizes["channel"] - 2)
        weights = resample(len(blocks[reference].entries), resamples, generator)
        base = aggregate(blocks[reference], ones, weights)["crps"][:, -2]
        for row, part in enumerate(blocks.values()):
            error[row] = spread((aggregate(part, ones, weights)["crps"][:, -2] - base)[:, None])[0]
        if not enough_blocks(blocks[reference])[-1]:
            error[:] = np.nan  # one block resampled is always the same: no noise is not little noise
        pooled = ds["crps_normalised"].isel(channel=-2)
        difference = (pooled - pooled.sel(forecaster=reference)).values
        verdict = [_verdict(d, e) for d, e in zip(difference, error, strict=True)]
    ds["crps_difference"], ds["crps_difference_se"] = ("forecaster", difference), ("forecaster", error)
    ds["verdict"] = ("forecaster", verdict)
    models = [name for name, known in zip(blocks, ds["is_baseline"].values, strict=True) if not known]
    ds.attrs = {"best_baseline": reference or "", "model": models[0] if models else "", "model_wins": model_wins(ds)}
    return ds


def _verdict(difference: float, error: float) -> str:
    if not np.isfinite(error) or abs(difference) <= 2 * error:
        return "ties"
    return "wins" if difference < 0 else "loses"
