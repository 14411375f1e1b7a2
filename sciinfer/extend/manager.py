"""Loads plugins one at a time, so that a broken one costs only itself."""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from . import hookspecs
from .hookspecs import KINDS
from .records import ACCEPTED_API, RECORDS, Case, Entry, PluginInfo, PluginProblem

GROUP = "sciinfer.plugins"
CORE = "core"


class Loaded:
    """One accepted plugin: the name it was found under, its info, its distribution, its entries by kind."""

    def __init__(self, name: str, info: PluginInfo, distribution: str, entries: Mapping[str, list[Entry]]) -> None:
        self.name, self.info, self.distribution, self.entries = name, info, distribution, entries


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
        for absent in sorted((wanted or set()) - {CORE, ""} - {point.name for point in points}):
            reason = f"SCIINFER_PLUGINS names it, but it is not installed; installed: {_known(points)}"
            self.problems.append(PluginProblem(plugin=absent, distribution="", reason=reason, stage="selection"))
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
            if plugin is not None and self._pluggy.get_name(plugin) == name:
                self._pluggy.unregister(plugin)
            self._report(name, distribution, err)
        else:
            self.loaded.append(loaded)

    def _report(self, name: str, distribution: str, err: Rejected) -> None:
        self.problems.append(PluginProblem(plugin=name, distribution=distribution, reason=str(err), stage=err.stage))

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
        owner = next((loaded for loaded in self.loaded if loaded.name == name), None)
        if owner:
            raise Rejected("names", f"a plugin called {name!r} is already loaded from {owner.distribution}")
        _check_hooks(plugin)
        try:
            self._pluggy.register(plugin, name=name)
        except (pluggy.PluginValidationError, ValueError) as err:
            if self._pluggy.get_name(plugin) == name:
                self._pluggy.unregister(plugin)
            raise Rejected("hooks", str(err)) from err

    def _collect(self, plugin: Any, name: str, distribution: str) -> Loaded:
        info = self._call(plugin, "sciinfer_plugin_info")
        if not isinstance(info, PluginInfo):
            raise Rejected("info", f"sciinfer_plugin_info returned {type(info).__name__}, expected PluginInfo")
        if info.api not in ACCEPTED_API:
            raise Rejected("api", f"it speaks plugin API {info.api}, this sciinfer accepts {ACCEPTED_API}")
        if not info.domain and name != CORE:
            raise Rejected("names", "its domain is empty; names without prefix belong to the core")
        entries = {kind: self._entries(plugin, kind, info, name) for kind in KINDS}
        return Loaded(name, info, distribution, entries)

    def _entries(self, plugin: Any, kind: str, info: PluginInfo, name: str) -> list[Entry]:
        entries: list[Entry] = self._list(plugin, KINDS[kind])
        expected, seen = RECORDS.get(kind, Entry), set()
        for entry in entries:
            if not isinstance(entry, expected):
                wanted = expected.__name__
                raise Rejected("entries", f"{KINDS[kind]} returned {type(entry).__name__}, expected {wanted}")
            _check_name(kind, entry, info)
            owner = f"{name} itself" if entry.name in seen else self._owner(kind, entry.name)
            if owner:
                raise Rejected("names", f"{kind} entry {entry.name!r} is already registered by {owner}, now by {name}")
            seen.add(entry.name)
        return entries

    def _owner(self, kind: str, name: str) -> str | None:
        for plugin in self.loaded:
            if any(entry.name == name for entry in plugin.entries[kind]):
                return f"{plugin.info.name} ({plugin.distribution})"
        return None

    @staticmethod
    def _call(plugin: Any, hook: str) -> Any:
        impl = getattr(plugin, hook, None)
        if impl is None:
            return None
        try:
            return impl()
        except KeyboardInterrupt:
            raise
        except BaseException as err:
            raise Rejected(hook, f"{type(err).__name__}: {err}") from err

    def _list(self, plugin: Any, hook: str) -> list[Any]:
        found = self._call(plugin, hook)
        try:
            return list(found) if found is not None else []
        except KeyboardInterrupt:
            raise
        except BaseException as err:  # a generator raises only when it is read
            raise Rejected(hook, f"{type(err).__name__}: {err}") from err

    def plugin(self, name: str) -> Any:
        """The module or object registered under ``name``, or None."""
        return self._pluggy.get_plugin(name)

    def cases(self, name: str | None = None) -> list[Case]:
        """Conformance cases of the accepted plugins, or of the one called ``name``; one that raises is reported."""
        found: list[Case] = []
        for loaded in self.loaded:
            if name in (None, loaded.name):
                try:
                    found.extend(self._list(self.plugin(loaded.name), "sciinfer_conformance_cases"))
                except Rejected as err:
                    self._report(loaded.name, loaded.distribution, err)
        return found

    def emit(self, hook: str, **kwargs: Any) -> list[str]:
        """Call an event hook on every plugin; a plugin that raises is reported, the others still run."""
        failures = []
        for impl in getattr(self._pluggy.hook, hook).get_hookimpls():
            try:
                impl.function(*[kwargs[arg] for arg in impl.argnames])
            except (Exception, SystemExit) as err:
                failures.append(f"{impl.plugin_name}: {type(err).__name__}: {err}")
        return failures


def _known(points: Iterable[Any]) -> str:
    return ", ".join(point.name for point in points if point.name != CORE) or "none"


def _check_hooks(plugin: Any) -> None:
    # pluggy's own check sees only functions with the marker; one that is merely named like a hook is a slip as well
    known = {name for name in vars(hookspecs) if name.startswith("sciinfer_")}
    functions = {name: getattr(plugin, name, None) for name in dir(plugin)}
    marked = {name for name, value in functions.items() if getattr(value, "sciinfer_impl", None) is not None}
    named = {name for name, value in functions.items() if name.startswith("sciinfer_") and inspect.isroutine(value)}
    unknown = sorted((marked | named) - known)
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
        hint = f"; did you mean {', '.join(near)}" if near else ""
        raise Rejected("hooks", f"unknown hook {', '.join(unknown)}{hint}; known hooks are in the docs, page 'Hooks'")
    silent = sorted(name for name in named - marked if name.startswith("sciinfer_on_"))
    if silent:
        raise Rejected("hooks", f"{', '.join(silent)} lacks the decorator @hookimpl and would never be called")


def _check_name(kind: str, entry: Entry, info: PluginInfo) -> None:
    wanted = f"{info.domain}/..." if info.domain else "no prefix"
    if not isinstance(entry.name, str):
        raise Rejected("names", f"{kind} entry {entry.name!r} must be named with {wanted}")
    prefix, slash, rest = entry.name.rpartition("/")
    if prefix != info.domain or not rest or bool(slash) != bool(info.domain):
        raise Rejected("names", f"{kind} entry {entry.name!r} must be named with {wanted}")
