"""Readers: NWB, neo, pynapple and npz, against what was written."""

import datetime
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from sciinfer_neuro.events import align
from sciinfer_neuro.neo_io import from_neo, read_neo, to_neo
from sciinfer_neuro.npz import read_npz
from sciinfer_neuro.nwb import from_nwb, read_nwb, to_nwb
from sciinfer_neuro.pynapple_io import from_pynapple, read_pynapple, to_pynapple
from sciinfer_neuro.ragged import ragged_spikes, select_trials
from sciinfer_neuro.tables import to_table

from sciinfer.errors import ConfigError, DataError, ReadError, SchemaError, ShapeError, UnitsError
from sciinfer.labelled.io import Limits, read

LIMITS = Limits()


def trials() -> xr.Dataset:
    return ragged_spikes(
        [0.013, 0.052, 0.081, 0.02, 0.02],
        [3, 3, 7, 7, 3],
        [0, 0, 0, 1, 1],
        start=0.0,
        stop=[0.1, 0.2],
        unit_labels=[3, 7, 9],
    )


# --- npz ---------------------------------------------------------------------------------------------------------


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "cells.spikes.npz"
    np.savez(path, **arrays)
    return path


def test_npz_of_affinewarp(tmp_path: Path) -> None:
    path = save(
        tmp_path, neuron_ids=[4, 8, 4], spiketimes=[2.0, 9.0, 40.0], trial_ids=[0, 0, 2], tmin=[0], tmax=[2000.0],
        tap1=np.array([500.0, 500, 500]), other=np.arange(3.0),
    )  # fmt: skip
    ds = read_npz(path, limits=LIMITS, units="ms", events=("tap1",))
    assert ds.time.values.tolist() == [0.002, 0.009, 0.04] and ds.stop.values.tolist() == [2.0] * 3
    assert ds.row_size.values.tolist() == [2, 0, 1] and ds.attrs["not_read"] == "other"
    assert ds.tap1.values.tolist() == [0.5] * 3 and ds.tap1.attrs["units"] == "s"
    around = align(ds, ds.tap1, (-0.5, 0.0))
    np.testing.assert_allclose(around.time.values, [-0.498, -0.491, -0.46])


def test_npz_refusals(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="its arrays: times"):
        read_npz(save(tmp_path, times=[0.1]), limits=LIMITS)
    with pytest.raises(ReadError, match="pickle"):
        read_npz(save(tmp_path, times=np.array([{}], dtype=object), units=[1]), limits=LIMITS)
    with pytest.raises(DataError, match="no spikes"):
        read_npz(save(tmp_path, times=np.zeros(0), units=np.zeros(0)), limits=LIMITS)
    with pytest.raises(UnitsError, match="in ms"):
        read_npz(save(tmp_path, times=[100.0, 300, 500], units=[1, 1, 1]), limits=LIMITS)
    with pytest.raises(SchemaError, match="no array"):
        read_npz(save(tmp_path, times=[0.1], units=[1]), limits=LIMITS, events=("tap",))
    with pytest.raises(ShapeError, match="one time per trial"):
        path = save(tmp_path, times=[0.1, 0.2], units=[1, 1], trials=[5, 9], tap=np.zeros(3))
        read_npz(path, limits=LIMITS, events=("tap",))
    with pytest.raises(ReadError, match="limit"):
        read_npz(save(tmp_path, times=[0.1], units=[1]), limits=Limits(max_bytes=4))


needs_data = pytest.mark.skipif(
    not os.environ.get("SCIINFER_DATA"), reason="SCIINFER_DATA is not set: the recordings are not here"
)


@needs_data
def test_real_npz_files() -> None:
    folder = Path(os.environ["SCIINFER_DATA"]) / "gpvae"
    path = folder / "rat_motor" / "motor_ctx_data.npz"
    rat = read_npz(path, limits=LIMITS, units="ms", events=("tap1", "tap2"))
    assert rat.sizes == {"spike": 648_889, "trial": 1266, "unit": 30}
    assert 0.24 < float((rat.tap2 - rat.tap1).min()) < 0.25
    with pytest.raises(UnitsError, match="units='ms'"):
        read(path, reader="neuro/npz")
    sniff = read_npz(folder / "olfaction" / "pinene_data.npz", limits=LIMITS, units="ms", events=("sniff_onsets",))
    assert sniff.sizes == {"spike": 12_551, "trial": 45, "unit": 30}
    around = align(sniff, sniff.sniff_onsets, (0.0, 0.2))
    assert 0 < around.sizes["spike"] < 12_551 and float(around.time.max()) < 0.2


