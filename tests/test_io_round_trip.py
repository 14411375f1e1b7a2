"""What is written comes back, exactly; the caller's objects stay as they were."""

import copy
import os
import subprocess

import numpy as np
import pytest
import xarray as xr

from sciinfer.errors import ConfigError, DataError, ReadError, ResourceError
from sciinfer.labelled import atomic
from sciinfer.labelled import write as writing
from sciinfer.labelled.checksums import sidecar_of
from sciinfer.labelled.io import read, read_tree, write
from sciinfer.random import numpy_generator

SUFFIXES = [".nc", ".zarr"]


def make(seed=0):
    rng = numpy_generator(seed, "io")
    values = rng.normal(size=(6, 3))
    values[2, 1] = np.nan
    stamps = np.array(
        ["2001-01-01", "2001-01-02T03:04:05.000000007", "2003", "2004", "2005", "2006"], dtype="datetime64[ns]"
    )
    return xr.Dataset(
        {
            "flux": (("time", "band"), values, {"units": "Jy", "long_name": "flux density"}),
            "single": (("time",), rng.normal(size=6).astype(np.float32)),
            "count": (("time",), np.array([0, 1, -1, 2**62, 0, 5])),
            "ok": (("band",), np.array([True, False, True])),
            "period": (("band",), np.array([1.0, 2.0, 3.0]), {"units": "days"}),
            "lag": (("band",), np.array([1, 2, 3], dtype="m8[s]").astype("m8[ns]")),
            "seen": (("band",), np.array(["2000-01-01", "NaT", "2001-05-05"], dtype="M8[ns]")),
            "level": ((), 3.5),
        },
        coords={"time": stamps, "band": np.array(["g", "rr", "é"])},
        attrs={"title": "t", "n": 3, "x": 0.1},
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dataset_round_trip(tmp_path, suffix):
    given = make()
    write(given, tmp_path / f"a{suffix}")
    back = read(tmp_path / f"a{suffix}")
    xr.testing.assert_identical(back, given)
    for name in given.data_vars:
        assert back[name].dtype == given[name].dtype
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", f"a{suffix}.sha256"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tree_round_trip(tmp_path, suffix):
    posterior = make().drop_vars(["seen", "lag"]).expand_dims(chain=1, draw=2)
    tree = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"seed": 0}), "/posterior": posterior, "/observed_data": make()}
    )
    write(tree, tmp_path / f"t{suffix}")
    xr.testing.assert_identical(read_tree(tmp_path / f"t{suffix}"), tree)
    with pytest.raises(ReadError, match="read_tree") as caught:
        read(tmp_path / f"t{suffix}")
    assert caught.value.code == "read/tree"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_attributes_become_json_on_a_copy(tmp_path, suffix):
    attrs = {"none": None, "map": {"a": [1, None]}, "flag": True, "empty": [], "mixed": [1, "a"], "np": np.float32(2)}
    given = xr.Dataset({"y": ("x", np.ones(2), dict(attrs))}, attrs=dict(attrs))
    before = copy.deepcopy(given)
    write(given, tmp_path / f"a{suffix}")
    back = read(tmp_path / f"a{suffix}")
    for found in (back.attrs, back["y"].attrs):
        assert found["none"] == "null" and found["map"] == '{"a": [1, null]}' and found["flag"] == "true"
        assert found["empty"] == "[]" and found["mixed"] == '[1, "a"]' and found["np"] == 2
    xr.testing.assert_identical(given, before)
    assert given.attrs["map"] is not None and type(given.attrs["flag"]) is bool


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_lossy_packing_of_another_file_is_not_inherited(tmp_path, suffix):
    given = xr.Dataset({"y": ("x", np.array([0.123456789, 7.0]))})
    given["y"].encoding = {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -1}
    write(given, tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}")["y"], given["y"])
    assert given["y"].encoding["scale_factor"] == 0.1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sidecar_is_what_sha256sum_checks(tmp_path, suffix):
    write(make(), tmp_path / f"a{suffix}")
    done = subprocess.run(["sha256sum", "-c", f"a{suffix}.sha256"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_mutated_byte_is_accepted(tmp_path, suffix):
    target = tmp_path / f"a{suffix}"
    write(make(), target)
    files = sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]
    rng = numpy_generator(1, "mutate", suffix)
    for _ in range(100):
        file = files[int(rng.integers(len(files)))]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[int(rng.integers(len(bad)))] ^= int(rng.integers(1, 256))
        file.write_bytes(bad)
        with pytest.raises(ReadError) as caught:
            read(target)
        assert caught.value.code == "read/checksum"
        file.write_bytes(good)
    xr.testing.assert_identical(read(target), make())


def test_checksum_error_names_the_part_of_a_folder(tmp_path):
    write(make(), tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "flux" / "c" / "0" / "0").unlink()
    with pytest.raises(ReadError, match="flux/c/0/0"):
        read(tmp_path / "a.zarr")


@pytest.mark.parametrize("text", ["nonsense", "", "#", "0" * 64 + "  \n", "\xff"])
def test_sidecar_that_is_none(tmp_path, text):
    write(make(), tmp_path / "a.nc")
    sidecar_of(tmp_path / "a.nc").write_bytes(text.encode("latin-1"))
    with pytest.raises(ReadError, match="not a checksum file"):
        read(tmp_path / "a.nc")


def test_sidecar_of_any_file_is_verified(tmp_path):
    (tmp_path / "a.csv").write_text("t,y\n1,2\n")
    sidecar_of(tmp_path / "a.csv").write_text("0" * 64 + "  a.csv\n")
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "a.csv")
    assert caught.value.code == "read/checksum" and caught.value.details["expected"] == "0" * 64


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [28, 30, 13])
def test_failed_write_leaves_the_old_file_readable(tmp_path, monkeypatch, suffix, number):
    target = tmp_path / f"a{suffix}"
    write(make(), target)
    real = os.replace

    def fail(source, destination):
        if str(destination) == str(target):
            raise OSError(number, os.strerror(number))
        real(source, destination)

    monkeypatch.setattr(atomic.os, "replace", fail)
    if suffix == ".zarr":  # the previous folder could not even be moved back, were the swap refused half-way
        monkeypatch.setattr(atomic, "_exchange", lambda new, *_: fail(new, target))
    with pytest.raises(ResourceError):
        write(make(1), target)
    monkeypatch.undo()
    xr.testing.assert_identical(read(target), make())
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", f"a{suffix}.sha256"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_between_data_and_checksum_both_versions_verify(tmp_path, monkeypatch, suffix):
    target = tmp_path / f"a{suffix}"
    write(make(), target)
    calls, real = [], writing.write_sidecar

    def killed(path, blocks):
        calls.append(len(blocks))
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, blocks)

    monkeypatch.setattr(writing, "write_sidecar", killed)
    with pytest.raises(KeyboardInterrupt):
        write(make(1), target)
    monkeypatch.undo()
    assert calls == [2, 1]
    xr.testing.assert_identical(read(target), make(1))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_real_full_disk(tmp_path, suffix):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        write(make(), disk / f"a{suffix}")
        large = xr.Dataset({"y": ("x", numpy_generator(0, "large").normal(size=200_000))})
        with pytest.raises(ResourceError) as caught:
            write(large, disk / f"a{suffix}")
        assert caught.value.code == "resource/disk-full"
        xr.testing.assert_identical(read(disk / f"a{suffix}"), make())
        assert len(list(disk.iterdir())) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


