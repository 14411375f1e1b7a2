"""What all readers share: limits, and the errors for what is too large or damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from ...errors import ReadError, SciInferError

#: attributes by which xarray decodes integers to floats of eight bytes
PACKED = ("scale_factor", "add_offset", "_FillValue", "missing_value")
_FALLBACK_MEMORY = 4 << 30


@dataclass(frozen=True)
class Limits:
    """How much a file may ask for.

    Args:
        max_bytes: bytes that the data may take in memory; ``None`` = half of the free memory.
        timeout: seconds that a file without checksum may take to be probed, before its size is added to that.
        trusted: the bytes have been verified against a checksum, so that the probe for damage is not needed.

    Example:
        >>> Limits(max_bytes=1000).bytes
        1000
    """

    max_bytes: int | None = None
    timeout: float = 20.0
    trusted: bool = False

    @property
    def bytes(self) -> int:
        """The limit in bytes."""
        return free_memory() // 2 if self.max_bytes is None else self.max_bytes

    def check(self, path: Path, declared: int) -> None:
        """Refuse a file whose data would take ``declared`` bytes, if that is above the limit."""
        limit = self.bytes
        if declared > limit:
            raise too_large(path, declared, limit)


def free_memory() -> int:
    """Bytes of memory that are free for this process, as far as the system tells."""
    known = [value for value in (_system_memory(), _group_memory()) if value is not None]
    return max(min(known, default=_FALLBACK_MEMORY), 0)


def _system_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _group_memory() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def too_large(path: Path, declared: int, limit: int) -> ReadError:
    """The error for a file that declares more than the limit."""
    return ReadError(
        f"{path} declares {human(declared)} of data, the limit is {human(limit)}",
        code="read/too-large",
        fix="raise it with limits=Limits(max_bytes=...) if the file is meant to be that large",
        details={"path": str(path), "declared": declared, "limit": limit},
    )


def damaged(path: Path, reason: object, fix: str = "restore the file from a copy or download it again") -> ReadError:
    """The error for a file that cannot be read."""
    return ReadError(
        f"{path} is damaged or not of this format: {reason}", code="read/damaged", fix=fix, details={"path": str(path)}
    )


def human(count: int) -> str:
    """A size for people.

    Example:
        >>> human(8_000_000_000_000)
        '8.00 TB'
    """
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{size:.2f} {units[0]}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises over a bad file into a :class:`ReadError`."""
    try:
        yield
    except SciInferError:
        raise
    except MemoryError as err:
        raise ReadError(f"{path} does not fit into memory", code="read/too-large", fix="select a part of it") from err
    except Exception as err:
        raise damaged(path, f"{type(err).__name__}: {' '.join(str(err).split())}") from err


def load_dataset(path: Path, engine: str, **options: object) -> xr.Dataset:
    """Open with xarray, load everything, close.

    Raises:
        ReadError: times that cannot be decoded (names the variable).
    """
    try:
        with xr.open_dataset(path, engine=engine, **options) as opened:  # type: ignore[arg-type]
            return opened.load()
    except (ValueError, OverflowError) as err:
        if "decode" not in str(err):
            raise
        raise ReadError(
            f"the times in {path} cannot be decoded: {err}",
            variable=_undecodable(path, engine, options),
            code="read/times",
            fix="repair its attributes 'units' (as in 'days since 2000-01-01') and 'calendar'",
        ) from err


def _undecodable(path: Path, engine: str, options: Mapping[str, object]) -> str | None:
    with xr.open_dataset(path, engine=engine, decode_times=False, **options) as opened:  # type: ignore[arg-type]
        for name, variable in opened.variables.items():
            try:
                xr.decode_cf(xr.Dataset({name: variable})).load()
            except (ValueError, OverflowError):
                return str(name)
    return None


def load_tree(path: Path, engine: str, **options: object) -> xr.DataTree:
    """Open a tree with xarray, load everything, close."""
    with xr.open_datatree(path, engine=engine, **options) as opened:  # type: ignore[arg-type]
        return opened.load()
