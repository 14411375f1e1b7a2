"""Listings, help, doctor: what there is, quickly and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import sciinfer
from sciinfer import doctor
from sciinfer.cli import app
from sciinfer.commands import group, listing
from sciinfer.errors import PluginError
from sciinfer.extend import Entry, PluginInfo, hookimpl
from sciinfer.extend.hookspecs import KINDS
from sciinfer.extend.manager import PluginManager
from sciinfer.extend.registry import Registry
from sciinfer.labelled.io import read

ASK = ["fit", "predict", "generate", "score", "solve", "check", "report"]
COMMANDS = [*ASK, "demo", "datasets", "names", "plugins", "doctor", "bench"]


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_version_and_help():
    assert run("--version").strip() == f"sciinfer {sciinfer.__version__}"
    text = run("--help")
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    text = " ".join(run(command, "--help").split())
    assert "Examples:" in text and f"sciinfer {command}" in text


def test_unknown_command_is_a_usage_error():
    assert "frobnicate" in run("frobnicate", code=2)


def test_names_of_every_kind():
    for kind in KINDS:
        assert run("names", kind)
    text = run("names", "models", "latent-sde")
    assert "process" in text and "--set KEY=VALUE" in text
    assert "latent-sde" in run("names", "models")
    assert "datasets" in run("names")


def test_unknown_names_are_one_clean_line():
    text = run("names", "models", "physics-sd", code=2)
    assert text.splitlines() == [
        "error [name/models] no models entry is called 'physics-sd'",
        "fix: did you mean physics-sde",
    ]


def test_debug_raises_the_error_itself():
    result = CliRunner().invoke(app, ["--debug", "names", "nothing"])
    assert isinstance(result.exception, sciinfer.errors.NameNotFoundError)


def test_datasets_list_card_and_save(tmp_path):
    assert "oscillator_gappy" in run("datasets")
    card = run("datasets", "co2")
    assert "ppm" in card and "public domain" in card and "sha256" in card
    assert "observations per s" in run("datasets", "lotka_volterra")
    out = tmp_path / "ou.nc"
    run("datasets", "ornstein_uhlenbeck", "--save", str(out), "--data-option", "seed=3")
    assert read(out).attrs["seed"] == 3
    assert "has no option" in run("datasets", "nile", "--save", str(out), "--data-option", "colour=red", code=2)
    assert "no data set" in run("datasets", "nlie", code=2)


def test_plugins_and_doctor_name_what_was_left_out_and_why(monkeypatch):
    def broken():
        raise RuntimeError("no such\ninstrument")

    bad = SimpleNamespace(sciinfer_plugin_info=broken)
    old = SimpleNamespace(sciinfer_plugin_info=lambda: PluginInfo(name="old", version="1", domain="old", api=99))
    good = SimpleNamespace(sciinfer_plugin_info=lambda: PluginInfo(name="good", version="2.5", domain="good"))
    toy = Registry(PluginManager("off", extra={"bad": bad, "good": good, "old": old}))
    monkeypatch.setattr(listing, "registry", lambda: toy)
    monkeypatch.setattr(doctor, "registry", lambda: toy)
    for text in (run("plugins"), run("doctor")):
        assert "good" in text and "2.5" in text
        assert "RuntimeError: no such instrument" in " ".join(text.split())
        assert "speaks plugin API 99" in text


def test_doctor_reports_a_healthy_installation(monkeypatch, tmp_path):
    monkeypatch.setenv("SCIINFER_DATA", str(tmp_path))
    text = run("doctor")
    for word in ("python", "torch", "numpy", "xarray", "pluggy", "threads", "plots", str(tmp_path), "0 broken"):
        assert word in text


def test_doctor_shows_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "_requirements", lambda: [("torch", ">=999", ""), ("nowhere", ">=1", "io")])
    monkeypatch.setenv("SCIINFER_DATA", "/nowhere/at/all")
    text = run("doctor", code=1)
    assert "needed is >=999" in text and 'pip install "sciinfer[io]"' in text and "is not a folder" in text


class Commands:
    """A plugin with two commands."""

    @staticmethod
    @hookimpl
    def sciinfer_plugin_info() -> PluginInfo:
        return PluginInfo(name="toy", version="1", domain="toy")

    @staticmethod
    @hookimpl
    def sciinfer_register_commands() -> list[Entry]:
        return [
            Entry(name="toy/double", target="sciinfer_cli_toy:double", summary="Twice a number."),
            Entry(name="toy/gone", target="sciinfer_cli_nowhere:gone", summary="Does not load."),
        ]


@pytest.fixture
def toy_commands(monkeypatch):
    import typer

    def double(number: int) -> None:
        """Twice a number."""
        typer.echo(f"twice is {2 * number}")

    monkeypatch.setitem(sys.modules, "sciinfer_cli_toy", SimpleNamespace(double=double))
    toy = Registry(PluginManager("off", extra={"toy": Commands}))
    monkeypatch.setattr(group, "registry", lambda: toy)


def test_commands_of_plugins(toy_commands):
    assert "toy/double" in run("--help")
    assert "twice is 42" in run("toy/double", "21")
    assert "Twice a number." in run("toy/double", "--help")


def test_a_plugin_command_that_does_not_load_is_a_plugin_error(toy_commands):
    assert run("toy/gone", code=2).startswith("error [plugin]")
    with pytest.raises(PluginError):
        group.plugin_command("toy/gone")


LIGHT = """
import sys
from sciinfer.cli import app
for arguments in (["--help"], ["plugins"], ["names", "models"], ["datasets"], ["fit", "--help"]):
    try:
        app(arguments, prog_name="sciinfer")
    except SystemExit as end:
        assert not end.code, arguments
    heavy = {"torch", "xarray", "scipy", "matplotlib", "pandas"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
"""


def test_listings_import_nothing_heavy():
    subprocess.run([sys.executable, "-c", LIGHT], check=True, capture_output=True, timeout=60)


def test_plugins_takes_little_time():
    # the processor's time of the whole process: wall time would measure the neighbours as well
    best = min(_cpu_seconds("plugins") for _ in range(3))
    assert best <= 0.7


def _cpu_seconds(*arguments: str) -> float:
    process = subprocess.Popen([sys.executable, "-m", "sciinfer", *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def test_bench_without_a_checkout_says_so(monkeypatch, tmp_path):
    from sciinfer.commands import tools

    monkeypatch.setattr(tools, "__file__", str(tmp_path / "a" / "b" / "tools.py"))
    assert "clone the repository" in run("bench", code=2)


def test_demo_shows_its_code():
    text = run("demo", "--show")
    compile(text, "demo", "exec")
    assert "si.fit(" in text