BAD = {
    "missing text": xr.Dataset({"bad": ("x", np.array(["a", None], dtype=object))}),
    "mixed": xr.Dataset({"bad": ("x", np.array(["a", 1], dtype=object))}),
    "group name": xr.Dataset({"bad/name": ("x", np.ones(2))}),
    "fill value": xr.Dataset({"bad": ("x", np.ones(2), {"_FillValue": 1.0})}),
    "scale": xr.Dataset({"bad": ("x", np.ones(2), {"scale_factor": 2.0})}),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("case", BAD)
def test_what_would_be_lost_is_refused(tmp_path, suffix, case):
    with pytest.raises(DataError) as caught:
        write(BAD[case], tmp_path / f"a{suffix}")
    assert caught.value.variable.startswith("bad") and caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_names_and_objects_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match=r"\.nc or \.zarr"):
        write(make(), tmp_path / "a.csv")
    with pytest.raises(DataError, match="to_dataset"):
        write(make()["flux"], tmp_path / "a.nc")
    (tmp_path / "docs.zarr").mkdir()
    (tmp_path / "docs.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(ResourceError, match="holds other things"):
        write(make(), tmp_path / "docs.zarr")
    assert (tmp_path / "docs.zarr" / "thesis.txt").read_text() == "years of work"


def test_a_renamed_pair_still_verifies(tmp_path):
    for suffix in SUFFIXES:
        write(make(), tmp_path / f"a{suffix}")
        (tmp_path / f"a{suffix}").rename(tmp_path / f"b{suffix}")
        (tmp_path / f"a{suffix}.sha256").rename(tmp_path / f"b{suffix}.sha256")
        xr.testing.assert_identical(read(tmp_path / f"b{suffix}"), make())
