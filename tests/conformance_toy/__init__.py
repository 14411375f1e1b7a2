"""A well-behaved plugin; the mutation test copies it, breaks one thing and asks the kit."""

from __future__ import annotations

from sciinfer.extend import Case, DatasetEntry, Entry, MetricEntry, PluginInfo, ReaderEntry, hookimpl

HOME = "TOY_PACKAGE"


@hookimpl
def sciinfer_plugin_info() -> PluginInfo:
    return PluginInfo(name="sciinfer-toy", version="0.1.0", domain="toy")


@hookimpl
def sciinfer_register_operators() -> list[Entry]:
    return [
        Entry(
            name="toy/lag",
            target=f"{HOME}.things:Lag",
            summary="Difference of each entry and the one before it.",
            dims=("time",),
            units={"weight": "m s-1"},
            references=("Nobody (2020), A lag",),
            options={"n": "length", "weight": "of the entry before"},
        )
    ]


@hookimpl
def sciinfer_register_readers() -> list[ReaderEntry]:
    return [
        ReaderEntry(
            name="toy/numbers",
            target=f"{HOME}.things:read_numbers",
            summary="One number per line, as a series.",
            dims=("time",),
            units={"y": "m"},
            suffixes=(".numbers",),
        )
    ]


@hookimpl
def sciinfer_register_datasets() -> list[DatasetEntry]:
    return [
        DatasetEntry(
            name="toy/ramp",
            target=f"{HOME}.things:ramp",
            summary="Ten numbers that go up.",
            dims=("time",),
            units={"y": "m"},
            license="CC0-1.0",
            source="simulated",
        )
    ]


@hookimpl
def sciinfer_register_simulators() -> list[Entry]:
    return [
        Entry(
            name="toy/walk",
            target=f"{HOME}.things:walk",
            summary="A random walk in one dimension.",
            dims=("time",),
            units={"y": "m"},
            options={"steps": "how many"},
        )
    ]


@hookimpl
def sciinfer_register_likelihoods() -> list[Entry]:
    return [Entry(name="toy/normal", target=f"{HOME}.things:Normal", summary="Normal noise of a given width.")]


@hookimpl
def sciinfer_register_metrics() -> list[MetricEntry]:
    return [
        MetricEntry(
            name="toy/spread-skill",
            target=f"{HOME}.things:ensemble_score",
            summary="The ensemble estimate of the continuous ranked probability score.",
            proper=True,
        )
    ]


@hookimpl
def sciinfer_conformance_cases() -> list[Case]:
    bad = {"a word": "1.0\nmany\n", "infinity": "1.0\ninf\n"}
    return [
        Case(kind="operators", name="toy/lag", make=lambda: ((6,), {"weight": 0.5})),
        Case(kind="readers", name="toy/numbers", inputs={"write": _write, "refuses": bad}),
        Case(kind="likelihoods", name="toy/normal", make=lambda: ((0.7,), {})),
    ]


def _write(folder):
    path = folder / "a.numbers"
    path.write_text("1.5\nnan\n-2.25\n")
    return path
