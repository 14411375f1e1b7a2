"""Fault 29 through the facade: ``si.fit`` of a latent SDE, killed at random moments, resumes bit by bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "faults" / "kill9_fit.py"


def killed(folder, **options):
    command = [sys.executable, str(SCRIPT), str(folder)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1500, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    kills = options["trials"] * options["kills"]
    assert found["loaded"] == kills
    assert set(found["digests"]) == {found["undisturbed"]}, done.stderr[-3000:]
    assert found["hits"] >= kills / 3, "too few kills fell into the fit"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which this system does not have")
def test_a_killed_fit_resumes_bit_by_bit(tmp_path):
    killed(tmp_path / "runs", trials=2, kills=1, chance=3, steps=6)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which this system does not have")
def test_a_fit_killed_at_thirty_moments_resumes_bit_by_bit(tmp_path):
    killed(tmp_path / "runs", trials=10, kills=3, chance=5, steps=20)
