"""Saved models: exact, sealed, no pickle; every damage is named."""

import json
import os
import pickle

import pytest
import torch

from sciinfer.errors import CheckpointError, ConfigError, ResourceError
from sciinfer.labelled import atomic, manifest
from sciinfer.labelled.storage import load_folder, save_folder
from sciinfer.labelled.tensors import pack, unpack
from sciinfer.random import generator, numpy_generator

CONFIG = {"seed": 0, "model": {"name": "latent-sde", "dt": 0.1, "hidden": [8, 8], "note": None}}


def _save(path, **changes):
    given = {
        "config": CONFIG,
        "weights": {"w": torch.randn(3, 4, generator=generator(0, "w"), dtype=torch.float64), "b": torch.zeros(0, 2)},
        "arrays": {"data": {"time": torch.arange(5.0), "rows": torch.tensor([0, 5])}},
        "extra": {"card.html": b"<p>hi</p>"},
    }
    save_folder(path, **{**given, **changes})
    return given


def test_round_trip(tmp_path):
    given = _save(tmp_path / "m")
    saved = load_folder(tmp_path / "m")
    assert saved.config == CONFIG
    assert torch.equal(saved.weights["w"], given["weights"]["w"]) and saved.weights["b"].shape == (0, 2)
    assert torch.equal(saved.arrays["data"]["rows"], torch.tensor([0, 5]))
    assert saved.extra == {"card.html": b"<p>hi</p>"}
    files = {"config.toml", "weights.safetensors", "data.safetensors", "card.html", "manifest.json"}
    assert {p.name for p in (tmp_path / "m").iterdir()} == files


def test_same_content_same_bytes(tmp_path):
    _save(tmp_path / "a")
    _save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_every_dtype_and_shape(dtype, shape):
    tensor = (torch.randn(shape, generator=generator(0, "t"), dtype=torch.float64) * 3).to(dtype)
    back = unpack(pack({"a": tensor}))["a"]
    assert back.dtype == dtype and back.shape == shape and torch.equal(back, tensor)


def test_views_shared_storage_and_gradients(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(torch.ones(2))
    weights = {
        "t": base.T,
        "row": base[1],
        "step": base[:, ::2],
        "same": base,
        "p": parameter,
        "wide": base[:1].expand(5, 4),
    }
    weights["conj"] = torch.tensor([1 + 2j]).conj()
    before = base.clone()
    _save(tmp_path / "m", weights=weights)
    back = load_folder(tmp_path / "m").weights
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    assert torch.equal(base, before) and parameter.requires_grad
    back["same"][0, 0] = -1.0  # its own, writable memory
    assert back["t"][0, 0] == 0.0


@pytest.mark.parametrize(
    "bad", [torch.eye(2).to_sparse(), torch.ones(2, device="meta"), [1.0]], ids=["sparse", "meta", "list"]
)
def test_what_is_not_a_dense_tensor_is_refused(tmp_path, bad):
    with pytest.raises(CheckpointError) as caught:
        _save(tmp_path / "m", weights={"w": bad})
    assert caught.value.variable == "w"
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {"../evil": b""}},
        {"extra": {"a/b": b""}},
        {"extra": {"/etc/x": b""}},
        {"extra": {".hidden": b""}},
        {"extra": {"manifest.json": b""}},
        {"extra": {"config.toml": b""}},
        {"extra": {"x.safetensors": b""}},
        {"extra": {"x": "text"}},
        {"arrays": {"weights": {}}},
        {"arrays": {"../w": {}}},
    ],
)
def test_names_that_are_not_plain_or_taken(tmp_path, changes):
    with pytest.raises(CheckpointError):
        _save(tmp_path / "m", **changes)
    assert list(tmp_path.iterdir()) == []


