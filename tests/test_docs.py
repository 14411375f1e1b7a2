"""The documentation builds, is complete, and what it shows runs."""

from __future__ import annotations

import doctest
import html
import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sciinfer
from sciinfer.errors import SciInferError
from sciinfer.extend import KINDS, PluginManager, hookspecs, registry
from sciinfer.testing.kit import run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((ROOT / "tutorials").glob("*.md"))
PAGES = (
    *("getting-started", "processes", "gp-backends", "which-latent-model", "backtest", "dmd", "solvers"),
    *("data-formats", "errors", "reproducibility"),
    *sorted(f"models/{path.stem}" for path in (DOCS / "models").glob("*.md")),
)
_FENCE = re.compile(r"^```(?:python|\{code-cell\} python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the pages; a warning is an error."""
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "--keep-going", "-b", "html", *options, "-d"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(out / "doctrees"), str(DOCS), str(out / "html")],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages, tutorials not executed."""
    out = tmp_path_factory.mktemp("docs")
    done = build(out, "-D", "nb_execution_mode=off")
    assert done.returncode == 0, done.stderr
    return out / "html"


def text_of(page: Path) -> str:
    """What a reader sees of a page's main part."""
    body = page.read_text(encoding="utf-8").partition('role="main"')[2]
    return html.unescape(re.sub(r"<[^>]+>", "", body))


def section(page: Path, name: str) -> str:
    """Source of the section called ``name``, up to the next one of the second level."""
    body = page.read_text(encoding="utf-8")
    start = body.index(f'<section id="{name}">')
    end = body.find("<section id=", start + 1)
    return body[start : end if end > 0 else None]


# -- completeness ----------------------------------------------------------------------------------------------------


def test_pages_ask_for_nothing_from_elsewhere(pages: Path) -> None:
    """They can be read offline."""
    asked = re.compile(r'<(?:script|img|link)[^>]+(?:src|href)="(https?://[^"]+)"')
    found = {page.name: asked.findall(page.read_text(encoding="utf-8")) for page in pages.rglob("*.html")}
    assert {name: links for name, links in found.items() if links} == {}


def test_public_names_are_documented(pages: Path) -> None:
    api = (pages / "reference" / "api.html").read_text(encoding="utf-8")
    public = [name for name in sciinfer.__all__ if name != "__version__"]
    assert [name for name in public if f'id="sciinfer.{name}"' not in api] == []
    assert sciinfer.__version__ in api


def test_registered_names_are_listed(pages: Path) -> None:
    page = pages / "reference" / "registry.html"
    for kind in KINDS:
        shown = set(re.findall(r'<dt><code[^>]*><span class="pre">([^<]+)</span>', section(page, kind)))
        assert shown == set(registry().names(kind)), kind


def test_options_of_models_are_listed(pages: Path) -> None:
    shown = section(pages / "reference" / "registry.html", "models")
    for entry in registry().entries("models"):
        assert [name for name in entry.options if f">{name}</span>" not in shown] == []


def test_hooks_are_documented(pages: Path) -> None:
    shown = text_of(pages / "hooks.html")
    hooks = [name for name in vars(hookspecs) if name.startswith("sciinfer_")]
    assert len(hooks) >= 20
    assert [name for name in hooks if name not in shown] == []


def _errors(base: type[SciInferError] = SciInferError) -> Iterator[type[SciInferError]]:
    yield base
    for cls in base.__subclasses__():
        if cls.__module__ == "sciinfer.errors":
            yield from _errors(cls)


def test_errors_are_documented(pages: Path) -> None:
    shown = text_of(pages / "errors.html")
    for cls in _errors():
        assert cls.__name__ in shown and f"Code {cls.default_code}" in shown
    literal = re.compile(r'code="([a-z]+/[a-z0-9-]+)"')
    sources = [path for path in (ROOT / "sciinfer").rglob("*.py") if path.parent.name != "testing"]
    codes = {code for path in sources for code in literal.findall(path.read_text(encoding="utf-8"))}
    assert len(codes) > 40
    assert sorted(code for code in codes if code not in shown) == []


def test_commands_are_documented(pages: Path) -> None:
    from typer.main import get_command

    from sciinfer.cli import app

    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        shown = html.unescape(re.sub(r"<[^>]+>", "", section(pages / "cli.html", name)))
        options = [o for p in command.params if p.param_type_name == "option" for o in p.opts if o.startswith("--")]
        assert [option for option in options if option not in shown and option != "--help"] == [], name


# -- what the pages show runs ------------------------------------------------------------------------------------------


