"""A series of checkpoints: the last two valid ones are kept, damage falls back, orphans are reaped."""

import errno
import math
import os

import pytest
import torch

from sciinfer.errors import CheckpointError, ConfigError, ResourceError, SciInferWarning
from sciinfer.labelled import atomic, manifest
from sciinfer.labelled.storage import checkpoint_steps, load_checkpoint, save_checkpoint


def _save(folder, step):
    return save_checkpoint(folder, step, {"w": torch.full((4,), float(step))}, {"loss": step / 3, "rng": [1, 2**70]})


def _spoil(path, name="tensors.safetensors"):
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)


def test_newest_comes_back_and_two_are_kept(tmp_path):
    for step in (3, 7, 12):
        assert _save(tmp_path, step).name == f"ckpt-{step:08d}"
    step, tensors, state = load_checkpoint(tmp_path)
    assert step == 12 and torch.equal(tensors["w"], torch.full((4,), 12.0))
    assert state == {"loss": 4.0, "rng": [1, 2**70]}
    assert checkpoint_steps(tmp_path) == [7, 12]


def test_state_is_exact(tmp_path):
    state = {"a": [None, True, 0.1, -0.0, 5e-324, math.inf, "ü\n"], "b": {"": {}}, "c": []}
    save_checkpoint(tmp_path, 0, {}, state)
    assert repr(load_checkpoint(tmp_path).state) == repr(state)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_falls_back_with_a_warning(tmp_path, name, harm):
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / name
    if harm == "flip":
        _spoil(file.parent, name)
    elif harm == "truncate":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
    with pytest.warns(SciInferWarning, match=f"step 1.*{name}"):
        assert load_checkpoint(tmp_path).step == 1


def test_a_damaged_one_does_not_count_among_the_two(tmp_path):
    _save(tmp_path, 1)
    _spoil(_save(tmp_path, 2))
    last = _save(tmp_path, 3)
    assert checkpoint_steps(tmp_path) == [1, 3]
    _spoil(last)
    with pytest.warns(SciInferWarning):
        assert load_checkpoint(tmp_path).step == 1


def test_none_valid_or_none_at_all(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="it holds none") as caught:
            load_checkpoint(folder)
        assert caught.value.code == "checkpoint/missing"
    for step in (1, 2):
        _spoil(_save(tmp_path, step))
    with pytest.raises(CheckpointError, match="SHA-256") as caught:
        load_checkpoint(tmp_path)
    assert caught.value.code == "checkpoint/damaged"


def test_going_back_drops_later_steps(tmp_path):
    for step in (10, 20):
        _save(tmp_path, step)
    _save(tmp_path, 15)
    assert checkpoint_steps(tmp_path) == [10, 15]
    assert load_checkpoint(tmp_path).step == 15


def test_same_step_is_replaced(tmp_path):
    _save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, {"w": torch.zeros(1)}, {})
    assert load_checkpoint(tmp_path).state == {}


def test_orphans_are_reaped(tmp_path):
    _save(tmp_path, 1)
    (tmp_path / ".ckpt-00000002.tmp-999999999-0").mkdir()
    load_checkpoint(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt-00000001"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_failed_save_leaves_the_series(tmp_path, monkeypatch, number):
    for step in (1, 2):
        _save(tmp_path, step)

    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "replace", fail)
    with pytest.raises(ResourceError):
        _save(tmp_path, 3)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt-00000001", "ckpt-00000002"]
    assert load_checkpoint(tmp_path).step == 2


def test_newer_format_is_not_passed_over(tmp_path, monkeypatch):
    _save(tmp_path, 1)
    monkeypatch.setattr(manifest, "FORMAT", 2)
    _save(tmp_path, 2)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="needs sciinfer >="):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("step", [-1, 1.0, True])
def test_steps_are_counts(tmp_path, step):
    with pytest.raises(ConfigError):
        save_checkpoint(tmp_path, step, {}, {})


def test_state_must_be_plain(tmp_path):
    with pytest.raises(ConfigError, match=r"state\.rng"):
        save_checkpoint(tmp_path, 0, {}, {"rng": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []
