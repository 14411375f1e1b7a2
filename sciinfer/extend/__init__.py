"""Plugins: hook specifications, isolated loading, and the registry."""

from .hookspecs import KINDS, hookimpl, hookspec
from .manager import PluginManager
from .records import (
    API_VERSION,
    Case,
    DatasetEntry,
    Entry,
    MethodEntry,
    MetricEntry,
    PluginInfo,
    PluginProblem,
    ReaderEntry,
    RunInfo,
)
from .registry import Registry, registry, require

__all__ = [
    "API_VERSION",
    "KINDS",
    "Case",
    "DatasetEntry",
    "Entry",
    "MethodEntry",
    "MetricEntry",
    "PluginInfo",
    "PluginManager",
    "PluginProblem",
    "ReaderEntry",
    "Registry",
    "RunInfo",
    "hookimpl",
    "hookspec",
    "registry",
    "require",
]
