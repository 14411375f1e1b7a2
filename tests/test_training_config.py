import io
import itertools
import json

import pytest
import torch

from sciinfer.errors import CheckpointError, ConfigError, ResourceError
from sciinfer.training import TrainingConfig, reporter, resolve_device
from sciinfer.training.device import check_precision, place
from sciinfer.training.history import History
from sciinfer.training.optim import learning_rate
from sciinfer.training.progress import Bar, Lines
from sciinfer.training.state import clone, flatten, unflatten


def test_config_round_trip_through_json():
    config = TrainingConfig(steps=7, clip=None, batch_size=3, validation=0.25, time_limit=1e-3)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_config_lists_every_wrong_field():
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(steps=-1, clip=0, optimiser="sgd", validation=1.0, batch_size=2.5)
    assert set(caught.value.details["fields"]) == {"steps", "clip", "optimiser", "validation", "batch_size"}
    assert caught.value.code == "config/training"
    assert all(name in str(caught.value) for name in ("steps", "clip", "optimiser", "validation", "batch_size"))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": True},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"warmup": -1},
        {"precision": "float16"},
        {"compile": 1},
        {"device": ""},
        {"optimiser": "lbfgs", "batch_size": 4},
        {"tolerance": None},
        {"checkpoint_seconds": 0},
        {"validation": -0.1},
    ],
)
def test_config_refuses(options):
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(**options)
    assert len(caught.value.details["fields"]) == 1


def test_config_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean patience"):
        TrainingConfig.from_dict({"patiense": 3})


def test_config_user_over_model_over_class():
    config = TrainingConfig.with_defaults({"steps": 50, "warmup": 5}, {"steps": 10})
    assert (config.steps, config.warmup, config.patience) == (10, 5, TrainingConfig().patience)


def test_learning_rate_warms_up_and_falls():
    config = TrainingConfig(steps=100, learning_rate=2.0, warmup=9)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) < 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert learning_rate(config, 100) == pytest.approx(0.02)
    flat = TrainingConfig(steps=100, learning_rate=2.0, schedule="constant")
    assert {learning_rate(flat, step) for step in range(100)} == {2.0}


def test_state_round_trip_is_exact():
    shared = torch.randn(3, dtype=torch.float64)
    tree = {
        0: {"exp_avg": shared, "step": torch.tensor(3.0)},
        "lists": [None, shared, (1, 2**80, -0.0), []],
        "floats": [float("inf"), 0.1, 1e-320],
        "flag": True,
        "empty": torch.zeros(0, 2, dtype=torch.int64),
        "bf16": torch.randn(2).bfloat16(),
        "strided": torch.arange(6).reshape(2, 3).T,
        "a": {"b": torch.ones(1)},
        "a/b": torch.zeros(1),
        "text": "x",
        "none": None,
    }
    tensors, structure = flatten(tree)
    back = unflatten(tensors, json.loads(json.dumps(structure)))
    assert list(back) == list(tree) and back["lists"][2] == (1, 2**80, -0.0)
    assert back["floats"] == tree["floats"] and back["flag"] is True and back["none"] is None
    assert str(back["lists"][2][2]) == "-0.0" and back["empty"].shape == (0, 2)
    assert torch.equal(back["bf16"], tree["bf16"]) and torch.equal(back["strided"], tree["strided"])
    assert back["a"]["b"] == 1 and back["a/b"] == 0
    nan = unflatten(*flatten(float("nan")))
    assert nan != nan


def test_state_of_a_trained_lbfgs_round_trips():
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimiser = torch.optim.LBFGS([weight], max_iter=1, line_search_fn="strong_wolfe", history_size=4)

    def closure():
        optimiser.zero_grad()
        value = (weight**4).sum() + weight.prod()
        value.backward()
        return value

    for _ in range(6):
        optimiser.step(closure)
    tensors, structure = flatten(optimiser.state_dict())
    copy = torch.nn.Parameter(weight.detach().clone())
    other = torch.optim.LBFGS([copy], max_iter=1, line_search_fn="strong_wolfe", history_size=4)
    other.load_state_dict(unflatten(tensors, structure))
    optimiser.step(closure)
    weight_after = weight.detach().clone()

    def closure_of_copy():
        other.zero_grad()
        value = (copy**4).sum() + copy.prod()
        value.backward()
        return value

    other.step(closure_of_copy)
    assert torch.equal(copy, weight_after)


