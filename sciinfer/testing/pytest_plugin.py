"""``pytest --sciinfer-conformance NAME``: run the conformance kit over a plugin or ``core``. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OPTION = "--sciinfer-conformance"


def pytest_addoption(parser: Any) -> None:
    """Add the option; without it this plugin does nothing at all."""
    group = parser.getgroup("sciinfer", "sciinfer conformance kit")
    group.addoption(
        OPTION,
        action="append",
        default=[],
        metavar="PLUGIN",
        help="run the conformance kit over a plugin: its domain, package or distribution name, or 'core'",
    )


def pytest_configure(config: Any) -> None:
    """Collect the suite beside what the caller named; without a name, the suite alone."""
    if not config.getoption(OPTION):
        return
    suite = str(Path(__file__).with_name("suite.py"))
    named = config.args_source is type(config.args_source).ARGS
    config.args = [*config.args, suite] if named else [suite]
