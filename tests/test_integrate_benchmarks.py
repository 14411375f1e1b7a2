"""The benchmark harness, and every benchmark at a tiny size."""

from __future__ import annotations

import importlib
import json
import math
import time

import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is part of a checkout, not of the installed package")
harness = importlib.import_module("benchmarks.harness")
main = importlib.import_module("benchmarks.__main__").main


def test_ratio_says_how_many_times_better_ours_is():
    seconds = harness.Row(name="a", ours=2.0, peer=6.0, unit="s", goal=3.0)
    rate = harness.Row(name="a", ours=2.0, peer=6.0, unit="1/s", higher=True, goal=3.0)
    assert (seconds.ratio, seconds.met) == (3.0, True) and (rate.ratio, rate.met) == (pytest.approx(1 / 3), False)
    assert harness.Row(name="a", ours=0.0, peer=1.0, unit="s").ratio == math.inf


def test_a_missing_peer_is_a_row_that_says_how_to_install_it():
    row = harness.timed_row("a", lambda: None, None, repeats=1, goal=2.0, packages=("not-a-package",))
    assert row.peer is None and row.ratio is None and row.met is None
    assert "pip install" in row.note and row.versions["not-a-package"] == "missing"
    assert json.loads(json.dumps(row.record()))["peer"] is None


def test_timing_is_interleaved_and_takes_medians():
    calls = []
    ours, peer = harness.time_pair(lambda: calls.append("o"), lambda: (calls.append("p"), time.sleep(0.002)), repeats=3)
    assert "".join(calls) == "op" + "opopop" and peer >= 0.002 > ours


def test_list_and_unknown_names(capsys):
    assert main(["--list"]) == 0
    assert "integrate_sde" in capsys.readouterr().out.split() and "harness" not in harness.names()
    assert main(["no_such_benchmark"]) == 2
    assert "integrate_sde" in capsys.readouterr().err


@pytest.mark.bench
@pytest.mark.parametrize("name", harness.names())
def test_every_benchmark_runs_at_tiny_size(name, capsys):
    assert main([name, "--json", "--tiny"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows
    for row in rows:
        assert {"name", "ours", "peer", "ratio", "unit", "goal", "versions"} <= row.keys()
        assert (
            row["name"].startswith(name)
            and row["ours"] > 0
            and {"python", "torch", "sciinfer"} <= row["versions"].keys()
        )


@pytest.mark.bench
def test_the_table_is_printed(capsys):
    assert main(["integrate_sde", "--tiny"]) == 0
    assert "ratio" in capsys.readouterr().out
