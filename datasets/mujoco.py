"""Simulated hopper trajectories: the standard interpolation and forecast benchmark of neural differential equations."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .cards import described, read_card
from .fetch import Fetch

__entries__ = [
    {
        "kind": "datasets",
        "name": "mujoco",
        "target": "mujoco",
        "summary": "100 simulated hopper trajectories of 100 steps, 14 states (positions and velocities)",
        "source": "local",
        "dims": ("series", "time", "state"),
        "units": {"y": "1", "time": "1"},
        "license": "MIT",
        "citation": "Rubanova, Chen, Duvenaud (2019), Latent ODEs for irregularly-sampled time series",
        "sha256": "609d962361a431236d018ecc61af6fa718e764545f69f9c459130a908c62f00c",
        "size": 560128,
    },
]


def mujoco(*, fetch: Fetch | None = None) -> xr.Dataset:
    """``y(series, time, state)`` in the simulator's own scale, time in steps.

    Args:
        fetch: where the file is looked for.

    Raises:
        ResourceError, ReadError: the file is absent or damaged.
    """
    card = read_card("mujoco")
    (path,) = (fetch or Fetch()).files(card)
    y = np.load(path, allow_pickle=False).astype(np.float64)
    ds = xr.Dataset(
        {"y": (("series", "time", "state"), y)},
        coords={
            "series": np.arange(y.shape[0]), "time": np.arange(y.shape[1], dtype=np.float64),
            "state": np.arange(y.shape[2]),
        },
    )  # fmt: skip
    return described(ds, card)
