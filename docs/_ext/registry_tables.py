"""``{registry} kind``: all registered entries of a kind. ``{registry-summary}``: how many there are of each."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from as_markdown import MarkdownDirective, indented, table
from sphinx.application import Sphinx

from sciinfer.extend import KINDS, Entry, registry
from sciinfer.extend.records import DatasetEntry, MethodEntry, MetricEntry, ReaderEntry


class RegistryDirective(MarkdownDirective):
    """Entries of one kind, the core's first, then those of installed plugins."""

    required_arguments = 1
    optional_arguments = 0

    def markdown(self) -> str:
        """A definition list; data sets as a table."""
        kind = self.arguments[0]
        entries = registry().entries(kind)
        if not entries:
            return f"None is registered yet. The hook is `{KINDS[kind]}`."
        return "\n\n".join(_definition(entry) for entry in entries)


class SummaryDirective(MarkdownDirective):
    """Kinds, hooks and counts."""

    def markdown(self) -> str:
        """A table with one row for each kind."""
        rows = [(f"[{kind}](#{kind})", str(len(registry().names(kind))), f"`{hook}`") for kind, hook in KINDS.items()]
        return table(("kind", "entries", "hook"), rows)


def _definition(entry: Entry) -> str:
    parts = [_sentence(entry.summary), *_facts(entry)]
    if entry.options:
        parts.append(table(("option", "meaning"), [(f"`{name}`", line) for name, line in entry.options.items()]))
    if entry.references:
        parts.append("References: " + "; ".join(entry.references) + ".")
    return f"`{entry.name}`\n: " + indented("\n\n".join(parts))


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."


def _facts(entry: Entry) -> list[str]:
    facts = [f"dims `{', '.join(entry.dims)}`"] if entry.dims else []
    facts += [f"{name} in {unit}" for name, unit in entry.units.items()]
    facts += _special(entry)
    if entry.requires:
        install = f' (`pip install "sciinfer[{entry.extra}]"`)' if entry.extra else ""
        facts.append(f"needs {', '.join(entry.requires)}{install}")
    if entry.license:
        facts.append(f"licence: {entry.license}")
    return [_sentence("; ".join(facts))] if facts else []


def _special(entry: Entry) -> list[str]:
    if isinstance(entry, DatasetEntry):
        return [f"source: {entry.source}", *_card(entry)]
    if isinstance(entry, ReaderEntry):
        return [f"suffixes {', '.join(f'`{suffix}`' for suffix in entry.suffixes)}"] if entry.suffixes else []
    if isinstance(entry, MetricEntry):
        better = "closest to its target" if entry.orientation == "target" else entry.orientation
        return [
            f"best is {better}" if entry.orientation == "target" else f"{better} is better",
            "proper" if entry.proper else "not a proper score",
        ]
    if isinstance(entry, MethodEntry):
        return [f"class: {entry.kind}"]
    return []


def _card(entry: DatasetEntry) -> list[str]:
    card = cards().get(entry.name, {})
    return [f"licence: {card['license']}"] if card.get("license") and not entry.license else []


def cards() -> dict[str, dict[str, Any]]:
    """All data cards by name."""
    import sciinfer.datasets  # pyright: ignore[reportMissingImports] - lives beside the package

    folder = Path(str(sciinfer.datasets.__file__)).parent / "cards"
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.toml"))}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("registry", RegistryDirective)
    app.add_directive("registry-summary", SummaryDirective)
    return {"parallel_read_safe": True}
