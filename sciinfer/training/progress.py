"""Progress on a terminal, in a log, or nowhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Protocol, TextIO

from ..errors import ConfigError

Mode = Literal["auto", "bar", "lines", "silent"]


class Progress(Protocol):
    """Called after each step: completed steps, all steps, what to show."""

    def __call__(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show one step."""
        ...


class Reporter(AbstractContextManager["Reporter"]):
    """Shows nothing; the base of the other two. Enter it, then hand it to ``train(progress=...)``."""

    def __call__(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show one step."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show nothing more."""


class Lines(Reporter):
    """A plain line every few seconds and at the end, for logs."""

    def __init__(self, stream: TextIO, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._every, self._clock = stream, every, clock
        self._last = clock()

    def __call__(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Write a line if it is time for one."""
        now = self._clock()
        if done >= total or now - self._last >= self._every:
            self._last = now
            self._stream.write(f"step {done}/{total}  {describe(metrics)}\n")
            self._stream.flush()


class Bar(Reporter):
    """A bar by rich."""

    def __init__(self, stream: TextIO, description: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        self._rich = RichProgress(*columns, console=Console(file=stream))
        self._task = self._rich.add_task(description, total=None, shown="")

    def __enter__(self) -> Bar:
        self._rich.start()
        return self

    def __call__(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        self._rich.update(self._task, completed=done, total=total, shown=describe(metrics))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar on the screen."""
        self._rich.stop()


def reporter(mode: Mode = "auto", *, stream: TextIO | None = None, description: str = "training") -> Reporter:
    """A progress display for ``train(progress=...)``.

    Args:
        mode: ``"bar"``, ``"lines"``, ``"silent"``; ``"auto"`` is a bar on a terminal, else lines.
        stream: where to, by default standard error.
        description: the label of the bar.

    Raises:
        ConfigError: an unknown mode.

    Example:
        >>> with reporter("silent") as show:
        ...     show(1, 10, {"loss": 0.5})
    """
    out = stream if stream is not None else sys.stderr
    if mode == "auto":
        mode = "bar" if out.isatty() else "lines"
    if mode == "bar":
        return Bar(out, description)
    if mode == "lines":
        return Lines(out)
    if mode == "silent":
        return Reporter()
    raise ConfigError(f"unknown progress mode {mode!r}", fix="use auto, bar, lines or silent")


def describe(metrics: Mapping[str, float]) -> str:
    """Metrics on one line.

    Example:
        >>> describe({"loss": 0.123456, "validation": 2})
        'loss 0.1235  validation 2'
    """
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
