"""Choice of the reader, refused formats, tables, arrays and Zarr folders."""

import gzip
import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from sciinfer.errors import ConfigError, DependencyError, NameNotFoundError, PluginError, ReadError, SciInferWarning
from sciinfer.extend import PluginInfo, PluginManager, ReaderEntry, Registry, registry
from sciinfer.labelled import io as checked
from sciinfer.labelled.io import Limits, read, read_tree, reader_for

TABLE = pd.DataFrame({"id": ["a", "a", "b"], "time": [0.5, 1.0, 2.5], "y": [1.0, np.nan, 3.0]})


# -- finding the reader


def test_core_readers_are_registered():
    assert {"netcdf3", "netcdf4", "zarr", "csv", "parquet", "numpy"} <= set(registry().names("readers"))


def test_missing_empty_and_unknown(tmp_path):
    with pytest.raises(ReadError, match="does not exist") as caught:
        read(tmp_path / "none.nc")
    assert caught.value.code == "read/missing"
    for name in ("a.nc", "a.csv", "a.parquet", "a.npz"):
        (tmp_path / name).touch()
        with pytest.raises(ReadError, match="is empty"):
            read(tmp_path / name)
    (tmp_path / "a.xyz").write_text("hello")
    (tmp_path / "folder").mkdir()
    for name in ("a.xyz", "folder"):
        with pytest.raises(ReadError) as caught:
            read(tmp_path / name)
        assert caught.value.code == "read/unknown"
        assert all(suffix in caught.value.fix for suffix in (".nc", ".csv", ".parquet", ".zarr"))


def test_addresses_limits_and_names(tmp_path):
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ReadError, match="download it first"):
        read("https://example.org/a.nc")
    with pytest.raises(ConfigError, match="limits"):
        read(tmp_path / "a.csv", limits=10)
    with pytest.raises(NameNotFoundError, match="csv"):
        read(tmp_path / "a.csv", reader="cvs")


def test_content_that_is_not_what_the_suffix_says(tmp_path):
    (tmp_path / "a.nc").write_text("time,y\n1,2\n")
    with pytest.raises(ReadError, match="netcdf3, netcdf4"):
        read(tmp_path / "a.nc")


def test_missing_package_names_the_install_command(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r"sciinfer\[io\]"):
        read(tmp_path / "a.parquet")


class _Plugin:
    target = "tests_reader_plugin:read_it"

    @staticmethod
    def sciinfer_plugin_info():
        return PluginInfo(name="demo", version="1", domain="demo")

    @classmethod
    def sciinfer_register_readers(cls):
        kinds = {"suffixes": (".dmo", ".csv"), "summary": "s"}
        return [
            ReaderEntry(name="demo/a", target="test_reader_module:good", magic=(b"DEMO",), **kinds),
            ReaderEntry(name="demo/b", target="test_reader_module:bad", suffixes=(".bad",), summary="s"),
            ReaderEntry(name="demo/c", target="test_reader_module:odd", suffixes=(".odd",), summary="s"),
        ]


@pytest.fixture
def plugin(monkeypatch):
    import sys
    import types

    module = types.ModuleType("test_reader_module")
    module.good = lambda path, *, limits: xr.Dataset({"y": limits.bytes})
    module.bad = lambda path, *, limits: 1 / 0
    module.odd = lambda path, *, limits: [1]
    monkeypatch.setitem(sys.modules, "test_reader_module", module)
    own = Registry(PluginManager("off", extra={"demo": _Plugin()}))
    assert not own.problems
    monkeypatch.setattr(checked, "registry", lambda: own)


def test_readers_of_plugins(tmp_path, plugin):
    for name in ("a.dmo", "magic_alone"):
        (tmp_path / name).write_bytes(b"DEMO....")
        assert int(read(tmp_path / name, limits=Limits(7))["y"]) == 7
    for name, error in (("a.bad", ReadError), ("a.odd", PluginError)):
        (tmp_path / name).write_text("x")
        with pytest.raises(error):
            read(tmp_path / name)


def test_two_readers_that_fit_equally(tmp_path, plugin):
    (tmp_path / "a.csv").write_bytes(b"DEMO,x\n1,2\n")
    with pytest.raises(ReadError, match="reader=") as caught:
        read(tmp_path / "a.csv")
    assert caught.value.code == "read/ambiguous" and "'demo/a'" in caught.value.fix
    assert list(read(tmp_path / "a.csv", reader="csv").columns) == ["DEMO", "x"]
    (tmp_path / "b.csv").write_bytes(b"t,x\n1,2\n")  # the leading bytes decide
    assert reader_for(tmp_path / "b.csv") == "csv"


