"""A small made-up result, for examples and tests of figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from ..random import numpy_generator

if TYPE_CHECKING:
    import xarray as xr


def example_tree(*, seed: int = 0, draws: int = 60, rows: int = 80) -> xr.DataTree:
    """A result in the package's layout: a calibrated oscillation with a gap and a forecast, latent paths, a history.

    Args:
        seed: of the made-up numbers.
        draws: number of draws.
        rows: number of times; the last fifth is forecast.

    Returns:
        Groups ``posterior`` (``flux``, ``latent``), ``posterior_predictive``, ``observed_data``, ``training``.

    Example:
        >>> sorted(example_tree().children)
        ['observed_data', 'posterior', 'posterior_predictive', 'training']
    """
    import xarray as xr

    rng = numpy_generator(seed, "example-tree")
    time = np.arange(rows) * 0.5
    known = time < time[int(0.8 * rows)]
    gap = (time > 12) & (time < 17)
    spread = 0.15 + 0.25 * gap + 0.06 * np.maximum(time - time[known].max(), 0)
    centre = np.sin(0.45 * time) + 0.02 * time + spread * 0.3 * np.sin(0.9 * time)
    paths = centre + spread * _smooth(rng.standard_normal((draws, rows)))
    values = centre + spread * _smooth(rng.standard_normal((1, rows)))[0] + 0.15 * rng.standard_normal(rows)
    axis = ("time", time, {"units": "d"})
    flux = {"units": "W m-2"}
    coords = {"chain": [0], "draw": np.arange(draws), "time": axis}
    hidden = np.stack([paths, np.gradient(paths, time, axis=1) * 2.0], axis=-1)
    posterior = {
        "flux": (("chain", "draw", "time"), paths[None], flux),
        "latent": (("chain", "draw", "time", "latent_dim"), hidden[None]),
    }
    noisy = paths + 0.15 * rng.standard_normal(paths.shape)
    predictive = {"flux": (("chain", "draw", "time"), noisy[None], flux)}
    seen = {"flux": ("time", np.where(known & ~gap, values, np.nan)[known], flux)}
    steps = np.arange(1, 101)
    loss = 1.5 * np.exp(-steps / 12) + 0.5
    history = {"loss": ("step", loss), "validation": ("step", loss + 0.1 + 1e-5 * (steps - 60) ** 2)}
    groups = {
        "posterior": xr.Dataset(posterior, {**coords, "latent_dim": [0, 1]}),
        "posterior_predictive": xr.Dataset(predictive, coords),
        "observed_data": xr.Dataset(seen, {"time": ("time", time[known], {"units": "d"})}),
        "training": xr.Dataset(history, {"step": steps}),
    }
    tree = xr.DataTree.from_dict({f"/{name}": ds for name, ds in groups.items()})
    tree.attrs = {"model": "example", "seed": seed, "config": json.dumps({"steps": 100, "model": {"dims": 2}})}
    return tree


def _smooth(noise: np.ndarray) -> np.ndarray:
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    wide = np.pad(noise, ((0, 0), (6, 6)), mode="wrap")
    return np.stack([np.convolve(row, kernel, mode="valid") for row in wide])
