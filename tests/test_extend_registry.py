"""Names to things, their errors, and what may not be imported."""

from __future__ import annotations

import ast
import json
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import sciinfer
from sciinfer.errors import DependencyError, NameNotFoundError, PluginError
from sciinfer.extend import KINDS, Entry, PluginInfo, PluginManager, Registry, hookimpl, require

ROOT = Path(sciinfer.__file__).parent


def registry(*entries: Entry) -> Registry:
    plugin = SimpleNamespace(
        sciinfer_plugin_info=hookimpl(lambda: PluginInfo(name="x", version="1", domain="x")),
        sciinfer_register_operators=hookimpl(lambda: list(entries)),
    )
    return Registry(PluginManager("off", extra={"x": plugin}))


def test_core_names_come_first() -> None:
    names = registry(Entry(name="x/a", target="math:pi", summary="a")).names("operators")
    assert names[-1] == "x/a" and names[:-1] == sorted(names[:-1]) and "identity" in names


def test_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(NameNotFoundError, match="did you mean convolution") as caught:
        registry().get("operators", "convolutoin")
    assert caught.value.code == "name/operators"
    with pytest.raises(NameNotFoundError, match="known: "):
        registry().get("operators", "zzzz")
    with pytest.raises(NameNotFoundError, match="kinds: "):
        registry().names("operator")


@pytest.mark.parametrize("target", ["no_such_module_:f", "math:no_such_function", "math:"])
def test_target_that_does_not_load(target: str) -> None:
    with pytest.raises(PluginError, match="does not load") as caught:
        registry(Entry(name="x/a", target=target, summary="a")).get("operators", "x/a")
    assert caught.value.fix


def test_missing_dependency_names_the_install_command() -> None:
    entry = Entry(name="x/a", target="math:pi", summary="a", requires=("no_such_module_",), extra="plots")
    with pytest.raises(DependencyError, match=r'pip install "sciinfer\[plots\]"'):
        registry(entry).get("operators", "x/a")
    with pytest.raises(DependencyError, match="pip install no_such_module_"):
        require("no_such_module_", extra="", purpose="a test")


def test_nested_targets_load() -> None:
    entry = Entry(name="x/a", target="os:path.join", summary="a")
    assert registry(entry).get("operators", "x/a")("a", "b").endswith("b")


# --- weight of an import --------------------------------------------------------------------------------------------


def fresh(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def test_import_is_light() -> None:
    code = """
import time, sys, json
start = time.perf_counter()
import sciinfer
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "torch": "torch" in sys.modules, "numpy": "numpy" in sys.modules}))
"""
    runs = [fresh(code) for _ in range(5)]
    assert not any(run["torch"] or run["numpy"] for run in runs)
    assert statistics.median(run["seconds"] for run in runs) <= 0.3


def test_listing_names_imports_no_torch() -> None:
    code = """
import sys, json
from sciinfer.extend import registry, KINDS
found = {kind: registry().names(kind) for kind in KINDS}
heavy = [m for m in ("torch", "xarray", "pandas", "matplotlib", "scipy") if m in sys.modules]
print(json.dumps({"heavy": heavy, "names": found, "problems": len(registry().problems)}))
"""
    found = fresh(code)
    assert found["heavy"] == [] and found["problems"] == 0
    assert "identity" in found["names"]["operators"] and "exact" in found["names"]["methods"]


# --- layers ---------------------------------------------------------------------------------------------------------

#: a part may import parts of its own rank or below
RANKS = {
    "errors": 0, "random": 0,
    "extend": 1,
    "labelled": 2, "statespace": 2, "integrate": 2, "likelihoods": 2, "operators": 2, "nets": 2,
    "variational": 3, "mcmc": 3, "gp": 3, "processes": 3, "diffusion": 3, "diagnostics": 3, "datasets": 3,
    "models": 4, "inverse": 4, "training": 4, "plots": 4,
    "report": 5, "fields": 5, "fitted": 5, "scoring": 5, "run_report": 5,
    "api": 6, "backtesting": 6,
    "cli": 7, "commands": 7, "doctor": 7, "demo": 7, "testing": 7, "__main__": 8,
}  # fmt: skip
#: said on purpose: the core hands its conformance cases to whoever asks, lazily
EXCEPTIONS = {("extend", "testing")}
KNOWS_XARRAY = {
    "labelled", "diagnostics", "plots", "report", "run_report", "scoring", "api", "backtesting", "fitted", "fields",
    "extend",
}  # fmt: skip


def part_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "report" if first.startswith("report_") else first


def imported(path: Path, root: Path, package: str) -> set[str]:
    """Top-level parts of sciinfer that a file imports, anywhere in it (type-checking blocks apart)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    here = [package, *path.relative_to(root).with_suffix("").parts]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "sciinfer" else {module}
    names = {name.split(".")[1] for name in found if name.startswith("sciinfer.")}
    return {"report" if name.startswith("report_") else name for name in names}


FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py")


def test_every_part_has_a_rank() -> None:
    assert {part_of(path) for path in FILES} <= set(RANKS), "name the new part's rank in RANKS"


@pytest.mark.parametrize("part", sorted({part_of(path) for path in FILES}))
def test_imports_run_downwards(part: str) -> None:
    wrong = []
    for path in (path for path in FILES if part_of(path) == part):
        for other in imported(path, ROOT, "sciinfer") & set(RANKS) - {part}:
            if RANKS[other] > RANKS[part] and (part, other) not in EXCEPTIONS:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert wrong == []


def test_data_sets_import_downwards() -> None:
    import sciinfer.datasets

    folder = Path(str(sciinfer.datasets.__file__)).parent
    above = {name for name, rank in RANKS.items() if rank > RANKS["datasets"]}
    wrong = [path.name for path in folder.rglob("*.py") if imported(path, folder, "sciinfer.datasets") & above]
    assert wrong == []


def test_the_numeric_core_does_not_know_xarray() -> None:
    wrong = []
    for path in (path for path in FILES if RANKS[part_of(path)] < 7 and part_of(path) not in KNOWS_XARRAY):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
        if any(alias.name == "xarray" for node in imports for alias in node.names):
            wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_core_target_exists(kind: str) -> None:
    found = Registry(PluginManager("off"))
    for name in found.names(kind):
        try:
            found.get(kind, name)
        except DependencyError as err:
            assert "pip install" in str(err)
