"""Operators of partial differential equations for sciinfer."""

from __future__ import annotations

from sciinfer.extend import Case, Entry, PluginInfo, hookimpl

__version__ = "0.1.0"


@hookimpl
def sciinfer_plugin_info() -> PluginInfo:
    """Who this plugin is."""
    return PluginInfo(name="sciinfer-pde", version=__version__, domain="pde")


@hookimpl
def sciinfer_register_operators() -> list[Entry]:
    """The operators."""
    return [
        Entry(
            name="pde/heat1d",
            target="sciinfer_pde.heat1d:Heat1D",
            summary="Heat equation on a rod with ends at zero: start to temperature at time t.",
            dims=("x",),
            units={"time": "s", "length": "m", "diffusivity": "m2 s-1"},
            license="Apache-2.0",
            references=("LeVeque (2007), Finite Difference Methods, chapter 9",),
            options={
                "nodes": "inner grid nodes",
                "time": "end time",
                "length": "of the rod",
                "diffusivity": "of the rod",
                "scheme": "spectral (exact), discrete (exact in time) or euler (implicit, needs steps)",
                "steps": "time steps of euler",
            },
        )
    ]


@hookimpl
def sciinfer_conformance_cases() -> list[Case]:
    """Short rods."""
    return [
        Case(kind="operators", name="pde/heat1d", make=lambda: ((15,), {"time": 0.01})),
        Case(kind="operators", name="pde/heat1d", make=lambda: ((8,), {"time": 0.1, "scheme": "euler", "steps": 5})),
    ]
