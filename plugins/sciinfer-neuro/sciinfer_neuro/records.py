"""What this plugin's readers, simulators and plots are called. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

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

SIMULATORS = [
    Entry(
        name="neuro/lorenz_spikes",
        target="sciinfer_neuro.simulate:lorenz_spikes",
        summary="Spike counts of neurons that a Lorenz system drives, with latents, rates and loadings.",
        dims=("trial", "time", "unit", "latent_dim"),
        units={"counts": "1", "time": "s", "latent": "1", "rate": "Hz"},
        references=("Lorenz (1963), Deterministic nonperiodic flow",),
        license="Apache-2.0",
        options={
            "n_trials": "number of trials",
            "n_bins": "bins of a trial",
            "n_units": "number of neurons",
            "bin_width": "seconds",
            "mean_rate": "Hz, at the mean latent",
            "gain": "length of each loading vector",
            "speed": "Lorenz time units per second",
            "shortest": "length of the shortest trial, as a share",
        },
    ),
    Entry(
        name="neuro/van_der_pol_spikes",
        target="sciinfer_neuro.simulate:van_der_pol_spikes",
        summary="Spike counts of neurons that a noisy van der Pol oscillator drives, with the truth.",
        dims=("trial", "time", "unit", "latent_dim"),
        units={"counts": "1", "time": "s", "latent": "1", "rate": "Hz"},
        references=("Dowling, Zhao, Park (2023), Linear time GPs for inferring latent trajectories from spike trains",),
        license="Apache-2.0",
        options={
            "n_trials": "number of trials",
            "n_bins": "bins of a trial",
            "n_units": "number of neurons",
            "dt": "seconds, of a step and of a bin",
            "mu": "strength of the nonlinear damping",
            "noise": "strength of the noise on both states",
            "mean_count": "spikes per bin at the mean state",
        },
    ),
    Entry(
        name="neuro/place_cells",
        target="sciinfer_neuro.simulate:place_cells",
        summary="Place cells of an animal that runs up and down a track, with positions and true rates.",
        dims=("trial", "time", "unit"),
        units={"counts": "1", "time": "s", "position": "cm", "rate": "Hz", "centre": "cm"},
        references=("O'Keefe, Dostrovsky (1971), The hippocampus as a spatial map",),
        license="Apache-2.0",
        options={
            "n_trials": "number of runs",
            "n_units": "number of cells",
            "bin_width": "seconds",
            "duration": "of a run, seconds",
            "length": "of the track, cm",
            "field_width": "sd of a place field, cm",
            "peak_rate": "Hz",
            "base_rate": "Hz",
            "direction_gain": "sd of the log gain of the direction",
        },
    ),
]

_FIGURE: dict[str, Any] = {"requires": ("matplotlib",), "extra": "plots", "license": "Apache-2.0"}

PLOTS = [
    Entry(
        name="neuro/raster",
        target="sciinfer_neuro.plots:raster",
        summary="Spike raster: the units of a trial, or the trials of a unit, with events and windows.",
        options={
            "unit": "position of the unit whose trials are drawn",
            "trial": "position of the trial whose units are drawn",
            "events": "name of a variable with one time per trial",
            "title": "heading",
        },
        **_FIGURE,
    ),
    Entry(
        name="neuro/psth",
        target="sciinfer_neuro.plots:psth",
        summary="Peri-stimulus time histogram: mean rates over trials with intervals.",
        options={"units": "positions of units", "level": "probability of the intervals", "title": "heading"},
        **_FIGURE,
    ),
    Entry(
        name="neuro/tuning",
        target="sciinfer_neuro.plots:tuning",
        summary="Tuning curves with intervals, and the time spent at each value of the covariate.",
        options={
            "along": "name of the covariate",
            "units": "positions of units",
            "bins": "number of bins, or their edges",
            "level": "probability of the intervals",
            "title": "heading",
        },
        **_FIGURE,
    ),
    Entry(
        name="neuro/latents",
        target="sciinfer_neuro.plots_latent:latents",
        summary="Latent trajectories of a trial over time with uncertainty bands, one lane each.",
        options={
            "series": "position of the trial",
            "components": "number of lanes",
            "truth": "true latents in the same gauge",
            "title": "heading",
        },
        **_FIGURE,
    ),
    Entry(
        name="neuro/phase-plane",
        target="sciinfer_neuro.plots_latent:phase_plane",
        summary="Two latents against each other: the median path and ellipses of the draws.",
        options={
            "series": "position of the trial",
            "first": "position of the component on the first axis",
            "second": "position of the component on the second axis",
            "truth": "true latents in the same gauge",
            "ellipses": "how many",
            "title": "heading",
        },
        **_FIGURE,
    ),
]
