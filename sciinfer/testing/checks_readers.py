"""Checks of file readers."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import SciInferError
from ..extend.records import Case, Entry, ReaderEntry
from . import toys
from .compare import same
from .failures import CheckFailed, expect, load, must_refuse, skip_unless


@contextmanager
def _written(case: Case, entry: Entry) -> Iterator[tuple[Callable[..., Any], Path]]:
    write = case.inputs.get("write")
    if write is None:
        raise CheckFailed("the case has no inputs['write']", fix="give write(folder) -> path of a small file")
    with tempfile.TemporaryDirectory() as folder:
        yield load(entry), write(Path(folder))


def _read(case: Case, entry: Entry) -> Any:
    with _written(case, entry) as (target, path):
        return target(path, limits=toys.limits())


def _dataset(case: Case, entry: Entry) -> xr.Dataset:
    found = _read(case, entry)
    skip_unless(isinstance(found, xr.Dataset), "it returns a table")
    return found


def check_readers_returns_labelled(case: Case, entry: Entry) -> None:
    """The result is a Dataset, a tree or a table."""
    found = _read(case, entry)
    expect(isinstance(found, (xr.Dataset, xr.DataTree, pd.DataFrame)), f"it returns a {type(found).__name__}")


def check_readers_suffix(case: Case, entry: ReaderEntry) -> None:
    """Suffixes or magic bytes are declared, and the case's file carries one of them."""
    expect(all(s.startswith(".") and s == s.lower() for s in entry.suffixes), f"suffixes {entry.suffixes}")
    expect(bool(entry.suffixes or entry.magic), "neither suffixes nor magic bytes: nothing would ever choose it")
    with _written(case, entry) as (_, path):
        named = any(path.name.endswith(suffix) for suffix in entry.suffixes)
        marked = path.is_file() and any(path.read_bytes().startswith(magic) for magic in entry.magic)
        expect(named or marked, f"the case's file {path.name!r} has no declared suffix")


def check_readers_dims(case: Case, entry: Entry) -> None:
    """The declared dims are there."""
    ds = _dataset(case, entry)
    absent = [dim for dim in entry.dims if all(dim not in v.dims for v in ds.data_vars.values())]
    expect(not absent, f"dims {absent} are declared and absent; there are {list(ds.dims)}")


def check_readers_units(case: Case, entry: Entry) -> None:
    """Declared units are on the variables."""
    ds = _dataset(case, entry)
    for name, units in entry.units.items():
        found = ds[name].attrs.get("units") if name in ds.variables else units
        expect(found == units, f"{name!r} has units {found!r}, declared are {units!r}")


def check_readers_units_on_variables(case: Case, entry: Entry) -> None:
    """A reader that declares units puts them on every floating variable."""
    skip_unless(bool(entry.units), "the record declares no units")
    bare = [n for n, v in _dataset(case, entry).data_vars.items() if v.dtype.kind == "f" and "units" not in v.attrs]
    expect(not bare, f"variables {bare} have no units", fix="set attrs['units']; '1' for pure numbers")


def check_readers_float64(case: Case, entry: Entry) -> None:
    """Measured values are double precision, never objects."""
    skip_unless(bool(entry.units), "a general reader keeps the file's own types")
    odd = {
        str(n): str(v.dtype)
        for n, v in _dataset(case, entry).data_vars.items()
        if v.dtype.kind in "fOc" and v.dtype != float
    }
    expect(not odd, f"variables have types {odd}", fix="convert to float64")


def check_readers_no_infinity(case: Case, entry: Entry) -> None:
    """No infinite value comes through."""
    ds = _dataset(case, entry)
    bad = [n for n, v in ds.variables.items() if v.dtype.kind == "f" and bool(np.isinf(v.values).any())]
    expect(not bad, f"variables {bad} hold infinities", fix="raise DataError with the row")


def check_readers_coordinates(case: Case, entry: Entry) -> None:
    """Coordinates have no missing value."""
    ds = _dataset(case, entry)
    bad = [n for n, c in ds.coords.items() if c.ndim == 1 and bool(pd.isnull(c.values).any())]
    expect(not bad, f"coordinates {bad} have missing values", fix="raise TimeError or DataError with the row")


