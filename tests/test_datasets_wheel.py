"""The data sets work from an installed wheel, without the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys, sciinfer.datasets as d
root = sys.argv[1]
if not d.__file__.startswith(root): sys.exit(d.__file__)
if d.open_dataset("oscillator_gappy").sizes != {"series": 20, "time": 80}: sys.exit("bundled file")
if len(d.card("physionet2012").files) != 2: sys.exit("card")
if d.open_dataset("brusselator", n_series=2).sizes["series"] != 2: sys.exit("simulator")
missing = {"co2", "mocap35", "oscillator", "ornstein_uhlenbeck"} - set(d.names())
sys.exit(str(missing) if missing else 0)
"""


@pytest.mark.slow
def test_bundled_files_cards_and_simulators_are_inside_the_wheel(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel offline needs setuptools")
    source, target = tmp_path / "source", tmp_path / "target"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in ("sciinfer", "datasets"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheels = tmp_path / "wheels"
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)], tmp_path)
    run([*pip, "install", "--no-deps", "--target", str(target), str(next(wheels.glob("*.whl")))], tmp_path)
    # -S leaves out the editable install of the checkout; the dependencies come back by their folder
    path = os.pathsep.join([str(target), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    run([sys.executable, "-S", "-c", SCRIPT, str(target)], tmp_path, PYTHONPATH=path)


def run(command, cwd, **environment):
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
