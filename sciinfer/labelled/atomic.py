"""Writes that either happen or do not: build beside, flush to disk, rename.

A temporary is called ``.NAME.tmp-PID-N`` and lies beside its target, so that the rename stays within one file system. A
folder that is being replaced waits as ``.NAME.old-PID-N`` (or ``.NAME.prev-PID-N`` where files that the new folder does
not own are to be carried over) until the new one is in place; :func:`restore` and :func:`reap` finish what a killed
process left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NoReturn

from ..errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EROFS, errno.EACCES, errno.EPERM)
_LEFTOVER = re.compile(r"^\.(?P<name>.+)\.(?P<role>tmp|old|prev)-(?P<pid>\d+)-\d+$")
_STALE_SECONDS = 86400.0
_PATIENCE = 20
_active: set[Path] = set()


def atomic_write(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, then put it in the place of ``path``.

    Args:
        path: the file to write; parent folders are made.
        write: writes the whole file at the path it is given.

    Raises:
        ResourceError: disk full or not writable; the old file is intact and no temporary is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic_write(Path(folder) / "a.txt", lambda p: None if p.write_text("hi") else None)
        ...     (Path(folder) / "a.txt").read_text()
        'hi'
    """
    target = _absolute(path)
    with _resources(target), _temporary(target) as temporary:
        write(temporary)
        sync_file(temporary)
        os.replace(temporary, target)
        sync_folder(target.parent)


def atomic_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` in the place of ``path`` (see :func:`atomic_write`)."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    atomic_write(path, write)


def atomic_folder(
    path: str | os.PathLike[str], fill: Callable[[Path], None], *, owned: Collection[str] | None = None
) -> None:
    """Let ``fill`` build a folder beside ``path``, then swap it in.

    Args:
        path: the folder to write; parent folders are made.
        fill: fills the empty folder it is given.
        owned: top-level names in the previous folder that the new one replaces; all others are carried over.
            ``None``: the previous folder is replaced as a whole.

    Raises:
        ResourceError: disk full or not writable; the previous folder is intact and no temporary is left.
    """
    target = _absolute(path)
    with _resources(target):
        restore(target)
        with _temporary(target) as temporary:
            temporary.mkdir()
            fill(temporary)
            _sync_tree(temporary)
            _swap(temporary, target, owned)


def restore(path: str | os.PathLike[str]) -> None:
    """Finish or undo the swap of the folder ``path`` that a killed process left half-way."""
    target = _absolute(path)
    for waiting, role in _leftovers(target.parent, target.name):
        if role != "tmp" and not _in_use(waiting):
            _settle(waiting, target, carry=role == "prev")


def reap(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the temporaries in ``folder`` that no living process owns; returns their names.

    What cannot be removed (a read-only disk) is left without an error.
    """
    parent, reaped = _absolute(folder), []
    for path, role in _leftovers(parent):
        if _in_use(path):
            continue
        with contextlib.suppress(OSError):
            if role == "tmp":
                _remove(path)
            else:
                match = _LEFTOVER.match(path.name)
                _settle(path, parent / (match["name"] if match else path.name), carry=role == "prev")
            reaped.append(path.name)
    return reaped


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's own entries to the disk, where the system can do that."""
    with contextlib.suppress(PermissionError, IsADirectoryError):  # not possible on Windows
        sync_file(path)


def resource_error(err: OSError, path: Path) -> ResourceError:
    """The named error for a failed write."""
    if err.errno in _FULL:
        return ResourceError(f"no space left to write {path}", code="resource/disk-full", fix="free disk space")
    if err.errno in _DENIED:
        return ResourceError(
            f"{path} cannot be written: {err.strerror}", code="resource/not-writable", fix="choose a writable folder"
        )
    return ResourceError(f"{path} cannot be written: {err}", code="resource/write", fix="choose another path")


@contextlib.contextmanager
def _resources(target: Path) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as err:
        _raise_resource(err, target)


def _raise_resource(err: OSError, target: Path) -> NoReturn:
    raise resource_error(err, target) from err


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    path = _sibling(target, "tmp")
    _active.add(path)
    try:
        yield path
    finally:
        _discard(path)
        _active.discard(path)


def _discard(path: Path) -> None:
    """Remove a temporary; a library's own threads may go on writing into it for a moment after it has failed."""
    for _ in range(_PATIENCE):
        with contextlib.suppress(OSError):
            _remove(path)
        if not os.path.lexists(path):
            return
        time.sleep(0.05)


def _swap(new: Path, target: Path, owned: Collection[str] | None) -> None:
    if not os.path.lexists(target):
        os.replace(new, target)
        sync_folder(target.parent)
        return
    if not target.is_dir() or target.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a file or a link is in the way", str(target))
    waiting = _sibling(target, "old" if owned is None else "prev")
    _active.add(waiting)  # another thread must not take it for a leftover
    try:
        _exchange(new, target, waiting)
        for name in owned or ():
            _remove(waiting / name)
        _settle(waiting, target, carry=owned is not None)
    finally:
        _active.discard(waiting)
    sync_folder(target.parent)


def _exchange(new: Path, target: Path, waiting: Path) -> None:
    os.replace(target, waiting)
    try:
        os.replace(new, target)
    except OSError:
        os.replace(waiting, target)
        raise


def _settle(waiting: Path, target: Path, *, carry: bool) -> None:
    """Put a previous folder back where nothing took its place, else carry over what is not there and drop it."""
    if not os.path.lexists(target):
        os.replace(waiting, target)
        return
    for entry in sorted(waiting.iterdir()) if carry else ():
        if not os.path.lexists(target / entry.name):
            os.replace(entry, target / entry.name)
    _remove(waiting)


def _sibling(target: Path, role: str) -> Path:
    number = 0
    while True:
        path = target.with_name(f".{target.name}.{role}-{os.getpid()}-{number}")
        if path not in _active and not os.path.lexists(path):
            return path
        number += 1


def _leftovers(parent: Path, name: str | None = None) -> list[tuple[Path, str]]:
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(parent.iterdir()):
            match = _LEFTOVER.match(path.name)
            if match and name in (None, match["name"]):
                found.append((path, match["role"]))
    return found


def _in_use(path: Path) -> bool:
    match = _LEFTOVER.match(path.name)
    pid = int(match["pid"]) if match else 0
    if pid == os.getpid():
        return path in _active
    return _alive(pid) and _age(path) < _STALE_SECONDS  # process numbers are reused: an old temporary is an orphan


def _alive(pid: int) -> bool:
    if os.name == "nt":  # signal 0 is not a probe there
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _age(path: Path) -> float:
    try:
        status = path.lstat()
        return time.time() - max(status.st_mtime, status.st_ctime)  # a rename touches only the second
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(root) / name)
        sync_folder(Path(root))


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))