# --- pynapple ----------------------------------------------------------------------------------------------------


def nap_file(folder: Path, kind: str, **arrays: Any) -> Path:
    path = folder / "cells.nap.npz"
    np.savez(path, type=np.array([kind]), **arrays)
    return path


GROUP = {
    "t": np.array([0.1, 0.5, 2.0, 3.0]),
    "index": [3, 7, 7, 3],
    "keys": [3, 7, 9],
    "start": [0.0, 2.0],
    "end": [1.0, 3.0],
}


def test_pynapple_files_without_pynapple(tmp_path: Path) -> None:
    path = nap_file(tmp_path, "TsGroup", **GROUP, _metadata=np.array({"a": 1}, dtype=object))
    ds = read_pynapple(path, limits=LIMITS)
    assert ds.unit.values.tolist() == [3, 7, 9] and ds.row_size.values.tolist() == [2, 2]
    assert ds.time.values.tolist() == [0.1, 0.5, 2.0, 3.0]  # the spike at the very end of the epoch is kept
    assert ds.start.values.tolist() == [0.0, 2.0] and float(ds.stop[0]) == 1.0 and float(ds.stop[1]) > 3.0
    own = align(ds, ds.start, (0.0, np.inf))
    assert own.time.values.tolist() == [0.1, 0.5, 0.0, 1.0] and own.origin.values.tolist() == [0.0, 2.0]
    one = read_pynapple(nap_file(tmp_path, "Ts", t=[0.1, 0.2], start=[0.1], end=[0.2]), limits=LIMITS)
    assert one.sizes == {"spike": 2, "trial": 1, "unit": 1}
    table = read_pynapple(nap_file(tmp_path, "IntervalSet", start=[0.0, 2.0], end=[1.0, 3.0]), limits=LIMITS)
    assert table.to_dict("list") == {"start": [0.0, 2.0], "stop": [1.0, 3.0]}


def test_pynapple_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError):
        read_pynapple(nap_file(tmp_path, "TsGroup", t=[0.1]), limits=LIMITS)
    with pytest.raises(SchemaError):
        read_pynapple(nap_file(tmp_path, "Other", **GROUP), limits=LIMITS)
    with pytest.raises(DataError, match="outside the time support") as caught:
        read_pynapple(nap_file(tmp_path, "Ts", t=[0.1, 1.5], start=[0.0, 2.0], end=[1.0, 3.0]), limits=LIMITS)
    assert caught.value.index == 1
    with pytest.raises(ReadError):
        read_pynapple(nap_file(tmp_path, "Ts", t=np.array([{}], dtype=object), start=[0.0], end=[1.0]), limits=LIMITS)
    with zipfile.ZipFile(tmp_path / "x.nap.npz", "w") as archive:
        archive.writestr("t.npy", b"no array")
    with pytest.raises(SchemaError):
        read_pynapple(tmp_path / "x.nap.npz", limits=LIMITS)
    (tmp_path / "x.nap.npz").write_bytes(b"PK no archive")
    with pytest.raises(ReadError):
        read_pynapple(tmp_path / "x.nap.npz", limits=LIMITS)


def test_pynapple_itself(tmp_path: Path) -> None:
    nap = pytest.importorskip("pynapple", reason="pynapple is not installed")
    support = nap.IntervalSet([0.0, 2.0], [1.0, 3.0])
    group = nap.TsGroup(
        {3: nap.Ts(np.array([0.1, 3.0])), 7: nap.Ts(np.array([0.5, 2.0])), 9: nap.Ts(np.array([]))},
        time_support=support, metadata={"area": np.array(["a", "b", "c"])},
    )  # fmt: skip
    ds = from_pynapple(group)
    assert ds.area.values.tolist() == ["a", "b", "c"] and ds.area.dims == ("unit",)
    group.save(str(tmp_path / "x.nap.npz"))
    assert read_pynapple(tmp_path / "x.nap.npz", limits=LIMITS).identical(ds.drop_vars("area"))
    back = from_pynapple(to_pynapple(ds))
    np.testing.assert_allclose(back.time.values, ds.time.values, atol=1e-9)
    assert back.unit_index.identical(ds.unit_index) or back.unit_index.values.tolist() == ds.unit_index.values.tolist()
    assert from_pynapple(support).stop.tolist() == [1.0, 3.0]
    assert from_pynapple(nap.Ts(np.array([0.1, 0.2]))).sizes["spike"] == 2
    with pytest.raises(SchemaError):
        from_pynapple([0.1])


