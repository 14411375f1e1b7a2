"""Labelled data to checked files: atomic, lossless, with a checksum file beside."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..errors import ConfigError, DataError, ReadError, ResourceError, SciInferError
from ..extend import require
from .atomic import atomic_folder, atomic_write, resource_error
from .checksums import Block, block_of, read_sidecar, sidecar_of, write_sidecar
from .readers.common import PACKED

_FILES = (".nc", ".nc4", ".h5")
_MARKS = ("zarr.json", ".zgroup")
_FULL_TEXTS = ("No space left", "errno = 28", "Disk quota exceeded")


def write(obj: xr.Dataset | xr.DataTree, path: str | os.PathLike[str]) -> None:
    """Write labelled data to netCDF-4 (``.nc``) or Zarr (``.zarr``), whole or not at all.

    Values are stored as they are (packing found in ``encoding`` is dropped). Attributes that the format cannot hold
    (None, bools, mappings) become JSON strings in the file. A file ``NAME.sha256`` lies beside the result.

    Args:
        obj: a Dataset or DataTree; it is not changed.
        path: where to; what was there before stays intact until the new file is complete.

    Raises:
        ConfigError: the suffix is not one of those above.
        DataError: a variable cannot be stored without loss.
        ResourceError: disk full or not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(xr.Dataset({"y": ("time", [1.0])}, attrs={"none": None}), Path(folder) / "a.nc")
        ...     sorted(p.name for p in Path(folder).iterdir())
        ['a.nc', 'a.nc.sha256']
    """
    target = Path(path).expanduser()
    if not isinstance(obj, xr.Dataset | xr.DataTree):
        raise DataError(
            f"cannot write a {type(obj).__name__}", fix="pass a Dataset or DataTree (DataArray: .to_dataset(name=...))"
        )
    suffix = target.suffix.lower()
    if suffix in _FILES:
        _commit(target, lambda place: _to_netcdf(obj, place), atomic_write)
    elif suffix == ".zarr":
        require("zarr", extra="io", purpose="writing Zarr")
        _refuse_foreign(target)
        _commit(target, lambda place: _to_zarr(obj, place), atomic_folder)
    else:
        raise ConfigError(f"cannot write files called {target.suffix or target.name!r}", fix="use .nc or .zarr")


def _commit(target: Path, fill: Callable[[Path], None], put: Callable[[Path, Callable[[Path], None]], None]) -> None:
    previous = _previous(target)
    written: list[Block] = []

    def fill_and_sum(place: Path) -> None:
        with _storing(target):
            fill(place)
        written.append(block_of(place))
        if previous is not None:  # from here on the checksum file vouches for the old and for the new data
            write_sidecar(target, [*written, *previous])

    try:
        put(target, fill_and_sum)
    except BaseException:
        if written and previous:
            with contextlib.suppress(SciInferError):
                write_sidecar(target, previous)
        raise
    write_sidecar(target, written)


def _previous(target: Path) -> list[Block] | None:
    if not sidecar_of(target).exists():
        return None
    try:
        return read_sidecar(target)
    except ReadError:
        return []


@contextlib.contextmanager
def _storing(target: Path) -> Iterator[None]:
    try:
        yield
    except (SciInferError, MemoryError):
        raise
    except OSError as err:
        if any(text in str(err) for text in _FULL_TEXTS):
            raise resource_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), target) from err
        raise
    except Exception as err:
        if any(text in str(err) for text in _FULL_TEXTS):
            raise resource_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), target) from err
        raise DataError(f"the data cannot be stored in {target.name}: {err}", fix="rename, cast or drop it") from err


def netcdf_bytes(obj: xr.Dataset | xr.DataTree) -> bytes:
    """The netCDF-4 file as bytes.

    Built in memory: when a write of its own fails half-way (full disk), the HDF5 library can take the process down.

    Example:
        >>> netcdf_bytes(xr.Dataset({"y": ("time", [1.0])}))[1:4]
        b'HDF'
    """
    return bytes(_portable(obj, _keep).to_netcdf(None, engine="h5netcdf", format="NETCDF4"))


def _to_netcdf(obj: xr.Dataset | xr.DataTree, place: Path) -> None:
    place.write_bytes(netcdf_bytes(obj))


def _to_zarr(obj: xr.Dataset | xr.DataTree, place: Path) -> None:
    import zarr

    with zarr.config.set({"array.write_empty_chunks": True}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        try:
            _portable(obj, _open_ended_text).to_zarr(place, mode="w", consolidated=False, zarr_format=3)
        except BaseException:
            _drain_zarr()
            raise


def _drain_zarr() -> None:
    """Wait for zarr's other writes: after one has failed they run on, and would make the removed folder anew."""
    from zarr.core.sync import sync

    async def drain() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=10.0)

    sync(drain())


