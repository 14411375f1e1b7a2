"""Ragged batches and the schema's plain data."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciinfer.errors import ConfigError, ShapeError, TimeError
from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
from sciinfer.labelled.series import SeriesBatch, offsets_of

NAN = float("nan")


def _batch(lengths: list[int], channels: int = 2) -> SeriesBatch:
    generator = torch.Generator().manual_seed(3)
    times = [torch.arange(n, dtype=torch.float64) for n in lengths]
    values = [torch.randn(n, channels, generator=generator, dtype=torch.float64) for n in lengths]
    for v in values:
        v[torch.rand(v.shape, generator=generator) < 0.3] = NAN
    return SeriesBatch.of(times, values)


def test_of_masks_what_is_nan():
    batch = SeriesBatch.of([torch.tensor([0.0, 1.0])], [torch.tensor([[1.0, NAN], [NAN, 2.0]])])
    assert batch.mask.tolist() == [[True, False], [False, True]]
    assert batch.values.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert (batch.n_series, batch.n_channels, batch.observed) == (1, 2, 2)


@pytest.mark.parametrize(
    ("times", "values"),
    [
        ([], []),
        ([torch.zeros(2)], []),
        ([torch.zeros(2)], [torch.zeros(3, 1)]),
        ([torch.zeros(2)], [torch.zeros(2)]),
    ],
)
def test_of_refuses_shapes_that_do_not_fit(times, values):
    with pytest.raises(ShapeError):
        SeriesBatch.of(times, values)


def test_select_gives_the_series_alone():
    batch = _batch([3, 0, 5])
    chosen = batch.select([2, 0])
    assert chosen.lengths.tolist() == [5, 3]
    assert torch.equal(chosen.values[:5], batch.values[3:])
    assert torch.equal(chosen.time[5:], batch.time[:3])


@pytest.mark.parametrize("lengths", [[1], [4, 2], [0, 3], [3, 0]])
def test_padding_repeats_the_last_time_and_is_masked(lengths):
    batch = _batch(lengths)
    padded = batch.padded()
    for series, n in enumerate(lengths):
        assert padded.rows[series].sum() == n
        assert not padded.mask[series, n:].any()
        assert (padded.values[series, n:] == 0).all()
        expected = batch.time[batch.offsets[series + 1] - 1] if n else torch.zeros((), dtype=torch.float64)
        assert (padded.time[series, max(n - 1, 0) :] == expected).all()


def test_padding_of_a_batch_without_rows_is_all_padding():
    padded = _batch([2, 1]).keep(torch.zeros(3, dtype=torch.bool)).padded()
    assert padded.time.shape == (2, 1)
    assert not padded.rows.any()
    assert padded.mask.shape == (2, 1, 2)
    assert padded.mask.dtype == torch.bool


def test_drop_empty_keeps_every_observation_and_every_series():
    batch = SeriesBatch.of(
        [torch.arange(2.0), torch.arange(1.0)], [torch.tensor([[1.0], [NAN]]), torch.tensor([[NAN]])]
    )
    dropped = batch.drop_empty()
    assert dropped.lengths.tolist() == [1, 0]
    assert dropped.observed == batch.observed


def test_split_time_cuts_the_end_of_each_series():
    early, late = _batch([10, 1, 4]).split_time(0.25)
    assert early.lengths.tolist() == [8, 1, 3]
    assert late.lengths.tolist() == [2, 0, 1]
    assert float(early.time.max()) < 8


def test_to_changes_type_of_numbers_only():
    moved = _batch([2]).to(dtype=torch.float32)
    assert moved.values.dtype == moved.time.dtype == torch.float32
    assert moved.mask.dtype == torch.bool
    assert moved.offsets.dtype == torch.int64


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_padded_holds_exactly_the_rows(lengths):
    batch = _batch(lengths)
    padded = batch.padded()
    assert torch.equal(padded.values[padded.rows], batch.values)
    assert torch.equal(padded.mask[padded.rows], batch.mask)
    assert torch.equal(padded.time[padded.rows], batch.time)
    assert torch.equal(offsets_of(padded.rows.sum(1)), batch.offsets)


def test_schema_survives_plain_data():
    schema = Schema(
        TimeAxis("time", "datetime", 1.5e18, 8.64e13),
        "id",
        (Variable("temp", ("lat",), (2,), ((1.5, 2.5),), "K"),),
        (Channel("temp", (0,), "temp[lat=1.5]", "K", 1.0, 2.0), Channel("temp", (1,))),
        "ragged",
    )
    assert Schema.from_dict(schema.to_dict()) == schema
    assert schema.rescaled([0.0, 1.0], [1.0, 3.0]).scale.tolist() == [1.0, 3.0]
    assert schema.n_channels == 2


def test_datetimes_are_counted_in_nanoseconds():
    axis = TimeAxis("time", "datetime", float(pd.Timestamp("2020-01-01").as_unit("ns").value), 1e9)
    stamps = np.datetime64("2020-01-01", "ns") + np.array([0, 1, 10**9 + 7], dtype="timedelta64[ns]")
    model = axis.to_model(stamps)
    assert model.tolist() == [0.0, 1e-9, 1.000000007]
    assert (axis.from_model(model) == stamps).all()


def test_datetimes_more_than_292_years_apart_do_not_wrap():
    early = np.datetime64("1700-01-01", "ns")
    axis = TimeAxis("time", "datetime", float(early.astype(np.int64)), 86400e9)
    assert axis.to_model(np.array(["2250-01-01"], "datetime64[ns]"))[0] == 200883.0


def test_missing_dates_become_nan():
    axis = TimeAxis("time", "datetime", 0.0, 1e9)
    assert np.isnan(axis.to_model(np.array(["NaT"], "datetime64[ns]"))).all()


@pytest.mark.parametrize(
    "asked",
    [
        "2020-01-02",
        ["2020-01-02"],
        pd.Timestamp("2020-01-02"),
        np.datetime64("2020-01-02"),
        [pd.Timestamp("2020-01-02")],
        pd.DatetimeIndex(["2020-01-02"]),
        pd.Series(pd.to_datetime(["2020-01-02"])),
    ],
)
def test_a_date_may_be_asked_in_any_make(asked):
    axis = TimeAxis("time", "datetime", 0.0, 1e9)
    assert axis.parse(asked).tolist() == np.array(["2020-01-02"], "datetime64[ns]").tolist()


@pytest.mark.parametrize(
    "asked",
    [
        [5.0],
        "yesterday",
        ["2020-01-01", "nan-1"],
        [[np.datetime64("2020-01-01")]],
        [np.datetime64("NaT")],
        "3000-01-01",
    ],
)
def test_dates_that_cannot_be_read_are_refused(asked):
    with pytest.raises(TimeError) as err:
        TimeAxis("when", "datetime", 0.0, 1e9).parse(asked)
    assert err.value.variable == "when"


@pytest.mark.parametrize("asked", [["2020-01-01"], [np.datetime64("2020-01-01")], [1 + 1j], [True], [NAN], [np.inf]])
def test_numbers_that_cannot_be_read_are_refused(asked):
    with pytest.raises(TimeError):
        TimeAxis("t", "number", 0.0, 1.0).parse(asked)


def test_durations():
    assert TimeAxis("time", "datetime", 0.0, 86400e9).duration("12h") == 0.5
    assert TimeAxis("t", "number", 0.0, 2.0).duration(3) == 1.5
    with pytest.raises(ConfigError):
        TimeAxis("time", "datetime", 0.0, 1.0).duration("a while")
