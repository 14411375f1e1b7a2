"""The test module that ``pytest --sciinfer-conformance NAME`` collects: one test per check and entry."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sciinfer.extend import PluginManager
from sciinfer.testing.kit import Item, plan, run_item
from sciinfer.testing.pytest_plugin import OPTION
from sciinfer.testing.view import find

_LIMIT = 60.0  # seconds for one plugin
_spent: dict[str, float] = {}


def pytest_generate_tests(metafunc: Any) -> None:
    """One test per item of each plugin that was asked for."""
    names = metafunc.config.getoption(OPTION)
    if "item" in metafunc.fixturenames:
        manager = PluginManager("all")
        items = [(name, item) for name in names for item in plan(find(manager, name))]
        metafunc.parametrize(("plugin", "item"), items, ids=[f"{name}: {item.label}" for name, item in items])
    else:
        metafunc.parametrize("plugin", names)


def test_conformance(plugin: str, item: Item) -> None:
    """One check."""
    start = time.perf_counter()
    outcome = run_item(item)
    _spent[plugin] = _spent.get(plugin, 0.0) + time.perf_counter() - start
    if outcome.status == "skipped":
        pytest.skip(outcome.reason)
    if outcome.status == "failed":
        pytest.fail(f"{item.label}: {outcome.reason}", pytrace=False)


def test_conformance_is_quick(plugin: str) -> None:
    """The kit takes at most a minute per plugin."""
    if plugin == "core":
        pytest.skip("the core has many entries")
    if _spent.get(plugin, 0.0) > _LIMIT:
        pytest.fail(f"{_spent[plugin]:.0f} s, at most {_LIMIT:.0f} s: give smaller cases", pytrace=False)
