"""``sciinfer datasets``, ``plugins`` and ``names``: what there is. None of them imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..extend.hookspecs import KINDS
from ..extend.records import DatasetEntry, Entry
from ..extend.registry import registry
from . import files, parse
from .console import note, say, table
from .options import DataOption

DATASETS_EXAMPLES = ("sciinfer datasets", "sciinfer datasets co2", "sciinfer datasets lotka_volterra --save prey.nc")
PLUGINS_EXAMPLES = ("sciinfer plugins", "SCIINFER_PLUGINS=off sciinfer plugins")
NAMES_EXAMPLES = ("sciinfer names models", "sciinfer names models latent-sde", "sciinfer names kernels")

Kind = Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}.", show_default=False)]
Name = Annotated[str | None, typer.Argument(help="Show this one, with its options.", show_default=False)]
SetName = Annotated[str | None, typer.Argument(help="Show the card of this one.", show_default=False)]
Save = Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Write the data: .nc or .zarr.")]
Download = Annotated[bool, typer.Option("--download", help="With --save: fetch what is missing from the network.")]


def datasets(
    name: SetName = None, save: Save = None, data_option: DataOption = None, download: Download = False
) -> None:
    """List data sets and simulators, or show the card of one, or save one."""
    if name is None:
        _list_datasets()
        return
    if save is None:
        _card(name)
        return
    files.check_output(save)
    options = parse.pairs(data_option, "--data-option")
    from ..api import open_dataset

    files.save(open_dataset(name, download=download, **options), save)


def plugins() -> None:
    """List the accepted plugins with what they register, and those left out with the reason."""
    for plugin in registry().manager.loaded:
        info = plugin.info
        origin = f" (names {info.domain}/...)" if info.domain else ""
        say(f"{info.name} {info.version}{origin}", style="bold")
        counts = [(kind, [entry.name for entry in entries]) for kind, entries in plugin.entries.items() if entries]
        table(["  kind", "entries"], [[f"  {kind}", ", ".join(listed)] for kind, listed in counts])
        if info.citation:
            say(f"  cite {info.citation}")
        say()
    problems = registry().problems
    for problem in problems:
        origin = f" ({problem.distribution})" if problem.distribution else ""
        say(f"left out: {problem.plugin}{origin}, at {problem.stage}: {problem.reason}", style="red")
    if not problems:
        say("no problems")


def names(kind: Kind = None, name: Name = None) -> None:
    """List what is registered of one kind, or show one entry with its options."""
    if kind is None:
        table(["kind", "entries"], [[key, str(len(registry().names(key)))] for key in KINDS])
        return
    if name is not None:
        _entry(kind, registry().entry(kind, name))
        return
    entries = registry().entries(kind)
    if not entries:
        say(f"no {kind} are registered")
        return
    table(["name", "summary"], [[entry.name, entry.summary] for entry in entries])


def _list_datasets() -> None:
    rows = [[e.name, e.source if isinstance(e, DatasetEntry) else "simulated", e.summary] for e in _all_sets()]
    table(["name", "source", "summary"], rows)
    say()
    say("bundled, simulated: always there. package: pip install 'sciinfer[datasets]'. local: below $SCIINFER_DATA.")


def _all_sets() -> list[Entry]:
    return [entry for kind in ("datasets", "simulators") for entry in registry().entries(kind)]


def _card(name: str) -> None:
    from ..datasets.cards import has_card  # pyright: ignore[reportMissingImports] - lives beside the package
    from ..datasets.catalog import card  # pyright: ignore[reportMissingImports]

    found = card(name)
    title = found.title if has_card(name) else found.name
    say(title, style="bold")
    say(found.summary)
    say()
    facts = {
        "name": name,
        "source": found.source,
        "origin": found.origin if has_card(name) else "",
        "licence": found.license,
        "citation": found.citation,
        "had by": found.retrieval,
        "dims": ", ".join(f"{dim} {size}" for dim, size in found.dims.items()),
        "units": ", ".join(f"{variable} {units}" for variable, units in found.units.items()),
        "sha256": found.sha256,
        "files": ", ".join(f"{file.path} ({_bytes(file.size)})" for file in found.files),
    }
    _facts(facts)
    _options(next(entry for entry in _all_sets() if entry.name == name).options)
    say()
    say(f'in Python   si.open_dataset("{name}")')
    say(f"here        sciinfer fit {name} --out run/, or sciinfer datasets {name} --save {name.replace('/', '-')}.nc")


def _entry(kind: str, entry: Entry) -> None:
    say(f"{entry.name}  ({kind})", style="bold")
    say(entry.summary)
    say()
    _facts({"target": entry.target, "needs": ", ".join(entry.requires), "licence": entry.license})
    for reference in entry.references:
        say(f"  see {reference}")
    _options(entry.options)
    if entry.options and kind == "models":
        note(f"give them as: sciinfer fit DATA --model {entry.name} --set KEY=VALUE --out run/")


def _facts(facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts))
    for key, text in facts.items():
        if text:
            say(f"  {key.ljust(width)}  {text}")


def _options(options: Mapping[str, str]) -> None:
    if options:
        say()
        table(["  option", "meaning"], [[f"  {key}", text] for key, text in options.items()])


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""