def test_state_refuses_what_it_cannot_hold():
    with pytest.raises(CheckpointError, match="set"):
        flatten({"a": {1, 2}})
    tensors, structure = flatten({"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match="does not fit"):
        unflatten({}, structure)
    with pytest.raises(CheckpointError):
        unflatten(tensors, {"kind": "nonsense"})


def test_clone_shares_nothing():
    tree = {"a": [torch.ones(2)]}
    copy = clone(tree)
    tree["a"][0].zero_()
    assert copy["a"][0].sum() == 2


def test_history_keeps_terms_aligned_and_truncates():
    history = History()
    history.record(0, 1.0, {"a": 1.0}, 0.1)
    history.record(1, 2.0, {"b": 2.0}, 0.2)
    history.record(2, 3.0, {"a": 3.0, "b": 3.0}, 0.3)
    history.validation = [(2, 0.5), (3, 0.4)]
    assert all(len(values) == 3 for values in history.terms.values())
    history.truncate(2)
    assert history.steps == [0, 1] and history.loss == [1.0, 2.0] and history.validation == [(2, 0.5)]
    assert history.terms["b"][1] == 2.0 and len(history.terms["a"]) == 2


def test_device_names():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="no device"):
        resolve_device("gpu")
    with pytest.raises(ConfigError):
        resolve_device("meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_cuda_is_a_clear_error():
    with pytest.raises(ResourceError, match="no CUDA device") as caught:
        resolve_device("cuda:0")
    assert caught.value.code == "resource/device" and "auto" in str(caught.value.fix)


def test_cuda_index_beyond_the_last(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1").index == 1
    with pytest.raises(ResourceError, match="2 CUDA"):
        resolve_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == torch.device("cuda", 1)


def test_mps_has_no_float64():
    with pytest.raises(ConfigError, match="float64") as caught:
        resolve_device("mps", "float64")
    assert "float32" in str(caught.value.fix)
    if not torch.backends.mps.is_available():
        with pytest.raises(ResourceError, match="Metal"):
            resolve_device("mps", "float32")


def test_mixed_precision_needs_autocast(monkeypatch):
    check_precision("bf16-mixed", torch.device("cpu"))
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda kind: False)
    with pytest.raises(ConfigError, match="mixed precision"):
        check_precision("bf16-mixed", torch.device("cpu"))


def test_place_keeps_imaginary_parts_and_integers():
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.tensor([1 + 2j], dtype=torch.complex128))
    model.register_buffer("count", torch.tensor(3))
    place(model, torch.device("cpu"), torch.float32)
    assert model.weight.dtype == torch.complex64 and model.weight.imag.item() == 2
    assert model.count.dtype == torch.int64


def test_progress_lines_come_every_few_seconds_and_at_the_end():
    out, now = io.StringIO(), [0.0]
    show = Lines(out, every=5.0, clock=lambda: now[0])
    for step in range(1, 11):
        now[0] += 1.0
        show(step, 10, {"loss": 1 / step})
    lines = out.getvalue().splitlines()
    assert lines == ["step 5/10  loss 0.2", "step 10/10  loss 0.1"]


def test_progress_modes():
    out = io.StringIO()
    assert isinstance(reporter("auto", stream=out), Lines)
    with reporter("bar", stream=out) as bar:
        bar(3, 10, {"loss": 1.5})
    assert isinstance(bar, Bar) and "loss 1.5" in out.getvalue()
    with pytest.raises(ConfigError, match="unknown progress mode"):
        reporter("loud")  # type: ignore[arg-type]