# --- neo ---------------------------------------------------------------------------------------------------------


def test_neo_round_trips(tmp_path: Path) -> None:
    neo = pytest.importorskip("neo", reason="neo is not installed")
    spikes = trials()
    assert from_neo(to_neo(spikes)).identical(spikes)
    neo.io.NeoMatlabIO(str(tmp_path / "a.neo.mat")).write_block(to_neo(spikes))
    back = read_neo(tmp_path / "a.neo.mat", limits=LIMITS)
    np.testing.assert_array_equal(back.time.values, spikes.time.values)
    np.testing.assert_array_equal(back.unit_index.values, spikes.unit_index.values)
    np.testing.assert_array_equal(back.stop.values, spikes.stop.values)


def test_neo_trains_in_milliseconds() -> None:
    neo = pytest.importorskip("neo", reason="neo is not installed")
    train = [
        neo.SpikeTrain([13.0, 52.0, 100.0], units="ms", t_stop=100.0),
        neo.SpikeTrain([20.0], units="ms", t_stop=100.0),
    ]
    ds = from_neo(train)
    assert ds.time.values.tolist() == [0.013, 0.02, 0.052, 0.1] and ds.unit.values.tolist() == [0, 1]
    assert float(ds.stop[0]) == np.nextafter(0.1, 1.0)
    segment = neo.Segment()
    segment.spiketrains.extend(train)
    assert from_neo(segment).identical(ds)
    with pytest.raises(DataError, match="no spike trains"):
        from_neo(neo.Segment())
    with pytest.raises(SchemaError):
        from_neo({"a": 1})


def test_neo_refuses_pickles(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"x")
    with pytest.raises(ReadError, match="pickles"):
        read_neo(path, limits=LIMITS, io="PickleIO")
    with pytest.raises(ConfigError, match="no reader of neo"):
        read_neo(path, limits=LIMITS)


# --- NWB ---------------------------------------------------------------------------------------------------------


UNITS = {"id": [10, 11, 12], "quality": ["a", "b", "a"]}
SPIKES = ([0.1, 1.2, 2.5], [0.4, 2.0, 2.9], [])
TRIALS = {"start_time": [0.0, 2.0], "stop_time": [1.0, 3.0], "go_time": [0.5, 2.25], "choice": ["left", "right"]}


def nwb_file(path: Path, *, with_trials: bool = True) -> Path:
    """The parts of an NWB file that are read, as pynwb lays them out."""
    with h5py.File(path, "w") as file:
        file["identifier"], file["session_description"] = "one", "a session"
        units = file.create_group("units")
        units.attrs["colnames"] = ["quality", "spike_times"]
        units["id"], units["quality"] = UNITS["id"], UNITS["quality"]
        units["spike_times"] = np.concatenate(SPIKES)
        units["spike_times_index"] = np.cumsum([len(times) for times in SPIKES])
        if with_trials:
            trials = file.create_group("intervals/trials")
            trials.attrs["colnames"] = list(TRIALS)
            trials["id"] = [0, 1]
            for name, values in TRIALS.items():
                trials[name] = values
        position = file.create_group("processing/behavior/Position/position")
        position["data"], position["timestamps"] = np.arange(12.0).reshape(6, 2), np.arange(6) * 0.5
        position["data"].attrs.update(unit="meters", conversion=0.01)
        speed = file.create_group("acquisition/speed")
        speed["data"], speed["starting_time"] = np.arange(5.0), 1.0
        speed["data"].attrs["unit"], speed["starting_time"].attrs["rate"] = "m/s", 2.0
    return path


