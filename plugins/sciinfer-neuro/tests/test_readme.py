"""The README's code runs, and names every entry."""

import re
from pathlib import Path

import pytest
from sciinfer_neuro.records import PLOTS, READERS, SIMULATORS

README = Path(__file__).parents[1] / "README.md"


def test_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(README), "exec"), space)
    assert len(blocks) == 4 and (tmp_path / "tuning.png").stat().st_size > 5000


@pytest.mark.parametrize("entry", [*READERS, *SIMULATORS, *PLOTS], ids=lambda entry: entry.name)
def test_every_entry_is_named(entry: object) -> None:
    assert f"`{entry.name}`" in README.read_text(encoding="utf-8")
