"""Data sets that ship with the package, as small NetCDF files made by the seeded simulators."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from .cards import FOLDER, described, read_card
from .fetch import verified
from .simulators.oscillator import oscillator

__entries__ = [
    {
        "kind": "datasets",
        "name": "oscillator_gappy",
        "target": "oscillator_gappy",
        "summary": "20 gappy series of a damped stochastic oscillator, 37 % missing; its exact posterior is known",
        "source": "bundled",
        "dims": ("series", "time"),
        "units": {"y": "m", "time": "s"},
        "license": "Apache-2.0",
        "citation": "sciinfer, simulator 'oscillator', seed 0",
        "sha256": "6b73b10dee7a796000eedbb7908fad0fe03acedde25543cefc7e70d46be30a4f",
        "size": 24864,
    },
    {
        "kind": "datasets",
        "name": "oscillator_gappy_test",
        "target": "oscillator_gappy_test",
        "summary": "The measurements that oscillator_gappy withholds: inside its gaps, and after its end",
        "source": "bundled",
        "dims": ("series", "time"),
        "units": {"y": "m", "time": "s"},
        "license": "Apache-2.0",
        "citation": "sciinfer, simulator 'oscillator', seed 0",
        "sha256": "5d91846cf943cebbc7ed100ca0015fa45d80a6acdf51b36b97f0b8278d999e1a",
        "size": 28224,
    },
]


def oscillator_gappy() -> xr.Dataset:
    """The conditioning part: ``y(series, time)``, NaN where missing; the true parameters are in ``attrs``.

    Example:
        >>> oscillator_gappy().attrs["omega"]
        2.0
    """
    return _open("oscillator_gappy")


def oscillator_gappy_test() -> xr.Dataset:
    """The held-out part: the same series, noise included, at the times withheld and in the 3 s after the end.

    Example:
        >>> bool(oscillator_gappy_test()["time"].max() > oscillator_gappy()["time"].max())
        True
    """
    return _open("oscillator_gappy_test")


def write_bundled(folder: Path) -> list[Path]:
    """Make the bundled files again, in ``folder``.

    Example:
        >>> import tempfile
        >>> [path.name for path in write_bundled(Path(tempfile.mkdtemp()))]
        ['oscillator_gappy.nc', 'oscillator_gappy_test.nc']
    """
    parts = {"oscillator_gappy": "train", "oscillator_gappy_test": "test"}
    paths = [folder / f"{name}.nc" for name in parts]
    for path, part in zip(paths, parts.values(), strict=True):
        oscillator(seed=0, part=part).to_netcdf(path, engine="h5netcdf")
    return paths


def _open(name: str) -> xr.Dataset:
    card = read_card(name)
    path = verified(FOLDER / card.files[0].path, card.files[0].sha256)
    return described(xr.load_dataset(path, engine="h5netcdf", decode_times=False), card)
