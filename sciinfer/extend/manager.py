"""Loads plugins one at a time, so that a broken one costs only itself."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from . import hookspecs
from .hookspecs import KINDS
from .records import ACCEPTED_API, Case, Entry, PluginInfo, PluginProblem

GROUP = "sciinfer.plugins"
CORE = "core"


class Loaded:
    """One accepted plugin: its info, its distribution, its entries by kind."""

    def __init__(self, info: PluginInfo, distribution: str, entries: Mapping[str, list[Entry]]) -> None:
        self.info, self.distribution, self.entries = info, distribution, entries


class Rejected(Exception):  # noqa: N818 - control flow inside this module, never seen outside
    """A plugin broke its contract; carries the stage at which."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


class PluginManager:
    """The accepted plugins, and the problems of the others.

    Entry points are read in sorted order. ``selection`` is ``"all"``, ``"off"`` or a comma-separated list of plugin
    names (default: the environment's ``SCIINFER_PLUGINS``, else all); the core is always loaded.
    """

    def __init__(self, selection: str | None = None, *, extra: Mapping[str, Any] | None = None) -> None:
        self.loaded: list[Loaded] = []
        self.problems: list[PluginProblem] = []
        self._pluggy = pluggy.PluginManager("sciinfer")
        self._pluggy.add_hookspecs(hookspecs)
        chosen = selection if selection is not None else os.environ.get("SCIINFER_PLUGINS", "all")
        for name, distribution, load in self._candidates(chosen):
            self._admit(name, distribution, load)
        for name, plugin in sorted((extra or {}).items()):
            self._admit(name, "(given)", lambda plugin=plugin: plugin)

    def _candidates(self, chosen: str) -> Iterable[tuple[str, str, Any]]:
        from . import builtin

        yield CORE, "sciinfer", lambda: builtin
        if chosen == "off":
            return
        wanted = None if chosen == "all" else {part.strip() for part in chosen.split(",")}
        points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda p: (p.name, p.value))
        for point in points:
            if point.name != CORE and (wanted is None or point.name in wanted):
                distribution = point.dist.name if point.dist else "(unknown)"
                yield point.name, distribution, point.load

    def _admit(self, name: str, distribution: str, load: Any) -> None:
        plugin = None
        try:
            plugin = self._import(load)
            self._register(plugin, name)
            loaded = self._collect(plugin, name, distribution)
        except Rejected as err:
            if plugin is not None and self._pluggy.is_registered(plugin):
                self._pluggy.unregister(plugin)
            self.problems.append(
                PluginProblem(plugin=name, distribution=distribution, reason=str(err), stage=err.stage)
            )
        else:
            self.loaded.append(loaded)

    @staticmethod
    def _import(load: Any) -> Any:
        try:
            return load()
        except KeyboardInterrupt:
            raise
        except BaseException as err:  # a plugin may even call sys.exit
            raise Rejected("import", f"{type(err).__name__}: {err}") from err

    def _register(self, plugin: Any, name: str) -> None:
        if not hasattr(plugin, "sciinfer_plugin_info"):
            raise Rejected("info", "it has no sciinfer_plugin_info hook")
        try:
            self._pluggy.register(plugin, name=name)
        except (pluggy.PluginValidationError, ValueError) as err:
            raise Rejected("hooks", str(err)) from err
        unknown = self._misspelt(plugin)
        if unknown:
            raise Rejected("hooks", f"unknown hook {', '.join(unknown)}; known hooks are in the docs, page 'Hooks'")

    @staticmethod
    def _misspelt(plugin: Any) -> list[str]:
        # ``check_pending`` sees only functions carrying the marker; a name that looks like ours is a slip as well
        known = {name for name in vars(hookspecs) if name.startswith("sciinfer_")}
        return sorted(n for n in dir(plugin) if n.startswith("sciinfer_") and n not in known)

    def _collect(self, plugin: Any, name: str, distribution: str) -> Loaded:
        info = self._call(plugin, "sciinfer_plugin_info")
        if not isinstance(info, PluginInfo):
            raise Rejected("info", f"sciinfer_plugin_info returned {type(info).__name__}, expected PluginInfo")
        if info.api not in ACCEPTED_API:
            raise Rejected("api", f"it speaks plugin API {info.api}, this sciinfer accepts {ACCEPTED_API}")
        entries = {kind: self._entries(plugin, kind, info, name) for kind in KINDS}
        return Loaded(info, distribution, entries)

    def _entries(self, plugin: Any, kind: str, info: PluginInfo, name: str) -> list[Entry]:
        entries = list(self._call(plugin, KINDS[kind]) or ())
        for entry in entries:
            if not isinstance(entry, Entry):
                raise Rejected("entries", f"{KINDS[kind]} returned {type(entry).__name__}, expected Entry")
            prefix = entry.name.partition("/")[0] if "/" in entry.name else ""
            if prefix != info.domain:
                wanted = f"{info.domain}/..." if info.domain else "no prefix"
                raise Rejected("names", f"{kind} entry {entry.name!r} must be named with {wanted}")
            owner = self._owner(kind, entry.name)
            if owner:
                raise Rejected("names", f"{kind} entry {entry.name!r} is already registered by {owner}, now by {name}")
        return entries

    def _owner(self, kind: str, name: str) -> str | None:
        for plugin in self.loaded:
            if any(entry.name == name for entry in plugin.entries[kind]):
                return f"{plugin.info.name} ({plugin.distribution})"
        return None

    def _call(self, plugin: Any, hook: str) -> Any:
        impl = getattr(plugin, hook, None)
        if impl is None:
            return None
        try:
            return impl()
        except KeyboardInterrupt:
            raise
        except BaseException as err:
            raise Rejected(hook, f"{type(err).__name__}: {err}") from err

    def cases(self) -> list[Case]:
        """All conformance cases of the accepted plugins."""
        found: list[Case] = []
        for loaded in self.loaded:
            plugin = self._pluggy.get_plugin(CORE if not loaded.info.domain else self._name_of(loaded))
            found.extend(self._call(plugin, "sciinfer_conformance_cases") or ())
        return found

    def _name_of(self, loaded: Loaded) -> str:
        for name, plugin in self._pluggy.list_name_plugin():
            if plugin is not None and self._call(plugin, "sciinfer_plugin_info") is loaded.info:
                return name
        return loaded.info.domain

    def emit(self, hook: str, **kwargs: Any) -> list[str]:
        """Call an event hook on every plugin; a plugin that raises is reported, the others still run."""
        failures = []
        for impl in getattr(self._pluggy.hook, hook).get_hookimpls():
            try:
                impl.function(*[kwargs[arg] for arg in impl.argnames])
            except Exception as err:
                failures.append(f"{impl.plugin_name}: {type(err).__name__}: {err}")
        return failures
