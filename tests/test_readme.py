"""What the README shows runs, and what it names exists."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from sciinfer.extend import PluginManager
from sciinfer.testing.kit import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
FILES = {match[1]: text for text in PYTHON if (match := re.match(r"# (\w+\.py)\n", text))}


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for number, text in enumerate(PYTHON):
        if text not in FILES.values():
            exec(compile(text, f"README.md[{number}]", "exec"), namespace)  # the README's own code
    assert (tmp_path / "run" / "manifest.json").exists()
    assert "against the best baseline, the model wins" in capsys.readouterr().out


def test_main_block_is_short() -> None:
    assert 8 <= len(PYTHON[0].strip().splitlines()) <= 12


def test_plugin_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sciinfer_lab.py").write_text(FILES["sciinfer_lab.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        manager = PluginManager("off", extra={"lab": importlib.import_module("sciinfer_lab")})
        assert manager.problems == []
        outcomes = run(manager, "lab", only=("metrics", "lab/bias"))
        assert sum(outcome.status == "passed" for outcome in outcomes) > 20
        assert [outcome.item.label for outcome in outcomes if outcome.status == "failed"] == []
    finally:
        sys.modules.pop("sciinfer_lab", None)


def test_commands_exist() -> None:
    from typer.main import get_command

    from sciinfer.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"`sciinfer ([a-z]+)", README))
    assert named and named <= known
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test", "docs"} <= targets
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_fences_have_a_language() -> None:
    fences = re.findall(r"^```(.*)$", README, re.MULTILINE)
    assert all(language in ("python", "bash", "toml", "text") for language in fences[::2])
