"""``sciinfer doctor``, ``bench`` and ``demo``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ResourceError
from .console import say
from .options import Json, Progress, ProgressMode

DOCTOR_EXAMPLES = ("sciinfer doctor",)
BENCH_EXAMPLES = ("sciinfer bench", "sciinfer bench integrate_sde --tiny --json")
DEMO_EXAMPLES = ("sciinfer demo", "sciinfer demo --show")

_STYLES = {"ok": None, "info": None, "warn": "yellow", "bad": "bold red"}
_MARKS = {"ok": "ok  ", "info": "    ", "warn": "warn", "bad": "BAD "}

Benchmark = Annotated[str | None, typer.Argument(metavar="NAME", help="Which; without one they are listed.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Sizes that only show that it runs.")]
DemoOut = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where models, results and report go.")]
Show = Annotated[bool, typer.Option("--show", help="Print the same as a few lines of Python, and run nothing.")]


def doctor() -> None:
    """What is installed, which device is used, which plugins were left out. Exit code 1 if something is broken."""
    from ..doctor import examine

    findings = examine()
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            say(f"{'' if finding is findings[0] else chr(10)}{section}", style="bold")
        say(f"  {_MARKS[finding.level]}  {finding.name:<16} {finding.text}".rstrip(), style=_STYLES[finding.level])
        if finding.fix:
            say(f"  {'':<4}  {'':<16} fix: {finding.fix}", style=_STYLES[finding.level])
    bad = sum(finding.level == "bad" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    say(f"\n{bad} broken, {warned} to look at", style="bold red" if bad else None)
    if bad:
        raise typer.Exit(1)


def bench(name: Benchmark = None, tiny: Tiny = False, as_json: Json = False) -> None:
    """Measure sciinfer beside its peers; needs a checkout of the repository."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "harness.py").is_file():
        raise ResourceError(
            "the benchmarks are not part of the installed package",
            code="resource/checkout",
            fix="clone the repository, pip install -e '.[bench]', and call sciinfer bench from there",
        )
    flags = [flag for flag, given in (("--tiny", tiny), ("--json", as_json)) if given]
    arguments = [name, *flags] if name else ["--list"]
    done = subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=root, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


def demo(out: DemoOut = Path("demo"), show: Show = False, progress: Progress = ProgressMode.auto) -> None:
    """Fit a simulated and a real gappy series, score both against what is known, write one report. Offline."""
    from ..demo import DEMO_CODE, run_demo

    if show:
        say(DEMO_CODE.rstrip())
        return
    path = run_demo(out, progress=progress.value, say=say)
    say(f"\nreport  {path}")
