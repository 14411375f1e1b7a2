"""CMU motion capture, subject 35, walking: the standard benchmark of latent differential equations."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError

from .cards import described, read_card
from .fetch import Fetch

__entries__ = [
    {
        "kind": "datasets",
        "name": "mocap35",
        "target": "mocap35",
        "summary": "Walking, CMU subject 35: 16 training and 3 validation sequences of 300 frames, 50 joint angles",
        "source": "local",
        "dims": ("series", "time", "channel"),
        "units": {"angle": "degree", "time": "s"},
        "license": "CMU Graphics Lab terms: free use, no resale",
        "citation": (
            "Yildiz, Heinonen, Lahdesmaki (2019), ODE2VAE: deep generative second order ODEs with Bayesian "
            "neural networks"
        ),
        "sha256": "a384f5d8399d311de611b4dfaef6fcf955d29eeea0b14b9c1e9be475508e5ff9",
        "size": 971300,
        "options": {"part": "train, val or all"},
    },
]


def mocap35(*, part: str = "train", fetch: Fetch | None = None) -> xr.Dataset:
    """``angle(series, time, channel)`` in degrees, mean removed; 0.1 s per frame by convention.

    Args:
        part: ``"train"`` (16 sequences), ``"val"`` (3) or ``"all"`` (both, in that order).
        fetch: where the file is looked for.

    Raises:
        ConfigError: an unknown part.
        ResourceError, ReadError: the file is absent or damaged.
    """
    parts = {"train": ("train",), "val": ("val",), "all": ("train", "val")}
    if part not in parts:
        raise ConfigError(f"option part is {part!r}", variable="part", fix="train, val or all")
    card = read_card("mocap35")
    (path,) = (fetch or Fetch()).files(card)
    with np.load(path, allow_pickle=False) as file:
        angle = np.concatenate([file[name] for name in parts[part]]).astype(np.float64)
    ds = xr.Dataset(
        {"angle": (("series", "time", "channel"), angle)},
        coords={
            "series": np.arange(len(angle)), "time": 0.1 * np.arange(angle.shape[1]),
            "channel": np.arange(angle.shape[2]),
        },
        attrs={"part": part},
    )  # fmt: skip
    return described(ds, card)