def _refuse_foreign(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()) and not any((target / mark).is_file() for mark in _MARKS):
        raise ResourceError(
            f"{target} is a folder that holds other things", code="resource/occupied", fix="choose another name"
        )


def _portable(obj: Any, convert: Callable[[xr.Variable], xr.Variable]) -> Any:
    if isinstance(obj, xr.Dataset):
        return _portable_dataset(obj, convert)
    nodes = {node.path: _portable_dataset(node.to_dataset(inherit=False), convert) for node in obj.subtree}
    return xr.DataTree.from_dict(nodes, name=obj.name)


def _portable_dataset(dataset: xr.Dataset, convert: Callable[[xr.Variable], xr.Variable]) -> xr.Dataset:
    plain = dataset.drop_encoding()
    for name, array in plain.variables.items():
        _check_storable(str(name), array)
    changed = {name: v for name, old in plain.variables.items() if (v := convert(old)) is not old}
    plain = plain.assign({n: v for n, v in changed.items() if n in plain.data_vars})
    plain = plain.assign_coords({n: v for n, v in changed.items() if n in plain.coords}).copy(deep=False)
    plain.attrs = _attributes(dataset.attrs)
    for name in plain.variables:
        plain[name].attrs = _attributes(dataset[name].attrs)
    return plain


def _keep(variable: xr.Variable) -> xr.Variable:
    return variable.astype(object) if variable.dtype.kind == "T" else variable


def _open_ended_text(variable: xr.Variable) -> xr.Variable:
    return variable.astype(object) if variable.dtype.kind in "UT" else variable


def _check_storable(name: str, variable: xr.Variable) -> None:
    if "/" in name:
        raise DataError("a name with '/' would become a group in the file", variable=name, fix="rename it")
    taken = [attribute for attribute in PACKED if attribute in variable.attrs]
    if taken:
        raise DataError(
            f"the attribute {taken[0]!r} would change the values when the file is read",
            variable=name,
            fix="remove it from attrs (values are stored unpacked)",
        )
    if variable.dtype.kind != "O":
        return
    for index, value in np.ndenumerate(variable.values):
        if not isinstance(value, str) and type(value).__module__.partition(".")[0] != "cftime":
            raise DataError(
                f"a text variable holds {value!r}, a {type(value).__name__}",
                variable=name,
                index=index,
                fix='cast the variable to numbers or to text (missing text: "")',
            )


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _attribute(value) for name, value in attrs.items()}


def _attribute(value: Any) -> Any:
    """The value itself where netCDF can hold it exactly, else a JSON string."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf" and value.size:
        return value
    if isinstance(value, str | float):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, list | tuple) and value and _uniform(value):
        return list(value)
    return json.dumps(value, default=_jsonable, sort_keys=False)


def _uniform(values: list[Any] | tuple[Any, ...]) -> bool:
    kinds = {type(value) for value in values}
    return (len(kinds) == 1 and kinds <= {str, float}) or (kinds == {int} and all(abs(v) < 2**63 for v in values))


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
