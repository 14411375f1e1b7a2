"""Saved models and checkpoints: folders of TOML, safetensors and a manifest. No pickle anywhere.

Layout of a saved model: ``config.toml``, ``weights.safetensors``, ``NAME.safetensors`` for further arrays, extra files,
and ``manifest.json`` (format, library versions, size and SHA-256 of each file). A checkpoint series is a folder of
``ckpt-00000012/`` folders, of which the last two valid ones are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import CheckpointError, ConfigError, SciInferWarning
from . import toml
from .atomic import reap, resource_error
from .manifest import seal, unseal
from .tensors import pack, unpack

_MODEL, _CHECKPOINT = "sciinfer-model", "sciinfer-checkpoint"
_CONFIG, _WEIGHTS, _SUFFIX = "config.toml", "weights.safetensors", ".safetensors"
_TENSORS, _STATE = "tensors.safetensors", "state.json"
_STEP = re.compile(r"ckpt-(\d{8,})")
_KEEP = 2


class Saved(NamedTuple):
    """What a saved model holds: plain ``config``, ``weights`` by name, further ``arrays`` by group, ``extra`` files."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    arrays: dict[str, dict[str, Tensor]]
    extra: dict[str, bytes]


class Checkpoint(NamedTuple):
    """One checkpoint of a series."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_folder(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    arrays: Mapping[str, Mapping[str, Tensor]] | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Save a model, whole or not at all. Other files already in the folder (reports, checkpoints) stay.

    Args:
        path: the folder.
        config: plain nested data (tuples come back as lists), exact to the bit.
        weights: name to tensor.
        arrays: further groups of tensors; group ``data`` becomes ``data.safetensors``.
        extra: further files, name to bytes.

    Raises:
        ConfigError: the config holds something that is not plain data.
        CheckpointError: a name or a tensor cannot be stored.
        ResourceError: disk full or not writable; the previous folder is intact.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_folder(folder + "/m", config={"lr": 0.1, "note": None}, weights={"w": torch.ones(2)})
        ...     load_folder(folder + "/m").config
        {'lr': 0.1, 'note': None}
    """
    files = {_CONFIG: toml.dumps(config).encode(), _WEIGHTS: pack(weights, "weights")}
    for name, group in (arrays or {}).items():
        _add(files, f"{name}{_SUFFIX}", pack(group, name))
    for name, data in (extra or {}).items():
        if not isinstance(data, bytes) or name.endswith(_SUFFIX):
            raise CheckpointError(f"the extra file {name!r} must be bytes, not {_SUFFIX}", fix="tensors go to arrays=")
        _add(files, name, data)
    seal(Path(path), _MODEL, files)


def load_folder(path: str | os.PathLike[str]) -> Saved:
    """Load a saved model; size and SHA-256 of every file are verified before anything is parsed.

    Raises:
        CheckpointError: missing, damaged, foreign, a pickle, or of a newer format (says which release it needs).
    """
    folder = Path(path)
    files = unseal(folder, _MODEL)
    try:
        config = toml.loads(files.pop(_CONFIG).decode())
        weights = unpack(files.pop(_WEIGHTS))
    except (KeyError, UnicodeDecodeError, ConfigError) as err:
        raise CheckpointError(f"{folder} is not a complete model: {err}", fix="restore it from a copy") from err
    arrays = {name.removesuffix(_SUFFIX): unpack(data) for name, data in files.items() if name.endswith(_SUFFIX)}
    return Saved(config, weights, arrays, {n: data for n, data in files.items() if not n.endswith(_SUFFIX)})


def save_checkpoint(
    folder: str | os.PathLike[str], step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Add a checkpoint to a series and drop all but the last two valid ones.

    Args:
        folder: the series.
        step: completed steps. A step that exists is replaced; later ones are dropped, since the run has gone back.
        tensors: parameters, optimiser moments, generator states.
        state: plain nested data (tuples come back as lists).

    Returns:
        The checkpoint's own folder.

    Raises:
        CheckpointError: a tensor cannot be stored.
        ConfigError: the state holds something that is not plain data.
        ResourceError: disk full or not writable; the earlier checkpoints are intact.
    """
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ConfigError(f"a step must be an int >= 0, got {step!r}", fix="pass the number of steps done")
    toml.check_plain(state, "state")
    series = Path(folder)
    files = {_TENSORS: pack(tensors, "tensors"), _STATE: json.dumps({"step": step, "state": state}).encode()}
    reap(series)
    path = series / f"ckpt-{step:08d}"
    seal(path, _CHECKPOINT, files)
    _prune(series, path)
    return path


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """The newest valid checkpoint; a damaged newer one is passed over with a warning.

    Raises:
        CheckpointError: there is none, none is valid, or the newest is of a newer format.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_checkpoint(folder, 12, {"w": torch.ones(1)}, {"loss": 0.5})
        ...     load_checkpoint(folder).step
        12
    """
    series = Path(folder)
    reap(series)
    problems: list[str] = []
    for path in _newest_first(series):
        try:
            found = _load_one(path)
        except CheckpointError as err:
            if err.code == "checkpoint/newer":
                raise
            problems.append(err.what)
            continue
        if problems:
            text = f"fell back to the checkpoint of step {found.step}, because {'; '.join(problems)}"
            warnings.warn(text, SciInferWarning, stacklevel=2)
        return found
    reason = "; ".join(problems) or "it holds none"
    raise CheckpointError(
        f"no valid checkpoint in {series}: {reason}",
        code="checkpoint/damaged" if problems else "checkpoint/missing",
        fix="start again without resuming",
    )


def checkpoint_steps(folder: str | os.PathLike[str]) -> list[int]:
    """Steps of the checkpoints in a series, ascending (not verified)."""
    return [_step(path) for path in reversed(_newest_first(Path(folder)))]


def _add(files: dict[str, bytes], name: str, data: bytes) -> None:
    if name in files:
        raise CheckpointError(f"the name {name!r} is taken by the model itself", fix="use another name")
    files[name] = data


def _load_one(path: Path) -> Checkpoint:
    files = unseal(path, _CHECKPOINT)
    try:
        state = json.loads(files[_STATE])
        return Checkpoint(int(state["step"]), unpack(files[_TENSORS]), state["state"])
    except (KeyError, TypeError, ValueError) as err:
        raise CheckpointError(f"{path} is not a complete checkpoint: {err}", fix="delete it") from err


def _prune(series: Path, written: Path) -> None:
    """Keep the one just written and the newest valid one before it; later steps belong to a course that was left."""
    kept = [written]
    for path in _newest_first(series):
        if path == written:
            continue
        if len(kept) < _KEEP and _step(path) < _step(written) and _valid(path):
            kept.append(path)
        else:
            with contextlib.suppress(OSError):  # a leftover costs space only; the next call tries again
                shutil.rmtree(path)


def _valid(path: Path) -> bool:
    try:
        unseal(path, _CHECKPOINT)
    except CheckpointError as err:
        return err.code == "checkpoint/newer"  # not ours to judge, nor to delete
    except OSError:
        return False
    return True


def _newest_first(series: Path) -> list[Path]:
    try:
        found = [path for path in series.iterdir() if _STEP.fullmatch(path.name) and path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as err:
        raise resource_error(err, series) from err
    return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else -1
