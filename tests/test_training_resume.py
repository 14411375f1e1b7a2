import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sciinfer.errors import CheckpointError, ConfigError, NumericalError, ResourceError, SciInferWarning
from sciinfer.models.base import Loss
from sciinfer.training import TrainingConfig, train


def _sibling(name):
    path = Path(__file__).parent / "faults" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"training_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


toys, kill9 = _sibling("training_toys"), _sibling("kill9_toy")
Line, lines = toys.Line, toys.lines
FACTORIES = {"adam": toys.noisy_line, "lbfgs": toys.noisy_line_lbfgs}


def stop_at(step):
    def interrupt(done, total, metrics):
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_resume_is_bit_equal(factory, tmp_path):
    model, data, config = factory()
    history = train(model, data, config, seed=4)
    part, _, _ = factory()
    first = train(part, data, config, seed=4, folder=tmp_path, progress=stop_at(9))
    assert first.stopped == "interrupted" and len(first.steps) < len(history.steps)
    again, _, _ = factory()
    second = train(again, data, config, seed=4, folder=tmp_path, resume=True)
    assert kill9.digest(again, second) == kill9.digest(model, history)
    assert second.seconds == sorted(second.seconds) and second.notices == []


def test_interrupted_at_every_step_is_bit_equal(tmp_path):
    model, data, config = toys.noisy_line()
    config = TrainingConfig.from_dict({**config.to_dict(), "steps": 25, "validate_every": 4})
    history = train(model, data, config, seed=4)
    for _ in range(25):
        part = Line(jitter=0.05)
        found = train(part, data, config, seed=4, folder=tmp_path, resume=True, progress=lambda *a: stop_at(a[0])(*a))
    assert found.steps == list(range(25))
    found = train(part, data, config, seed=4, folder=tmp_path, resume=True)
    assert kill9.digest(part, found) == kill9.digest(model, history)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    model, data, config = toys.noisy_line()
    history = train(model, data, config, seed=4, folder=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again, _, _ = toys.noisy_line()
    second = train(again, data, config, seed=4, folder=tmp_path, resume=True)
    assert kill9.digest(again, second) == kill9.digest(model, history)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_run_stopped_by_patience_stays_stopped(tmp_path):
    data, config = lines(), TrainingConfig(steps=500, learning_rate=0.5, validate_every=1, patience=2, device="cpu")
    history = train(Line(), data, config, seed=4, folder=tmp_path)
    assert history.stopped == "patience"
    again = train(Line(), data, config, seed=4, folder=tmp_path, resume=True)
    assert again.stopped == "patience" and again.steps == history.steps


def test_rollback_survives_a_resume(tmp_path):
    class Sick(Line):
        """Not finite where the scale falls below a threshold."""

        def loss(self, batch, *, generator, progress=1.0):
            found = super().loss(batch, generator=generator, progress=progress)
            return Loss(found.value * float("nan"), {}) if self.log_scale.min() < -0.2 else found

    config = TrainingConfig(steps=400, learning_rate=0.1, schedule="constant", validation=0.0, checkpoint_every=1)

    def run(model, **options):
        with pytest.raises(NumericalError) as caught:
            train(model, lines(), config, seed=0, **options)
        return caught.value.details

    plain, part = Sick(), Sick()
    expected = run(plain)
    first = train(part, lines(), config, seed=0, folder=tmp_path, progress=stop_at(expected["good_step"] - 1))
    assert first.stopped == "interrupted"
    second = Sick()
    found = run(second, folder=tmp_path, resume=True)
    assert found["good_step"] == expected["good_step"] and found["history"].loss == expected["history"].loss
    assert torch.equal(second.log_scale, plain.log_scale)


def test_checkpoint_of_the_last_good_step_is_valid_after_nan(tmp_path):
    class Broken(Line):
        calls = 0

        def loss(self, batch, *, generator, progress=1.0):
            self.calls += 1
            found = super().loss(batch, generator=generator, progress=progress)
            return Loss(found.value * float("nan"), {}) if self.calls > 10 else found

    config = TrainingConfig(steps=30, validation=0.0, checkpoint_every=4, checkpoint_seconds=None, device="cpu")
    broken = Broken()
    with pytest.raises(NumericalError) as caught:
        train(broken, lines(), config, seed=0, folder=tmp_path)
    assert caught.value.details["good_step"] == 9
    healed = Line()
    history = train(healed, lines(), config, seed=0, folder=tmp_path, resume=True)
    plain = train(Line(), lines(), config, seed=0)
    assert history.stopped == "steps" and history.loss[:9] == plain.loss[:9] and len(history.loss) == 30


def test_checkpoints_come_as_often_as_asked(tmp_path):
    told = []
    config = TrainingConfig(steps=20, checkpoint_every=6, checkpoint_seconds=None, device="cpu")
    train(Line(), lines(), config, seed=0, folder=tmp_path, on_checkpoint=lambda path, step: told.append((path, step)))
    assert told == [(tmp_path, step) for step in (0, 6, 12, 18, 20)]
    assert len(list(tmp_path.glob("ckpt-*"))) == 2


def test_an_empty_folder_starts_anew_with_a_notice(tmp_path):
    history = train(Line(), lines(), TrainingConfig(steps=2), seed=0, folder=tmp_path, resume=True)
    assert history.stopped == "steps" and "no checkpoint yet" in history.notices[0]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"config": {"learning_rate": 0.5}}, ConfigError, "learning_rate=None"),
        ({"seed": 9}, ConfigError, "seed 4"),
        ({"data": True}, CheckpointError, "other data"),
        ({"model": True}, CheckpointError, "another model"),
    ],
)
def test_resuming_another_run_is_refused(tmp_path, change, error, words):
    model, data, config = toys.noisy_line()
    train(model, data, config, seed=4, folder=tmp_path, progress=stop_at(3))
    config = TrainingConfig.from_dict({**config.to_dict(), **change.get("config", {})})
    if change.get("data"):
        data = data._replace(values=data.values + 1)
    other = Line(channels=3) if change.get("model") else Line(jitter=0.05)
    with pytest.raises(error, match=words):
        train(other, data, config, seed=change.get("seed", 4), folder=tmp_path, resume=True)


