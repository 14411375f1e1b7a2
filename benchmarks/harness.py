"""What a benchmark is made of: rows, fair timing, versions, and finding the modules."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import math
import pkgutil
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

_NOT_BENCHMARKS = ("harness", "protocol")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of ours against a peer.

    Args:
        name: ``"benchmark/case"``.
        ours, peer: the measured quantity; ``peer`` is None where it is missing, and ``note`` says how to install it.
        unit: of both.
        goal: the least ratio that counts as reached, None for information only.
        higher: True where more of the quantity is better (rates), False for times and errors.
        versions: of everything that was measured.
    """

    name: str
    ours: float
    peer: float | None
    unit: str
    goal: float | None = None
    higher: bool = False
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times better ours is: peer / ours for times, ours / peer for rates."""
        if self.peer is None:
            return None
        better, worse = (self.ours, self.peer) if self.higher else (self.peer, self.ours)
        return better / worse if worse else math.inf

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is no goal or no peer."""
        return None if self.ratio is None or self.goal is None else self.ratio >= self.goal

    def record(self) -> dict[str, Any]:
        """The row as one JSON object."""
        shown = {key: value for key, value in asdict(self).items() if key not in ("higher", "versions")}
        shown["ours"] = self.ours if math.isfinite(self.ours) else None  # JSON has no NaN
        return {**shown, "ratio": self.ratio, "met": self.met, "versions": self.versions}


def time_pair(
    ours: Callable[[], Any], peer: Callable[[], Any] | None, repeats: int = 7, *, steady: bool = False
) -> tuple[float, float | None]:
    """Median seconds of each, taken in turns, so that a busy machine hurts both alike; one warm-up call each.

    ``steady``: a call of its own goes before every timed one, as in training, where a step follows its like; else the
    one with little memory pays for the pages that the other has just given back.
    """
    calls = [ours] if peer is None else [ours, peer]
    spent: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    enabled = gc.isenabled()
    gc.disable()  # a collection would be billed to whoever happens to run
    try:
        for _ in range(repeats):
            for call, times in zip(calls, spent, strict=True):
                if steady:
                    call()
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
    finally:
        if enabled:
            gc.enable()
    medians = [statistics.median(times) for times in spent]
    return medians[0], medians[1] if peer is not None else None


def timed_row(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any] | None,
    *,
    repeats: int,
    goal: float | None,
    packages: Sequence[str],
    steady: bool = False,
) -> Row:
    """A row of milliseconds; a peer that is None is reported as missing, with the install command."""
    mine, other = time_pair(ours, peer, repeats, steady=steady)
    note = "" if peer is not None else f'peer is missing: pip install "sciinfer[bench]" ({", ".join(packages)})'
    other = None if other is None else other * 1e3
    return Row(name=name, ours=mine * 1e3, peer=other, unit="ms", goal=goal, note=note, versions=versions(*packages))


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, sciinfer, torch and ``packages``, and the number of threads."""
    import torch

    found = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    for package in ("sciinfer", "torch", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def installed(package: str) -> bool:
    """Whether ``package`` can be imported."""
    return importlib.util.find_spec(package) is not None


def names() -> list[str]:
    """Names of all benchmarks: the modules beside this one that are not part of the harness."""
    package = importlib.import_module(__package__ or "benchmarks")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in _NOT_BENCHMARKS)


def rows(name: str, *, tiny: bool = False) -> Iterable[Row]:
    """The rows of one benchmark; ``tiny`` asks for sizes that only show that it runs, for which no goal holds."""
    found = importlib.import_module(f"{__package__ or 'benchmarks'}.{name}").rows(tiny=tiny)
    return (replace(row, goal=None) for row in found) if tiny else found
