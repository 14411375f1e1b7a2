"""The kit passes what is right and catches what is wrong: every mutation below breaks one thing of a good plugin."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sciinfer.errors import PluginError
from sciinfer.extend import KINDS, PluginManager
from sciinfer.testing import kit, units
from sciinfer.testing.sandbox import observe

TOY = Path(__file__).parent / "conformance_toy"


def install(folder: Path, name: str, file: str = "", old: str = "", new: str = "") -> ModuleType:
    """Copy the toy plugin under another name, with ``old`` replaced by ``new`` in ``file``."""
    home = folder / name
    home.mkdir()
    for source in TOY.glob("*.py"):
        text = source.read_text()
        if source.name == file:
            assert old in text, f"{old!r} is not in {file}"
            text = text.replace(old, new)
        (home / source.name).write_text(text.replace("TOY_PACKAGE", name))
    (home / "py.typed").touch()
    importlib.invalidate_caches()
    return importlib.import_module(name)


def failures(plugin: Any, only: tuple[str, str] | None = None) -> dict[str, str]:
    manager = PluginManager("off", extra={"toy": plugin})
    assert not manager.problems, manager.problems
    return {o.item.name: o.reason for o in kit.run(manager, "toy", only=only) if o.status == "failed"}


def test_the_toy_plugin_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin = install(tmp_path, "sciinfer_toy_good")
    manager = PluginManager("off", extra={"toy": plugin})
    outcomes = kit.run(manager, "toy")
    assert {o.item.label: o.reason for o in outcomes if o.status == "failed"} == {}
    assert sum(o.status == "passed" for o in outcomes) >= 60


LAG, WALK, RAMP = ("operators", "toy/lag"), ("simulators", "toy/walk"), ("datasets", "toy/ramp")
NUMBERS, NORMAL, SCORE = ("readers", "toy/numbers"), ("likelihoods", "toy/normal"), ("metrics", "toy/spread-skill")
T, I = "things.py", "__init__.py"  # noqa: E741

# ruff: noqa: E501 - one mutation per line reads best
MUTATIONS: dict[str, tuple[tuple[str, str], str, str, str, str]] = {
    # what: (entry, file, old, new, the check that must fail)
    "wrong adjoint": (LAG, T, "(0, 1))[..., 1:]", "(1, 0))[..., :-1]", "adjoint_float64"),
    "adjoint loses precision": (LAG, T, "return y - self", "return y.float().to(y) - self", "adjoint_float64"),
    "adjoint of another shape": (LAG, T, "return y - self.weight.to(y) * after", "return after[..., :-1]", "adjoint_float64"),
    "not linear": (LAG, T, "return x - self", "return x + 1 - self", "linear"),
    "batch members mixed": (LAG, T, "* before", "* before.mean()", "batch_equals_loop"),
    "dtype cast": (LAG, T, "return x - self", "return x.double() - self", "keeps_float32"),
    "float64 lost": (LAG, T, "return x - self.weight.to(x) * before", "return (x - before).float()", "keeps_float64"),
    "wrong range": (LAG, T, "self.range = Spec", "self.range = Spec(('time',), (n + 1,)); self.domain = Spec", "range_shape"),
    "shape not checked": (LAG, T, "        self.domain.check(x)\n", "", "refuses_wrong_shape"),
    "input overwritten": (LAG, T, "return x - self.weight.to(x) * before", "return x.sub_(self.weight.to(x) * before)", "leaves_input"),
    "gradient cut": (LAG, T, "pad(x, (1, 0))", "pad(x.detach(), (1, 0))", "gradient"),
    "tensor not in the state": (LAG, T, "self.register_buffer(\"weight\", torch.tensor(weight, dtype=torch.float64))",
                                "self.weight = torch.randn(1, dtype=torch.float64)", "state_round_trip"),
    "global torch random numbers": (LAG, T, "return x - self", "return x + 0 * torch.rand(1).to(x) - self", "leaves_torch_random"),
    "random result": (LAG, T, "return x - self", "return x + torch.rand(1).to(x) - self", "repeats"),
    "default dtype changed": (LAG, T, "        before =", "        torch.set_default_dtype(torch.float64)\n        before =", "leaves_default_dtype"),
    "grad mode changed": (LAG, T, "        before =", "        torch.set_grad_enabled(False)\n        before =", "leaves_grad_mode"),
    "prints": (LAG, T, "        before =", "        print('lag')\n        before =", "prints_nothing"),
    "warns": (LAG, T, "        before =", "        import warnings; warnings.warn('x', DeprecationWarning)\n        before =", "warns_only_by_name"),
    "writes a file": (LAG, T, "        before =", "        open(Path.home() / '.toy_mark', 'w').close()\n        before =", "no_files_outside_tmp"),
    "opens a connection": (LAG, T, "        before =",
                           "        import socket\n        with socket.socket() as s:\n            s.connect_ex(('127.0.0.1', 9))\n        before =", "no_network"),
    "changes the environment": (LAG, T, "        before =",
                                "        import os; os.environ['TOY'] = str(len(os.environ.get('TOY', '')) * 'x' + 'x')\n        before =",
                                "leaves_environment"),
    "starts a program": (LAG, T, "        before =", "        import subprocess; subprocess.run(['true'])\n        before =", "no_processes"),
    "unit that does not parse": (LAG, I, "m s-1", "metres per sec.", "units"),
    "dims are a string": (LAG, I, 'dims=("time",),\n            units={"weight"', 'dims="time",\n            units={"weight"', "dims"),
    "option that does not exist": (LAG, I, '"weight": "of the', '"wait": "of the', "options_exist"),
    "target that does not exist": (LAG, I, "things:Lag", "thongs:Lag", "target_found"),
    "not JSON-able": (LAG, I, '"n": "length"', '"n": object()', "json"),
    "summary of a novel": (LAG, I, "Difference of", "Difference " * 20 + "of", "summary"),
    "undocumented target": (LAG, T, '    """``y_t = x_t - w x_{t-1}``, with zero before the first."""\n', "", "target_documented"),
    "reader lets infinity in": (NUMBERS, T, "if np.isinf(values).any()", "if False", "refuses_listed"),
    "reader raises a bare error": (NUMBERS, T, "except (OSError, ValueError)", "except OSError", "noise"),
    "reader accepts an empty file": (NUMBERS, T, "if not len(values):", "if False:", "empty_file"),
    "reader ignores limits": (NUMBERS, T, "        limits.check(path, path.stat().st_size)\n", "", "limits"),
    "reader in another unit": (NUMBERS, T, '("time", values, {"units": "m"})', '("time", values, {"units": "cm"})', "units"),
    "reader in single precision": (NUMBERS, T, '"y": ("time", values,', '"y": ("time", values.astype("f4"),', "float64"),
    "reader touches the file": (NUMBERS, T, "    if not len(values):", "    path.write_text('1')\n    if not len(values):", "leaves_file"),
    "reader shares a cache": (NUMBERS, T, 'return xr.Dataset({"y": ("time", values,',
                              'values = _CACHE.setdefault(len(values), values)\n    return xr.Dataset({"y": ("time", values,', "not_shared"),
    "reader's lying dims": (NUMBERS, T, '"y": ("time", values', '"y": ("when", values', "dims"),
    "dataset without a licence": (RAMP, T, ', "license": "CC0-1.0"', "", "attrs"),
    "dataset hands out its cache": (RAMP, T, '("time", np.arange(10.0), {"units": "m"})', '("time", _RAMP, {"units": "m"})', "not_shared"),
    "dataset from nowhere": (RAMP, I, 'source="simulated"', 'source="somewhere"', "source"),
    "simulator ignores its seed": (WALK, T, "numpy_generator(seed,", "numpy_generator(0,", "other_seed"),
    "simulator with the global generator": (WALK, T, 'numpy_generator(seed, "walk").normal', "np.random.normal", "same_seed"),
    "simulator swallows options": (WALK, T, "steps: int = 20)", "steps: int = 20, **more)", "unknown_option"),
    "simulator lies about its seed": (WALK, T, 'attrs={"seed": seed', 'attrs={"seed": 0', "parameters_told"),
    "dropped mask": (NORMAL, T, "torch.where(mask, entries, torch.zeros_like(entries)).sum", "entries.sum", "masked_is_deleted"),
    "masked entries weigh on the others": (NORMAL, T, "torch.zeros_like(entries)).sum(-1)",
        "torch.zeros_like(entries)).sum(-1) / mask.double().mean()", "masked_is_deleted"),
    "density without its constant": (NORMAL, T, " - 0.5 * math.log(2 * math.pi)", "", "integrates_to_one"),
    "draws too wide": (NORMAL, T, "eta + self.sd *", "eta + 1.2 * self.sd *", "sample_matches_log_prob"),
    "draws ignore the generator": (NORMAL, T, "generator=generator, dtype", "dtype", "same_generator"),
    "density of the whole batch": (NORMAL, T, "torch.zeros_like(entries)).sum(-1)", "torch.zeros_like(entries)).sum()", "batch_shape"),
    "improper score": (SCORE, T, "error - 0.5 * pairs", "error - 3.0 * pairs", "proper"),
    "score that drops nothing": (SCORE, T, ".where(truth.notnull())", ".fillna(0.0)", "missing_is_deleted"),
    "score that depends on the order": (SCORE, T, "abs(sample - truth).mean(dim)", "abs(sample - truth).isel({dim: 0})", "order_of_draws"),
    "score that ignores dim": (SCORE, T, "error = abs(sample - truth).mean(dim)", "error = abs(sample - truth).mean('draw')", "dim_argument"),
}  # fmt: skip


@pytest.mark.parametrize("what", MUTATIONS)
def test_mutation_is_caught(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import torch

    only, file, old, new, check = MUTATIONS[what]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    number = list(MUTATIONS).index(what)
    plugin = install(tmp_path, f"sciinfer_toy_{number}", file, old, new)
    if "_CACHE" in new or "_RAMP" in new:
        things = importlib.import_module(f"sciinfer_toy_{number}.things")
        things._CACHE, things._RAMP = {}, np.arange(10.0)  # type: ignore[attr-defined]
    try:
        found = failures(plugin, only)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        monkeypatch.delenv("TOY", raising=False)
    assert check in found, f"the kit did not see: {what}; it saw {sorted(found)}"


PLUGIN_MUTATIONS = {
    "imports torch at listing": ("HOME = ", "import torch\nHOME = ", "lists_lazily"),
    "no case for an entry": ('Case(kind="operators"', 'Case(kind="priors"', "cases_cover_entries"),
    "case for a stranger": ('name="toy/lag", make', 'name="toy/leg", make', "cases_name_entries"),
    "version of no form": ('version="0.1.0"', 'version="latest"', "info"),
    "hook without the decorator": (
        "@hookimpl\ndef sciinfer_register_metrics",
        "def sciinfer_register_metrics",
        "hooks_are_marked",
    ),
    "private names": ("HOME = ", "if False:\n    from sciinfer.extend import _x\nHOME = ", "public_names_only"),
    "pickle": ("HOME = ", "import pickle\nHOME = ", "no_pickle"),
}


@pytest.mark.parametrize("what", PLUGIN_MUTATIONS)
def test_plugin_mutation_is_caught(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, check = PLUGIN_MUTATIONS[what]
    if what == "private names":
        new = new.replace(
            "from sciinfer.labelled import _hidden  # noqa\n", "if False:\n    from sciinfer.extend import _x\n"
        )
    if "_COUNT" in new:
        old, new = 'HOME = "TOY_PACKAGE"', f'HOME = "TOY_PACKAGE"\n_COUNT = iter(range(99))\n#{old}'
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"sciinfer_toy_p{list(PLUGIN_MUTATIONS).index(what)}"
    plugin = install(tmp_path, name, "__init__.py", old, new)
    manager = PluginManager("off", extra={"toy": plugin})
    manager.loaded[-1].distribution = "sciinfer-toy"  # as if it had been found installed
    items = kit.plan(kit.find(manager, "toy"))
    group = [kit.run_item(item) for item in items if item.group == "plugin" and item.name == check]
    assert [o.status for o in group] == ["failed"], group


def test_a_list_that_changes_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin = install(tmp_path, "sciinfer_toy_changing")
    listed, turns = plugin.sciinfer_register_metrics, iter(range(99))

    def changing() -> list[Any]:
        return listed() if next(turns) % 2 == 0 else []

    changing.sciinfer_impl = listed.sciinfer_impl  # type: ignore[attr-defined]
    monkeypatch.setattr(plugin, "sciinfer_register_metrics", changing)
    assert "lists_the_same_twice" in failures(plugin)


def test_wrong_domain_prefix_is_refused_at_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin = install(tmp_path, "sciinfer_toy_prefix", "__init__.py", '"toy/lag"', '"toys/lag"')
    manager = PluginManager("off", extra={"toy": plugin})
    with pytest.raises(PluginError, match="rejected at names"):
        kit.run(manager, "toy")
    with pytest.raises(PluginError, match="no plugin 'unknown'"):
        kit.run(manager, "unknown")


def test_every_kind_has_checks() -> None:
    """Models and solvers are covered by the general checks; every other kind has its own."""
    for kind in set(KINDS) - {"models", "solvers"}:
        assert kit.checks_for(kind), kind
    total = sum(len(kit.checks_for(group)) for group in ("plugin", "entry", "run", *KINDS))
    assert total >= 60


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("datasets", "simulators", "plots", "readers")])
def test_core_conforms(kind: str) -> None:
    manager = PluginManager("off")
    view = kit.find(manager, "core")
    bad = {}
    for entry in view.loaded.entries[kind]:
        items = kit.plan(view, only=(kind, entry.name))
        bad |= {o.item.label: o.reason for o in map(kit.run_item, items) if o.status == "failed"}
    assert bad == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["datasets", "simulators", "plots", "readers"])
def test_core_conforms_with_its_files(kind: str) -> None:
    test_core_conforms(kind)


@pytest.mark.parametrize("plugin", ["astro", "imaging", "neuro", "pde"])
def test_plugins_of_this_project_conform(plugin: str) -> None:
    pytest.importorskip(
        f"sciinfer_{plugin}", reason=f"sciinfer-{plugin} is not installed: pip install ./plugins/sciinfer-{plugin}"
    )
    outcomes = kit.run(PluginManager(plugin), plugin)
    assert {o.item.label: o.reason for o in outcomes if o.status == "failed"} == {}
    assert sum(o.status == "passed" for o in outcomes) >= 60


def test_command_line(tmp_path: Path) -> None:
    pytest.importorskip("sciinfer_imaging", reason="sciinfer-imaging is not installed")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--sciinfer-conformance",
        "sciinfer_imaging",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_pytest_plugin_is_light() -> None:
    code = "import sys, sciinfer.testing.pytest_plugin; print([m for m in ('torch', 'xarray', 'numpy', 'pluggy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_sandbox_sees_and_restores_nothing_else(tmp_path: Path) -> None:
    record = observe(lambda: (tmp_path / "a.txt").write_text("x"))
    assert record.error is None and record.writes == [] and record.changed == set()
    assert isinstance(observe(lambda: 1 / 0).error, ZeroDivisionError)


@pytest.mark.parametrize(
    "text", ["m", "m s-1", "kg m^-3", "mmol/L", "1", "%", "degC", "mag", "1e8 m3", "uV", "km/h", "W m**-2"]
)
def test_units_that_parse(text: str) -> None:
    assert units.parses(text)


@pytest.mark.parametrize("text", ["", "furlongz", "m per s", "m//s2x", "metres per sec.", "?"])
def test_units_that_do_not(text: str) -> None:
    assert not units.parses(text)
