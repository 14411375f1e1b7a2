"""Names to things. The registry is the only way by which the facade, the CLI and the docs find entries."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Mapping
from typing import Any

from ..errors import DependencyError, NameNotFoundError, PluginError
from .hookspecs import KINDS
from .manager import PluginManager
from .records import Entry, PluginInfo, PluginProblem


class Registry:
    """All entries of all accepted plugins.

    Example:
        >>> from sciinfer.extend import registry
        >>> "gaussian" in registry().names("likelihoods")
        True
    """

    def __init__(self, manager: PluginManager) -> None:
        self.manager = manager
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        for plugin in manager.loaded:
            for kind, entries in plugin.entries.items():
                self._entries[kind].update({entry.name: entry for entry in entries})

    @property
    def plugins(self) -> list[PluginInfo]:
        """The accepted plugins."""
        return [plugin.info for plugin in self.manager.loaded]

    @property
    def problems(self) -> list[PluginProblem]:
        """The plugins that were left out, with the reason."""
        return self.manager.problems

    def names(self, kind: str) -> list[str]:
        """Sorted names of one kind; core names first, then ``domain/name``."""
        return sorted(self._kind(kind), key=lambda name: ("/" in name, name))

    def entries(self, kind: str) -> list[Entry]:
        """Entries of one kind, in the order of :meth:`names`."""
        return [self._kind(kind)[name] for name in self.names(kind)]

    def entry(self, kind: str, name: str) -> Entry:
        """The entry ``name``; an unknown one raises with the nearest names."""
        known = self._kind(kind)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}" if near else f"known: {', '.join(self.names(kind)) or 'none'}"
            raise NameNotFoundError(f"no {kind} entry is called {name!r}", code=f"name/{kind}", fix=hint)
        return known[name]

    def get(self, kind: str, name: str) -> Any:
        """Import and return what the entry points to."""
        entry = self.entry(kind, name)
        self._require(entry)
        module, _, attribute = entry.target.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as err:
            raise PluginError(
                f"{kind} entry {name!r} points to {entry.target!r}, which does not load: {err}",
                fix="reinstall or update the plugin that registers it",
            ) from err

    @staticmethod
    def _require(entry: Entry) -> None:
        for package in entry.requires:
            require(package, extra=entry.extra, purpose=f"{entry.name!r}")

    def _kind(self, kind: str) -> Mapping[str, Entry]:
        if kind not in self._entries:
            raise NameNotFoundError(f"there is no kind {kind!r}", code="name/kind", fix=f"kinds: {', '.join(KINDS)}")
        return self._entries[kind]


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import an optional package or say how to install it.

    Example:
        >>> require("math", extra="plots", purpose="a plot").pi > 3
        True
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise DependencyError(
            f"{purpose} needs the package {module!r}, which is not installed",
            fix=f'pip install "sciinfer[{extra}]"' if extra else f"pip install {module}",
        ) from err


@functools.cache
def registry() -> Registry:
    """The process-wide registry, built on first use."""
    return Registry(PluginManager())
