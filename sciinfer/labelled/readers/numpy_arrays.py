"""``.npz`` and ``.npy`` with plain numbers. Object arrays are pickles, and refused."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import xarray as xr
from numpy.lib import format as npy

from ...errors import ReadError
from .common import Limits, damaged, reading

__entries__ = [
    {
        "kind": "readers",
        "name": "numpy",
        "target": "read_numpy",
        "summary": "npz and npy files that hold plain numbers",
        "suffixes": (".npz", ".npy"),
        "magic": (b"\x93NUMPY", b"PK\x03\x04"),
    },
]


def read_numpy(path: Path, *, limits: Limits) -> xr.Dataset:
    """Read plain arrays: variable = name of the array, dims = ``NAME_0, NAME_1, ...``.

    Args:
        path: the file.
        limits: checked against the declared shapes before any data are read.

    Raises:
        ReadError: too large, damaged, object arrays (pickles), or unsafe member names.
    """
    with reading(path):
        if path.suffix.lower() != ".npz":
            with path.open("rb") as stream:
                declared = _declared(path, path.stem, stream)
            limits.check(path, declared)
            return _dataset({path.stem: np.load(path, allow_pickle=False)})
        with zipfile.ZipFile(path) as archive:
            limits.check(path, sum(_member(path, archive, info) for info in archive.infolist()))
        with np.load(path, allow_pickle=False) as arrays:
            return _dataset({name: arrays[name] for name in arrays.files})


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    name = PurePosixPath(info.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or name.suffix != ".npy":
        raise ReadError(
            f"{path} has a member {info.filename!r}, which no array file has", code="read/refused", fix="save it anew"
        )
    with archive.open(info) as stream:
        return max(_declared(path, name.stem, stream), info.file_size)


def _declared(path: Path, name: str, stream: IO[bytes]) -> int:
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ReadError(
            f"{path} holds Python objects, that is a pickle, which can run code when it is loaded",
            variable=name,
            code="read/refused",
            fix="load it where you trust it, and save plain numbers (np.savez without objects) or netCDF",
        )
    if dtype.kind not in "biufcSUMm":
        raise damaged(path, f"array {name!r} has the type {dtype}", "save plain numbers")
    return int(np.prod(shape, dtype=object)) * dtype.itemsize if shape else dtype.itemsize


def _dataset(arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
    return xr.Dataset({n: ([f"{n}_{axis}" for axis in range(a.ndim)], a) for n, a in arrays.items()})
