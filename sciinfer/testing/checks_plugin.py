"""Checks of a plugin as a whole."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..extend import hookspecs
from ..extend.hookspecs import KINDS
from ..extend.manager import GROUP
from ..extend.records import ACCEPTED_API, Case
from .exercise import SELF_CONTAINED
from .failures import expect, skip_unless
from .view import PluginView

#: nothing of this may be imported by listing entries
HEAVY = ("torch", "xarray", "pandas", "matplotlib", "scipy", "sklearn", "zarr", "dask", "h5netcdf")
#: kinds whose entries cannot be tried without inputs of their own
_NEED_CASES = [kind for kind in KINDS if kind not in SELF_CONTAINED]

_LIST = """
import importlib, json, sys, time
sys.path[:] = json.loads(sys.argv[1])
import sciinfer.extend
start = time.perf_counter()
plugin = importlib.import_module(sys.argv[2])
for hook in json.loads(sys.argv[3]):
    list(getattr(plugin, hook, list)() or ())
print(json.dumps({"modules": sorted(sys.modules), "seconds": time.perf_counter() - start}))
"""


def check_plugin_info(view: PluginView) -> None:
    """Name, version and API version are told."""
    info = view.loaded.info
    expect(bool(info.name) and info.api in ACCEPTED_API, f"info is {info}")
    pattern = r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[\w.]+)?"
    expect(bool(re.fullmatch(pattern, info.version)), f"version {info.version!r} is not of the form 1.2.3")


def check_plugin_domain(view: PluginView) -> None:
    """The domain is one lower-case word."""
    skip_unless(view.loaded.name != "core", "the core has no domain")
    domain = view.loaded.info.domain
    expect(bool(re.fullmatch(r"[a-z][a-z0-9]*", domain)), f"the domain {domain!r} is not one lower-case word")


def check_plugin_registers_something(view: PluginView) -> None:
    """There is at least one entry."""
    expect(bool(view.entries), "it registers nothing")


def check_plugin_names_unique(view: PluginView) -> None:
    """No name twice in a kind."""
    names = [(kind, entry.name) for kind, entry in view.entries]
    expect(len(set(names)) == len(names), "a name is registered twice")


def check_plugin_lists_the_same_twice(view: PluginView) -> None:
    """Listing is repeatable."""
    for kind, hook in KINDS.items():
        listed = getattr(view.module, hook, list)
        expect(list(listed() or ()) == list(listed() or ()), f"{hook} lists {kind} differently the second time")


def check_plugin_lists_lazily(view: PluginView) -> None:
    """Listing imports nothing heavy."""
    found = _listed(view)["modules"]
    heavy = [name for name in HEAVY if name in found]
    expect(
        not heavy, f"listing imports {', '.join(heavy)}", fix="import inside the target's module, not in the plugin's"
    )


def check_plugin_lists_fast(view: PluginView) -> None:
    """Listing takes at most a second on a busy machine."""
    seconds = _listed(view)["seconds"]
    expect(seconds < 1.0, f"listing takes {seconds:.2f} s")


def _listed(view: PluginView) -> dict[str, Any]:
    name = getattr(view.module, "__name__", "")
    skip_unless(bool(name) and not view.given, "the plugin is not an importable module")
    hooks = json.dumps(["sciinfer_plugin_info_", *KINDS.values()])
    command = [sys.executable, "-c", _LIST, json.dumps(sys.path), name, hooks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    expect(done.returncode == 0, f"listing in a fresh interpreter fails: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check_plugin_hooks_are_marked(view: PluginView) -> None:
    """Every hook carries ``@hookimpl``."""
    known = {name for name in vars(hookspecs) if name.startswith("sciinfer_")}
    bare = [n for n in known if hasattr(view.module, n) and not hasattr(getattr(view.module, n), "sciinfer_impl")]
    expect(not bare, f"{', '.join(sorted(bare))} lacks @hookimpl", fix="decorate it")


def check_plugin_cases_cover_entries(view: PluginView) -> None:
    """Every entry that needs inputs has a case."""
    having = {(case.kind, case.name) for case in view.cases}
    bare = [f"{k}/{e.name}" for k, e in view.entries if k in _NEED_CASES and (k, e.name) not in having]
    bare = [label for label in bare if not label.startswith(("models/", "solvers/")) or view.loaded.name != "core"]
    expect(not bare, f"no conformance case for {', '.join(bare)}", fix="give one in sciinfer_conformance_cases")


def check_plugin_cases_name_entries(view: PluginView) -> None:
    """Every case is for an entry that exists."""
    known = {(kind, entry.name) for kind, entry in view.entries}
    stray = [f"{case.kind}/{case.name}" for case in view.cases if (case.kind, case.name) not in known]
    expect(not stray, f"cases for unknown entries: {', '.join(stray)}")


def check_plugin_cases_are_fresh(view: PluginView) -> None:
    """A case makes its inputs anew each time."""
    for case in view.cases:
        expect(isinstance(case, Case), f"a case is a {type(case).__name__}")
        made, again = case.make(), case.make()
        expect(isinstance(made, tuple) and len(made) == 2, f"make() of {case.name!r} must return (args, kwargs)")
        expect(made[1] is not again[1], f"the case of {case.name!r} hands out one dict twice")


def check_plugin_distribution(view: PluginView) -> None:
    """The distribution depends on sciinfer and names its licence."""
    meta = _metadata(view)
    needs = [str(line) for line in meta.get_all("Requires-Dist") or []]
    expect(any(re.match(r"sciinfer\b", line) for line in needs), f"it depends on {needs}", fix="add 'sciinfer>=0.1'")
    licence = meta.get("License-Expression") or meta.get("License")
    expect(bool(licence), "its metadata names no licence", fix='license = "..." in pyproject.toml')


def check_plugin_distribution_version(view: PluginView) -> None:
    """The distribution has the version that the plugin tells."""
    version = _metadata(view)["Version"]
    expect(
        version == view.loaded.info.version,
        f"the distribution is {version}, the plugin says {view.loaded.info.version}",
    )


def check_plugin_entry_point(view: PluginView) -> None:
    """The entry point is called as the domain."""
    _metadata(view)
    domain, name = view.loaded.info.domain, view.loaded.name
    expect(name == domain, f"the entry point is {name!r}, the domain {domain!r}", fix=f"name it {domain!r} in {GROUP}")


def check_plugin_typed(view: PluginView) -> None:
    """The package carries ``py.typed``."""
    folder = _folder(view)
    expect((folder / "py.typed").exists(), "py.typed is missing", fix="add an empty file py.typed to the package")


def check_plugin_public_names_only(view: PluginView) -> None:
    """Nothing private of sciinfer is used."""
    private = [name for path in _folder(view).rglob("*.py") for name in _private_imports(path)]
    expect(
        not private, f"it imports {', '.join(sorted(set(private)))}", fix="use public names; ask for what is missing"
    )


def check_plugin_no_pickle(view: PluginView) -> None:
    """No pickle, no eval."""
    banned = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    used: set[str] = set()
    for path in _folder(view).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used |= {name.partition(".")[0] for name in _imports(tree)} & banned
        names = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        used |= names & {"eval", "exec"}
    expect(
        not used, f"it uses {', '.join(sorted(used))}", fix="store arrays with safetensors or NetCDF, options with TOML"
    )


def _metadata(view: PluginView) -> Any:
    skip_unless(not view.given and view.loaded.name != "core", "it is not an installed plugin distribution")
    return importlib.metadata.metadata(view.loaded.distribution)


def _folder(view: PluginView) -> Path:
    file = getattr(view.module, "__file__", None)
    skip_unless(file is not None and view.loaded.name != "core", "it is not a package of its own")
    return Path(str(file)).parent


def _imports(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _private_imports(path: Path) -> list[str]:
    names = [name for name in _imports(ast.parse(path.read_text(encoding="utf-8"))) if name.split(".")[0] == "sciinfer"]
    return [name for name in names if any(part.startswith("_") for part in name.split("."))]
