"""Writes either happen or do not; leftovers of killed processes are put right."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sciinfer.errors import ResourceError
from sciinfer.labelled import atomic


def _text(text):
    return lambda path: path.write_text(text) and None


def _folder(**files):
    def fill(path):
        for name, text in files.items():
            (path / name).write_text(text)

    return fill


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_replaced_and_parents_made(tmp_path):
    target = tmp_path / "a" / "b.txt"
    atomic.atomic_write(target, _text("one"))
    atomic.atomic_bytes(target, b"two")
    assert target.read_text() == "two"
    assert _names(target.parent) == ["b.txt"]


def test_new_files_have_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    atomic.atomic_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "resource/disk-full"),
        (errno.EDQUOT, "resource/disk-full"),
        (errno.EROFS, "resource/not-writable"),
        (errno.EACCES, "resource/not-writable"),
        (errno.EIO, "resource/write"),
    ],
)
@pytest.mark.parametrize("place", ["write", "replace", "fsync"])
def test_failure_is_named_and_leaves_the_old_file(tmp_path, monkeypatch, number, code, place):
    target = tmp_path / "a.txt"
    atomic.atomic_write(target, _text("old"))

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    if place != "write":
        monkeypatch.setattr(atomic.os, place, fail)
    with pytest.raises(ResourceError) as caught:
        atomic.atomic_write(target, fail if place == "write" else _text("new"))
    assert caught.value.code == code and caught.value.fix and "a.txt" in str(caught.value)
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


def test_other_errors_pass_through_without_leftovers(tmp_path):
    def fail(path):
        path.write_text("half")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        atomic.atomic_write(tmp_path / "a.txt", fail)
    assert _names(tmp_path) == []


def test_folder_swapped_as_a_whole(tmp_path):
    target = tmp_path / "model"
    atomic.atomic_folder(target, _folder(a="1", b="2"))
    atomic.atomic_folder(target, _folder(a="3"))
    assert _names(target) == ["a"] and (target / "a").read_text() == "3"
    assert _names(tmp_path) == ["model"]


def test_folder_carries_over_what_it_does_not_own(tmp_path):
    target = tmp_path / "run"
    atomic.atomic_folder(target, _folder(a="1", stale="1"))
    (target / "report.html").write_text("keep me")
    (target / "ckpt").mkdir()
    (target / "ckpt" / "x").write_text("me too")
    atomic.atomic_folder(target, _folder(a="2"), owned=["a", "stale"])
    assert _names(target) == ["a", "ckpt", "report.html"]
    assert (target / "ckpt" / "x").read_text() == "me too"
    assert _names(tmp_path) == ["run"]


@pytest.mark.parametrize("failing", [1, 2])
def test_failed_swap_puts_the_previous_folder_back(tmp_path, monkeypatch, failing):
    target = tmp_path / "model"
    atomic.atomic_folder(target, _folder(a="old"))
    calls, real = [], os.replace

    def replace(source, destination):
        calls.append(source)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "full")
        real(source, destination)

    monkeypatch.setattr(atomic.os, "replace", replace)
    with pytest.raises(ResourceError):
        atomic.atomic_folder(target, _folder(a="new"))
    assert (target / "a").read_text() == "old"
    assert _names(tmp_path) == ["model"]


def test_folder_over_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("file")
    with pytest.raises(ResourceError, match="in the way"):
        atomic.atomic_folder(tmp_path / "a", _folder(b="1"))
    assert (tmp_path / "a").read_text() == "file" and _names(tmp_path) == ["a"]


def _dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_reap_removes_orphans_and_leaves_the_living(tmp_path):
    dead, alive = _dead_pid(), os.getppid()
    (tmp_path / f".a.nc.tmp-{dead}-0").write_text("x")
    (tmp_path / f".model.tmp-{dead}-0").mkdir()
    (tmp_path / f".b.nc.tmp-{alive}-0").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    assert atomic.reap(tmp_path) == [f".a.nc.tmp-{dead}-0", f".model.tmp-{dead}-0"]
    assert _names(tmp_path) == [f".b.nc.tmp-{alive}-0", ".hidden"]


def test_reap_leaves_our_own_running_write(tmp_path):
    seen = []

    def write(path):
        path.write_text("x")
        seen.extend(atomic.reap(tmp_path))

    atomic.atomic_write(tmp_path / "a", write)
    assert seen == [] and _names(tmp_path) == ["a"]


def test_old_orphan_of_a_reused_process_number_is_reaped(tmp_path, monkeypatch):
    (tmp_path / f".a.tmp-{os.getppid()}-0").write_text("x")
    monkeypatch.setattr(atomic, "_age", lambda path: 2 * 86400.0)
    atomic.reap(tmp_path)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("role", ["old", "prev"])
def test_swap_cut_in_two_is_undone_or_finished(tmp_path, role):
    dead = _dead_pid()
    waiting = tmp_path / f".m.{role}-{dead}-0"
    waiting.mkdir()
    (waiting / "a").write_text("old")
    (waiting / "mine").write_text("x")
    atomic.restore(tmp_path / "m")
    assert _names(tmp_path) == ["m"] and (tmp_path / "m" / "a").read_text() == "old"
    os.replace(tmp_path / "m", waiting)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_text("new")
    atomic.reap(tmp_path)
    assert _names(tmp_path) == ["m"] and (tmp_path / "m" / "a").read_text() == "new"
    assert ("mine" in _names(tmp_path / "m")) == (role == "prev")


_LOOP = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from sciinfer.labelled.atomic import atomic_folder
print("ready", flush=True)
n = 0
while True:
    n += 1
    def fill(folder):
        for name in "abc":
            (folder / name).write_bytes(str(n).encode() * 2000)
    atomic_folder(Path({target!r}), fill)
"""


def test_killed_at_any_moment_a_whole_folder_is_there(tmp_path):
    target = tmp_path / "m"
    atomic.atomic_folder(target, _folder(a="0", b="0", c="0"))
    for trial in range(4):
        code = _LOOP.format(target=str(target), path=sys.path)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01 * (trial + 1))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        atomic.restore(target)
        atomic.reap(tmp_path)
        assert len({(target / name).read_bytes() for name in "abc"}) == 1
        assert _names(tmp_path) == ["m"]


def test_real_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        atomic.atomic_bytes(disk / "a", b"old")
        with pytest.raises(ResourceError, match="no space left"):
            atomic.atomic_bytes(disk / "a", bytes(1 << 20))
        assert (disk / "a").read_bytes() == b"old" and _names(disk) == ["a"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_read_only_folder_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; the error numbers are tested above")
    Path(tmp_path).chmod(0o500)
    with pytest.raises(ResourceError, match="cannot be written"):
        atomic.atomic_bytes(tmp_path / "a", b"")