def test_more_steps_on_resuming_are_allowed_and_noticed(tmp_path):
    data, config = lines(), TrainingConfig(steps=5, validation=0.0, device="cpu")
    train(Line(), data, config, seed=4, folder=tmp_path)
    longer = TrainingConfig(steps=8, validation=0.0, device="cpu")
    history = train(Line(), data, longer, seed=4, folder=tmp_path, resume=True)
    assert history.steps == list(range(8)) and "number of steps was changed" in history.notices[0]


def test_full_disk_is_a_resource_error_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    model, data, config = toys.noisy_line()
    history = train(model, data, config, seed=4)
    real, count = os.replace, [0]

    def full(source, target, **options):
        count[0] += 1
        if count[0] > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target, **options)

    part, _, _ = toys.noisy_line()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr(os, "rename", full)
        with pytest.raises(ResourceError):
            train(part, data, config, seed=4, folder=tmp_path)
    again, _, _ = toys.noisy_line()
    second = train(again, data, config, seed=4, folder=tmp_path, resume=True)
    assert kill9.digest(again, second) == kill9.digest(model, history)


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    model, data, config = toys.noisy_line()
    history = train(model, data, config, seed=4)
    part, _, _ = toys.noisy_line()
    train(part, data, config, seed=4, folder=tmp_path, progress=stop_at(30))
    newest = max(tmp_path.glob("ckpt-*"))
    tensors = next(newest.rglob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-7])
    again, _, _ = toys.noisy_line()
    with pytest.warns(SciInferWarning):
        second = train(again, data, config, seed=4, folder=tmp_path, resume=True)
    assert kill9.digest(again, second) == kill9.digest(model, history)


# -- kill -9


def killed(tmp_path, trials, kills, chance, factory=kill9.TOY):
    command = [sys.executable, kill9.__file__, str(tmp_path), "--factory", factory, "--pause", "0.002"]
    command += ["--trials", str(trials), "--kills", str(kills), "--chance", str(chance)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["undisturbed"]) == 64, done.stderr
    assert found["digests"] == [found["undisturbed"]] * trials, done.stderr
    assert found["hits"] >= trials * kills / 3, "too few kills fell into training"


def test_kill9_then_resume_is_bit_equal(tmp_path):
    killed(tmp_path, trials=3, kills=1, chance=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noisy_line", "noisy_line_lbfgs"])
def test_kill9_at_thirty_moments_then_resume_is_bit_equal(tmp_path, name):
    killed(tmp_path, trials=15, kills=2, chance=7, factory=kill9.TOY.replace("noisy_line", name))
