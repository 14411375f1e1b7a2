"""Every hook works, has a test here and a section in docs/hooks.md; both are demanded by reflection."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sciinfer.extend import KINDS, Case, Entry, PluginInfo, PluginManager, Registry, RunInfo, hookimpl, hookspecs
from sciinfer.extend.records import RECORDS

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("sciinfer_"))
DOCS = Path(__file__).parents[1] / "docs" / "hooks.md"
INFO = PluginInfo(name="fake", version="1.0", domain="fake")


def plugin(**hooks: Callable[..., Any]) -> SimpleNamespace:
    """A plugin made of functions, each marked as a hook."""
    hooks = {"sciinfer_plugin_info": lambda: INFO, **hooks}
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


def loaded(**hooks: Callable[..., Any]) -> PluginManager:
    manager = PluginManager("off", extra={"fake": plugin(**hooks)})
    assert manager.problems == []
    return manager


def registers(kind: str) -> None:
    """An entry given by the kind's hook arrives in the registry and loads."""
    entry = RECORDS.get(kind, Entry)(name="fake/thing", target="math:pi", summary="a thing")
    registry = Registry(loaded(**{KINDS[kind]: lambda: [entry]}))
    assert registry.entry(kind, "fake/thing") is entry
    assert registry.names(kind)[-1] == "fake/thing"
    assert registry.get(kind, "fake/thing") == pytest.approx(3.14159, abs=1e-5)


def test_sciinfer_plugin_info() -> None:
    assert loaded().loaded[-1].info is INFO


def test_sciinfer_register_datasets() -> None:
    registers("datasets")


def test_sciinfer_register_simulators() -> None:
    registers("simulators")


def test_sciinfer_register_readers() -> None:
    registers("readers")


def test_sciinfer_register_schemas() -> None:
    registers("schemas")


def test_sciinfer_register_likelihoods() -> None:
    registers("likelihoods")


def test_sciinfer_register_kernels() -> None:
    registers("kernels")


def test_sciinfer_register_operators() -> None:
    registers("operators")


def test_sciinfer_register_priors() -> None:
    registers("priors")


def test_sciinfer_register_denoisers() -> None:
    registers("denoisers")


def test_sciinfer_register_models() -> None:
    registers("models")


def test_sciinfer_register_methods() -> None:
    registers("methods")


def test_sciinfer_register_solvers() -> None:
    registers("solvers")


def test_sciinfer_register_metrics() -> None:
    registers("metrics")


def test_sciinfer_register_plots() -> None:
    registers("plots")


def test_sciinfer_register_commands() -> None:
    registers("commands")


def test_sciinfer_conformance_cases() -> None:
    case = Case(kind="operators", name="fake/thing")
    manager = loaded(sciinfer_conformance_cases=lambda: iter([case]))
    assert manager.cases("fake") == [case]
    assert case in manager.cases() and len(manager.cases()) > 20


def _event(hook: str, **arguments: Any) -> list[dict[str, Any]]:
    heard: list[dict[str, Any]] = []
    names = ", ".join(arguments)
    scope: dict[str, Any] = {"heard": heard}
    exec(f"def listener({names}): heard.append(dict({', '.join(f'{n}={n}' for n in arguments)}))", scope)
    assert loaded(**{hook: scope["listener"]}).emit(hook, **arguments) == []
    return heard


def test_sciinfer_on_log() -> None:
    told = {"step": 3, "metrics": {"loss": 0.5}, "run": RunInfo(model="m", seed=0)}
    assert _event("sciinfer_on_log", **told) == [told]


def test_sciinfer_on_checkpoint() -> None:
    told = {"path": Path("run"), "step": 7}
    assert _event("sciinfer_on_checkpoint", **told) == [told]


def test_sciinfer_on_result() -> None:
    told = {"tree": object(), "run": RunInfo(model="m", seed=0)}
    assert _event("sciinfer_on_result", **told) == [told]


def test_a_listener_may_take_fewer_arguments() -> None:
    heard: list[int] = []

    def listener(step: int) -> None:
        heard.append(step)

    manager = loaded(sciinfer_on_log=listener)
    assert manager.emit("sciinfer_on_log", step=4, metrics={}, run=None) == [] and heard == [4]


# --- reflection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook: str) -> None:
    assert f"test_{hook}" in globals(), f"write test_{hook} in this file"


def test_every_kind_has_a_hook_and_every_registration_hook_a_kind() -> None:
    assert sorted(KINDS.values()) == [hook for hook in HOOKS if hook.startswith("sciinfer_register_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature_and_an_example(hook: str) -> None:
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL))
    assert hook in sections, f"docs/hooks.md has no section '## `{hook}`'"
    blocks = re.findall(r"```python\n(.*?)```", sections[hook], re.DOTALL)
    assert len(blocks) == 2, "a section holds two blocks: the signature and an example"
    told = ast.parse(blocks[0].rstrip() + ": ...").body[0]
    assert isinstance(told, ast.FunctionDef) and told.name == hook
    assert [arg.arg for arg in told.args.args] == list(inspect.signature(getattr(hookspecs, hook)).parameters)
    names = {node.name for node in ast.walk(ast.parse(blocks[1])) if isinstance(node, ast.FunctionDef)}
    assert hook in names, "the example must implement the hook"


def test_documented_examples_run() -> None:
    text = DOCS.read_text()
    blocks = re.findall(r"^## `\w+`\n.*?```python\n.*?```.*?```python\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/hooks.md", "exec"), scope)
    module = SimpleNamespace(**{name: value for name, value in scope.items() if name in HOOKS})
    manager = PluginManager("off", extra={"mylab": module})
    assert manager.problems == [] and manager.loaded[-1].info.domain == "mylab"
    assert all(manager.loaded[-1].entries[kind] for kind in KINDS)


def test_docs_have_no_section_for_a_hook_that_is_gone() -> None:
    named = set(re.findall(r"^## `(sciinfer_\w+)`", DOCS.read_text(), re.MULTILINE))
    assert named <= set(HOOKS)
