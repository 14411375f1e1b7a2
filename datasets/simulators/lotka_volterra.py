"""Predator and prey, slightly noisy."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Recipe, assemble, euler_maruyama, not_negative, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "lotka_volterra",
        "target": "lotka_volterra",
        "summary": "Stochastic Lotka-Volterra: one long predator-prey record (or many, from scattered starts)",
        "dims": ("series", "time", "state"),
        "units": {"y": "1", "time": "s"},
        "references": ("Course, Nair (2023), State estimation of a physical system with unknown governing equations",),
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "duration": "length, s",
            "rate": "observations per s",
            "alpha": "growth of the prey",
            "beta": "predation",
            "delta": "growth of the predator by predation",
            "gamma": "decay of the predator",
            "noise": "diffusion, the same constant for both",
            "start_sd": "sd of the logarithm of the start about (0.9, 0.2)",
            "noise_sd": "sd of the observation noise",
            "substeps": "Euler-Maruyama steps between two times",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("lotka_volterra", "Stochastic Lotka-Volterra system", "1", "s", states=("prey", "predator"))
_START = (0.9, 0.2)


def lotka_volterra(
    *, seed: int = 0, n_series: int = 1, duration: float = 65.0, rate: float = 10.0, alpha: float = 2.0 / 3.0,
    beta: float = 4.0 / 3.0, delta: float = 1.0, gamma: float = 1.0, noise: float = 1e-3, start_sd: float = 0.0,
    noise_sd: float = 0.01, substeps: int = 20, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths of :math:`dx = (\alpha x - \beta xy)\,dt + g\,dW_1,\; dy = (\delta xy - \gamma y)\,dt + g\,dW_2`.

    Returns:
        ``y(series, time, state)``, prey and predator. The benchmark trains on the first 50 s.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> lotka_volterra(duration=2.0).sizes["time"]
        21
    """
    positive(n_series=n_series, duration=duration, rate=rate, substeps=substeps)
    not_negative(noise=noise, start_sd=start_sd)
    times = np.arange(round(duration * rate) + 1) / rate
    rng = RECIPE.stream(seed, "path")
    start = np.array(_START) * np.exp(start_sd * rng.standard_normal((n_series, 2)))

    def drift(u: np.ndarray) -> np.ndarray:
        prey, predator = u.T
        return np.stack([alpha * prey - beta * prey * predator, delta * prey * predator - gamma * predator], axis=1)

    path = euler_maruyama(drift, lambda u: np.full_like(u, noise), start, times, substeps, rng)
    parameters = {
        "alpha": alpha, "beta": beta, "delta": delta, "gamma": gamma, "noise": noise, "rate": rate,
        "start": list(_START), "start_sd": start_sd, "substeps": substeps,
    }  # fmt: skip
    return assemble(
        RECIPE, times, path, seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth, parameters=parameters
    )
