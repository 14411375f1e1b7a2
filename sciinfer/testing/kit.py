"""The conformance kit: which checks apply to a plugin, and running them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..errors import DependencyError
from ..extend.manager import PluginManager
from ..extend.records import Case, Entry
from .exercise import SELF_CONTAINED
from .failures import CheckSkipped
from .view import PluginView, find

Check = Callable[..., None]

_MODULES = (
    "checks_plugin",
    "checks_entry",
    "checks_run",
    "checks_operators",
    "checks_readers",
    "checks_datasets",
    "checks_simulators",
    "checks_metrics",
    "checks_plots",
    "checks_likelihoods",
    "checks_kernels",
    "checks_inference",
)


@dataclass(frozen=True)
class Item:
    """One check of one thing. ``label`` is unique: ``operators/imaging/blur[0] adjoint_float64``."""

    label: str
    group: str
    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """What an item gave: ``passed``, ``failed`` or ``skipped``, and why."""

    item: Item
    status: str
    reason: str = ""


def checks_for(group: str) -> dict[str, Check]:
    """Checks of a group (``plugin``, ``entry``, ``run`` or a kind), by short name.

    Example:
        >>> "adjoint_float64" in checks_for("operators")
        True
    """
    prefix, found = f"check_{group}_", {}
    for module in _MODULES:
        names = vars(importlib.import_module(f".{module}", __package__))
        found |= {name.removeprefix(prefix): check for name, check in names.items() if name.startswith(prefix)}
    return found


def plan(view: PluginView, *, only: tuple[str, str] | None = None) -> Iterator[Item]:
    """All items for a plugin, or those of the entry ``only = (kind, name)``."""
    if only is None:
        for name, check in checks_for("plugin").items():
            yield Item(f"plugin {name}", "plugin", name, _bound(check, view))
    for kind, entry in view.entries:
        if only in (None, (kind, entry.name)):
            yield from _plan_entry(view, kind, entry)


def _plan_entry(view: PluginView, kind: str, entry: Entry) -> Iterator[Item]:
    bare = Case(kind=kind, name=entry.name)
    label = f"{kind}/{entry.name}"
    for name, check in checks_for("entry").items():
        yield Item(f"{label} {name}", "entry", name, _bound(check, bare, entry))
    cases = [case for case in view.cases if (case.kind, case.name) == (kind, entry.name)]
    if not cases and kind in SELF_CONTAINED:
        cases = [bare]
    for index, case in enumerate(cases):
        case = replace(case)  # a private copy: records of a use are kept by identity
        for group in ("run", kind):
            for name, check in checks_for(group).items():
                yield Item(f"{label}[{index}] {name}", group, name, _bound(check, case, entry))


def _bound(check: Check, *args: Any) -> Callable[[], None]:
    return lambda: check(*args)


def run_item(item: Item) -> Outcome:
    """Run one check."""
    try:
        item.run()
    except (CheckSkipped, DependencyError) as err:
        return Outcome(item, "skipped", str(err))
    except KeyboardInterrupt:
        raise
    except BaseException as err:
        return Outcome(item, "failed", f"{type(err).__name__}: {err}")
    return Outcome(item, "passed")


def run(manager: PluginManager, name: str, *, only: tuple[str, str] | None = None) -> list[Outcome]:
    """Run the kit over the plugin ``name``.

    Args:
        manager: knows the plugins.
        name: entry point, domain, package or distribution of one of them, or ``core``.
        only: restrict to the entry ``(kind, name)``.

    Raises:
        PluginError: there is no such plugin, or it was rejected at loading.

    Example:
        >>> outcomes = run(PluginManager("off"), "core", only=("operators", "identity"))
        >>> [outcome.reason for outcome in outcomes if outcome.status == "failed"]
        []
    """
    return [run_item(item) for item in plan(find(manager, name), only=only)]
