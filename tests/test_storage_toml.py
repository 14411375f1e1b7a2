"""Plain data to TOML and back, exactly."""

import math
import struct
import tomllib

import pytest

from sciinfer.errors import ConfigError
from sciinfer.labelled import toml
from sciinfer.random import numpy_generator

CASES = [
    {},
    {"a": None},
    {"a": {}},
    {"a": []},
    {"a": [None, [], {}, [None]]},
    {"a": {"b": {"c": {}}}},
    {"a": {"b": 1}, "c": 2, "d": {"e": None}},
    {"rows": [{"x": 1, "y": [{"z": None}]}, {"x": [1.0, 2, "3"]}]},
    {"$none": True},
    {"a": {"$none": True}, "$$b": 1, "$": None},
    {"": 1, "a b": {"c.d": {'"q"': 1}}, "ключ": "значение 🚀", "tab\t": "line\nend\\\r\x00\x7f\x1b"},
    {"i": [0, -1, 2**80, True, False], "f": [0.1, -0.0, 1e300, 5e-324, 1e16, math.inf, -math.inf, 1.0]},
]


@pytest.mark.parametrize("data", CASES, ids=range(len(CASES)))
def test_round_trip_is_exact_and_in_order(data):
    text = toml.dumps(data)
    back = toml.loads(text)
    assert back == data
    assert repr(back) == repr(data)  # order of keys, types and signs of zero
    tomllib.loads(text)


def test_floats_are_exact_to_the_bit():
    words = numpy_generator(0, "toml").integers(0, 2**64, size=2000, dtype="uint64")
    values = [struct.unpack("<d", int(word).to_bytes(8, "little"))[0] for word in words]
    back = toml.loads(toml.dumps({"v": values}))["v"]
    same = [a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(values, back, strict=True)]
    assert all(same)


def test_nan_survives():
    value = toml.loads(toml.dumps({"a": math.nan}))["a"]
    assert math.isnan(value)


def test_tuples_become_lists_and_numpy_floats_numbers():
    import numpy as np

    assert toml.loads(toml.dumps({"a": (1, (2.5,)), "b": np.float64(0.1)})) == {"a": [1, [2.5]], "b": 0.1}


def test_random_nests_round_trip():
    rng = numpy_generator(1, "nest")

    def make(depth):
        kind = int(rng.integers(0, 8 if depth < 4 else 5))
        if kind < 5:
            return [None, True, int(rng.integers(-9, 9)), float(rng.normal()), "s$\"'\n"][kind]
        if kind == 5:
            return [make(depth + 1) for _ in range(int(rng.integers(0, 4)))]
        return {f"k{i} $"[int(rng.integers(0, 2)) :]: make(depth + 1) for i in range(int(rng.integers(0, 4)))}

    for _ in range(200):
        data = {"root": make(0), "z": make(1)}
        assert toml.loads(toml.dumps(data)) == data


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"a": {"b": [1, object()]}}, "config.a.b[1]"),
        ({"a": {1: 2}}, "config.a has the key 1"),
        ({"a": 1j}, "config.a"),
        ({"a": b"x"}, "config.a"),
        ({"a": "\ud800"}, "config.a"),
    ],
)
def test_what_is_not_plain_is_named(data, place):
    with pytest.raises(ConfigError) as caught:
        toml.dumps(data)
    assert place in str(caught.value)


def test_data_that_hold_themselves_are_refused():
    data = {}
    data["self"] = data
    with pytest.raises(ConfigError, match="nested too deeply"):
        toml.dumps(data)


def test_text_that_is_not_toml():
    with pytest.raises(ConfigError, match="not TOML"):
        toml.loads("a = = 1")
