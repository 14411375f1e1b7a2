"""What a plugin hands over: plain data. Targets are strings, so listing entries imports nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

API_VERSION = 1
#: plugin API versions this core accepts
ACCEPTED_API = (API_VERSION - 1, API_VERSION)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered thing.

    Args:
        name: ``"matern32"``; a plugin's names carry its domain: ``"astro/flux"``.
        target: where it lives, ``"package.module:attribute"``; imported on first use.
        summary: one line for tables, docs and the CLI.
        dims, units: dims and units it expects, where that is fixed.
        references: papers, ``"Author (year), title"``.
        requires: distributions needed beyond the core, and ``extra`` the install command's extra.
        options: names of the options that ``target`` takes, with one line each.
    """

    name: str
    target: str
    summary: str
    dims: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    extra: str = ""
    license: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(Entry):
    """A data set; ``target() -> xarray.Dataset``. ``card`` is the path of its TOML card, ``source`` how it is had:
    ``bundled``, ``simulated``, ``package`` (of an installed package), ``download`` or ``local`` (``SCIINFER_DATA``)."""

    source: str = "bundled"
    sha256: str = ""
    size: int = 0
    citation: str = ""


@dataclass(frozen=True, kw_only=True)
class ReaderEntry(Entry):
    """A file reader; ``target(path, *, limits) -> xarray.Dataset``, chosen by suffix, then by leading bytes."""

    suffixes: tuple[str, ...] = ()
    magic: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricEntry(Entry):
    """A metric; ``target(truth, sample, *, dim) -> DataArray``. ``orientation``: is ``lower`` or ``higher`` better."""

    orientation: str = "lower"
    proper: bool = False


@dataclass(frozen=True, kw_only=True)
class MethodEntry(Entry):
    """An inverse method; ``kind`` is its class: ``exact``, ``asymptotic``, ``biased`` or ``point``."""

    kind: str = "biased"


#: kinds whose entries carry more than an Entry does
RECORDS: dict[str, type[Entry]] = {
    "datasets": DatasetEntry,
    "readers": ReaderEntry,
    "metrics": MetricEntry,
    "methods": MethodEntry,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One conformance case: tiny inputs for the entry ``kind/name``. ``make() -> (args, kwargs)`` of its target.

    ``inputs`` names what the checks of this kind need beyond construction (for an operator: ``{"shape": (16,)}``).
    """

    kind: str
    name: str
    make: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]] = field(default=lambda: ((), {}))
    inputs: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-10


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """Who a plugin is. ``domain`` prefixes its entries' names; only the core has an empty one."""

    name: str
    version: str
    domain: str
    api: int = API_VERSION
    citation: str = ""


@dataclass(frozen=True, kw_only=True)
class PluginProblem:
    """A plugin that was left out, and why."""

    plugin: str
    distribution: str
    reason: str
    stage: str


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a logging hook is told about the run."""

    model: str
    seed: int
    folder: str | None = None
