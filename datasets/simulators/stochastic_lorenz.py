"""The Lorenz system with noise in proportion to the state."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Recipe, assemble, euler_maruyama, not_negative, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "stochastic_lorenz",
        "target": "stochastic_lorenz",
        "summary": "Stochastic Lorenz attractor with state-proportional noise (latent-SDE benchmark)",
        "dims": ("series", "time", "state"),
        "units": {"y": "1", "time": "1"},
        "references": ("Li, Wong, Chen, Duvenaud (2020), Scalable gradients for stochastic differential equations",),
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "duration": "length",
            "dt": "spacing of the times",
            "prandtl": "sigma of Lorenz",
            "rayleigh": "rho of Lorenz",
            "beta": "beta of Lorenz",
            "noise": "diffusion over state",
            "noise_sd": "sd of the observation noise, in the units of y",
            "normalise": "shift and scale each state to mean 0, sd 1 over all series and times",
            "substeps": "Euler-Maruyama steps between two times",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("stochastic_lorenz", "Stochastic Lorenz attractor", states=("x", "y", "z"))


def stochastic_lorenz(
    *, seed: int = 0, n_series: int = 1024, duration: float = 1.0, dt: float = 0.025, prandtl: float = 10.0,
    rayleigh: float = 28.0, beta: float = 8.0 / 3.0, noise: float = 0.15, noise_sd: float = 0.01,
    normalise: bool = True, substeps: int = 20, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths of :math:`dx_i = f_i(x)\,dt + \alpha x_i\,dW_i` with Lorenz's :math:`f`, from :math:`x_0 \sim N(0, I)`.

    Returns:
        ``y(series, time, state)``; ``attrs`` hold the shift and scale of each state.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> dict(stochastic_lorenz(n_series=4).sizes)
        {'series': 4, 'time': 41, 'state': 3}
    """
    positive(n_series=n_series, duration=duration, dt=dt, substeps=substeps)
    not_negative(noise=noise)
    times = np.arange(round(duration / dt) + 1) * dt
    rng = RECIPE.stream(seed, "path")

    def drift(u: np.ndarray) -> np.ndarray:
        x, y, z = u.T
        return np.stack([prandtl * (y - x), x * (rayleigh - z) - y, x * y - beta * z], axis=1)

    path = euler_maruyama(drift, lambda u: noise * u, rng.standard_normal((n_series, 3)), times, substeps, rng)
    shift = path.mean(axis=(0, 1)) if normalise else np.zeros(3)
    scale = path.std(axis=(0, 1)) if normalise else np.ones(3)
    parameters = {
        "prandtl": prandtl, "rayleigh": rayleigh, "beta": beta, "noise": noise, "dt": dt, "substeps": substeps,
        "shift": shift.tolist(), "scale": scale.tolist(),
    }  # fmt: skip
    return assemble(
        RECIPE, times, (path - shift) / scale, seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth,
        parameters=parameters,
    )  # fmt: skip
