"""Small inputs with which the conformance kit tries this plugin's readers and plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sciinfer.extend import Case

_TRIALS = "trial,unit,time\n1,7,0.013\n1,7,0.052\n1,9,0.021\n2,7,0.004\n2,9,0.078\n2,9,0.083\n"
_MILLI = "unit,time_ms\n0,13.0\n0,52.0\n1,21.0\n"


def reader_cases() -> list[Case]:
    """A small file for each reader, and broken ones."""
    broken = {
        "spike before the trial": _TRIALS.replace("0.013", "-0.013"),
        "missing time": _TRIALS.replace("0.013", ""),
        "no unit column": _TRIALS.replace("unit", "cell"),
        "seconds called milliseconds": _TRIALS.replace("time", "time_ms"),
        "infinite time": _TRIALS.replace("0.013", "inf"),
    }
    return [
        Case(kind="readers", name="neuro/spikes", inputs={"write": _text(_TRIALS), "refuses": broken}),
        Case(kind="readers", name="neuro/spikes", inputs={"write": _text(_MILLI)}),
        Case(kind="readers", name="neuro/npz", inputs={"write": _arrays}),
        Case(kind="readers", name="neuro/nwb", inputs={"write": _session}),
        Case(kind="readers", name="neuro/neo", inputs={"write": _trains}),
        Case(kind="readers", name="neuro/pynapple", inputs={"write": _group}),
    ]


def other_cases() -> list[Case]:
    """Small simulations and figures."""
    small = {"n_trials": 3, "n_units": 4}
    return [
        Case(
            kind="simulators", name="neuro/lorenz_spikes", make=lambda: ((), {**small, "n_bins": 30, "shortest": 0.5})
        ),
        Case(kind="simulators", name="neuro/van_der_pol_spikes", make=lambda: ((), {**small, "n_bins": 30})),
        Case(kind="simulators", name="neuro/place_cells", make=lambda: ((), {**small, "duration": 1.0})),
        Case(kind="plots", name="neuro/raster", make=lambda: ((_spikes(),), {"var": "unit_index", "events": "cue"})),
        Case(kind="plots", name="neuro/raster", make=lambda: ((_cells(),), {"var": "counts", "unit": 1})),
        Case(kind="plots", name="neuro/psth", make=lambda: ((_cells(),), {"var": "counts"})),
        Case(kind="plots", name="neuro/tuning", make=lambda: ((_cells(),), {"var": "counts", "bins": 8})),
        Case(kind="plots", name="neuro/latents", make=lambda: ((), {"var": "latent"})),
        Case(kind="plots", name="neuro/phase-plane", make=lambda: ((), {"var": "latent"})),
    ]


def _spikes() -> Any:
    from .ragged import ragged_spikes

    spikes = ragged_spikes([0.013, 0.052, 0.081, 0.02], [1, 1, 2, 2], [0, 0, 0, 1], start=0.0, stop=[0.1, 0.06])
    return spikes.assign(cue=("trial", [0.05, 0.03], {"units": "s"}))


def _cells() -> Any:
    from .simulate import place_cells

    return place_cells(n_trials=4, n_units=3, duration=1.0)


def _text(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "cells.spikes.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def _arrays(folder: Path) -> Path:
    import numpy as np

    path = folder / "cells.spikes.npz"
    np.savez(path, times=[0.013, 0.052, 0.021], units=[1, 1, 2], trials=[0, 0, 1], tmin=0.0, tmax=0.1)
    return path


def _group(folder: Path) -> Path:
    import numpy as np

    path = folder / "cells.nap.npz"
    parts: dict[str, Any] = {"type": np.array(["TsGroup"]), "t": [0.1, 0.5, 2.0], "index": [3, 7, 7], "keys": [3, 7]}
    np.savez(path, **parts, start=[0.0, 2.0], end=[1.0, 3.0])
    return path


def _trains(folder: Path) -> Path:
    from .neo_io import to_neo
    from .optional import optional
    from .ragged import ragged_spikes

    path = folder / "cells.neo.mat"
    block = to_neo(ragged_spikes([0.013, 0.052, 0.021], [1, 1, 2], stop=0.1))
    optional("neo.io", "neo").NeoMatlabIO(str(path)).write_block(block)
    return path


def _session(folder: Path) -> Path:
    import h5py
    import numpy as np

    path = folder / "session.nwb"
    with h5py.File(path, "w") as file:
        file["identifier"] = "one"
        units, trials = file.create_group("units"), file.create_group("intervals/trials")
        units.attrs["colnames"] = ["spike_times"]
        units["id"], units["spike_times"] = np.arange(2), np.array([0.1, 0.7, 0.4, 2.5])
        units["spike_times_index"] = np.array([2, 4])
        trials.attrs["colnames"] = ["start_time", "stop_time"]
        trials["id"], trials["start_time"], trials["stop_time"] = (
            np.arange(2),
            np.array([0.0, 2.0]),
            np.array([1.0, 3.0]),
        )
    return path