def pynwb_file(pynwb: Any) -> Any:
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    nwb = pynwb.NWBFile(session_description="a session", identifier="one", session_start_time=start)
    nwb.add_unit_column("quality", "of the isolation")
    for label, quality, times in zip(UNITS["id"], UNITS["quality"], SPIKES, strict=True):
        nwb.add_unit(spike_times=np.array(times), quality=quality, id=label)
    nwb.add_trial_column("go_time", "go cue")
    nwb.add_trial_column("choice", "left or right")
    for row in zip(*TRIALS.values(), strict=True):
        nwb.add_trial(**dict(zip(TRIALS, row, strict=True)))
    position = pynwb.behavior.SpatialSeries(
        name="position", data=np.arange(12.0).reshape(6, 2), timestamps=np.arange(6) * 0.5, reference_frame="0",
        unit="meters", conversion=0.01,
    )  # fmt: skip
    module = nwb.create_processing_module(name="behavior", description="tracking")
    module.add(pynwb.behavior.Position(spatial_series=position))
    nwb.add_acquisition(pynwb.TimeSeries(name="speed", data=np.arange(5.0), rate=2.0, starting_time=1.0, unit="m/s"))
    return nwb


def test_files_of_pynwb_itself(tmp_path: Path) -> None:
    pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
    made = pynwb_file(pynwb)
    with pynwb.NWBHDF5IO(str(tmp_path / "a.nwb"), "w") as io:
        io.write(made)
    ours = read_nwb(nwb_file(tmp_path / "b.nwb"), limits=LIMITS, behaviour=("position", "speed"))
    assert read_nwb(tmp_path / "a.nwb", limits=LIMITS, behaviour=("position", "speed")).identical(ours)
    with pynwb.NWBHDF5IO(str(tmp_path / "a.nwb"), "r") as io:
        stored = from_nwb(io.read())
    assert stored.identical(from_nwb(made)) and stored.equals(ours.drop_dims(["position_time", "speed_time"]))


def test_to_nwb_and_back() -> None:
    pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    ours = from_nwb(pynwb_file(pynwb)).drop_vars(["quality", "choice"])
    empty = pynwb.NWBFile(session_description="a session", identifier="two", session_start_time=start)
    back = from_nwb(to_nwb(ours, empty))
    xr.testing.assert_allclose(back, ours)
    assert back.go_time.attrs["units"] == "s"


def test_nwb_trials(tmp_path: Path) -> None:
    ds = read_nwb(nwb_file(tmp_path / "a.nwb"), limits=LIMITS, behaviour=("position", "speed"))
    np.testing.assert_allclose(ds.time.values, [0.1, 0.4, 0.0, 0.5, 0.9])  # 1.2 s lies between the trials
    assert ds.row_size.values.tolist() == [2, 3] and ds.unit.values.tolist() == [10, 11, 12]
    assert ds.quality.values.tolist() == ["a", "b", "a"] and ds.choice.values.tolist() == ["left", "right"]
    np.testing.assert_allclose(ds.go_time.values, [0.5, 0.25])
    assert ds.go_time.attrs["units"] == "s" and ds.origin.values.tolist() == [0.0, 2.0]
    np.testing.assert_allclose(ds.position.values[1], [0.02, 0.03])  # conversion to metres
    assert ds.position.dims == ("position_time", "position_channel") and ds.position.attrs["units"] == "m"
    np.testing.assert_allclose(ds.speed_time.values, [1.0, 1.5, 2.0, 2.5, 3.0])
    np.testing.assert_allclose(align(ds, ds.go_time, (0.0, 0.3)).time.values, [0.25])


def test_nwb_session(tmp_path: Path) -> None:
    path = nwb_file(tmp_path / "a.nwb")
    session = read_nwb(path, limits=LIMITS, trials=False)
    assert session.sizes["trial"] == 1 and to_table(session).time.tolist() == [0.1, 0.4, 1.2, 2.0, 2.5, 2.9]
    bare = nwb_file(tmp_path / "b.nwb", with_trials=False)
    assert read_nwb(bare, limits=LIMITS).sizes["trial"] == 1
    assert select_trials(session, [0]).identical(session)
    with pytest.raises(SchemaError, match="no trials"):
        read_nwb(bare, limits=LIMITS, trials=True)
    with pytest.raises(SchemaError, match="position, speed"):
        read_nwb(path, limits=LIMITS, behaviour=("pupil",))
    with pytest.raises(ReadError, match="limit"):
        read_nwb(path, limits=Limits(max_bytes=10))
    (tmp_path / "c.nwb").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ReadError):
        read_nwb(tmp_path / "c.nwb", limits=LIMITS)
