"""``sciinfer fit``: what is written, what is refused, what an interruption leaves."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sciinfer import api
from sciinfer.cli import app
from sciinfer.labelled.io import read_tree
from sciinfer.labelled.storage import load_folder
from sciinfer.labelled.write import write
from sciinfer.training import progress

_QUICK = ("--set", "latent=1", "--progress", "silent", "--no-report")
LINEAR = ("--set", "process=linear", "--train", "steps=2", *_QUICK)
_TINY = ("--data-option", "n_series=2", "--data-option", "n_times=10", "--data-option", "n_future=3")
#: small nets on two short series
NEURAL = ("--set", "hidden=8", "--set", "width=8", "--train", "steps=12", *_QUICK)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def nile(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "short.nc"
    write(api.open_dataset("nile").isel(time=slice(0, 25)), path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, nile) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run("fit", nile, "--out", folder, *LINEAR)
    return folder


@pytest.fixture(scope="module")
def waves(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "waves.nc"
    run("datasets", "oscillator", "--save", path, *_TINY)
    return path


def test_a_run_folder_holds_model_data_checkpoints_and_the_options(finished):
    assert {"config.toml", "weights.safetensors", "data.nc", "manifest.json", "checkpoints"} <= set(
        os.listdir(finished)
    )
    config = load_folder(finished).config
    assert config["status"] == "finished" and config["model"]["options"]["process"] == "linear"
    assert config["training"]["steps"] == 2


def test_a_fit_prints_the_summary_and_writes_the_report(tmp_path, nile):
    text = run("fit", nile, "--out", tmp_path / "run", *LINEAR[:-1])
    assert "latent-sde on 1 series, 25 observations" in text
    page = (tmp_path / "run" / "report.html").read_text()
    assert "discharge" in page and "Provenance" in page and "<script" not in page


def test_without_matplotlib_the_model_is_kept_and_the_report_left_out(tmp_path, monkeypatch, nile):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = run("fit", nile, "--out", tmp_path / "run", *LINEAR[:-1])
    assert "note: no report was written" in text and "sciinfer[plots]" in text
    assert api.load(tmp_path / "run").status == "finished"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_with_columns_of_text(tmp_path, kind):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"star": np.repeat(["a", "b"], 30), "t": np.tile(np.arange(30.0), 2), "flux": rng.normal(size=60), "note": "x"}
    )
    path = tmp_path / f"stars.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    names = ("--time", "t", "--series", "star", "--variables", "flux")
    text = run("fit", path, "--out", tmp_path / "run", *names, *LINEAR)
    assert "2 series, 60 observations" in text
    assert "2 series" in run("predict", tmp_path / "run", path, "--time", "31,32", "--draws", "5")


def test_without_chosen_variables_a_column_of_text_is_named(tmp_path):
    path = tmp_path / "stars.csv"
    path.write_text("t,flux,note\n0,1,x\n1,2,y\n")
    text = run("fit", path, "--out", tmp_path / "run", code=2)
    assert text.startswith("error [data/not-numeric] variable 'note'") and "numeric columns: ['flux']" in text
    assert not (tmp_path / "run").exists()


def test_until_trains_on_the_past_and_scores_the_rest(tmp_path, nile):
    text = run("fit", nile, "--until", "1888", "--out", tmp_path / "run", *LINEAR)
    assert "17 observations" in text and "on the held-out part" in text and "discharge [1e8 m3] (n = 8)" in text
    assert "persistence" in text and "best baseline" in text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "there are no data to fit"),
        (("nile",), "nowhere to save the model"),
        (("nlie", "--out", "RUN"), "neither a file nor a data set"),
        (("nothing.csv", "--out", "RUN"), "does not exist"),
        (("nile", "--out", "RUN", "--set", "proces=linear"), "has no option proces"),
        (("nile", "--out", "RUN", "--train", "step=3"), "unknown training option 'step'"),
        (("nile", "--out", "RUN", "--train", "steps=1.5"), "steps must be a whole number"),
        (("nile", "--out", "RUN", "--model", "latent-sdf"), "no models entry is called 'latent-sdf'"),
        (("nile", "--out", "RUN", "--data-option", "colour=red"), "has no option colour"),
        (("nile", "--out", "RUN", "--until", "1800-01-01"), "nothing lies on one side of '1800-01-01'"),
        (("nile", "--out", "RUN", "--time", "when"), "there is no time coordinate 'when'"),
        (("nile", "--out", "RUN", "--variables", "level"), "there are no variables ['level']"),
        (("--resume", "RUN"), "RUN"),
        (("--resume", "RUN", "--seed", "1"), "--seed cannot go with --resume"),
        (("nile", "--resume", "RUN"), "DATA cannot go with --resume"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    text = run("fit", *arguments, code=2)
    assert text.startswith("error [") and what in text and "\nfix: " in text and "Traceback" not in text
    assert os.listdir(tmp_path) == []


def test_a_finished_model_is_replaced_only_on_request(finished, tmp_path, nile):
    folder = tmp_path / "run"
    run("fit", nile, "--out", folder, *LINEAR)
    before = (folder / "manifest.json").read_bytes()
    text = run("fit", nile, "--out", folder, *LINEAR, code=2)
    assert "error [state/occupied]" in text and "a finished model" in text and "--overwrite" in text
    assert (folder / "manifest.json").read_bytes() == before
    run("fit", nile, "--out", folder, *LINEAR, "--seed", "5", "--overwrite")
    assert load_folder(folder).config["seed"] == 5


def test_a_finished_fit_cannot_be_resumed(finished):
    assert "is finished" in run("fit", "--resume", finished, code=2)


# -- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "odd"])
def test_pickles_are_refused_as_model_and_as_data(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04K\x01.")
    for arguments in (("predict", path), ("fit", path, "--out", tmp_path / "run"), ("report", path)):
        text = run(*arguments, code=2)
        assert (
            "/refused]" in text and "can run code when it is loaded" in text and "fix: load it where you trust" in text
        )
    assert not (tmp_path / "run").exists()


def test_a_model_of_a_newer_format_names_the_release_it_needs(finished, tmp_path, nile):
    folder = _copy(finished, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(format=99, needs="sciinfer >= 9.0")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for arguments in (("predict", folder), ("fit", "--resume", folder), ("score", folder, "nile"), ("report", folder)):
        text = run(*arguments, code=2)
        assert text.startswith("error [checkpoint/newer]") and "needs sciinfer >= 9.0" in text
        assert 'fix: pip install "sciinfer>=9.0"' in text


def test_a_damaged_model_names_its_file(finished, tmp_path, nile):
    folder = _copy(finished, tmp_path)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    text = run("predict", folder, code=2)
    assert text.startswith("error [checkpoint/damaged]") and "weights.safetensors" in text
    assert "a damaged model" in run("fit", nile, "--out", folder, *LINEAR, code=2)


def test_a_full_disk_leaves_the_old_model(finished, tmp_path, nile, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = _copy(finished, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        text = run("fit", nile, "--out", folder, *LINEAR, "--overwrite", "--seed", "1", code=2)
    assert text.startswith("error [resource/disk-full] no space left") and "fix: free disk space" in text
    assert load_folder(folder).config["seed"] == 0 and api.load(folder).status == "finished"
    assert os.listdir(tmp_path) == ["copy"]


def test_a_result_too_large_for_the_disk_leaves_the_old_one(finished, tmp_path):
    out = tmp_path / "p.nc"
    run("predict", finished, "--time", "1880-01-01", "--draws", "2", "--out", out)
    before = out.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # no file may grow beyond that
    try:
        text = run("predict", finished, "--to", "1890", "--draws", "50", "--out", out, code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "error [resource/write]" in text and str(out) in text
    assert out.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["p.nc", "p.nc.sha256"]


def test_a_place_that_cannot_be_written_is_told_before_training(tmp_path, nile):
    (tmp_path / "file").write_text("x")
    text = run("fit", nile, "--out", tmp_path / "file" / "run", *LINEAR, code=2)
    assert text.startswith("error [resource/") and str(tmp_path / "file") in text
    assert "is a file" in run("fit", nile, "--out", tmp_path / "file", *LINEAR, code=2)


def test_predict_before_the_training(tmp_path, monkeypatch, nile):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "train", stop)
        text = run("fit", nile, "--out", tmp_path / "run", *LINEAR, code=130)
    assert f"go on with: sciinfer fit --resume {tmp_path / 'run'}" in text
    text = run("predict", tmp_path / "run", code=2)
    assert text.startswith("error [state]") and "has not been trained" in text and "fit --resume" in text
    run("fit", "--resume", tmp_path / "run", "--progress", "silent", "--no-report")
    assert api.load(tmp_path / "run").status == "finished"


# -- interruption ---------------------------------------------------------------------------------------------------


@pytest.fixture
def signals(monkeypatch):
    """Send signals to ourselves from inside the training loop, after a given step."""

    def arm(at: int, *numbers: signal.Signals) -> None:
        def call(self, done, total, metrics):
            if done == at:
                for number in numbers:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(progress.Reporter, "__call__", call)

    return arm


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_step_and_resume_gives_the_same_bits(tmp_path, waves, signals, number):
    run("fit", waves, "--out", tmp_path / "whole", *NEURAL)
    signals(5, number)
    text = run("fit", waves, "--out", tmp_path / "parts", *NEURAL, code=130)
    assert "interrupted after step 5 of 12" in text and "--resume" in text
    assert load_folder(tmp_path / "parts").config["status"] == "interrupted"
    assert "this fit was interrupted after step 5 of 12" in run(
        "predict", tmp_path / "parts", "--time", "1", "--draws", "2"
    )
    occupied = run("fit", waves, "--out", tmp_path / "parts", *NEURAL, code=2)
    assert "an unfinished model" in occupied and f"sciinfer fit --resume {tmp_path / 'parts'}" in occupied
    signals(-1)
    run("fit", "--resume", tmp_path / "parts", "--progress", "silent", "--no-report")
    one, two = (tmp_path / name / "weights.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()


def test_two_signals_stop_at_once_and_the_checkpoint_is_whole(tmp_path, waves, signals):
    signals(3, signal.SIGINT, signal.SIGINT)
    text = run("fit", waves, "--out", tmp_path / "run", *NEURAL, code=130)
    assert "stopped at once" in text and "go on with" in text and "Traceback" not in text
    signals(-1)
    run("fit", "--resume", tmp_path / "run", "--progress", "silent", "--no-report")
    assert api.load(tmp_path / "run").history.steps == list(range(12))


def test_a_time_limit_leaves_a_fit_that_goes_on(tmp_path, waves):
    text = run("fit", waves, "--out", tmp_path / "run", *NEURAL, "--train", "time_limit=1e-9")
    assert "time limit ended training" in text
    assert load_folder(tmp_path / "run").config["status"] == "interrupted"


@pytest.mark.slow
def test_ctrl_c_on_a_real_process(tmp_path, waves):
    arguments = ("fit", str(waves), *NEURAL, "--train", "checkpoint_every=10")
    arguments = tuple("steps=120" if text == "steps=12" else text for text in arguments)
    process = _start(tmp_path, *arguments, "--out", "parts")
    deadline = time.monotonic() + 120
    while not (tmp_path / "parts/checkpoints/ckpt-00000010").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "a checkpoint has been written" in err and "Traceback" not in out + err
    assert not [name for name in os.listdir(tmp_path) if "tmp-" in name]
    resumed = _start(tmp_path, "fit", "--resume", "parts", "--progress", "silent", "--no-report")
    whole = _start(tmp_path, *arguments, "--out", "whole")
    for process in (resumed, whole):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    one, two = (tmp_path / name / "weights.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "sciinfer", *arguments],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _copy(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to / "copy"))


def test_parts_are_disjoint_shares_of_the_series(tmp_path):
    path = tmp_path / "many.nc"
    run("datasets", "oscillator", "--save", path, "--data-option", "n_series=10", *_TINY[2:])
    run("fit", path, "--part", "train", "--out", tmp_path / "run", *LINEAR)
    seen = set(api.load(tmp_path / "run").data["series"].values.tolist())
    assert len(seen) == 6
    text = run("predict", tmp_path / "run", path, "--part", "test", "--draws", "2", "--out", tmp_path / "p.nc")
    assert "of 2 series" in text
    assert not seen & set(read_tree(tmp_path / "p.nc")["posterior"]["series"].values.tolist())
    assert "best baseline" in run("score", tmp_path / "run", path, "--part", "test", "--after", "6")


def test_a_single_series_has_no_parts(tmp_path, nile):
    assert "a single series has no parts" in run("fit", nile, "--part", "train", "--out", tmp_path / "run", code=2)
