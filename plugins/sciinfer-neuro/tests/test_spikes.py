from pathlib import Path

import numpy as np
import pytest
from sciinfer_neuro.spikes import read_spikes

from sciinfer.errors import ConfigError, DataError, ReadError, SchemaError, TimeError, UnitsError
from sciinfer.labelled.io import Limits

TABLE = "trial,unit,time\n1,7,0.013\n1,7,0.052\n1,9,0.020\n2,7,0.004\n2,9,0.078\n2,9,0.079\n"


def read(tmp_path: Path, text: str, limits: Limits | None = None, **options):
    path = tmp_path / "x.spikes.csv"
    path.write_text(text)
    return read_spikes(path, limits=limits or Limits(), **options)


def test_counts(tmp_path: Path) -> None:
    ds = read(tmp_path, TABLE)
    assert ds.counts.dims == ("trial", "time", "unit") and ds.counts.shape == (2, 8, 2)
    assert ds.trial.values.tolist() == [1, 2] and ds.unit.values.tolist() == [7, 9]
    want = np.zeros((2, 8, 2))
    want[0, 1, 0] = want[0, 5, 0] = want[0, 2, 1] = want[1, 0, 0] = 1
    want[1, 7, 1] = 2
    np.testing.assert_array_equal(ds.counts.values, want)
    np.testing.assert_allclose(ds.time.values, np.arange(8) * 0.01 + 0.005)
    assert ds.time.attrs["units"] == "s"


def test_no_spike_is_lost_for_any_bin(tmp_path: Path) -> None:
    times = np.random.default_rng(0).uniform(0, 2, 500).round(4)
    text = "unit,time\n" + "".join(f"{i % 5},{t}\n" for i, t in enumerate(times))
    for width in (0.001, 0.01, 0.03, 0.1, 7.0):
        assert float(read(tmp_path, text, bin_width=width).counts.sum()) == 500


def test_milliseconds_equal_seconds(tmp_path: Path) -> None:
    seconds = read(tmp_path, "unit,time_s\n0,0.010\n0,0.055\n1,0.020\n")
    milli = read(tmp_path, "unit,time_ms\n0,10\n0,55\n1,20\n")
    plain = read(tmp_path, "unit,time\n0,10\n0,55\n1,20\n", units="ms")
    assert seconds.identical(milli) and seconds.identical(plain)


def test_mixed_up_units(tmp_path: Path) -> None:
    with pytest.raises(UnitsError, match="are the times in s"):
        read(tmp_path, "unit,time_ms\n0,0.01\n0,0.05\n0,0.09\n")
    with pytest.raises(UnitsError, match="are the times in ms"):
        read(tmp_path, "unit,time\n0,100\n0,200\n0,300\n")
    with pytest.raises(UnitsError, match="cannot be in"):
        read(tmp_path, TABLE, units="min")


def test_spikes_outside_the_trial(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, TABLE, stop=0.05)
    assert caught.value.index == 1 and caught.value.code == "data/outside-trial"
    with pytest.raises(DataError, match="outside"):
        read(tmp_path, TABLE, start=0.01)


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(SchemaError):
        read(tmp_path, "cell,time\n1,0.1\n")
    with pytest.raises(TimeError) as caught:
        read(tmp_path, "unit,time\n1,0.1\n1,\n")
    assert caught.value.index == 1
    with pytest.raises(DataError, match="no spikes"):
        read(tmp_path, "unit,time\n")
    with pytest.raises(DataError, match="not numbers"):
        read(tmp_path, "unit,time\n1,early\n")
    with pytest.raises(ConfigError):
        read(tmp_path, TABLE, bin_width=0.0)
    with pytest.raises(ReadError, match="limit"):
        read(tmp_path, TABLE, limits=Limits(max_bytes=1000), bin_width=1e-5)
