import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "faults" / "ranks_toy.py"
SAME = ("plain", "single", "batches", "validation")
FAULTS = ("greedy", "raises", "nan", "stop")


def run(folder, jobs):
    """What every rank saw, by case and number of ranks: one process pays the imports, the ranks are forked."""
    command = [sys.executable, str(SCRIPT), str(folder), *jobs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr

    def read(case, ranks):
        return [json.loads((folder / f"{case}{ranks}" / f"rank{rank}.json").read_text()) for rank in range(ranks)]

    return read


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    jobs = [f"{case}:{ranks}" for case in SAME for ranks in (1, 2)] + [f"{case}:2" for case in FAULTS]
    return run(tmp_path_factory.mktemp("ranks"), jobs)


def compare(alone, first, second, tolerance):
    assert first["loss"] == pytest.approx(alone["loss"], abs=tolerance)
    assert first["terms"]["fit"] == pytest.approx(alone["terms"]["fit"], abs=tolerance)
    assert first["loss"] == second["loss"] and first["weights"] == second["weights"]
    assert first["stopped"] == second["stopped"] == alone["stopped"]
    assert [v for _, v in first["validation"]] == pytest.approx([v for _, v in alone["validation"]], abs=tolerance)


@pytest.mark.parametrize("case", SAME)
def test_two_ranks_give_the_loss_of_one(runs, case):
    compare(*runs(case, 1), *runs(case, 2), tolerance=1e-10)


@pytest.mark.slow
def test_two_and_three_ranks_give_the_loss_of_one_with_lbfgs(tmp_path):
    read = run(tmp_path, ["lbfgs:1", "lbfgs:2", "lbfgs:3"])
    compare(*read("lbfgs", 1), *read("lbfgs", 2), tolerance=1e-5)
    compare(*read("lbfgs", 1), *read("lbfgs", 3)[1:], tolerance=1e-5)


@pytest.mark.parametrize(("case", "error"), [("greedy", "ResourceError"), ("raises", "ValueError")])
def test_a_failing_rank_fails_all_without_deadlock(runs, case, error):
    first, second = runs(case, 2)
    assert second["error"] == error
    assert first["error"] == "ResourceError" and "another rank" in first["text"]


def test_a_non_finite_rank_rolls_all_back_together(runs):
    first, second = runs("nan", 2)
    assert first["loss"] == second["loss"] and len(first["loss"]) == 20
    assert first["weights"] == second["weights"] and first["notices"] == second["notices"] != []


def test_an_interrupted_rank_stops_all_at_the_same_step(runs):
    first, second = runs("stop", 2)
    assert first["stopped"] == second["stopped"] == "interrupted"
    assert len(first["loss"]) == len(second["loss"]) < 20 and first["weights"] == second["weights"]
