"""Zarr folders (format 2 and 3). Every chunk that the metadata promise must be there."""

from __future__ import annotations

import itertools
import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ...errors import ReadError
from ...extend import require
from .common import PACKED, Limits, damaged, load_dataset, load_tree, reading

__entries__ = [
    {
        "kind": "readers",
        "name": "zarr",
        "target": "read_zarr",
        "summary": "Zarr folders, format 2 and 3",
        "suffixes": (".zarr",),
        "requires": ("zarr",),
        "extra": "io",
    },
]

_METADATA = ("zarr.json", ".zarray", ".zgroup")


class Layout(NamedTuple):
    """One array's metadata: ``key(index)`` names the file of a chunk relative to the array's folder."""

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    prefix: str
    separator: str
    scalar: str

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each dim."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def key(self, index: tuple[int, ...]) -> str:
        """File of the chunk ``index``."""
        return self.prefix + self.separator.join(map(str, index)) if index else self.scalar


def read_zarr(path: Path, *, limits: Limits) -> xr.Dataset:
    """Read the root group of a Zarr folder into memory.

    Zarr fills missing chunks silently, which would look like missing data; here they are an error.

    Args:
        path: the folder.
        limits: checked against the declared sizes before any chunk is read.

    Raises:
        ReadError: too large, damaged, a chunk is missing, or the folder holds symbolic links.
    """
    check(path, limits)
    with reading(path), _quiet():
        dataset = load_dataset(path, "zarr", consolidated=False)
        if not dataset.variables and (groups := _groups(path)):
            raise ReadError(
                f"{path} holds its data in groups: {', '.join(groups)}",
                code="read/tree",
                fix="use sciinfer.labelled.io.read_tree, and take the group you need",
            )
        return _plain_strings(dataset)


def read_zarr_tree(path: Path, *, limits: Limits) -> xr.DataTree:
    """Read all groups of a Zarr folder into memory."""
    check(path, limits)
    with reading(path), _quiet():
        tree = load_tree(path, "zarr", consolidated=False)
        return xr.DataTree.from_dict({node.path: _plain_strings(node.to_dataset()) for node in tree.subtree})


def check(path: Path, limits: Limits) -> None:
    """Check links, declared sizes and the presence of every chunk."""
    require("zarr", extra="io", purpose="reading Zarr")
    if not any((path / name).is_file() for name in _METADATA):
        raise damaged(path, "the folder has neither zarr.json nor .zgroup")
    _refuse_links(path)
    with reading(path), _quiet():
        layouts = list(_layouts(path))
        limits.check(path, sum(_declared(layout) for layout in layouts))
    for layout in layouts:
        _check_chunks(path, layout)


def _refuse_links(path: Path) -> None:
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(root, name)):
                raise ReadError(
                    f"{path} holds a symbolic link, {name!r}, which could point anywhere",
                    code="read/refused",
                    fix="replace the link by what it points to",
                )


def _layouts(path: Path) -> Iterator[Layout]:
    for root, folders, files in os.walk(path):
        metadata = None
        if "zarr.json" in files:
            metadata = json.loads((Path(root) / "zarr.json").read_text(encoding="utf-8"))
            layout = _layout3(Path(root), metadata) if metadata["node_type"] == "array" else None
        elif ".zarray" in files:
            layout = _layout2(Path(root), json.loads((Path(root) / ".zarray").read_text(encoding="utf-8")))
        else:
            layout = None
        if layout:
            folders.clear()  # what lies below an array are its chunks
            yield layout


def _layout3(folder: Path, metadata: dict[str, Any]) -> Layout:
    encoding = metadata["chunk_key_encoding"]
    old = encoding["name"] == "v2"
    separator = encoding.get("configuration", {}).get("separator", "." if old else "/")
    chunks = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    scalar, prefix = ("0", "") if old else ("c", f"c{separator}")
    return Layout(folder, tuple(metadata["shape"]), chunks, prefix, separator, scalar)


def _layout2(folder: Path, metadata: dict[str, Any]) -> Layout:
    separator = metadata.get("dimension_separator", ".")
    return Layout(folder, tuple(metadata["shape"]), tuple(metadata["chunks"]), "", separator, "0")


def _declared(layout: Layout) -> int:
    import zarr

    array = zarr.open_array(layout.folder, mode="r")
    dtype = np.dtype(array.dtype)
    packed = dtype.kind in "iu" and any(name in array.attrs for name in PACKED)
    width = max(dtype.itemsize, 8) if packed else dtype.itemsize
    return max(math.prod(layout.shape), math.prod(layout.chunks)) * width


def _check_chunks(path: Path, layout: Layout) -> None:
    present = {
        (Path(root) / name).relative_to(layout.folder).as_posix()
        for root, _, names in os.walk(layout.folder)
        for name in names
    }
    lacking = 0
    first: tuple[int, ...] | None = None
    for index in itertools.product(*map(range, layout.grid)):
        if layout.key(index) not in present:
            first, lacking = first if first is not None else index, lacking + 1
            if lacking > 1000:
                break
    if first is not None:
        raise ReadError(
            f"{path} lacks {'more than ' if lacking > 1000 else ''}{min(lacking, 1000)} of "
            f"{math.prod(layout.grid)} chunks; the first is {layout.key(first)!r}",
            variable=layout.folder.name,
            index=tuple(i * c for i, c in zip(first, layout.chunks, strict=True)),
            code="read/missing-chunk",
            fix="restore the chunk, or write the store anew with write_empty_chunks=True if it is meant to be empty",
            details={"path": str(path), "chunk": layout.key(first)},
        )


def _groups(path: Path) -> list[str]:
    return sorted({p.name for name in _METADATA for p in (q.parent for q in path.glob(f"*/{name}"))})


def _plain_strings(dataset: xr.Dataset) -> xr.Dataset:
    """Variable-width strings as Python strings: numpy's own string type is not accepted everywhere yet."""
    wide = {n: v.astype(object) for n, v in dataset.variables.items() if v.dtype.kind == "T"}
    return dataset.assign({n: v for n, v in wide.items() if n in dataset.data_vars}).assign_coords(
        {n: v for n, v in wide.items() if n in dataset.coords}
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without zarr's notices about other files in the folder and about types still outside its specification."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not recognized as a component of a Zarr hierarchy.*")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield
