"""Files to labelled data and back, checked on both ways.

:func:`read` finds the reader by suffix, then by leading bytes, among those of the core and of the plugins. What
:func:`write` writes carries a checksum file beside it, which :func:`read` verifies.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from ..errors import ConfigError, PluginError, ReadError
from ..extend import ReaderEntry, registry
from .atomic import restore
from .checksums import verify
from .readers.common import Limits, damaged, reading
from .readers.refused import refusal
from .write import write

__all__ = ["Limits", "read", "read_tree", "reader_for", "write"]

_HEAD = 16
_FOLDER_MARKS = ("zarr.json", ".zgroup", ".zarray")


def read(
    path: str | os.PathLike[str], *, reader: str | None = None, limits: Limits | None = None
) -> xr.Dataset | pd.DataFrame:
    """Read a file into memory and close it.

    A file ``NAME.sha256`` beside it is verified first. Sizes that the file declares are checked before data are read.

    Args:
        path: a file, or a ``.zarr`` folder.
        reader: name of a registered reader; default: chosen by suffix, then by leading bytes.
        limits: how much the file may ask for; default: half of the free memory.

    Returns:
        A Dataset (netCDF, Zarr, npz) or a DataFrame (CSV, Parquet).

    Raises:
        ReadError: missing, empty, damaged, too large, of an unknown or a refused format.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(xr.Dataset({"y": ("time", [1.0, 2.0])}), Path(folder) / "a.nc")
        ...     float(read(Path(folder) / "a.nc")["y"].sum())
        3.0
    """
    target, trusted = _prepared(path, limits)
    name = reader or reader_for(target)
    found = _call(registry().get("readers", name), target, trusted)
    if not isinstance(found, xr.Dataset | pd.DataFrame):
        raise PluginError(
            f"reader {name!r} returned {type(found).__name__}, not a Dataset or DataFrame", fix="update its plugin"
        )
    return found


def read_tree(path: str | os.PathLike[str], *, limits: Limits | None = None) -> xr.DataTree:
    """Read all groups of a netCDF-4 file or Zarr folder into memory (checks as in :func:`read`).

    Example:
        >>> import tempfile
        >>> tree = xr.DataTree.from_dict({"/posterior": xr.Dataset({"y": ("draw", [1.0, 2.0])})})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(tree, Path(folder) / "a.nc")
        ...     list(read_tree(Path(folder) / "a.nc").children)
        ['posterior']
    """
    target, trusted = _prepared(path, limits)
    name = reader_for(target)
    if name == "netcdf4":
        from .readers.netcdf4 import read_netcdf4_tree

        return _call(read_netcdf4_tree, target, trusted)
    if name == "zarr":
        from .readers.zarr_store import read_zarr_tree

        return _call(read_zarr_tree, target, trusted)
    found = read(target, reader=name, limits=limits)
    if isinstance(found, xr.Dataset):
        return xr.DataTree(dataset=found)
    raise ReadError(f"{target} is a table and has no groups", code="read/tree", fix="use read")


def reader_for(path: str | os.PathLike[str]) -> str:
    """Name of the reader for an existing file: the longest suffix wins, leading bytes decide between equals.

    Raises:
        ReadError: none fits (lists the known suffixes), the format is refused, or two readers fit equally.
    """
    target = Path(path)
    entries = [entry for entry in registry().entries("readers") if isinstance(entry, ReaderEntry)]
    if target.is_dir():
        return _folder_reader(target, entries)
    head = _head(target)
    fitting = _longest_suffix(target, entries)
    if not fitting and (error := refusal(target, head)):
        raise error
    if not head:
        raise ReadError(f"{target} is empty", code="read/empty", fix="check how it was made, or download it again")
    matching = [e for e in fitting if not e.magic or head.startswith(e.magic)]
    if fitting and not matching:
        kinds = ", ".join(entry.name for entry in fitting)
        raise damaged(target, f"it does not begin like a file of its suffix ({kinds})")
    return _only(target, matching or [e for e in entries if e.magic and head.startswith(e.magic)], entries)


def _prepared(path: str | os.PathLike[str], limits: Limits | None) -> tuple[Path, Limits]:
    if "://" in str(path):
        raise ReadError(f"{path} is an address, not a file", code="read/missing", fix="download it first")
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigError(f"limits must be Limits, got {type(limits).__name__}", fix="pass Limits(max_bytes=...)")
    target = Path(path).expanduser()
    if not target.exists():
        restore(target)
    if not target.exists():
        raise ReadError(
            f"{target} does not exist", code="read/missing", fix="check the name", details={"path": str(target)}
        )
    with reading(target):
        trusted = verify(target)
    limits = limits or Limits()
    return target, replace(limits, trusted=trusted or limits.trusted)


def _call(target: Any, path: Path, limits: Limits) -> Any:
    with reading(path):
        return target(path, limits=limits)


def _head(path: Path) -> bytes:
    with reading(path), path.open("rb") as stream:
        return stream.read(_HEAD)


def _longest_suffix(path: Path, entries: list[ReaderEntry]) -> list[ReaderEntry]:
    name = path.name.lower()
    fits = [(max((len(s) for s in e.suffixes if name.endswith(s)), default=0), e) for e in entries]
    longest = max((length for length, _ in fits), default=0)
    return [entry for length, entry in fits if length == longest > 0]


def _folder_reader(path: Path, entries: list[ReaderEntry]) -> str:
    fitting = _longest_suffix(path, entries)
    if not fitting and any((path / mark).is_file() for mark in _FOLDER_MARKS):
        return "zarr"
    return _only(path, fitting, entries)


def _only(path: Path, fitting: list[ReaderEntry], entries: list[ReaderEntry]) -> str:
    if len(fitting) == 1:
        return fitting[0].name
    if fitting:
        names = ", ".join(repr(entry.name) for entry in fitting)
        raise ReadError(f"{path} fits more than one reader", code="read/ambiguous", fix=f"pass reader= one of {names}")
    known = ", ".join(sorted({suffix for entry in entries for suffix in entry.suffixes}))
    raise ReadError(
        f"no reader knows the format of {path}", code="read/unknown", fix=f"use one of {known}, or pass reader=..."
    )


def trusted_dataset(data: bytes) -> xr.Dataset:
    """The dataset in the bytes of a netCDF file whose checksum has been compared already."""
    with tempfile.TemporaryDirectory(prefix="sciinfer-") as folder:
        path = Path(folder) / "data.nc"
        path.write_bytes(data)
        return read(path, limits=Limits(trusted=True))  # pyright: ignore[reportReturnType] - netCDF always gives a Dataset
