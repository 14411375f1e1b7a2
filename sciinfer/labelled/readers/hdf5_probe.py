"""Walks an HDF5 file before it is believed. Runs inside the process, or as a script of its own.

A damaged HDF5 file can send the library into an endless loop or bring the process down; neither can be caught from
within. Files without a checksum are therefore walked in a child process first. The child imports nothing of the
package, so that it starts in a tenth of a second. It prints one JSON object with the key ``declared`` (bytes),
``refused`` or ``error``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

_MAX_OBJECTS = 100_000
_MAX_DEPTH = 64
_DEEP_BYTES = 256 << 20  # above this the chunk index is walked, but chunks are not decompressed twice
_PACKED = ("scale_factor", "add_offset", "_FillValue", "missing_value")


class Refused(Exception):  # noqa: N818 - control flow between this module and its caller
    """The file holds something that is never followed."""


def declared_size(path: str, limit: int, deep: bool) -> int:
    """Bytes that the data would take in memory.

    Args:
        path: the file.
        limit: bytes above which nothing further is looked at.
        deep: also read attributes, strings and chunks, to meet the damage here.
    """
    import h5py

    with h5py.File(path, "r") as file:
        datasets = _walk(h5py, file)
        total = sum(_size(dataset) for dataset in datasets)
        if total <= limit and deep:
            total += _read_through(h5py, file, datasets, total <= _DEEP_BYTES)
        return total


def _walk(h5py: Any, file: Any) -> list[Any]:
    datasets, pending, seen = [], [(file, 0)], 0
    while pending:
        group, depth = pending.pop()
        for name in group:
            seen += 1
            if seen > _MAX_OBJECTS or depth > _MAX_DEPTH:
                raise Refused("it has more objects or deeper groups than any data file (a loop of links?)")
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise Refused(f"its member {name!r} points into another file")
            member = group[name]
            if isinstance(member, h5py.Dataset):
                datasets.append(member)
            elif isinstance(member, h5py.Group):
                pending.append((member, depth + 1))
    return datasets


def _size(dataset: Any) -> int:
    if dataset.external or dataset.is_virtual:
        raise Refused(f"its variable {dataset.name!r} keeps its data in other files")
    if dataset.shape is None or _is_bare_dimension(dataset):
        return 0
    width = dataset.dtype.itemsize
    if dataset.dtype.kind in "iu" and any(name in dataset.attrs for name in _PACKED):
        width = max(width, 8)  # decoded to float64
    count = 1
    for length in dataset.shape:
        count *= int(length)
    return count * width


def _is_bare_dimension(dataset: Any) -> bool:
    """A dimension without coordinate: netCDF-4 stores it as an empty variable that is never read."""
    name = dataset.attrs.get("NAME", b"")
    return isinstance(name, bytes) and name.startswith(b"This is a netCDF dimension but not a netCDF variable")


def _read_through(h5py: Any, file: Any, datasets: list[Any], contents: bool) -> int:
    groups: list[Any] = [file]
    file.visititems(lambda _, member: groups.append(member) if isinstance(member, h5py.Group) else None)
    for member in [*groups, *datasets]:
        for name in member.attrs:
            _ = member.attrs[name]
    return sum(_read_dataset(h5py, dataset, contents) for dataset in datasets)


def _read_dataset(h5py: Any, dataset: Any, contents: bool) -> int:
    if dataset.shape is None or dataset.size == 0:
        return 0
    if h5py.check_vlen_dtype(dataset.dtype) is not None or h5py.check_string_dtype(dataset.dtype) is not None:
        return _read_strings(dataset)
    if dataset.chunks is not None:
        dataset.id.get_num_chunks()
        for place in dataset.iter_chunks() if contents else ():
            _ = dataset[place]
    return 0


def _read_strings(dataset: Any) -> int:
    if dataset.dtype.kind != "O":
        _ = dataset[...]
        return 0
    if dataset.shape == ():
        return len(dataset[()])
    step = max(1, 65536 // max(1, dataset.size // dataset.shape[0]))
    total = 0
    for start in range(0, dataset.shape[0], step):
        total += sum(len(value) for value in dataset[start : start + step].ravel())
    return total


def _limit_memory(limit: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit + (2 << 30), limit + (2 << 30)))
    except (ImportError, ValueError, OSError):
        return


def main(path: str, limit: int) -> None:
    """Probe ``path`` and write the answer to standard output."""
    _limit_memory(limit)
    try:
        answer = {"declared": declared_size(path, limit, deep=True)}
    except Refused as err:
        answer = {"refused": str(err)}
    except MemoryError:
        answer = {"error": "it asks for more memory than there is"}
    except Exception as err:
        answer = {"error": f"{type(err).__name__}: {err}"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
