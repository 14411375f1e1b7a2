"""netCDF-3 ("classic") files, through scipy, after their header has been compared with their length."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from ...errors import ReadError
from .common import PACKED, Limits, damaged, load_dataset, reading

__entries__ = [
    {
        "kind": "readers",
        "name": "netcdf3",
        "target": "read_netcdf3",
        "summary": "netCDF-3 classic and 64-bit-offset files",
        "suffixes": (".nc", ".nc3", ".cdf"),
        "magic": (b"CDF\x01", b"CDF\x02", b"CDF\x05"),
    },
]

_WIDTH = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8}
_HEADER_BYTES = 1 << 24  # no header comes near this
_DIMENSION, _VARIABLE, _ATTRIBUTE = 10, 11, 12


class Extent(NamedTuple):
    """What a header promises: ``length`` of the file up to the last datum, ``declared`` bytes in memory."""

    length: int
    declared: int


def read_netcdf3(path: Path, *, limits: Limits) -> xr.Dataset:
    """Read a netCDF-3 file into memory.

    The format carries no checksum, and its libraries read past the end of a truncated file: the header's own sizes are
    compared with the file's length first. Flipped bits inside the data cannot be seen in this format.

    Args:
        path: the file.
        limits: checked against the declared sizes before any data are read.

    Raises:
        ReadError: too large, damaged, shorter than its header says, or in the 64-bit-data variant (CDF-5).
    """
    if _head(path)[:4] == b"CDF\x05":
        raise ReadError(
            f"{path} is in the 64-bit-data variant of netCDF-3 (CDF-5), which is not supported",
            code="read/refused",
            fix=f"convert it to netCDF-4: nccopy -k nc4 {path.name} converted.nc",
        )
    extent = extent_of(path)
    size = path.stat().st_size
    if size < extent.length:
        raise damaged(path, f"it is truncated: its header promises {extent.length} bytes, it has {size}")
    limits.check(path, extent.declared)
    with reading(path):
        return load_dataset(path, "scipy", mmap=False)


def extent_of(path: Path) -> Extent:
    """What the header of the file promises.

    Raises:
        ReadError: the header itself is damaged.
    """
    try:
        return _Header(_head(path), path.stat().st_size).extent()
    except (struct.error, ValueError, KeyError, IndexError) as err:
        raise damaged(path, f"its header does not parse ({err})") from err


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEADER_BYTES)


@dataclass
class _Header:
    """Reads the header of ``data`` from ``at`` on (big-endian, four-byte aligned)."""

    data: bytes
    size: int
    at: int = 4

    def extent(self) -> Extent:
        records = self._count(limit=False)
        if records == 0xFFFFFFFF:
            raise ValueError("the number of records was never written: its writer did not finish")
        dims = self._dimensions()
        self._attributes()
        return self._variables(dims, records)

    def _variables(self, dims: list[int], records: int) -> Extent:
        end, declared, growing = 0, 0, []
        for _ in range(self._list(_VARIABLE)):
            begin, shape, width, memory = self._variable(dims)
            if shape and shape[0] == 0:
                growing.append((begin, math.prod(shape[1:]) * width))
                declared += records * math.prod(shape[1:]) * memory
            else:
                end = max(end, begin + math.prod(shape) * width)
                declared += math.prod(shape) * memory
        if growing and records:
            stride = growing[0][1] if len(growing) == 1 else sum(_padded(size) for _, size in growing)
            end = max(end, max(begin + (records - 1) * stride + size for begin, size in growing))
        return Extent(max(end, self.at), declared)

    def _variable(self, dims: list[int]) -> tuple[int, list[int], int, int]:
        self._name()
        shape = [dims[self._count()] for _ in range(self._count())]
        packed = not self._attributes().isdisjoint(PACKED)
        width = _WIDTH[self._count()]
        self._count(limit=False)  # the stored size saturates for large variables: recomputed from the dims
        begin = self._offset()
        return begin, shape, width, 8 if packed else width

    def _dimensions(self) -> list[int]:
        sizes = []
        for _ in range(self._list(_DIMENSION)):
            self._name()
            sizes.append(self._count(limit=False))
        return sizes

    def _attributes(self) -> set[str]:
        names = set()
        for _ in range(self._list(_ATTRIBUTE)):
            names.add(self._name())
            width = _WIDTH[self._count()]
            self._skip(self._count() * width)
        return names

    def _list(self, tag: int) -> int:
        found, count = self._count(limit=False), self._count()
        if found not in (0, tag) or (found == 0 and count):
            raise ValueError(f"a list starts with {found} where {tag} belongs")
        return count

    def _name(self) -> str:
        length = self._count()
        start = self.at
        self._skip(length)
        return self.data[start : start + length].decode("utf-8", "replace")

    def _skip(self, count: int) -> None:
        self.at += _padded(count)
        if self.at > len(self.data):
            raise ValueError("it ends inside the header")

    def _count(self, limit: bool = True) -> int:
        (value,) = struct.unpack_from(">I", self.data, self.at)
        self.at += 4
        if limit and value > self.size:
            raise ValueError(f"it counts {value} items in a file of {self.size} bytes")
        return value

    def _offset(self) -> int:
        wide = self.data[3] == 2
        (value,) = struct.unpack_from(">Q" if wide else ">I", self.data, self.at)
        self.at += 8 if wide else 4
        return value


def _padded(count: int) -> int:
    return -(-count // 4) * 4
