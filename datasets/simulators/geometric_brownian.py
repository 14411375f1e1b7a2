"""Geometric Brownian motion, by exact transitions."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Recipe, assemble, not_negative, positive, real

__entries__ = [
    {
        "kind": "simulators",
        "name": "geometric_brownian",
        "target": "geometric_brownian",
        "summary": "Geometric Brownian motion: multiplicative noise, log-normal at every time, exact",
        "dims": ("series", "time"),
        "units": {"y": "1", "time": "1"},
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "duration": "length",
            "dt": "spacing of the times",
            "mu": "growth rate",
            "sigma": "volatility",
            "start": "mean of the first value",
            "start_sd": "sd of the first value (its sign is dropped)",
            "noise_sd": "sd of the observation noise",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("geometric_brownian", "Geometric Brownian motion")


def geometric_brownian(
    *, seed: int = 0, n_series: int = 100, duration: float = 1.0, dt: float = 0.02, mu: float = 1.0, sigma: float = 0.5,
    start: float = 0.1, start_sd: float = 0.03, noise_sd: float = 0.0, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths of :math:`dx = \mu x\,dt + \sigma x\,dW`: :math:`x_t = x_0 e^{(\mu - \sigma^2/2)t + \sigma W_t}`.

    Returns:
        ``y(series, time)``, above zero while ``noise_sd`` is zero.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> geometric_brownian(n_series=2).sizes["time"]
        51
    """
    positive(n_series=n_series, duration=duration, dt=dt, sigma=sigma, start=start)
    real(mu=mu)
    not_negative(start_sd=start_sd)
    times = np.arange(round(duration / dt) + 1) * dt
    rng = RECIPE.stream(seed, "path")
    first = np.abs(start + start_sd * rng.standard_normal((n_series, 1)))
    steps = rng.standard_normal((n_series, len(times) - 1)) * np.sqrt(dt)
    brownian = np.concatenate([np.zeros((n_series, 1)), np.cumsum(steps, axis=1)], axis=1)
    path = first * np.exp((mu - sigma**2 / 2) * times + sigma * brownian)
    parameters = {"mu": mu, "sigma": sigma, "start": start, "start_sd": start_sd, "dt": dt}
    return assemble(
        RECIPE, times, path, seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth, parameters=parameters
    )
