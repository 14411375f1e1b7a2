"""Sealed folders: a ``manifest.json`` with size and SHA-256 of every file, and a digest of itself.

The manifest's bytes are a function of its content alone, so that any change to them is seen.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .atomic import atomic_folder, restore
from .readers.refused import refusal

NAME = "manifest.json"
FORMAT = 1
#: the first release that reads FORMAT
NEEDS = "0.1.0"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +=-]*")
_LIBRARIES = ("sciinfer", "torch", "numpy", "safetensors")
_HEAD = 16


def seal(path: Path, kind: str, files: Mapping[str, bytes]) -> None:
    """Write a folder of ``files`` and its manifest, atomically; files of others in the folder stay.

    Raises:
        CheckpointError: a name is not a plain file name.
        ResourceError: disk full or not writable; the previous folder is intact.
    """
    for name in files:
        if not plain_name(name) or name == NAME:
            raise CheckpointError(f"{name!r} is not a plain file name", fix="use letters, digits, '.', '_' and '-'")
    manifest = manifest_bytes(kind, files)

    def fill(folder: Path) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        (folder / NAME).write_bytes(manifest)

    atomic_folder(path, fill, owned=_owned(path))


def unseal(path: Path, kind: str) -> dict[str, bytes]:
    """The verified bytes of every file that the manifest of the folder names.

    Raises:
        CheckpointError: not a folder of ours, of a newer format, or any file is missing, truncated or changed.
    """
    if not path.exists():
        restore(path)
    try:
        _check_folder(path)
        return {name: _verified(path, name, facts) for name, facts in _manifest(path, kind)["files"].items()}
    except (KeyError, TypeError, AttributeError) as err:
        raise _damaged(path, NAME, f"lacks entries ({type(err).__name__}: {err})") from err
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err}", code="checkpoint/unreadable", fix="check it") from err


def plain_name(name: str) -> bool:
    """Whether ``name`` is a file name without folders, leading dots or odd characters."""
    return bool(_PLAIN_NAME.fullmatch(name))


def manifest_bytes(kind: str, files: Mapping[str, bytes]) -> bytes:
    """The manifest of ``files``."""
    content = {
        "format": FORMAT,
        "needs": f"sciinfer >= {NEEDS}",
        "kind": kind,
        "versions": _versions(),
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        },
    }
    return _sealed(content)


@functools.cache
def _versions() -> dict[str, str]:
    return {**{name: importlib.metadata.version(name) for name in _LIBRARIES}, "python": platform.python_version()}


def _sealed(content: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=2) + "\n").encode()


def _owned(path: Path) -> list[str]:
    """What the previous manifest names (an unreadable one owns only itself)."""
    try:
        files = json.loads((path / NAME).read_text(encoding="utf-8"))["files"]
        return [NAME, *(name for name in files if plain_name(name))]
    except (OSError, ValueError, KeyError, TypeError):
        return [NAME]


def _check_folder(path: Path) -> None:
    if path.is_dir():
        if (path / NAME).is_file():
            return
        raise CheckpointError(
            f"{path} has no {NAME}, so it is not a saved model", code="checkpoint/foreign", fix="check the path"
        )
    if not path.exists():
        raise CheckpointError(f"{path} does not exist", code="checkpoint/missing", fix="check the path")
    with path.open("rb") as stream:
        error = refusal(path, stream.read(_HEAD))
    raise CheckpointError(
        error.what if error else f"{path} is a file; a saved model is a folder",
        code="checkpoint/refused",
        fix=error.fix if error else "pass the folder that holds manifest.json",
    )


def _manifest(path: Path, kind: str) -> dict[str, Any]:
    raw = (path / NAME).read_bytes()
    try:
        manifest = json.loads(raw)
        newer = isinstance(manifest["format"], int) and manifest["format"] > FORMAT
        needs = str(manifest.get("needs", "a newer sciinfer"))
        intact = raw == _sealed({key: value for key, value in manifest.items() if key != "sha256"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise _damaged(path, NAME, f"does not parse ({type(err).__name__})") from err
    if newer:
        raise CheckpointError(
            f"{path} is of format {manifest['format']} and needs {needs}; this one reads format {FORMAT}",
            code="checkpoint/newer",
            fix=f'pip install "{needs.replace(" ", "")}"',
        )
    if not intact:
        raise _damaged(path, NAME, "was changed after it was written")
    if manifest.get("kind") != kind:
        raise CheckpointError(f"{path} holds a {manifest.get('kind')}, not a {kind}", fix="check the path")
    return manifest


def _verified(path: Path, name: str, facts: Mapping[str, Any]) -> bytes:
    file = path / name
    if not plain_name(name) or file.is_symlink():
        raise CheckpointError(
            f"{path}: {name!r} leads out of the folder, and is refused",
            code="checkpoint/refused",
            fix="get the model from a source you trust",
        )
    if not file.is_file():
        raise _damaged(path, name, "is missing")
    size = file.stat().st_size
    if size != facts["size"]:
        raise _damaged(path, name, f"has {size} bytes instead of {facts['size']} (truncated or overwritten)")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise _damaged(path, name, "is not what was written: its SHA-256 differs")
    return data


def _damaged(path: Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path / name} {reason}",
        code="checkpoint/damaged",
        fix="restore the folder from a copy",
        details={"path": str(path), "file": name},
    )
