"""The core registers itself through the same hooks as any plugin.

A module becomes an entry by carrying a literal ``__entries__`` list; it is read without importing the module, so
that listing names stays fast and imports no torch. Adding a kernel, likelihood or model touches that one file.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import PluginError
from .hookspecs import KINDS, hookimpl
from .records import RECORDS, Case, Entry, PluginInfo

_PATTERN = re.compile(r"^__entries__ = (\[.*?^\])", re.MULTILINE | re.DOTALL)


def _roots() -> Iterable[tuple[str, Path]]:
    yield "sciinfer", Path(__file__).parents[1]
    spec = importlib.util.find_spec("sciinfer.datasets")  # lives beside the package in a checkout
    if spec and spec.origin:
        yield "sciinfer.datasets", Path(spec.origin).parent


def _modules() -> Iterable[tuple[str, Path]]:
    seen: set[Path] = set()
    for package, root in _roots():
        for path in sorted(root.rglob("*.py")):
            if path not in seen:
                seen.add(path)
                dotted = ".".join(path.relative_to(root).with_suffix("").parts)
                yield f"{package}.{dotted.removesuffix('.__init__')}", path


@functools.cache
def _declared() -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
    for module, path in _modules():
        match = _PATTERN.search(path.read_text(encoding="utf-8"))
        for literal in ast.literal_eval(match.group(1)) if match else ():
            kind, entry = _entry(module, literal)
            found[kind].append(entry)
    return found


def _entry(module: str, literal: dict[str, Any]) -> tuple[str, Entry]:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in literal.items()
    }
    kind = fields.pop("kind")
    if "class" in fields:  # a method's class is called kind in its record
        fields["kind"] = fields.pop("class")
    if kind not in KINDS:
        raise PluginError(f"module {module} declares an entry of unknown kind {kind!r}", fix=f"one of {list(KINDS)}")
    fields["target"] = f"{module}:{fields['target']}"
    return kind, RECORDS.get(kind, Entry)(**fields)


@hookimpl
def sciinfer_plugin_info() -> PluginInfo:
    """The core itself."""
    return PluginInfo(name="sciinfer", version=importlib.metadata.version("sciinfer"), domain="")


def _make_hook(kind: str) -> Any:
    def hook() -> list[Entry]:
        return _declared()[kind]

    hook.__name__ = KINDS[kind]
    hook.__doc__ = f"The core's {kind}."
    return hookimpl(hook)


for _kind, _hook in KINDS.items():
    globals()[_hook] = _make_hook(_kind)


@hookimpl
def sciinfer_conformance_cases() -> list[Case]:
    """Cases for the core's own entries."""
    from ..testing.core_cases import core_cases

    return core_cases()
