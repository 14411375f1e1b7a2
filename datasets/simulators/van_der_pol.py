"""The van der Pol oscillator with a noisy velocity."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Recipe, assemble, euler_maruyama, not_negative, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "van_der_pol",
        "target": "van_der_pol",
        "summary": "Stochastic van der Pol oscillator: a limit cycle, position and velocity",
        "dims": ("series", "time", "state"),
        "units": {"y": "1", "time": "s"},
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "duration": "length, s",
            "dt": "spacing of the times, s",
            "mu": "strength of the nonlinear damping (above 10 it is stiff: raise substeps)",
            "sigma": "strength of the noise on the velocity",
            "noise_sd": "sd of the observation noise",
            "substeps": "Euler-Maruyama steps between two times",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("van_der_pol", "Stochastic van der Pol oscillator", "1", "s", states=("position", "velocity"))


def van_der_pol(
    *, seed: int = 0, n_series: int = 50, duration: float = 20.0, dt: float = 0.1, mu: float = 1.5, sigma: float = 0.2,
    noise_sd: float = 0.1, substeps: int = 20, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths of :math:`dx = v\,dt,\; dv = (\mu(1 - x^2)v - x)\,dt + \sigma\,dW`, from :math:`N(0, I)`.

    Returns:
        ``y(series, time, state)``.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> van_der_pol(n_series=2, duration=1.0).sizes["time"]
        11
    """
    positive(n_series=n_series, duration=duration, dt=dt, substeps=substeps)
    not_negative(mu=mu, sigma=sigma)
    times = np.arange(round(duration / dt) + 1) * dt
    rng = RECIPE.stream(seed, "path")

    def drift(u: np.ndarray) -> np.ndarray:
        x, v = u.T
        return np.stack([v, mu * (1 - x**2) * v - x], axis=1)

    only_velocity = np.array([0.0, sigma])
    path = euler_maruyama(drift, lambda u: only_velocity, rng.standard_normal((n_series, 2)), times, substeps, rng)
    parameters = {"mu": mu, "sigma": sigma, "dt": dt, "substeps": substeps}
    return assemble(
        RECIPE, times, path, seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth, parameters=parameters
    )
