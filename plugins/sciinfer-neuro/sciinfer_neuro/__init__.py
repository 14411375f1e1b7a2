"""Neuroscience readers for sciinfer."""

from __future__ import annotations

from pathlib import Path

from sciinfer.extend import Case, PluginInfo, ReaderEntry, hookimpl

__version__ = "0.1.0"

_TRIALS = "trial,unit,time\n1,7,0.013\n1,7,0.052\n1,9,0.021\n2,7,0.004\n2,9,0.078\n2,9,0.083\n"
_MILLI = "unit,time_ms\n0,13.0\n0,52.0\n1,21.0\n"


@hookimpl
def sciinfer_plugin_info() -> PluginInfo:
    """Who this plugin is."""
    return PluginInfo(name="sciinfer-neuro", version=__version__, domain="neuro")


@hookimpl
def sciinfer_register_readers() -> list[ReaderEntry]:
    """The readers."""
    return [
        ReaderEntry(
            name="neuro/spikes",
            target="sciinfer_neuro.spikes:read_spikes",
            summary="Spike tables to binned counts of each unit in each trial.",
            dims=("trial", "time", "unit"),
            units={"time": "s", "counts": "1"},
            license="Apache-2.0",
            suffixes=(".spikes.csv", ".spikes.csv.gz"),
            options={
                "bin_width": "seconds",
                "start": "of a trial, seconds",
                "stop": "of a trial, seconds; None = after the last spike",
                "units": "s or ms, for a column called time",
            },
        )
    ]


@hookimpl
def sciinfer_conformance_cases() -> list[Case]:
    """Two small tables, and broken ones."""
    broken = {
        "spike before the trial": _TRIALS.replace("0.013", "-0.013"),
        "missing time": _TRIALS.replace("0.013", ""),
        "no unit column": _TRIALS.replace("unit", "cell"),
        "seconds called milliseconds": _TRIALS.replace("time", "time_ms"),
        "infinite time": _TRIALS.replace("0.013", "inf"),
    }
    return [
        Case(kind="readers", name="neuro/spikes", inputs={"write": _writer(_TRIALS), "refuses": broken}),
        Case(kind="readers", name="neuro/spikes", inputs={"write": _writer(_MILLI)}),
    ]


def _writer(text: str):
    def write(folder: Path) -> Path:
        path = folder / "cells.spikes.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write