def check_readers_in_memory(case: Case, entry: Entry) -> None:
    """Everything is loaded: the file may go."""
    with _written(case, entry) as (target, path):
        found = target(path, limits=toys.limits())
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        kept = found.copy(deep=True)
    expect(same(found, kept), "values change once the file is gone", fix="call .load() and close the file")


def check_readers_leaves_file(case: Case, entry: Entry) -> None:
    """The file and its folder are left as they are."""
    with _written(case, entry) as (target, path):
        before = _digest(path.parent)
        target(path, limits=toys.limits())
        expect(_digest(path.parent) == before, "the file or its folder was changed")


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_readers_not_shared(case: Case, entry: Entry) -> None:
    """A caller who writes into one result does not touch the next."""
    with _written(case, entry) as (target, path):
        first = target(path, limits=toys.limits())
        kept = first.copy(deep=True)
        _scribble(first)
        expect(same(target(path, limits=toys.limits()), kept), "two reads share memory")


def _scribble(found: Any) -> None:
    if isinstance(found, xr.Dataset):
        for variable in found.data_vars.values():
            if variable.dtype.kind == "f" and variable.values.flags.writeable:
                variable.values[...] = -1.0


def check_readers_missing_file(case: Case, entry: Entry) -> None:
    """A file that is not there is told as such (``read`` asks before a reader is called)."""
    with _written(case, entry) as (target, path):
        absent = path.with_name("absent" + path.name)
        try:
            target(absent, limits=toys.limits())
        except (SciInferError, FileNotFoundError):
            return
        raise CheckFailed("a missing file was accepted", fix="raise a ReadError")


def check_readers_empty_file(case: Case, entry: Entry) -> None:
    """An empty file or folder is refused."""
    with _written(case, entry) as (target, path):
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
        else:
            path.write_bytes(b"")
        must_refuse(lambda: target(path, limits=toys.limits()), "an empty file")


def check_readers_noise(case: Case, entry: Entry) -> None:
    """Random bytes are refused."""
    noise = np.random.default_rng(0).bytes(2000)
    with _written(case, entry) as (target, path):
        skip_unless(path.is_file(), "it reads folders")
        path.write_bytes(noise)
        must_refuse(lambda: target(path, limits=toys.limits()), "a file of random bytes")


def check_readers_truncated(case: Case, entry: ReaderEntry) -> None:
    """Cut files are refused (binary), or at least never end in a bare error (text)."""
    with _written(case, entry) as (target, path):
        skip_unless(path.is_file(), "it reads folders")
        whole = path.read_bytes()
        for part in (0.1, 0.35, 0.6, 0.85, 0.97):
            path.write_bytes(whole[: int(len(whole) * part)])
            if entry.magic:
                must_refuse(lambda: target(path, limits=toys.limits()), f"a file cut to {part:.0%}")
            else:
                _own_errors_only(lambda: target(path, limits=toys.limits()), f"a file cut to {part:.0%}")


def _own_errors_only(function: Callable[[], Any], what: str) -> None:
    try:
        function()
    except SciInferError:
        return
    except Exception as err:
        raise CheckFailed(f"{what} raised a bare {type(err).__name__}: {err}", fix="raise a ReadError") from err


def check_readers_limits(case: Case, entry: Entry) -> None:
    """The limit on bytes is obeyed."""
    with _written(case, entry) as (target, path):
        err = must_refuse(lambda: target(path, limits=toys.limits(1)), "a file above limits.max_bytes")
        expect(
            "limit" in str(err), f"the error does not speak of the limit: {err}", fix="call limits.check(path, size)"
        )


def check_readers_refuses_listed(case: Case, entry: Entry) -> None:
    """The broken contents that the case lists are refused, each with a fix."""
    broken = case.inputs.get("refuses", {})
    skip_unless(bool(broken), "the case lists no broken contents")
    with _written(case, entry) as (target, path):
        for label, content in broken.items():
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            err = must_refuse(lambda: target(path, limits=toys.limits()), label)
            expect(bool(err.fix), f"{label}: the error says no fix", fix="pass fix= to the error")
