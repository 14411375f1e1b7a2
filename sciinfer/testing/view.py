"""What the kit knows of a plugin under test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import PluginError
from ..extend.manager import Loaded, PluginManager
from ..extend.records import Case, Entry


@dataclass(frozen=True)
class PluginView:
    """An accepted plugin, its module, its cases; ``given``: not installed but handed over by a test."""

    loaded: Loaded
    module: Any
    cases: tuple[Case, ...]

    @property
    def given(self) -> bool:
        """True if it was handed to the manager instead of being found installed."""
        return self.loaded.distribution == "(given)"

    @property
    def entries(self) -> list[tuple[str, Entry]]:
        """Its entries with their kinds."""
        return [(kind, entry) for kind, entries in self.loaded.entries.items() for entry in entries]


def find(manager: PluginManager, name: str) -> PluginView:
    """The plugin called ``name``: its entry point, domain, distribution or package.

    Raises:
        PluginError: it is not installed, or was rejected (the reason is told).
    """
    wanted = name.replace("-", "_").lower()
    for loaded in manager.loaded:
        module = manager.plugin(loaded.name)
        known = {
            loaded.name,
            loaded.info.domain,
            loaded.distribution,
            loaded.info.name,
            getattr(module, "__name__", ""),
        }
        if wanted in {label.replace("-", "_").lower() for label in known if label}:
            before = len(manager.problems)
            cases = tuple(manager.cases(loaded.name))
            if len(manager.problems) > before:
                raise PluginError(
                    f"plugin {name!r}: its cases fail: {manager.problems[-1].reason}", fix="repair the hook"
                )
            return PluginView(loaded, module, cases)
    for problem in manager.problems:
        if wanted.removeprefix("sciinfer_") in (problem.plugin, problem.distribution.removeprefix("sciinfer-")):
            raise PluginError(
                f"plugin {name!r} was rejected at {problem.stage}: {problem.reason}", fix="repair the plugin"
            )
    names = ", ".join(loaded.name for loaded in manager.loaded)
    raise PluginError(f"no plugin {name!r} is installed", fix=f"one of {names}, or install it")
