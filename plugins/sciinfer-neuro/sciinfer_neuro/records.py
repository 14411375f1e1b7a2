"""What this plugin's readers, simulators and plots are called. Imports nothing heavy."""

from __future__ import annotations

from sciinfer.extend import Entry, ReaderEntry

READERS = [
    ReaderEntry(
        name="neuro/spikes",
        target="sciinfer_neuro.spikes:read_spikes",
        summary="Spike tables to binned counts of each unit in each trial.",
        dims=("trial", "time", "unit"),
        units={"time": "s", "counts": "1"},
        license="Apache-2.0",
        suffixes=(".spikes.csv", ".spikes.csv.gz"),
        options={
            "bin_width": "seconds",
            "start": "of a trial, seconds",
            "stop": "of a trial, seconds; None = after the last spike",
            "units": "s or ms, for a column called time",
        },
    ),
    ReaderEntry(
        name="neuro/npz",
        target="sciinfer_neuro.npz:read_npz",
        summary="NumPy arrays of spike times, neurons and trials to ragged spikes.",
        dims=("spike", "trial"),
        units={"time": "s", "start": "s", "stop": "s"},
        license="Apache-2.0",
        suffixes=(".spikes.npz",),
        options={"units": "s or ms, of all times", "events": "names of arrays with one time per trial"},
    ),
    ReaderEntry(
        name="neuro/nwb",
        target="sciinfer_neuro.nwb:read_nwb",
        summary="Neurodata Without Borders: units and trials to ragged spikes, with behaviour.",
        dims=("spike", "trial"),
        units={"time": "s", "start": "s", "stop": "s"},
        references=("Rubel et al. (2022), The Neurodata Without Borders ecosystem",),
        license="Apache-2.0",
        suffixes=(".nwb",),
        options={
            "trials": "cut the session into its trials; None = if there are any",
            "behaviour": "names of time series to read",
        },
    ),
    ReaderEntry(
        name="neuro/neo",
        target="sciinfer_neuro.neo_io:read_neo",
        summary="Spike trains of the formats that neo reads, to ragged spikes.",
        dims=("spike", "trial"),
        units={"time": "s", "start": "s", "stop": "s"},
        references=("Garcia et al. (2014), Neo: an object model for handling electrophysiology data",),
        requires=("neo",),
        license="Apache-2.0",
        suffixes=(".neo.mat", ".nev", ".plx", ".nex", ".smr"),
        options={"io": "name of a class of neo.io, for other suffixes"},
    ),
    ReaderEntry(
        name="neuro/pynapple",
        target="sciinfer_neuro.pynapple_io:read_pynapple",
        summary="Files that pynapple saved (TsGroup, Ts, IntervalSet), read without pynapple.",
        dims=("spike", "trial"),
        units={"time": "s", "start": "s", "stop": "s"},
        references=("Viejo et al. (2023), Pynapple, a toolbox for data analysis in neuroscience",),
        license="Apache-2.0",
        suffixes=(".nap.npz",),
    ),
]

SIMULATORS: list[Entry] = []
PLOTS: list[Entry] = []
