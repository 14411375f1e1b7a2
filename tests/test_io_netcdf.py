"""netCDF-3 and netCDF-4 files of others: every truncation, oversized declarations, damage and hangs are errors."""

import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sciinfer.errors import ReadError
from sciinfer.labelled.io import Limits, read, reader_for
from sciinfer.labelled.readers import hdf5_probe, netcdf4
from sciinfer.labelled.readers.netcdf3 import extent_of
from sciinfer.random import numpy_generator


def _dataset(records=False):
    rng = numpy_generator(0, "netcdf")
    return xr.Dataset(
        {
            "a": (("time", "x"), rng.normal(size=(50, 4)), {"units": "m"}),
            "b": (("time",), rng.integers(0, 99, 50).astype(np.int16)),
            "s": (("x",), np.array(["n", "e", "s", "west"])),
        },
        coords={"time": pd.date_range("2001", periods=50), "x": np.arange(4.0)},
    )


def _classic(path, version="NETCDF3_64BIT", records=True):
    unlimited = ["time"] if records else None
    _dataset().to_netcdf(path, engine="scipy", format=version, unlimited_dims=unlimited)
    return path


def _hdf5(path, **encoding):
    _dataset().to_netcdf(path, engine="h5netcdf", encoding={"a": {"zlib": True, **encoding}})
    return path


# -- netCDF-3


@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("version", ["NETCDF3_CLASSIC", "NETCDF3_64BIT"])
def test_classic_file_reads(tmp_path, version, records):
    path = _classic(tmp_path / "a.nc", version, records)
    back = read(path)
    for name in ("a", "b", "s", "time"):
        np.testing.assert_array_equal(back[name], _dataset()[name])
    assert 0 <= path.stat().st_size - extent_of(path).length < 4


@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("version", ["NETCDF3_CLASSIC", "NETCDF3_64BIT"])
def test_every_truncation_of_a_classic_file_is_caught(tmp_path, version, records):
    whole = _classic(tmp_path / "a.nc", version, records).read_bytes()
    cut = tmp_path / "b.nc"
    last = extent_of(tmp_path / "a.nc").length
    lengths = [*np.linspace(5, last - 1, 40).astype(int), last - 1]
    for length in lengths:
        cut.write_bytes(whole[:length])
        with pytest.raises(ReadError) as caught:
            read(cut)
        assert caught.value.code == "read/damaged" and str(cut) in str(caught.value)


def test_classic_file_written_by_the_reference_library(tmp_path):
    netCDF4 = pytest.importorskip("netCDF4", reason="the reference library writes the file")
    for records in (None, 3):
        path = tmp_path / f"{records}.nc"
        with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
            file.createDimension("t", None if records else 5)
            variable = file.createVariable("v", "i2", ("t",))  # a lone record variable is not padded
            variable[:] = np.arange(5, dtype="i2")
        np.testing.assert_array_equal(read(path)["v"], np.arange(5))
        whole = path.read_bytes()
        path.write_bytes(whole[: extent_of(path).length - 1])
        with pytest.raises(ReadError, match="truncated"):
            read(path)


def test_damaged_classic_headers_never_escape(tmp_path):
    whole = _classic(tmp_path / "a.nc").read_bytes()
    rng = numpy_generator(2, "mutate")
    seen = 0
    for _ in range(150):
        bad = bytearray(whole)
        bad[int(rng.integers(3, 400))] ^= int(rng.integers(1, 256))
        (tmp_path / "b.nc").write_bytes(bad)
        try:
            read(tmp_path / "b.nc", limits=Limits(max_bytes=1 << 24))
        except ReadError:
            seen += 1
    assert seen > 50


def test_sixty_four_bit_data_variant_says_how_to_convert(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"CDF\x05" + bytes(100))
    with pytest.raises(ReadError, match="nccopy"):
        read(tmp_path / "a.nc")


def test_classic_file_above_the_limit(tmp_path):
    path = _classic(tmp_path / "a.nc")
    with pytest.raises(ReadError) as caught:
        read(path, limits=Limits(max_bytes=1000))
    assert caught.value.code == "read/too-large" and caught.value.details["limit"] == 1000


# -- netCDF-4


def test_hdf5_file_reads_with_any_of_its_suffixes(tmp_path):
    path = _hdf5(tmp_path / "a.nc")
    xr.testing.assert_equal(read(path), _dataset())
    for name in ("a.nc4", "a.h5", "a.cdf", "A.NC", "no_suffix"):
        path = path.rename(tmp_path / name)
        assert reader_for(path) == "netcdf4"
    xr.testing.assert_equal(read(path), _dataset())


