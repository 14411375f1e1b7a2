"""Checks of data sets."""

from __future__ import annotations

import re

import xarray as xr

from ..extend.records import Case, DatasetEntry, Entry
from . import checks_labelled as labelled
from .compare import same
from .exercise import exercise, twice
from .failures import expect, skip_unless

_SOURCES = ("bundled", "simulated", "package", "download", "local")


def _opened(case: Case, entry: Entry) -> xr.Dataset:
    first, _ = twice(case, entry)
    skip_unless(first.error is None, f"it does not open: {first.error}")
    return first.result


def check_datasets_returns_dataset(case: Case, entry: Entry) -> None:
    """It opens as a Dataset with data."""
    labelled.is_dataset(_opened(case, entry))


def check_datasets_dims(case: Case, entry: Entry) -> None:
    """The declared dims are there."""
    labelled.has_dims(_opened(case, entry), entry.dims)


def check_datasets_units(case: Case, entry: Entry) -> None:
    """The declared units are on the variables."""
    labelled.has_units(_opened(case, entry), entry.units)


def check_datasets_attrs(case: Case, entry: Entry) -> None:
    """Title, source and licence are told."""
    absent = [name for name in ("title", "source", "license") if not _opened(case, entry).attrs.get(name)]
    expect(not absent, f"attrs {absent} are missing")


def check_datasets_plain_attrs(case: Case, entry: Entry) -> None:
    """Attributes can be written to a file."""
    labelled.plain_attrs(_opened(case, entry))


def check_datasets_no_infinity(case: Case, entry: Entry) -> None:
    """No infinities."""
    labelled.no_infinity(_opened(case, entry))


def check_datasets_types(case: Case, entry: Entry) -> None:
    """float64, no objects."""
    labelled.numeric(_opened(case, entry))


def check_datasets_not_all_missing(case: Case, entry: Entry) -> None:
    """No variable is missing everywhere."""
    labelled.not_all_missing(_opened(case, entry))


def check_datasets_not_shared(case: Case, entry: Entry) -> None:
    """Writing into what was opened does not change what is opened next."""
    kept = _opened(case, entry).copy(deep=True)
    scribbled = exercise(case, entry)
    for variable in scribbled.data_vars.values():
        if variable.dtype.kind == "f" and variable.values.flags.writeable:
            variable.values[...] = -7.0
    expect(same(exercise(case, entry), kept), "a cached copy is handed out", fix="return a deep copy")


def check_datasets_source(case: Case, entry: DatasetEntry) -> None:
    """The record says where it is from, under which licence, and how to cite it."""
    expect(entry.source in _SOURCES, f"source is {entry.source!r}", fix=f"one of {', '.join(_SOURCES)}")
    expect(bool(entry.license), "the record names no licence")


def check_datasets_checksum(case: Case, entry: DatasetEntry) -> None:
    """Files are pinned by their SHA-256."""
    skip_unless(entry.source in ("bundled", "download") or bool(entry.sha256), "no single file stands behind it")
    expect(bool(re.fullmatch(r"[0-9a-f]{64}", entry.sha256)), f"sha256 is {entry.sha256!r}", fix="64 hex digits")
