"""A damped pendulum seen as the position of its bob."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Field, Recipe, assemble, finite, not_negative, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "damped_pendulum",
        "target": "damped_pendulum",
        "summary": "Damped pendulum from random starts, observed as a noisy 2-D position (deterministic latent ODE)",
        "dims": ("series", "time", "state"),
        "units": {"y": "m", "time": "s"},
        "references": ("Ansari, Heng, Lim, Soh (2023), Neural continuous-discrete state space models",),
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series (the benchmark has 5000 + 1000 + 1000)",
            "n_times": "times per series",
            "dt": "spacing of the times, s (ten Runge-Kutta steps each)",
            "gravity": "gravity over length, 1/s^2, halved as in the benchmark",
            "damping": "friction, 1/s",
            "noise_sd": "sd of the observation noise, m",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("damped_pendulum", "Damped pendulum", "m", "s", states=("x", "y"))
_SUBSTEPS = 10


def damped_pendulum(
    *, seed: int = 0, n_series: int = 200, n_times: int = 150, dt: float = 0.1, gravity: float = 9.81,
    damping: float = 0.25, noise_sd: float = 0.05, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths of :math:`\ddot\theta = -\tfrac{g}{2}\sin\theta - c\dot\theta`, seen as :math:`(\sin\theta, -\cos\theta)`.

    Starts: :math:`\theta = \pi + z,\; \dot\theta = 4z'` with standard normals clipped to [-2, 2].

    Returns:
        ``y(series, time, state)``, position on the unit circle plus noise, m.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> damped_pendulum(n_series=2).sizes["time"]
        150
    """
    positive(n_series=n_series, n_times=n_times, dt=dt, gravity=gravity)
    not_negative(damping=damping)
    times = np.arange(n_times) * dt
    z = np.clip(RECIPE.stream(seed, "path").standard_normal((n_series, 2)), -2.0, 2.0)
    start = np.stack([np.pi + z[:, 0], 4.0 * z[:, 1]])

    def slope(u: np.ndarray) -> np.ndarray:
        return np.stack([u[1], -gravity / 2 * np.sin(u[0]) - damping * u[1]])

    theta = _runge_kutta(slope, start, n_times, dt)[:, 0]
    position = finite(np.stack([np.sin(theta), -np.cos(theta)], axis=-1).transpose(1, 0, 2))
    parameters = {"gravity": gravity, "damping": damping, "dt": dt}
    return assemble(
        RECIPE, times, position, seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth, parameters=parameters
    )


def _runge_kutta(slope: Field, state: np.ndarray, n_times: int, dt: float) -> np.ndarray:
    """``[T, 2, S]`` by the classical fourth-order method."""
    path, step = np.empty((n_times, *state.shape)), dt / _SUBSTEPS
    path[0] = state
    for index in range(1, n_times):
        for _ in range(_SUBSTEPS):
            k1 = slope(state)
            k2 = slope(state + step / 2 * k1)
            k3 = slope(state + step / 2 * k2)
            k4 = slope(state + step * k3)
            state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path[index] = state
    return path
