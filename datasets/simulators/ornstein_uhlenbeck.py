"""The Ornstein-Uhlenbeck process, by exact transitions, in each of the three layouts."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..layouts import contiguous_ragged, padded
from .common import Recipe, assemble, labelled, observed, one_of, positive, real

__entries__ = [
    {
        "kind": "simulators",
        "name": "ornstein_uhlenbeck",
        "target": "ornstein_uhlenbeck",
        "summary": "Mean-reverting linear SDE, exact; as a grid, a padded rectangle or a ragged array",
        "dims": ("series", "time"),
        "units": {"y": "1", "time": "s"},
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "n_times": "times per series (the most, where series differ)",
            "duration": "length, s",
            "theta": "rate of return, 1/s",
            "mu": "level",
            "sigma": "strength of the noise",
            "noise_sd": "sd of the observation noise",
            "missing": "share of the entries missing at random",
            "layout": "grid (shared irregular times), padded or ragged (own times and lengths)",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("ornstein_uhlenbeck", "Ornstein-Uhlenbeck process", "1", "s")


def ornstein_uhlenbeck(
    *, seed: int = 0, n_series: int = 100, n_times: int = 50, duration: float = 10.0, theta: float = 0.8,
    mu: float = 0.0, sigma: float = 1.2, noise_sd: float = 0.3, missing: float = 0.0, layout: str = "grid",
    truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Stationary paths of :math:`dx = \theta(\mu - x)\,dt + \sigma\,dW` at irregular times.

    Returns:
        ``y(series, time)``, or ``y(series, obs)`` or ``y(obs)`` with the times and the length of each series its own.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> ornstein_uhlenbeck(n_series=3, layout="ragged")["y"].dims
        ('obs',)
    """
    positive(n_series=n_series, n_times=n_times, duration=duration, theta=theta, sigma=sigma)
    real(mu=mu)
    one_of(("grid", "padded", "ragged"), layout=layout)
    parameters = {"theta": theta, "mu": mu, "sigma": sigma, "initial": "stationary", "duration": duration}
    rows = 1 if layout == "grid" else n_series
    times = np.sort(RECIPE.stream(seed, "times").uniform(0.0, duration, (rows, n_times)), axis=1)
    path = _path(seed, n_series, times, theta, mu, sigma)
    if layout == "grid":
        return assemble(
            RECIPE,
            times[0],
            path,
            seed=seed,
            noise_sd=noise_sd,
            missing=missing,
            keep_truth=truth,
            parameters=parameters,
        )
    lengths = RECIPE.stream(seed, "lengths").integers(max(n_times // 2, 1), n_times + 1, n_series)
    inside = np.arange(n_times) < lengths[:, None]
    variables = {"y": observed(path, RECIPE, seed, noise_sd, missing)[inside]} | (
        {"truth_y": path[inside]} if truth else {}
    )
    ds = (padded if layout == "padded" else contiguous_ragged)(lengths, times[inside], variables)
    return labelled(ds, RECIPE, seed, {**parameters, "noise_sd": noise_sd, "missing": missing})


def _path(seed: int, n_series: int, times: np.ndarray, theta: float, mu: float, sigma: float) -> np.ndarray:
    """``[S, T]``: x' = mu + a (x - mu) + sqrt(v (1 - a^2)) z with a = exp(-theta dt), v = sigma^2 / 2 theta."""
    decay = np.exp(-theta * np.diff(times, axis=1))
    sd = sigma / np.sqrt(2 * theta)
    z = sd * RECIPE.stream(seed, "path").standard_normal((n_series, times.shape[1]))
    path = np.empty_like(z)
    path[:, 0] = z[:, 0]
    for k in range(1, times.shape[1]):
        a = decay[:, k - 1]
        path[:, k] = a * path[:, k - 1] + np.sqrt(1 - a**2) * z[:, k]
    return mu + path
