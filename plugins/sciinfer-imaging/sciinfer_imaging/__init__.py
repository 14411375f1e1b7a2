"""Imaging operators for sciinfer."""

from __future__ import annotations

from sciinfer.extend import Case, Entry, PluginInfo, hookimpl

__version__ = "0.1.0"


@hookimpl
def sciinfer_plugin_info() -> PluginInfo:
    """Who this plugin is."""
    return PluginInfo(name="sciinfer-imaging", version=__version__, domain="imaging")


@hookimpl
def sciinfer_register_operators() -> list[Entry]:
    """The operators."""
    return [
        Entry(
            name="imaging/blur",
            target="sciinfer_imaging.blur:GaussianBlur",
            summary="Gaussian blur of an image, periodic or with dark borders.",
            dims=("y", "x"),
            license="Apache-2.0",
            references=("Gonzalez and Woods (2018), Digital Image Processing, chapter 4",),
            options={
                "shape": "rows, columns",
                "sd": "width in pixels, one or (y, x)",
                "border": "periodic or dark",
            },
        )
    ]


@hookimpl
def sciinfer_conformance_cases() -> list[Case]:
    """Tiny images."""
    return [
        Case(kind="operators", name="imaging/blur", make=lambda: (((8, 6),), {"sd": 1.0})),
        Case(kind="operators", name="imaging/blur", make=lambda: (((7, 9),), {"sd": (0.5, 2.0), "border": "dark"})),
    ]
