"""Find a data set's raw files on disk, check their digests, and download them only when asked to."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from sciinfer.errors import ReadError, ResourceError
from sciinfer.extend import require

from .cards import Card, RawFile

DATA_VARIABLE = "SCIINFER_DATA"
CACHE_VARIABLE = "SCIINFER_CACHE"
_TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds between two packets


@dataclass(frozen=True)
class Fetch:
    """Where raw files are looked for: ``$SCIINFER_DATA``, then ``cache``; with ``download`` then the network, once.

    Args:
        cache: folder of downloaded files; default ``$SCIINFER_CACHE``, else the user's cache folder.
        download: allow the network.
    """

    cache: Path | None = None
    download: bool = False

    def files(self, card: Card) -> list[Path]:
        """Checked paths of the card's files, in the card's order."""
        return [self._file(card, file) for file in card.files]

    def some(self, card: Card, *parts: str) -> list[Path]:
        """Checked paths of those files whose path contains one of ``parts``, in the order of ``parts``."""
        return [self._file(card, file) for part in parts for file in card.files if part in file.path]

    @property
    def folder(self) -> Path:
        """The cache folder in use."""
        if self.cache is not None:
            return self.cache.expanduser()
        named = os.environ.get(CACHE_VARIABLE)
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(named).expanduser() if named else Path(base) / "sciinfer"

    def _file(self, card: Card, file: RawFile) -> Path:
        mirror = os.environ.get(DATA_VARIABLE)
        local = Path(mirror).expanduser() / file.path if mirror else None
        if local is not None and local.is_file():
            return verified(local, file.sha256)
        cached = self.folder / file.path
        if self.download:
            return _downloaded(card, file, cached)
        if cached.is_file():
            return verified(cached, file.sha256)
        raise _absent(card, file, mirror, cached)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verified(path: Path, expected: str) -> Path:
    """``path``, if its digest is the expected one.

    Raises:
        ReadError: it is another file, or cannot be read; the message holds the path and the expected digest.
    """
    try:
        actual = sha256_of(path)
    except OSError as err:
        raise ReadError(f"{path} cannot be read: {err}", fix="check the file's permissions") from err
    if actual != expected:
        raise _mismatch(path, expected, actual)
    return path


def _mismatch(path: Path, expected: str, actual: str | None) -> ReadError:
    found = f", found {actual}" if actual else ""
    return ReadError(
        f"{path} is not the file that the card names: expected sha256 {expected}{found}",
        code="read/sha256",
        fix="delete the file and fetch it again; it is damaged or of another version",
        details={"path": str(path), "expected": expected, "actual": actual},
    )


def _absent(card: Card, file: RawFile, mirror: str | None, cached: Path) -> ResourceError:
    in_mirror = f"{DATA_VARIABLE} ({mirror}) has no {file.path}" if mirror else f"{DATA_VARIABLE} is not set"
    how = f" or pass download=True ({file.url})" if file.url else f"; {card.retrieval}" if card.retrieval else ""
    return ResourceError(
        f"data set {card.name!r} needs the file {file.path}: {in_mirror}, and {cached} does not exist",
        code="resource/absent",
        fix=f"set {DATA_VARIABLE} to a folder that holds {file.path}{how}",
        details={"file": file.path, "folder": mirror, "variable": DATA_VARIABLE, "url": file.url},
    )


def _downloaded(card: Card, file: RawFile, target: Path) -> Path:
    if target.is_file() and sha256_of(target) == file.sha256:
        return target
    if not file.url:
        raise _absent(card, file, os.environ.get(DATA_VARIABLE), target)
    pooch = require("pooch", extra="datasets", purpose=f"downloading the data set {card.name!r}")
    try:
        found = pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),
        )
    except ValueError as err:  # pooch's word for a digest that differs; it has deleted what came
        raise _mismatch(target, file.sha256, None) from err
    except OSError as err:  # every network error of requests is one, and so is a full disk
        raise ResourceError(
            f"{file.url} could not be downloaded to {target}: {err}",
            code="resource/download",
            fix=f"check the network and the disk, or place the file at {target} (sha256 {file.sha256})",
            details={"url": file.url, "path": str(target), "expected": file.sha256},
        ) from err
    return Path(found)
