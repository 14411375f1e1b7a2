"""Fault case 36: a wrong digest, an absent file, no network, an unusable disk; and no retry storm."""

import hashlib
import http.server
import socket
import threading

import numpy as np
import pytest
import sciinfer.datasets as datasets
from sciinfer.datasets import fetch as fetch_module
from sciinfer.datasets.cards import Card, RawFile
from sciinfer.datasets.fetch import Fetch, verified

from sciinfer.errors import ReadError, ResourceError

CONTENT = b"0.5,1.5\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SCIINFER_DATA", raising=False)
    monkeypatch.setenv("SCIINFER_CACHE", str(tmp_path / "unused"))


@pytest.fixture
def server():
    """A local file server; ``asked`` lists the paths it was asked for, ``answer`` is what it sends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            self.send_response(server.status)
            self.end_headers()
            self.wfile.write(server.answer)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answer, server.status = [], CONTENT, 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def card_for(server, sha256=DIGEST) -> Card:
    url = f"http://127.0.0.1:{server.server_port}/table.csv"
    file = RawFile(path="area/table.csv", sha256=sha256, size=len(CONTENT), url=url)
    return Card(name="table", title="t", summary="s", source="local", retrieval="copy it by hand", files=(file,))


def test_download_lands_in_the_cache_and_is_not_repeated(server, tmp_path):
    card = card_for(server)
    (path,) = Fetch(tmp_path, download=True).files(card)
    assert path == tmp_path / "area" / "table.csv" and path.read_bytes() == CONTENT
    assert Fetch(tmp_path, download=True).files(card) == [path]
    assert Fetch(tmp_path).files(card) == [path]
    assert server.asked == ["/table.csv"]


def test_nothing_is_asked_of_the_network_unless_allowed(server, tmp_path):
    with pytest.raises(ResourceError, match="SCIINFER_DATA is not set") as caught:
        Fetch(tmp_path).files(card_for(server))
    assert server.asked == [] and caught.value.code == "resource/absent"
    assert "download=True" in str(caught.value) and "area/table.csv" in str(caught.value)


def test_downloaded_file_of_another_digest_is_refused_and_removed(server, tmp_path):
    server.answer = b"something else"
    with pytest.raises(ReadError) as caught:
        Fetch(tmp_path, download=True).files(card_for(server))
    assert caught.value.code == "read/sha256" and DIGEST in str(caught.value)
    assert str(tmp_path / "area" / "table.csv") in str(caught.value)
    assert server.asked == ["/table.csv"]
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_damaged_cached_file_is_refused_offline_and_replaced_online(server, tmp_path):
    target = tmp_path / "area" / "table.csv"
    target.parent.mkdir()
    target.write_bytes(b"0.5,1.6\n")
    with pytest.raises(ReadError) as caught:
        Fetch(tmp_path).files(card_for(server))
    assert caught.value.details == {
        "path": str(target), "expected": DIGEST, "actual": hashlib.sha256(b"0.5,1.6\n").hexdigest(),
    }  # fmt: skip
    assert server.asked == []
    Fetch(tmp_path, download=True).files(card_for(server))
    assert target.read_bytes() == CONTENT


def test_damaged_local_file_is_not_silently_replaced_by_a_download(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIINFER_DATA", str(tmp_path))
    (tmp_path / "area").mkdir()
    (tmp_path / "area" / "table.csv").write_bytes(b"")
    with pytest.raises(ReadError, match=DIGEST):
        Fetch(tmp_path / "cache", download=True).files(card_for(server))
    assert server.asked == []


def test_offline_is_one_attempt_and_a_resource_error(tmp_path, monkeypatch):
    attempts = []
    original = socket.socket.connect

    def counting(self, address):
        attempts.append(address)
        return original(self, address)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(socket.socket, "connect", counting)
    file = RawFile(path="a.csv", sha256=DIGEST, size=8, url=f"http://127.0.0.1:{port}/a.csv")
    card = Card(name="a", title="t", summary="s", source="local", files=(file,))
    with pytest.raises(ResourceError) as caught:
        Fetch(tmp_path, download=True).files(card)
    assert caught.value.code == "resource/download" and DIGEST in str(caught.value)
    assert attempts == [("127.0.0.1", port)]


def test_server_error_is_one_attempt(server, tmp_path):
    server.status = 503
    with pytest.raises(ResourceError, match="503"):
        Fetch(tmp_path, download=True).files(card_for(server))
    assert len(server.asked) == 1


def test_unwritable_cache_is_a_resource_error(server, tmp_path):
    (tmp_path / "area").write_text("a file where a folder is needed")
    with pytest.raises(ResourceError, match="could not be downloaded"):
        Fetch(tmp_path, download=True).files(card_for(server))


def test_download_of_a_file_without_an_address_says_how_to_get_it(tmp_path):
    file = RawFile(path="sde/x.npz", sha256=DIGEST, size=8)
    card = Card(name="x", title="t", summary="s", source="local", retrieval="repack the text files", files=(file,))
    with pytest.raises(ResourceError, match="repack the text files"):
        Fetch(tmp_path, download=True).files(card)


@pytest.mark.parametrize(
    "name", ["physionet2012", "mocap35", "mujoco", "aqi36", "ett", "exchange_rate", "brusselator_bxl"]
)
def test_absent_local_set_names_variable_folder_and_file(name, tmp_path, monkeypatch):
    path = datasets.card(name).files[0].path
    with pytest.raises(ResourceError, match=r"SCIINFER_DATA is not set") as caught:
        datasets.open_dataset(name)
    assert path in str(caught.value)
    monkeypatch.setenv("SCIINFER_DATA", str(tmp_path))
    with pytest.raises(ResourceError) as caught:
        datasets.open_dataset(name, cache=tmp_path / "cache")
    assert str(tmp_path) in str(caught.value) and str(tmp_path / "cache" / path) in str(caught.value)


def test_open_dataset_reads_from_a_cache_folder(tmp_path, monkeypatch):
    array = np.arange(12.0, dtype=np.float32).reshape(1, 3, 4)
    target = tmp_path / "sde" / "mujoco.npy"
    target.parent.mkdir()
    np.save(target, array)
    file = RawFile(path="sde/mujoco.npy", sha256=fetch_module.sha256_of(target), size=target.stat().st_size)
    card = Card(name="mujoco", title="t", summary="s", source="local", units={"y": "1"}, files=(file,))
    monkeypatch.setattr("sciinfer.datasets.mujoco.read_card", lambda name: card)
    ds = datasets.open_dataset("mujoco", cache=tmp_path)
    assert ds["y"].dtype == np.float64 and ds["y"].values.tolist() == array.tolist()


def test_damaged_bundled_file_is_refused(tmp_path, monkeypatch):
    damaged = bytearray((datasets.cards.FOLDER / "bundled" / "oscillator_gappy.nc").read_bytes())
    damaged[-100] ^= 1
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / "oscillator_gappy.nc").write_bytes(damaged)
    monkeypatch.setattr("sciinfer.datasets.oscillator_gappy.FOLDER", tmp_path)
    with pytest.raises(ReadError, match=r"oscillator_gappy\.nc is not the file that the card names"):
        datasets.open_dataset("oscillator_gappy")


def test_unreadable_path_is_a_read_error(tmp_path):
    with pytest.raises(ReadError, match="cannot be read"):
        verified(tmp_path, DIGEST)


def test_cache_folder_order(tmp_path, monkeypatch):
    assert Fetch(tmp_path).folder == tmp_path
    assert Fetch().folder == tmp_path / "unused"
    monkeypatch.delenv("SCIINFER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Fetch().folder == tmp_path / "xdg" / "sciinfer"
