"""Five variables of which each drives few others, nonlinearly: a graph to be found."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Recipe, assemble, euler_maruyama, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "sparse_sde",
        "target": "sparse_sde",
        "summary": "Five variables on a known sparse graph with nonlinear effects, irregular times",
        "dims": ("series", "time", "state"),
        "units": {"y": "1", "time": "1"},
        "references": (
            "Wang, Jennings, Gong (2024), Neural structure learning with stochastic differential equations",
        ),
        "license": "Apache-2.0",
        "options": {
            "n_series": "number of series",
            "n_times": "times per series, irregular, the same for all series",
            "duration": "length",
            "strength": "size of the effects, relative to the relaxation rate",
            "sigma": "diffusion",
            "noise_sd": "sd of the observation noise",
            "substeps": "Euler-Maruyama steps between two times",
            "missing": "share of the entries missing at random",
            "truth": "add truth_y",
        },
    },
]

RECIPE = Recipe("sparse_sde", "Sparse network of nonlinear effects", states=("x0", "x1", "x2", "x3", "x4"))
#: cause, effect, shape; humps and ripples are invisible to a linear model
EDGES = ((0, 1, "step"), (0, 2, "hump"), (1, 3, "step"), (2, 4, "ripple"), (4, 3, "hump"), (3, 0, "ripple"))
SHAPES = {
    "step": lambda x: np.tanh(2 * x),
    "hump": lambda x: 2 * np.exp(-2 * x**2) - 1,
    "ripple": lambda x: np.sin(2 * x),
}


def sparse_sde(
    *, seed: int = 0, n_series: int = 40, n_times: int = 100, duration: float = 20.0, strength: float = 1.5,
    sigma: float = 0.7, noise_sd: float = 0.05, substeps: int = 10, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Paths of :math:`dx_j = (-x_j + a \sum_{i \to j} \phi_{ij}(x_i))\,dt + \sigma\,dW_j`.

    Returns:
        ``y(series, time, state)``; ``attrs["edges"]`` holds the graph as ``"x0->x1"``.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> sparse_sde(n_series=2, n_times=10).attrs["edges"][0]
        'x0->x1'
    """
    positive(n_series=n_series, n_times=n_times, duration=duration, strength=strength, sigma=sigma, substeps=substeps)
    rng = RECIPE.stream(seed, "path")
    times = np.sort(rng.uniform(0, duration, n_times))

    def drift(x: np.ndarray) -> np.ndarray:
        out = -x
        for cause, effect, shape in EDGES:
            out[:, effect] += strength * SHAPES[shape](x[:, cause])
        return out

    start = rng.standard_normal((n_series, 5))
    path = euler_maruyama(drift, lambda x: np.full_like(x, sigma), start, times, substeps, rng)
    parameters = {
        "duration": duration, "strength": strength, "sigma": sigma, "substeps": substeps,
        "edges": [f"x{cause}->x{effect}" for cause, effect, _ in EDGES],
    }  # fmt: skip
    return assemble(
        RECIPE, times, path, seed=seed, noise_sd=noise_sd, missing=missing, keep_truth=truth, parameters=parameters
    )
