"""``python -m benchmarks NAME... [--json] [--tiny]`` and ``python -m benchmarks --list``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from . import harness


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks and print their rows; the exit code is 2 for an unknown name."""
    given = _parser().parse_args(arguments)
    if given.list:
        print("\n".join(harness.names()))
        return 0
    chosen = harness.names() if given.names in ([], ["all"]) else given.names
    unknown = sorted(set(chosen) - set(harness.names()))
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(harness.names())}", file=sys.stderr)
        return 2
    rows = (row for name in chosen for row in harness.rows(name, tiny=given.tiny))
    if given.json:
        _print_json(rows)
    else:
        _print_table(rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure sciinfer beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it runs")
    parser.add_argument("--list", action="store_true", help="names of the benchmarks")
    return parser


def _print_json(rows: Iterable[harness.Row]) -> None:
    for row in rows:
        print(json.dumps(row.record()), flush=True)


def _print_table(rows: Iterable[harness.Row]) -> None:
    table = Table("name", "ours", "peer", "unit", "ratio", "goal", "note")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:6]:
        column.justify = "right"
    versions: dict[str, str] = {}
    for row in rows:
        versions |= row.versions
        mark = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
        goal = "" if row.goal is None else f">= {row.goal:.3g} {mark}"
        table.add_row(row.name, _number(row.ours), _number(row.peer), row.unit, _number(row.ratio), goal, row.note)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()), style="dim")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
