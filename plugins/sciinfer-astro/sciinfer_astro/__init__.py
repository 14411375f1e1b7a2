"""Astronomy readers for sciinfer."""

from __future__ import annotations

from pathlib import Path

from sciinfer.extend import Case, PluginInfo, ReaderEntry, hookimpl

__version__ = "0.1.0"

_PLAIN = "mjd,mag,err\n58000.5,18.25,0.02\n58001.5,18.5,0.03\n58003.25,18.125,0.02\n"
_ROWS = ("b,3.0,1.5,0.1,g", "a,1.0,2.5,0.2,g", "a,0.5,3.5,0.2,r", "b,4.0,,0.1,r", "b,3.5,2.0,0.3,r")
_BANDS = "\n".join(["object_id,time,flux,flux_err,band", *_ROWS, ""])


@hookimpl
def sciinfer_plugin_info() -> PluginInfo:
    """Who this plugin is."""
    return PluginInfo(name="sciinfer-astro", version=__version__, domain="astro")


@hookimpl
def sciinfer_register_readers() -> list[ReaderEntry]:
    """The readers."""
    return [
        ReaderEntry(
            name="astro/light-curve",
            target="sciinfer_astro.light_curve:read_light_curve",
            summary="CSV light curves to a ragged data set with one channel per band.",
            dims=("obs",),
            units={"time": "d", "mag": "mag"},
            license="Apache-2.0",
            suffixes=(".lc.csv", ".lc.csv.gz"),
            options={"flux_units": "units of a flux column, default 1 (relative)"},
        )
    ]


@hookimpl
def sciinfer_conformance_cases() -> list[Case]:
    """Two small files, and broken ones."""
    broken = {
        "zero error bar": _PLAIN.replace("0.03", "0.0"),
        "missing error bar": _PLAIN.replace("0.03", ""),
        "no brightness": _PLAIN.replace("mag", "colour"),
        "infinite value": _PLAIN.replace("18.5", "inf"),
        "no time": _PLAIN.replace("58001.5", ""),
    }
    return [
        Case(kind="readers", name="astro/light-curve", inputs={"write": _writer(_PLAIN), "refuses": broken}),
        Case(kind="readers", name="astro/light-curve", inputs={"write": _writer(_BANDS)}),
    ]


def _writer(text: str):
    def write(folder: Path) -> Path:
        path = folder / "curve.lc.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write
