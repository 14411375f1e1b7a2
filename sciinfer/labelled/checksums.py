"""SHA-256 sidecars: ``data.nc.sha256`` beside ``data.nc``, in the format of ``sha256sum -c``.

A sidecar holds one or more blocks separated by a line ``#``; a file, or a whole folder, is sound when it matches any
one block completely. While a file is being replaced its sidecar holds the new and the old block, so that a process
killed at any moment leaves a pair that agrees.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ..errors import ReadError
from .atomic import atomic_bytes

Block = dict[str, str]
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_PIECE = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def block_of(path: Path) -> Block:
    """Digest of each file under ``path``: one entry, ``""``, for a file; relative names for a folder."""
    if not path.is_dir():
        return {"": sha256_of(path)}
    found = {}
    for root, _, names in os.walk(path):
        for name in names:
            file = Path(root) / name
            found[file.relative_to(path).as_posix()] = sha256_of(file)
    return found


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of ``path`` lies."""
    return path.with_name(path.name + ".sha256")


def write_sidecar(path: Path, blocks: list[Block]) -> None:
    """Write the blocks for ``path``, atomically."""
    text = "#\n".join("".join(_line(path, name, digest) for name, digest in sorted(b.items())) for b in blocks)
    atomic_bytes(sidecar_of(path), text.encode())


def read_sidecar(path: Path) -> list[Block]:
    """The blocks of ``path``'s sidecar; ``[]`` where it has none.

    Raises:
        ReadError: the sidecar is not one.
    """
    sidecar = sidecar_of(path)
    if not sidecar.is_file():
        return []
    try:
        text = sidecar.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise _malformed(sidecar) from err
    blocks: list[Block] = [{}]
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            blocks[-1][_inner(match[2]) if path.is_dir() else ""] = match[1]
        elif line == "#":
            blocks.append({})
        else:
            raise _malformed(sidecar)
    if not all(blocks):
        raise _malformed(sidecar)
    return blocks


def verify(path: Path) -> bool:
    """Check ``path`` against its sidecar; ``False`` where it has none.

    Raises:
        ReadError: the bytes are not those that were written (``details["files"]`` names the parts of a folder).
    """
    blocks = read_sidecar(path)
    if not blocks:
        return False
    found = block_of(path)
    if found in blocks:
        return True
    expected = blocks[0]
    wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    parts = f" (in {', '.join(map(repr, wrong[:3]))})" if path.is_dir() else ""
    raise ReadError(
        f"{path} is not what its checksum file says{parts}: it was damaged or changed after it was written",
        code="read/checksum",
        fix=f"restore it from a copy, or delete {sidecar_of(path).name} if you changed it on purpose",
        details={"path": str(path), "files": wrong, "expected": expected.get(""), "found": found.get("")},
    )


def _line(path: Path, name: str, digest: str) -> str:
    return f"{digest}  {path.name}{'/' if name else ''}{name}\n"


def _inner(name: str) -> str:
    return name.partition("/")[2]


def _malformed(sidecar: Path) -> ReadError:
    return ReadError(
        f"{sidecar} is not a checksum file", code="read/checksum", fix="restore it from a copy or delete it"
    )
