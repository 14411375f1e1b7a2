"""Formats that are never opened, and what to do instead."""

from __future__ import annotations

from pathlib import Path

from ...errors import ReadError

_PICKLE = "load it where you trust its source and save the data as netCDF (sciinfer.labelled.io.write) or CSV"
_WEIGHTS = (
    "load it where you trust its source with torch.load(..., weights_only=True) and save the tensors with "
    "safetensors.torch.save_file"
)
_ARCHIVE = "unpack it yourself, look at what it holds, and read the files one by one"
_SUFFIXES = {
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib", ".dill"), ("a pickle, which can run code when it is loaded", _PICKLE)
    ),
    **dict.fromkeys((".pt", ".pth", ".ckpt"), ("a pickle of tensors, which can run code when it is loaded", _WEIGHTS)),
    **dict.fromkeys(
        (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".bz2", ".xz"),
        ("an archive", _ARCHIVE),
    ),
}
_MAGIC = (
    (b"\x80\x02", ".pkl"),
    (b"\x80\x03", ".pkl"),
    (b"\x80\x04", ".pkl"),
    (b"\x80\x05", ".pkl"),
    (b"PK\x03\x04", ".zip"),
    (b"7z\xbc\xaf", ".7z"),
    (b"Rar!", ".rar"),
    (b"BZh", ".bz2"),
    (b"\xfd7zXZ", ".xz"),
)


def refusal(path: Path, head: bytes = b"") -> ReadError | None:
    """The error for a refused format, by suffix or by leading bytes; ``None`` for any other file.

    Example:
        >>> refusal(Path("model.pt")).code
        'read/refused'
    """
    name = path.name.lower()
    suffix = next((s for s in sorted(_SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)
    suffix = suffix or next((s for magic, s in _MAGIC if head.startswith(magic)), None)
    if suffix is None:
        return None
    what, fix = _SUFFIXES[suffix]
    return ReadError(f"{path} is {what}, and is refused", code="read/refused", fix=fix, details={"path": str(path)})
