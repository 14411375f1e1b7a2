"""A particle in a double well: two states, rare jumps between them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Recipe, assemble, euler_maruyama, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "double_well",
        "target": "double_well",
        "summary": "Overdamped particle in a double well: bimodal, so that a Gaussian posterior must fail",
        "dims": ("series", "time"),
        "units": {"y": "1", "time": "s"},
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "duration": "length, s",
            "dt": "spacing of the times, s",
            "rate": "speed of the fall into a well, 1/s",
            "well": "distance of the wells from zero",
            "sigma": "strength of the noise",
            "noise_sd": "sd of the observation noise",
            "substeps": "Euler-Maruyama steps between two times",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("double_well", "Particle in a double well", "1", "s")


def double_well(
    *, seed: int = 0, n_series: int = 50, duration: float = 20.0, dt: float = 0.1, rate: float = 4.0, well: float = 1.0,
    sigma: float = 0.8, noise_sd: float = 0.2, substeps: int = 20, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths of :math:`dx = r\,x(1 - x^2/w^2)\,dt + \sigma\,dW`, started in either well with equal chance.

    Returns:
        ``y(series, time)``.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> double_well(n_series=2, duration=1.0).sizes["time"]
        11
    """
    positive(n_series=n_series, duration=duration, dt=dt, rate=rate, well=well, sigma=sigma, substeps=substeps)
    times = np.arange(round(duration / dt) + 1) * dt
    rng = RECIPE.stream(seed, "path")
    start = well * rng.choice([-1.0, 1.0], size=(n_series, 1))
    path = euler_maruyama(
        lambda x: rate * x * (1 - (x / well) ** 2), lambda x: np.full_like(x, sigma), start, times, substeps, rng
    )
    parameters = {"rate": rate, "well": well, "sigma": sigma, "dt": dt, "substeps": substeps}
    return assemble(
        RECIPE,
        times,
        path[..., 0],
        seed=seed,
        noise_sd=noise_sd,
        missing=missing,
        keep_truth=truth,
        parameters=parameters,
    )