# -- what is never opened


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.joblib", "a.pt", "a.pth", "a.ckpt", "A.PT", "nameless"])
def test_pickles_are_refused_unopened(tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ReadError) as caught:
        read(tmp_path / name)
    assert caught.value.code == "read/refused" and "save" in caught.value.fix
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z"])
def test_archives_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("../../evil.csv", "x")
    with pytest.raises(ReadError, match="archive") as caught:
        read(tmp_path / name)
    assert caught.value.code == "read/refused" and "unpack" in caught.value.fix


# -- text tables


@pytest.mark.parametrize(
    ("name", "sep"),
    [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.txt", "\t"), ("a.txt", " "), ("a.csv.gz", ",")],
)
def test_table_round_trip(tmp_path, name, sep):
    TABLE.to_csv(tmp_path / name, index=False, sep=sep, na_rep="nan")
    pd.testing.assert_frame_equal(read(tmp_path / name), TABLE)


def test_dates_become_datetimes_and_other_text_stays(tmp_path):
    text = "day,stamp,part,name\n2001-02-03,2001-02-03T04:05:06.5,2001-01-01,2001\n2001-02-04,2001-02-04,soon,x\n"
    (tmp_path / "a.csv").write_text("\ufeff" + text, encoding="utf-8")
    table = read(tmp_path / "a.csv")
    assert table["day"].dtype.kind == table["stamp"].dtype.kind == "M"
    assert table["stamp"][0] == pd.Timestamp("2001-02-03T04:05:06.5")
    assert list(table["part"]) == ["2001-01-01", "soon"] and list(table["name"]) == ["2001", "x"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("t,y\n1,2\n3,4,5\n6,7\n", "fields"),
        ("t,y\n1,2,3\n4,5,6\n", "."),
        ("t,y\n1,2\n3", "breaks off"),
        ("t,y,t\n1,2,3\n", "more than one column 't'"),
        ("t,y\n1,\x00\n", "zero bytes"),
        ("\n\n", "is empty"),
        ("# only a comment\n", "is empty"),
    ],
)
def test_tables_that_would_be_misread(tmp_path, text, match):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ReadError, match=match):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("text", ["# note, here\n#t, y\n1,2\n3,4\n", "# note\n\nt, y\r\n1, 2\r\n3, 4\r\n"])
def test_comments_before_the_table(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode())
    pd.testing.assert_frame_equal(read(tmp_path / "a.csv"), pd.DataFrame({"t": [1, 3], "y": [2, 4]}))


