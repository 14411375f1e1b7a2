"""netCDF-4 and other HDF5 files, through h5netcdf."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import xarray as xr

from ...errors import ReadError
from . import hdf5_probe
from .common import Limits, damaged, load_dataset, load_tree, reading

__entries__ = [
    {
        "kind": "readers",
        "name": "netcdf4",
        "target": "read_netcdf4",
        "summary": "netCDF-4 and HDF5 files with netCDF dimensions",
        "suffixes": (".nc", ".nc4", ".h5", ".hdf5", ".cdf"),
        "magic": (b"\x89HDF\r\n\x1a\n",),
    },
]


def read_netcdf4(path: Path, *, limits: Limits) -> xr.Dataset:
    """Read the root group of a netCDF-4 file into memory.

    Args:
        path: the file.
        limits: checked against the declared sizes before any data are read.

    Raises:
        ReadError: too large, damaged, or a tree of groups with an empty root.
    """
    probe(path, limits)
    with reading(path):
        dataset = load_dataset(path, "h5netcdf", phony_dims="sort")
        if not dataset.variables and (groups := _groups(path)):
            raise ReadError(
                f"{path} holds its data in groups: {', '.join(groups)}",
                code="read/tree",
                fix="use sciinfer.labelled.io.read_tree, and take the group you need",
            )
    return dataset


def read_netcdf4_tree(path: Path, *, limits: Limits) -> xr.DataTree:
    """Read all groups of a netCDF-4 file into memory."""
    probe(path, limits)
    with reading(path):
        return load_tree(path, "h5netcdf", phony_dims="sort")


def probe(path: Path, limits: Limits) -> None:
    """Check the declared size, and look for damage where no checksum vouches for the file."""
    limit = limits.bytes
    answer = _probe_here(path, limit) if limits.trusted or not _interpreter() else _probe_apart(path, limit, limits)
    if "refused" in answer:
        raise ReadError(
            f"{path} is refused: {answer['refused']}", code="read/refused", fix="copy the data into one file"
        )
    if "error" in answer:
        raise damaged(path, answer["error"])
    limits.check(path, int(answer["declared"]))


def _interpreter() -> str | None:
    return None if getattr(sys, "frozen", False) else sys.executable


def _probe_here(path: Path, limit: int) -> dict[str, Any]:
    try:
        with reading(path):
            return {"declared": hdf5_probe.declared_size(str(path), limit, deep=False)}
    except ReadError as err:
        if isinstance(err.__cause__, hdf5_probe.Refused):
            return {"refused": str(err.__cause__)}
        raise


def _probe_apart(path: Path, limit: int, limits: Limits) -> dict[str, Any]:
    command = [str(_interpreter()), "-P", "-W", "ignore", str(hdf5_probe.__file__), str(path), str(limit)]
    seconds = limits.timeout + path.stat().st_size / 20e6
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"reading it did not end within {seconds:.0f} s"}
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"error": f"the HDF5 library broke down over it (exit status {done.returncode})"}


def _groups(path: Path) -> list[str]:
    import h5py

    with h5py.File(path, "r") as file:
        return sorted(name for name, member in file.items() if isinstance(member, h5py.Group))
