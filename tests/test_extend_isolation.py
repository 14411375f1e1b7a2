"""Fault cases 37 and 38: a plugin that breaks its contract costs only itself, with the reason told."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sciinfer.extend import Entry, PluginInfo, PluginManager, ReaderEntry, hookimpl, manager


def info(domain: str = "bad", api: int = 1) -> PluginInfo:
    return PluginInfo(name=f"{domain}-plugin", version="1.0", domain=domain, api=api)


def plugin(domain: str = "bad", **hooks: Callable[..., Any]) -> SimpleNamespace:
    hooks = {"sciinfer_plugin_info": lambda: info(domain), **hooks}
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


def operator(name: str, **more: Any) -> Entry:
    return Entry(name=name, target="math:pi", summary="a thing", **more)


GOOD = plugin("good", sciinfer_register_operators=lambda: [operator("good/one")])


def raising(*_: Any) -> Any:
    raise RuntimeError("boom")


def leaving(*_: Any) -> Any:
    sys.exit(3)


def lazily_raising() -> Iterator[Entry]:
    yield operator("bad/one")
    raise RuntimeError("boom")


def without_info() -> SimpleNamespace:
    def nothing() -> list[Entry]:
        return []

    return SimpleNamespace(sciinfer_register_operators=hookimpl(nothing))


def wrong_arguments(steps: int) -> None: ...


# ruff: noqa: E501 - one broken plugin per line reads best
BROKEN: dict[str, tuple[Any, str, str]] = {
    # label: (plugin, stage, part of the reason)
    "info raises": (plugin(sciinfer_plugin_info=raising), "sciinfer_plugin_info", "RuntimeError: boom"),
    "info exits": (plugin(sciinfer_plugin_info=leaving), "sciinfer_plugin_info", "SystemExit: 3"),
    "info missing": (without_info(), "info", "no sciinfer_plugin_info"),
    "info of another type": (plugin(sciinfer_plugin_info=lambda: {"name": "x"}), "info", "expected PluginInfo"),
    "api too new": (plugin(sciinfer_plugin_info=lambda: info(api=9)), "api", "speaks plugin API 9"),
    "api too old": (plugin(sciinfer_plugin_info=lambda: info(api=-1)), "api", "speaks plugin API -1"),
    "misspelt hook": (plugin(sciinfer_register_operator=lambda: None), "hooks", "did you mean sciinfer_register_operators"),
    "argument that is none": (plugin(sciinfer_on_log=wrong_arguments), "hooks", "steps"),
    "hook raises": (plugin(sciinfer_register_operators=raising), "sciinfer_register_operators", "boom"),
    "hook exits": (plugin(sciinfer_register_operators=leaving), "sciinfer_register_operators", "SystemExit"),
    "generator raises": (plugin(sciinfer_register_operators=lazily_raising), "sciinfer_register_operators", "boom"),
    "not a list": (plugin(sciinfer_register_operators=lambda: 7), "sciinfer_register_operators", "not iterable"),
    "not an entry": (plugin(sciinfer_register_operators=lambda: ["blur"]), "entries", "str, expected Entry"),
    "record of another kind": (
        plugin(sciinfer_register_readers=lambda: [operator("bad/reader")]), "entries", "Entry, expected ReaderEntry"
    ),
    "wrong prefix": (plugin(sciinfer_register_operators=lambda: [operator("pde/one")]), "names", "must be named with bad/..."),
    "no prefix": (plugin(sciinfer_register_operators=lambda: [operator("one")]), "names", "must be named with bad/..."),
    "empty name": (plugin(sciinfer_register_operators=lambda: [operator("bad/")]), "names", "must be named"),
    "name twice": (
        plugin(sciinfer_register_operators=lambda: [operator("bad/one"), operator("bad/one")]), "names", "already registered"
    ),
    "no domain": (plugin(sciinfer_plugin_info=lambda: info("")), "names", "belong to the core"),
    "unmarked listener": (
        SimpleNamespace(sciinfer_plugin_info=hookimpl(info), sciinfer_on_log=lambda step: None), "hooks", "lacks the decorator"
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", BROKEN)
def test_broken_plugin_is_isolated(label: str) -> None:
    bad, stage, reason = BROKEN[label]
    found = PluginManager("off", extra={"bad": bad, "good": GOOD, "a-good": plugin("agood")})
    assert [loaded.name for loaded in found.loaded] == ["core", "a-good", "good"]
    (problem,) = found.problems
    assert (problem.plugin, problem.stage) == ("bad", stage)
    assert reason in problem.reason
    assert found.emit("sciinfer_on_log", step=1, metrics={}, run=None) == []


def test_duplicate_names_are_refused_and_both_owners_are_told() -> None:
    second = plugin("good", sciinfer_register_operators=lambda: [operator("good/one")])
    found = PluginManager("off", extra={"good": GOOD, "zweit": second})
    (problem,) = found.problems
    assert problem.plugin == "zweit" and "already registered by good-plugin ((given))" in problem.reason


class FakePoint:
    """An installed entry point."""

    def __init__(self, name: str, value: str, load: Callable[[], Any], distribution: str) -> None:
        self.name, self.value, self.load = name, value, load
        self.dist = SimpleNamespace(name=distribution)


def install(monkeypatch: pytest.MonkeyPatch, *points: FakePoint) -> None:
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: list(points) if group == manager.GROUP else []
    )


def test_import_that_raises_or_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        FakePoint("boom", "boom", raising, "dist-boom"),
        FakePoint("exit", "exit", leaving, "dist-exit"),
        FakePoint("good", "good", lambda: GOOD, "dist-good"),
    ]
    install(monkeypatch, *points)
    found = PluginManager("all")
    assert [loaded.name for loaded in found.loaded] == ["core", "good"]
    told = {p.plugin: (p.stage, p.distribution, p.reason) for p in found.problems}
    assert told == {
        "boom": ("import", "dist-boom", "RuntimeError: boom"),
        "exit": ("import", "dist-exit", "SystemExit: 3"),
    }


def test_two_distributions_with_one_plugin_name(monkeypatch: pytest.MonkeyPatch) -> None:
    other = plugin("other")
    first, second = FakePoint("x", "a", lambda: GOOD, "dist-a"), FakePoint("x", "b", lambda: other, "dist-b")
    for order in ((first, second), (second, first)):  # sorted, so the order of discovery does not matter
        install(monkeypatch, *order)
        found = PluginManager("all")
        (problem,) = found.problems
        assert problem.distribution == "dist-b" and "already loaded from dist-a" in problem.reason
        assert found.loaded[-1].info.domain == "good"


def test_keyboard_interrupt_is_not_swallowed() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PluginManager("off", extra={"bad": plugin(sciinfer_register_operators=interrupted)})


def test_raising_and_exiting_listeners_do_not_stop_the_others() -> None:
    heard: list[int] = []

    def listen(step: int) -> None:
        heard.append(step)

    plugins = {
        "a": plugin("a", sciinfer_on_log=raising_listener),
        "b": plugin("b", sciinfer_on_log=leaving_listener),
        "c": plugin("c", sciinfer_on_log=listen),
    }
    failures = PluginManager("off", extra=plugins).emit("sciinfer_on_log", step=5, metrics={}, run=None)
    assert heard == [5]
    assert sorted(failures) == ["a: RuntimeError: boom", "b: SystemExit: 3"]


def raising_listener(step: int) -> None:
    raise RuntimeError("boom")


def leaving_listener(step: int) -> None:
    sys.exit(3)


def test_cases_that_raise_are_reported() -> None:
    found = PluginManager("off", extra={"bad": plugin(sciinfer_conformance_cases=raising), "good": GOOD})
    assert found.cases("good") == [] and found.cases("bad") == []
    assert found.problems[-1].stage == "sciinfer_conformance_cases"


def test_a_module_called_like_a_hook_is_no_slip() -> None:
    given = plugin("good")
    given.sciinfer_helpers = sys  # a plugin may import its own package under such a name
    assert PluginManager("off", extra={"good": given}).problems == []


@pytest.mark.parametrize(
    ("selection", "wanted"), [("off", []), ("all", ["a", "b"]), ("a", ["a"]), ("b, a", ["a", "b"])]
)
def test_selection(monkeypatch: pytest.MonkeyPatch, selection: str, wanted: list[str]) -> None:
    install(monkeypatch, *(FakePoint(n, n, lambda n=n: plugin(n), f"dist-{n}") for n in "ba"))
    for given in (selection, None):
        monkeypatch.setenv("SCIINFER_PLUGINS", selection)
        found = PluginManager(given)
        assert [loaded.name for loaded in found.loaded] == ["core", *wanted] and found.problems == []


def test_selection_of_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakePoint("a", "a", lambda: plugin("a"), "dist-a"))
    found = PluginManager("a,astrology")
    (problem,) = found.problems
    assert (problem.plugin, problem.stage) == ("astrology", "selection") and "installed: a" in problem.reason


def test_selected_out_plugins_are_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakePoint("a", "a", raising, "dist-a"))
    assert PluginManager("off").problems == []


def test_installed_plugins_of_this_project_load() -> None:
    found = PluginManager("all")
    assert found.problems == []
    assert {"", "astro", "imaging", "neuro", "pde"} >= {loaded.info.domain for loaded in found.loaded}


def test_reader_entry_is_accepted() -> None:
    entry = ReaderEntry(name="good/r", target="math:pi", summary="x", suffixes=(".x",))
    found = PluginManager("off", extra={"good": plugin("good", sciinfer_register_readers=lambda: (entry,))})
    assert found.loaded[-1].entries["readers"] == [entry]
