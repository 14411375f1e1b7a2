"""Run a function and note everything it touched that was not its own."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_ALLOWED = ("__pycache__", "/dev/", "/proc/", "/matplotlib", "torchinductor")


@dataclass
class Record:
    """What happened while a function ran."""

    result: Any = None
    error: BaseException | None = None
    seconds: float = 0.0
    network: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    printed: str = ""
    warned: list[warnings.WarningMessage] = field(default_factory=list)


class NetworkBlockedError(OSError):
    """Raised in place of a connection while the sandbox is up."""


_active: list[Record] = []  # the record being written; the audit hook below cannot be removed, only silenced
_installed = False


def observe(function: Callable[[], Any]) -> Record:
    """Call ``function`` and return the :class:`Record`; network is blocked meanwhile."""
    _install()
    record = Record()
    before = _state()
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed), _recording(record):
        warnings.simplefilter("always")
        start = time.perf_counter()
        try:
            record.result = function()
        except KeyboardInterrupt:
            raise
        except BaseException as err:
            record.error = err
        record.seconds = time.perf_counter() - start
    record.printed, record.warned = printed.getvalue(), list(caught)
    after = _state()
    record.changed = {name for name, value in before.items() if not _same(value, after[name])}
    return record


@contextlib.contextmanager
def _recording(record: Record) -> Iterator[None]:
    _active.append(record)
    try:
        yield
    finally:
        _active.pop()


def _install() -> None:
    global _installed
    if not _installed:
        sys.addaudithook(_audit)
        _installed = True


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _active:
        return
    record = _active[-1]
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        record.network.append(f"{event} {args[-1] if event == 'socket.connect' else args[0]}")
        raise NetworkBlockedError("the conformance kit blocks the network")
    if event == "open":
        _note_open(record, args)
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename") and args[-1] in (-1, None):
        _note_path(record, args[0])  # a path relative to an open folder was noted when the folder was made
    elif event in ("subprocess.Popen", "os.system") and args[0] not in (sys.executable, sys.executable.encode()):
        record.processes.append(f"{event} {args[:1]}")


def _note_open(record: Record, args: tuple[Any, ...]) -> None:
    path, mode, flags = (*args, None, None)[:3]
    writing = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
    if writing:
        _note_path(record, path)


def _note_path(record: Record, path: Any) -> None:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    text = os.path.abspath(os.fsdecode(path))
    inside = text.startswith((os.path.realpath(tempfile.gettempdir()), tempfile.gettempdir()))
    if not inside and not any(part in text for part in _ALLOWED):
        record.writes.append(text)


def _state() -> dict[str, Any]:
    """Global state that nothing registered may change. Torch's part only once torch is there."""
    state: dict[str, Any] = {
        "python random state": random.getstate(),
        "working directory": os.getcwd(),
        "environment": dict(os.environ),
        "threads": {thread.ident for thread in threading.enumerate()},
        "warning filters": len(warnings.filters),
    }
    if "numpy" in sys.modules:
        import numpy as np

        state["numpy random state"] = np.random.get_state()
        state["numpy error state"] = np.geterr()
    if "xarray" in sys.modules:
        import xarray as xr

        state["xarray options"] = dict(xr.get_options())
    if "torch" in sys.modules:
        state |= _torch_state()
    return state


def _torch_state() -> dict[str, Any]:
    import torch

    return {
        "torch random state": torch.get_rng_state(),
        "torch default dtype": torch.get_default_dtype(),
        "torch grad mode": torch.is_grad_enabled(),
        "torch threads": torch.get_num_threads(),
        "torch deterministic mode": torch.are_deterministic_algorithms_enabled(),
    }


def _same(a: Any, b: Any) -> bool:
    from .compare import same

    return same(a, b)
