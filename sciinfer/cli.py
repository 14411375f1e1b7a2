"""``sciinfer`` at a terminal: the verbs of :mod:`sciinfer.api`. Only the command that runs imports what it needs."""

from __future__ import annotations

from typing import Annotated

import typer

from . import __version__
from .commands import answers, backtest, fit, listing, reports, solve, tools
from .commands.console import say
from .commands.group import Group

_ASK, _LOOK, _OWN = "Ask", "Look", "This installation"

app = typer.Typer(
    cls=Group,
    name="sciinfer",
    help="Condition learned and known priors on scientific data: labelled, calibrated, checked.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: sciinfer demo",
)

_COMMANDS = (
    (fit.fit, _ASK, fit.EXAMPLES),
    (answers.predict, _ASK, answers.PREDICT_EXAMPLES),
    (answers.generate, _ASK, answers.GENERATE_EXAMPLES),
    (answers.score, _ASK, answers.SCORE_EXAMPLES),
    (backtest.backtest, _ASK, backtest.EXAMPLES),
    (solve.solve, _ASK, solve.EXAMPLES),
    (reports.check, _ASK, reports.CHECK_EXAMPLES),
    (reports.report, _ASK, reports.REPORT_EXAMPLES),
    (tools.demo, _LOOK, tools.DEMO_EXAMPLES),
    (listing.datasets, _LOOK, listing.DATASETS_EXAMPLES),
    (listing.names, _LOOK, listing.NAMES_EXAMPLES),
    (listing.plugins, _OWN, listing.PLUGINS_EXAMPLES),
    (tools.doctor, _OWN, tools.DOCTOR_EXAMPLES),
    (tools.bench, _OWN, tools.BENCH_EXAMPLES),
)

for _function, _panel, _examples in _COMMANDS:
    # an empty line between them: the help would join them to one paragraph
    _epilog = "\n\n".join(["Examples:", *(f"  {example}" for example in _examples)])
    app.command(_function.__name__, epilog=_epilog, rich_help_panel=_panel)(_function)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"sciinfer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """Options of all commands; ``debug`` is read by the group."""


def main() -> None:
    """The console script."""
    app(prog_name="sciinfer")


if __name__ == "__main__":
    main()