@pytest.mark.parametrize("text", ["1,2\n3,4\n", "# a note\n1,2\n3,4\n"])
def test_a_table_without_header_loses_no_row(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.warns(SciInferWarning, match="column_0 to column_1"):
        table = read(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(table, pd.DataFrame({"column_0": [1, 3], "column_1": [2, 4]}))


def test_short_lines_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("t,y\n1,2\n3\n5,6\n")
    with pytest.warns(SciInferWarning, match=r"1 lines .* data line 1"):
        table = read(tmp_path / "a.csv")
    assert table["y"].isna().tolist() == [False, True, False]


def test_quoted_fields_and_an_index_column(tmp_path):
    pd.DataFrame({"name": ['a "q", b\nc', "d"], "y": [1.0, 2.0]}).to_csv(tmp_path / "a.csv")
    table = read(tmp_path / "a.csv")
    assert list(table.columns) == ["Unnamed: 0", "name", "y"] and table["name"][0] == 'a "q", b\nc'


def test_text_in_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes("größe,y\n1,2\n".encode("latin-1"))
    with pytest.raises(ReadError, match="not UTF-8") as caught:
        read(tmp_path / "a.csv")
    assert "UTF-8" in caught.value.fix


def test_gzip_bomb_is_met_before_it_is_unpacked(tmp_path):
    with gzip.open(tmp_path / "a.csv.gz", "wb") as stream:
        for _ in range(20):
            stream.write(b"1,2\n" * (1 << 18))
    assert (tmp_path / "a.csv.gz").stat().st_size < 100_000
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "a.csv.gz", limits=Limits(max_bytes=3_000_000))
    assert caught.value.code == "read/too-large" and caught.value.details["declared"] <= 4 << 20


@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_damaged_gzip(tmp_path, harm):
    data = bytearray(gzip.compress(b"t,y\n" + b"1,2\n" * 1000))
    if harm == "truncated":
        data = data[:-9]
    else:
        data[len(data) // 2] ^= 255
    (tmp_path / "a.csv.gz").write_bytes(data)
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "a.csv.gz")
    assert caught.value.code == "read/damaged"


# -- Parquet


def test_parquet_round_trip_limit_and_damage(tmp_path):
    path = tmp_path / "a.parquet"
    TABLE.to_parquet(path)
    pd.testing.assert_frame_equal(read(path), TABLE)
    with pytest.raises(ReadError, match="declares"):
        read(path, limits=Limits(max_bytes=10))
    whole = path.read_bytes()
    for length in (4, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ReadError) as caught:
            read(path)
        assert caught.value.code == "read/damaged"


def test_parquet_page_checksums_are_verified(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    table = pa.table({"y": np.arange(1000.0)})
    pq.write_table(table, path, write_page_checksum=True, compression="NONE", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReadError):
        read(path)


def test_parquet_that_repeats_one_value_counts_unpacked(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"y": np.zeros(1_000_000)}).to_parquet(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(ReadError, match=r"declares 8\.00 MB"):
        read(path, limits=Limits(max_bytes=1_000_000))


# -- numpy files


def test_plain_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", y=np.arange(6.0).reshape(2, 3), n=np.int32(4))
    back = read(tmp_path / "a.npz")
    assert back["y"].dims == ("y_0", "y_1") and back["y"].values[1, 2] == 5.0 and int(back["n"]) == 4
    np.save(tmp_path / "b.npy", np.arange(3))
    assert list(read(tmp_path / "b.npy")["b"].values) == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_object_arrays_are_pickles(tmp_path, name):
    save = np.savez if name.endswith("z") else np.save
    save(tmp_path / name, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ReadError, match="pickle") as caught:
        read(tmp_path / name)
    assert caught.value.code == "read/refused"


def test_npz_bomb_and_liar(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", y=np.zeros(2_000_000))
    assert (tmp_path / "a.npz").stat().st_size < 50_000
    with pytest.raises(ReadError, match=r"16\.00 MB"):
        read(tmp_path / "a.npz", limits=Limits(max_bytes=10**6))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(ReadError, match=r"8\.00 TB"):
        read(tmp_path / "b.npz")


@pytest.mark.parametrize("name", ["../y.npy", "/y.npy", "a/../../y.npy", "..\\y.npy", "y.txt"])
def test_npz_members_that_lead_out(tmp_path, name):
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, buffer.getvalue())
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "a.npz")
    assert caught.value.code == "read/refused"


# -- Zarr folders of others (no checksum file)


def _zarr(path, version=3, **encoding):
    given = xr.Dataset(
        {"y": (("time", "x"), np.arange(24.0).reshape(8, 3) + 1), "k": ((), 2.0)}, coords={"time": np.arange(8)}
    )
    given.to_zarr(path, zarr_format=version, consolidated=False, encoding={"y": {"chunks": (2, 3), **encoding}})
    return given


@pytest.mark.parametrize("version", [2, 3])
def test_missing_chunk_is_an_error_not_nan(tmp_path, version):
    given = _zarr(tmp_path / "a.zarr", version)
    xr.testing.assert_equal(read(tmp_path / "a.zarr"), given)
    shutil.copytree(tmp_path / "a.zarr", tmp_path / "no_suffix")
    xr.testing.assert_equal(read(tmp_path / "no_suffix"), given)
    (tmp_path / "a.zarr" / "y" / ("2.0" if version == 2 else "c/2/0")).unlink()
    with pytest.raises(ReadError, match="lacks 1 of 4 chunks") as caught:
        read(tmp_path / "a.zarr")
    error = caught.value
    assert (error.code, error.variable, error.index) == ("read/missing-chunk", "y", (4, 0))
    with pytest.raises(ReadError, match="lacks 1"):
        read_tree(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_missing_chunk_of_a_scalar(tmp_path, version):
    _zarr(tmp_path / "a.zarr", version)
    (tmp_path / "a.zarr" / "k" / ("0" if version == 2 else "c")).unlink()
    with pytest.raises(ReadError, match="lacks 1 of 1"):
        read(tmp_path / "a.zarr")


@pytest.mark.parametrize("harm", ["chunk", "metadata", "no root"])
def test_damaged_zarr(tmp_path, harm):
    _zarr(tmp_path / "a.zarr")
    victim = {"chunk": "y/c/0/0", "metadata": "y/zarr.json", "no root": "zarr.json"}[harm]
    file = tmp_path / "a.zarr" / victim
    if harm == "no root":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "a.zarr")
    assert caught.value.code == "read/damaged"


@pytest.mark.parametrize("field", ["shape", "chunks"])
def test_zarr_that_declares_too_much(tmp_path, field):
    _zarr(tmp_path / "a.zarr")
    file = tmp_path / "a.zarr" / "y" / "zarr.json"
    metadata = json.loads(file.read_text())
    if field == "shape":
        metadata["shape"] = [10**12, 3]
    else:
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = [10**12, 3]
    file.write_text(json.dumps(metadata))
    with pytest.raises(ReadError, match=r"24\.00 TB") as caught:
        read(tmp_path / "a.zarr")
    assert caught.value.code == "read/too-large"


def test_zarr_with_a_link_is_refused(tmp_path):
    _zarr(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "z").symlink_to(tmp_path)
    with pytest.raises(ReadError, match="symbolic link"):
        read(tmp_path / "a.zarr")


def test_limits_default_to_half_of_free_memory():
    assert 0 < Limits().bytes < 1 << 50
    assert Limits(max_bytes=0).bytes == 0
