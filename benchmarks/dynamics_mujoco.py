"""MuJoCo Hopper: 50 steps of history to the next 10, nothing or 70 % of the history dropped, raw scale.

4,000 windows of 60 steps, 40 from each of 100 trajectories, 70/15/15 %. The first split is in the order of the file,
as published; it cuts between trajectories, as do the other two, which shuffle whole trajectories: overlapping windows
never sit on both sides. Dropped: whole steps of the history, at random per window. Needs the file that
``SCIINFER_DATA`` names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from sciinfer import api
from sciinfer.errors import ResourceError
from sciinfer.random import numpy_generator

from .harness import Row
from .protocol import Contender, Split, compare, single_thread

HISTORY, WINDOW, STARTS = 50, 60, 40
#: share dropped -> figure of a ridge autoregression, to stay below
GOALS = {0.0: 1.04e-3, 0.7: 1.76e-3}
#: chosen on the validation part of the first split
CONTENDERS = (
    Contender(model="history-regression", options={"random": 256}),
    Contender(
        model="s5",
        options={"sides": "past", "dropout": 0.2, "width": 32},
        training={"steps": 700, "precision": "float32", "validation": 0.0},
    ),
)


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goals: below the autoregression's figures, and below every baseline on the same splits."""
    single_thread()
    try:
        y = api.open_dataset("mujoco")["y"].values
    except ResourceError as err:
        yield Row(name="dynamics_mujoco/absent", ours=float("nan"), peer=None, unit="", note=str(err))
        return
    short = [one.short(**({"width": 8} if one.model == "s5" else {"random": 0})) for one in CONTENDERS]
    for dropped, goal in GOALS.items():
        yield from compare(
            f"dynamics_mujoco/{100 * dropped:g}-dropped",
            list(splits(y[:10] if tiny else y, dropped, starts=2 if tiny else STARTS)),
            short if tiny else CONTENDERS,
            after=float(HISTORY - 1),
            unit=np.ones(y.shape[2]),
            unit_name="raw units",
            factor=1e3,
            goals={"mse": goal},
            goal_split=0,
            step=1.0,
        )


def splits(y: np.ndarray, dropped: float, *, count: int = 3, starts: int = STARTS) -> Iterable[Split]:
    """``y [trajectory, step, state]``: the published order, then shuffled trajectories."""
    for seed in range(count):
        order = np.arange(len(y)) if seed == 0 else numpy_generator(seed, "mujoco").permutation(len(y))
        ends = np.round(np.cumsum([0.7, 0.15, 0.15]) * len(y)).astype(int)
        parts = np.split(order, ends[:-1])
        yield Split(*(windows(y[part], dropped, seed=(seed, k), starts=starts) for k, part in enumerate(parts)))


def windows(y: np.ndarray, dropped: float, *, seed: Sequence[int], starts: int) -> xr.Dataset:
    """Windows as series; dropped steps of the history are NaN."""
    found = np.lib.stride_tricks.sliding_window_view(y, WINDOW, axis=1)[:, :starts].swapaxes(2, 3)
    table = found.reshape(-1, WINDOW, y.shape[2]).copy()
    rng = numpy_generator(0, "dropped", *map(str, seed))
    gone = rng.random((len(table), HISTORY)).argsort(axis=1) < int(dropped * HISTORY)
    table[:, :HISTORY][gone] = np.nan
    dims = ("series", "time", "state")
    return xr.Dataset({"y": (dims, table)}, coords={"series": np.arange(len(table)), "time": np.arange(WINDOW * 1.0)})