def test_config_that_is_not_plain(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.model\.f"):
        _save(tmp_path / "m", config={"model": {"f": len}})
    assert list(tmp_path.iterdir()) == []


def test_saving_again_keeps_files_of_others_and_drops_own_old_ones(tmp_path):
    _save(tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("keep")
    (tmp_path / "run" / "checkpoints").mkdir()
    _save(tmp_path / "run", extra=None, arrays=None)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"config.toml", "weights.safetensors", "manifest.json", "report.html", "checkpoints"}
    assert load_folder(tmp_path / "run").extra == {}


def test_disk_full_leaves_the_old_model(tmp_path, monkeypatch):
    _save(tmp_path / "m")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(ResourceError, match="no space left"):
        _save(tmp_path / "m", config={"other": 1})
    monkeypatch.undo()
    assert load_folder(tmp_path / "m").config == CONFIG
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


# -- damage


@pytest.mark.parametrize(
    "name", ["config.toml", "weights.safetensors", "data.safetensors", "card.html", "manifest.json"]
)
@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "grow", "empty"])
def test_damage_names_the_file(tmp_path, name, harm):
    _save(tmp_path / "m")
    file = tmp_path / "m" / name
    data = bytearray(file.read_bytes())
    if harm == "delete":
        file.unlink()
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes({"truncate": data[:-1], "grow": data + b"x", "empty": b""}[harm])
    with pytest.raises(CheckpointError) as caught:
        load_folder(tmp_path / "m")
    assert name in str(caught.value) and caught.value.fix


def test_no_mutated_byte_is_accepted(tmp_path):
    _save(tmp_path / "m")
    rng = numpy_generator(0, "mutate")
    files = sorted((tmp_path / "m").iterdir())
    for _ in range(200):
        file = files[int(rng.integers(len(files)))]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[int(rng.integers(len(bad)))] ^= int(rng.integers(1, 256))
        file.write_bytes(bad)
        with pytest.raises(CheckpointError):
            load_folder(tmp_path / "m")
        file.write_bytes(good)
    load_folder(tmp_path / "m")


def test_another_file_in_the_folder_is_ignored(tmp_path):
    _save(tmp_path / "m")
    (tmp_path / "m" / "notes.pkl").write_bytes(b"\x80\x04.")
    assert load_folder(tmp_path / "m").config == CONFIG


def _reseal(folder, change):
    content = json.loads((folder / "manifest.json").read_text())
    content.pop("sha256")
    change(content)
    (folder / "manifest.json").write_bytes(manifest._sealed(content))


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "link"])
def test_manifest_that_leads_out_is_refused(tmp_path, name):
    _save(tmp_path / "m")
    (tmp_path / "outside").write_bytes(b"x")
    os.symlink(tmp_path / "outside", tmp_path / "m" / "link")
    facts = manifest.manifest_bytes("x", {"f": b"x"})
    _reseal(tmp_path / "m", lambda c: c["files"].update({name: json.loads(facts)["files"]["f"]}))
    with pytest.raises(CheckpointError, match="leads out of the folder") as caught:
        load_folder(tmp_path / "m")
    assert caught.value.code == "checkpoint/refused"


def test_newer_format_says_what_it_needs(tmp_path):
    _save(tmp_path / "m")
    _reseal(tmp_path / "m", lambda c: c.update(format=2, needs="sciinfer >= 9.1"))
    with pytest.raises(CheckpointError, match=r"needs sciinfer >= 9\.1") as caught:
        load_folder(tmp_path / "m")
    assert caught.value.code == "checkpoint/newer"


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(files=[]),
        lambda c: c.pop("files"),
        lambda c: c["files"].update({"config.toml": {}}),
        lambda c: c["files"].pop("config.toml"),
        lambda c: c.update(kind="something"),
    ],
)
def test_manifest_of_an_odd_shape(tmp_path, change):
    _save(tmp_path / "m")
    _reseal(tmp_path / "m", change)
    with pytest.raises(CheckpointError):
        load_folder(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt", "model.pkl", "model.bin"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickles_are_refused_with_a_way_out(tmp_path, name, how):
    path = tmp_path / name
    if how == "torch":
        torch.save({"w": torch.ones(2)}, path)
    else:
        path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(CheckpointError) as caught:
        load_folder(path)
    assert caught.value.code == "checkpoint/refused" and caught.value.fix
    if name.endswith((".pt", ".pth", ".ckpt")):
        assert "weights_only=True" in str(caught.value) and "safetensors" in str(caught.value)


def test_missing_and_foreign_folders(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_folder(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        load_folder(tmp_path)
    (tmp_path / "f").write_text("x")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_folder(tmp_path / "f")


def test_a_swap_that_was_cut_is_undone_on_load(tmp_path):
    _save(tmp_path / "m")
    os.replace(tmp_path / "m", tmp_path / ".m.prev-999999999-0")
    assert load_folder(tmp_path / "m").config == CONFIG