def run_blocks(source: str, name: str) -> None:
    """Execute the Python blocks of a page, one after the other, in one namespace."""
    blocks = [re.sub(r"\A(?::[^\n]*\n)+", "", block) for block in _FENCE.findall(source)]
    assert blocks, f"{name} has no Python"
    namespace: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{name}[{number}]", "exec"), namespace)  # the page's own code


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks((DOCS / f"{page}.md").read_text(encoding="utf-8"), page)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin of the page, its files written to a folder that is importable."""
    files = dict(_FILE.findall((DOCS / "write-a-plugin.md").read_text(encoding="utf-8")))
    assert {"pyproject.toml", "sciinfer_hydro/__init__.py", "sciinfer_hydro/gauge.py"} <= set(files)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "sciinfer_hydro" / "py.typed").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "sciinfer_hydro"]:
        del sys.modules[name]


def failures() -> dict[str, str]:
    """What the conformance kit finds wrong with the page's plugin."""
    manager = PluginManager("off", extra={"hydro": importlib.import_module("sciinfer_hydro")})
    assert manager.problems == []
    outcomes = run(manager, "hydro")
    assert sum(outcome.status == "passed" for outcome in outcomes) > 100
    return {outcome.item.label: outcome.reason for outcome in outcomes if outcome.status == "failed"}


def test_plugin_of_the_page_conforms(plugin: Path) -> None:
    assert failures() == {}
    run_blocks((DOCS / "write-a-plugin.md").read_text(encoding="utf-8"), "write-a-plugin")


def test_wrong_adjoint_of_the_page_is_refused(plugin: Path) -> None:
    """The page invites the reader to try it."""
    source = plugin / "sciinfer_hydro" / "gauge.py"
    source.write_text(source.read_text().replace("return y.repeat", "return 2 * y.repeat"))
    manager = PluginManager("off", extra={"hydro": importlib.import_module("sciinfer_hydro")})
    wrong = [outcome for outcome in run(manager, "hydro") if outcome.status == "failed"]
    assert wrong and all("OperatorError" in outcome.reason or "adjoint" in outcome.reason for outcome in wrong)


@pytest.mark.slow
def test_plugin_of_the_page_installs_and_conforms(plugin: Path, tmp_path: Path) -> None:
    """``pip install`` and the kit's command, as on the page, but offline and into a folder of its own."""
    site = tmp_path / "site"
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *offline, str(plugin)], check=True)
    kit = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--sciinfer-conformance", "sciinfer_hydro"]
    done = subprocess.run(
        kit, cwd=site, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run_within_a_minute(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    start = time.process_time()
    run_blocks(path.read_text(encoding="utf-8"), path.stem)
    assert time.process_time() - start < 60.0


@pytest.mark.slow
def test_executed_build(tmp_path: Path) -> None:
    """Tutorials run inside the build, and their figures are on the pages."""
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    for path in TUTORIALS:
        page = (tmp_path / "html" / "tutorials" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "<img" in page and "Traceback" not in page


# -- doctests ----------------------------------------------------------------------------------------------------------


def module_names() -> list[str]:
    """All modules but ``__main__``, which runs the program when it is imported."""
    import sciinfer.datasets  # pyright: ignore[reportMissingImports] - lives beside the package

    roots = {"sciinfer": ROOT / "sciinfer", "sciinfer.datasets": Path(str(sciinfer.datasets.__file__)).parent}
    found = set()
    for package, root in roots.items():
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found.add(".".join([package, *parts]).removesuffix(".__init__"))
    return sorted(found - {"sciinfer.__main__"})


def areas() -> dict[str, list[str]]:
    """Modules by the package below ``sciinfer``; single modules together."""
    found: dict[str, list[str]] = {}
    for name in module_names():
        parts = name.split(".")
        area = parts[1] if (ROOT / "sciinfer" / (parts[1] if len(parts) > 1 else "-")).is_dir() else "modules"
        found.setdefault("datasets" if name.startswith("sciinfer.datasets") else area, []).append(name)
    return found


@pytest.mark.parametrize("area", areas())
def test_doctests(area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example in every docstring runs and prints what it says."""
    monkeypatch.chdir(tmp_path)
    finder, report = doctest.DocTestFinder(exclude_empty=True), []
    for name in areas()[area]:
        module = importlib.import_module(name)
        for test in finder.find(module, name):
            if test.examples:
                runner = doctest.DocTestRunner(verbose=False)
                runner.run(test, out=report.append)
    assert not report, "".join(report)


def test_there_are_doctests() -> None:
    """The finder sees them: most public modules carry an example."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    some = [
        name for name in module_names() if any(t.examples for t in finder.find(importlib.import_module(name), name))
    ]
    assert len(some) > 80