def test_huge_declaration_is_refused_before_reading(tmp_path):
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("y", shape=(10**12,), dtype="f8", chunks=(2**20,))
    assert path.stat().st_size < 10_000
    with pytest.raises(ReadError, match=r"8\.00 TB") as caught:
        read(path)
    error = caught.value
    assert error.code == "read/too-large" and error.details["declared"] == 8 * 10**12 and "max_bytes" in error.fix


def test_packed_integers_count_as_the_floats_they_become(tmp_path):
    given = xr.Dataset({"y": ("x", np.zeros(1000))})
    packed = {"y": {"dtype": "int8", "scale_factor": 0.1, "_FillValue": -1}}
    given.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=packed)
    with pytest.raises(ReadError, match=r"declares 8\.00 kB"):
        read(tmp_path / "a.nc", limits=Limits(max_bytes=7999))
    assert read(tmp_path / "a.nc", limits=Limits(max_bytes=8000))["y"].dtype.kind == "f"


def test_same_data_under_many_names_counts_each_time(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y0"] = np.zeros(1000)
        for index in range(1, 50):
            file[f"y{index}"] = file["y0"]
    with pytest.raises(ReadError, match=r"declares 400\.00 kB"):
        read(tmp_path / "a.h5", limits=Limits(max_bytes=100_000))


@pytest.mark.parametrize("kind", ["external link", "external data", "virtual"])
def test_data_in_other_files_are_never_followed(tmp_path, kind):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["y"] = np.zeros(4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external link":
            file["y"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/y")
        elif kind == "external data":
            file.create_dataset("y", (4,), "f8", external=[(str(tmp_path / "raw"), 0, 32)])
        else:
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "y", (4,))
            file.create_virtual_dataset("y", layout)
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "a.h5")
    assert caught.value.code == "read/refused"


def test_loop_of_groups_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("g")["again"] = file["/"]
    with pytest.raises(ReadError, match="loop"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_truncated_hdf5(tmp_path, share):
    whole = _hdf5(tmp_path / "a.nc").read_bytes()
    (tmp_path / "b.nc").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "b.nc")
    assert caught.value.code == "read/damaged"


def test_damaged_hdf5_never_escapes(tmp_path):
    whole = _hdf5(tmp_path / "a.nc", fletcher32=True).read_bytes()
    rng = numpy_generator(3, "mutate")
    caught = 0
    for _ in range(6):
        bad = bytearray(whole)
        for place in rng.integers(8, len(bad), size=20):
            bad[int(place)] ^= int(rng.integers(1, 256))
        (tmp_path / "b.nc").write_bytes(bad)
        try:
            read(tmp_path / "b.nc", limits=Limits(timeout=5.0, max_bytes=1 << 26))
        except ReadError:
            caught += 1
    assert caught >= 4


@pytest.mark.parametrize(
    ("child", "message"),
    [("import time; time.sleep(60)", "did not end within"), ("import os; os.abort()", "broke down over it")],
)
def test_a_library_that_hangs_or_dies_costs_only_the_child(tmp_path, monkeypatch, child, message):
    path = _hdf5(tmp_path / "a.nc")
    script = tmp_path / "child.py"
    script.write_text(child)
    monkeypatch.setattr(hdf5_probe, "__file__", str(script))
    with pytest.raises(ReadError, match=message):
        netcdf4.read_netcdf4(path, limits=Limits(timeout=0.3))


def test_probe_runs_without_the_package(tmp_path):
    path = _hdf5(tmp_path / "a.nc")
    code = f"import runpy, sys; sys.argv = ['p', {str(path)!r}, '10**9'.replace('10**9', '1000000000')];"
    code += f"runpy.run_path({hdf5_probe.__file__!r}, run_name='__main__');"
    code += "assert not {'torch', 'xarray', 'sciinfer'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{"declared": ')


def test_plain_hdf5_without_dimensions(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y"] = np.arange(6.0).reshape(2, 3)
    assert read(tmp_path / "a.h5")["y"].shape == (2, 3)


def test_undecodable_times_are_named(tmp_path):
    given = xr.Dataset({"y": ("t", np.ones(2))}, coords={"t": ("t", [0, 1], {"units": "days since yesterday"})})
    given.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(ReadError, match="days since yesterday") as caught:
        read(tmp_path / "a.nc")
    assert caught.value.code == "read/times" and caught.value.variable == "t" and "units" in caught.value.fix
