"""Spike trains for sciinfer: readers, containers, simulators, metrics and figures."""

from __future__ import annotations

from sciinfer.extend import Case, Entry, MetricEntry, PluginInfo, ReaderEntry, hookimpl

from .cases import other_cases, reader_cases
from .records import PLOTS, READERS, SIMULATORS

__version__ = "0.1.0"


@hookimpl
def sciinfer_plugin_info() -> PluginInfo:
    """Who this plugin is."""
    return PluginInfo(name="sciinfer-neuro", version=__version__, domain="neuro")


@hookimpl
def sciinfer_register_readers() -> list[ReaderEntry]:
    """The readers."""
    return list(READERS)


@hookimpl
def sciinfer_register_simulators() -> list[Entry]:
    """Spikes with known latents."""
    return list(SIMULATORS)


@hookimpl
def sciinfer_register_plots() -> list[Entry]:
    """Figures."""
    return list(PLOTS)


@hookimpl
def sciinfer_register_metrics() -> list[MetricEntry]:
    """Scores that any forecast can have; those of spikes are functions of :mod:`sciinfer_neuro.metrics`."""
    return [
        MetricEntry(
            name="neuro/r2",
            target="sciinfer_neuro.metrics:r2",
            summary="Explained variance of the mean of the draws; 1 is perfect, 0 the mean of the truth.",
            orientation="higher",
            options={"over": "dims to pool, default all"},
        )
    ]


@hookimpl
def sciinfer_conformance_cases() -> list[Case]:
    """Small inputs for the conformance kit."""
    return [*reader_cases(), *other_cases()]
