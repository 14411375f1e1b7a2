"""Texts of the command line to values."""

from __future__ import annotations

import numpy as np
import pytest

from sciinfer.commands import parse
from sciinfer.errors import ConfigError, TimeError
from sciinfer.labelled.schema import TimeAxis

NUMBERS = TimeAxis("t", "number", 0.0, 1.0)
DATES = TimeAxis("time", "datetime", 0, 1e9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("-3", -3),
        ("+7", 7),
        ("1e-2", 0.01),
        ("-.5", -0.5),
        ("true", True),
        ("False", False),
        ("none", None),
        ("linear", "linear"),
        ("'3'", "3"),
        ('"none"', "none"),
        ("", ""),
        (" a b ", "a b"),
        ("__import__('os')", "__import__('os')"),
        ("[1, 2]", "[1, 2]"),
        ("1_000", 1000.0),
    ],
)
def test_value(text, expected):
    found = parse.value(text)
    assert found == expected and type(found) is type(expected)


def test_pairs_keep_later_equal_signs_and_take_dashes_in_keys():
    found = parse.pairs(["batch-size=8", "kernel=seasonal(period=365.25D) + constant"], "--set")
    assert found == {"batch_size": 8, "kernel": "seasonal(period=365.25D) + constant"}


@pytest.mark.parametrize("items", [["noise"], ["=3"], ["a=1", "a=2"]])
def test_pairs_refuse(items):
    with pytest.raises(ConfigError) as caught:
        parse.pairs(items, "--set")
    assert caught.value.code == "config/option" and "--set" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-1:1:3", [-1.0, 0.0, 1.0]),
        ("-5:-10:2", [-5.0, -10.0]),
        ("3:9:1", [3.0]),
        ("-1.5,2,1e3", [-1.5, 2.0, 1000.0]),
        ("-7", [-7.0]),
    ],
)
def test_times_as_numbers(text, expected):
    np.testing.assert_array_equal(parse.times(text, NUMBERS), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2001-01-01:2001-01-03:3", ["2001-01-01", "2001-01-02", "2001-01-03"]),
        ("2001:2003:2", ["2001-01-01", "2003-01-01"]),
        ("2001-01-01T06:00:2001-01-01T18:00:3", ["2001-01-01T06", "2001-01-01T12", "2001-01-01T18"]),
        ("2001-01-01T06:00:00:2001-01-01T06:00:10:2", ["2001-01-01T06:00:00", "2001-01-01T06:00:10"]),
        ("2001-01-02,1999-12-31T23:59", ["2001-01-02", "1999-12-31T23:59"]),
        ("2001-01-01T12:00+02:00", ["2001-01-01T10:00"]),
    ],
)
@pytest.mark.filterwarnings("ignore:times:sciinfer.errors.SciInferWarning")
def test_times_as_dates(text, expected):
    np.testing.assert_array_equal(parse.times(text, DATES), np.array(expected, dtype="datetime64[ns]"))


def test_a_span_of_centuries_is_exact_to_the_nanosecond():
    found = parse.span("1700-01-01", "2200-01-01", 3, DATES)
    assert found[-1] == np.datetime64("2200-01-01", "ns")
    assert found[1] == np.datetime64("1950-01-01T12", "ns")


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("2001-01-01", NUMBERS),
        ("1:2", NUMBERS),
        ("1:2:3.5", NUMBERS),
        ("a,b", NUMBERS),
        ("", NUMBERS),
        ("nan", NUMBERS),
        ("1:2:3", DATES),
        ("5", DATES),
        ("2001-02-30", DATES),
        ("tomorrow", DATES),
    ],
)
def test_times_of_another_kind_are_refused_with_the_coordinate(text, axis):
    with pytest.raises(TimeError) as caught:
        parse.times(text, axis)
    assert caught.value.variable == axis.name or caught.value.code == "time/expression"
    assert caught.value.fix


@pytest.mark.parametrize("text", ["0:1:0", "0:1:2000000"])
def test_counts_out_of_range(text):
    with pytest.raises(ConfigError):
        parse.times(text, NUMBERS)


def test_durations():
    assert parse.duration("12", NUMBERS) == 12
    assert parse.duration("365.25D", DATES) == "365.25D"
    with pytest.raises(ConfigError) as caught:
        parse.duration("7D", NUMBERS)
    assert caught.value.variable == "t"


def test_names():
    assert parse.names(None) is None
    assert parse.names("a, b,") == ["a", "b"]
