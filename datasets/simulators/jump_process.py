"""A Markov jump process: a few states, held for exponential times, seen through noise."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError

from .common import Recipe, assemble, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "jump_process",
        "target": "jump_process",
        "summary": "Markov jump process among a few levels (a flickering channel), seen through noise",
        "dims": ("series", "time"),
        "units": {"y": "pA", "time": "s"},
        "references": ("Seifner, Sanchez (2023), Neural Markov jump processes",),
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "n_times": "times per series, irregular, the same for all series",
            "duration": "length, s",
            "rates": "rows of the rate matrix, off-diagonal entries used, 1/s",
            "levels": "value in each state, pA",
            "noise_sd": "sd of the observation noise, pA",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("jump_process", "Markov jump process", "pA", "s")
RATES = ((0.0, 0.6, 0.1), (0.4, 0.0, 0.5), (0.1, 0.8, 0.0))
LEVELS = (-1.0, 0.0, 1.5)


def jump_process(
    *, seed: int = 0, n_series: int = 40, n_times: int = 120, duration: float = 30.0,
    rates: tuple[tuple[float, ...], ...] = RATES, levels: tuple[float, ...] = LEVELS, noise_sd: float = 0.3,
    missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths with :math:`P(z(t + dt) = j \mid z(t) = i) = Q_{ij}\,dt`, started in any state with equal chance.

    Returns:
        ``y(series, time)``, the level of the state plus noise.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> jump_process(n_series=2, n_times=7).sizes["time"]
        7
    """
    positive(n_series=n_series, n_times=n_times, duration=duration)
    Q, level = _checked(rates, levels)
    rng = RECIPE.stream(seed, "path")
    times = np.sort(rng.uniform(0, duration, n_times))
    states = np.stack([_path(Q, times, duration, rng) for _ in range(n_series)])
    parameters = {"duration": duration, "rates": Q.ravel().tolist(), "levels": level.tolist()}
    return assemble(
        RECIPE, times, level[states], seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth,
        parameters=parameters,
    )  # fmt: skip


def _checked(rates: tuple[tuple[float, ...], ...], levels: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    try:
        Q, level = np.array(rates, dtype=np.float64), np.array(levels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"rates or levels are no tables of numbers: {error}", fix="one row for each level") from error
    if level.ndim != 1 or len(level) < 2 or not np.isfinite(level).all():
        raise ConfigError("levels are two or more finite numbers", variable="levels", fix="levels=(0.0, 1.0)")
    if Q.shape != (len(level), len(level)):
        raise ConfigError(f"rates have shape {Q.shape}", variable="rates", fix="one row and column for each level")
    np.fill_diagonal(Q, 0.0)
    if not np.isfinite(Q).all() or (Q < 0).any() or (Q.sum(1) <= 0).any():
        raise ConfigError("rates are not negative and no state is for ever", variable="rates", fix="positive rates")
    return Q, level


def _path(Q: np.ndarray, times: np.ndarray, duration: float, rng: np.random.Generator) -> np.ndarray:
    """States at ``times [T]`` of one path, jump by jump."""
    out, now, state = np.empty(len(times), dtype=int), 0.0, int(rng.integers(len(Q)))
    while now <= duration:
        stay = rng.exponential(1 / Q[state].sum())
        out[(times >= now) & (times < now + stay)] = state
        now += stay
        state = int(rng.choice(len(Q), p=Q[state] / Q[state].sum()))
    return out
