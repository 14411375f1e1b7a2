"""A data set's card: where it comes from, what it may be used for, what is in it."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sciinfer.errors import DataError

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """One file behind a data set: relative ``path``, digest, size in bytes, and ``url`` where it can be downloaded."""

    path: str
    sha256: str
    size: int
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a data set.

    Args:
        source: ``bundled``, ``simulated``, ``package``, ``download`` or ``local``.
        origin: who made the data, in words or as an address.
        dims: dim to size as opened without options.
        units: variable or coordinate to CF units; every data variable is listed.
        sha256: digest of the values (``package``), or of the first file.
        files: the raw files, for the sources that have some.
    """

    name: str
    title: str
    summary: str
    source: str
    origin: str = ""
    license: str = ""
    citation: str = ""
    retrieval: str = ""
    sha256: str = ""
    dims: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    files: tuple[RawFile, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all raw files."""
        return sum(file.size for file in self.files)


def has_card(name: str) -> bool:
    """Whether a card of that name ships with the package."""
    return (FOLDER / "cards" / f"{name}.toml").is_file()


def read_card(name: str) -> Card:
    """The card that ships with the package.

    Example:
        >>> read_card("co2").units["co2"]
        'ppm'
    """
    path = FOLDER / "cards" / f"{name}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        files = tuple(RawFile(**entry) for entry in raw.pop("files", ()))
        digest = raw.pop("sha256", files[0].sha256 if files else "")
        return Card(name=name, files=files, sha256=digest, **raw)
    except (OSError, ValueError, TypeError) as err:
        raise DataError(f"the card of data set {name!r} cannot be read: {err}", fix="reinstall sciinfer") from err


def described(ds: xr.Dataset, card: Card) -> xr.Dataset:
    """``ds`` with title, source, licence, citation and units from its card, and no leftovers of file encodings."""
    ds = ds.drop_encoding()
    known = {"title": card.title, "source": card.origin, "license": card.license, "citation": card.citation}
    ds.attrs = {**plain(ds.attrs), **known, "dataset": card.name}
    for name, units in card.units.items():
        if name in ds.variables and ds[name].dtype.kind != "M":
            ds[name].attrs["units"] = units
    return ds


def plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes with numpy scalars turned into Python's own."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attrs.items()}


def content_sha256(ds: xr.Dataset) -> str:
    """Digest of the values: each variable's name, then its bytes as little-endian float64 (dates: int64 nanoseconds).

    Example:
        >>> content_sha256(xr.Dataset({"a": ("t", [1.0])}))[:8]
        'dd9f235d'
    """
    digest = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        values = np.asarray(ds[name].values)
        if values.dtype.kind == "M":
            stored = values.astype("datetime64[ns]").astype("<i8")
        else:
            stored = values.astype("<f8")
            stored[np.isnan(stored)] = np.nan  # one bit pattern for every NaN
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(stored).tobytes())
    return digest.hexdigest()
