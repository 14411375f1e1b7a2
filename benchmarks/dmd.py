"""Mode decompositions: bias under noise, the cylinder wake, and times beside PyDMD where that is installed.

The wake needs ``SCIINFER_DATA``. PyDMD is no dependency: ``pip install pydmd`` for the times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinfer.processes.dmd import DMD, operator_of
from sciinfer.processes.dmd_optimised import OptimisedDMD
from sciinfer.random import numpy_generator

from .harness import Row, installed, time_pair, versions

_INSTALL = "pip install pydmd for the peer"
_SPIRAL = np.array([[1.0, 1.0], [-1.0, 2.0]]) / 3**0.5


def spirals(runs: int) -> np.ndarray:
    """``[runs, 100, 2]``: a rotation with eigenvalues of size one, noise .1."""
    x = [np.array([0.5, 1.0])]
    for _ in range(99):
        x.append(_SPIRAL @ x[-1])
    return np.array(x) + 0.1 * numpy_generator(0, "spirals").standard_normal((runs, 100, 2))


def biases(runs: int) -> Iterable[Row]:
    """How far the mean size of the eigenvalues is from one: the default beside least squares."""
    y = torch.as_tensor(spirals(runs))

    def off(method: str) -> float:
        values = torch.linalg.eigvals(operator_of(y[:, :-1], y[:, 1:], 2, method)[1])
        return abs(float(values.abs().mean()) - 1)

    note = f"{runs} draws of the noise; wanted: below .002"
    for method in ("total", "forward-backward"):
        yield Row(
            name=f"dmd/bias-{method}", ours=off(method), peer=off("exact"), unit="1", goal=10.0, note=note,
            versions=versions(),
        )  # fmt: skip


def wake() -> np.ndarray | None:
    """Eight coefficients of the wake, a row each .1, or None where the file is absent."""
    path = Path(os.environ.get("SCIINFER_DATA", "/nonexistent")) / "koopman" / "dmd" / "vonKarman_a.dat"
    return np.loadtxt(path)[:, 1:9] if path.exists() else None


def wakes(x: np.ndarray) -> Iterable[Row]:
    """Relative errors of long forecasts, rank and all from 300 rows."""
    for first, ahead, most in ((2500, 200, 1e-3), (2000, 700, 2e-3)):
        model = DMD(delays=10, dt=0.1).fit(x[first : first + 300])
        truth = x[first + 300 : first + 300 + ahead]
        error = float(
            np.linalg.norm(model.predict(x[first : first + 300], ahead).numpy() - truth) / np.linalg.norm(truth)
        )
        note = f"automatic rank {model.rank}; peer: the wanted error"
        yield Row(name=f"dmd/wake-{ahead}", ours=error, peer=most, unit="1", goal=1.0, note=note, versions=versions())


def times(x: np.ndarray) -> Iterable[Row]:
    """Seconds of one fit."""
    y, clock = spirals(1)[0], np.arange(100.0)
    peers: dict[str, Callable[[], Any]] = {}
    if installed("pydmd"):
        pydmd: Any = __import__("pydmd")
        hankel = np.stack([x[i : i + 291].T for i in range(10)]).reshape(80, 291)
        peers["total-delays"] = lambda: pydmd.DMD(svd_rank=9, tlsq_rank=9).fit(hankel)
        peers["optimised"] = lambda: pydmd.BOPDMD(svd_rank=2, num_trials=0).fit(y.T, clock)
    ours: dict[str, Callable[[], Any]] = {
        "total-delays": lambda: DMD(rank=9, delays=10).fit(x[:300]),
        "optimised": lambda: OptimisedDMD(rank=2).fit(y, clock),
    }
    for name, call in ours.items():
        seconds, peer = time_pair(call, peers.get(name))
        note = "peer: PyDMD" if peer else _INSTALL
        yield Row(name=f"dmd/time-{name}", ours=seconds, peer=peer, unit="s", note=note, versions=versions())


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Bias, wake, times."""
    yield from biases(100 if tiny else 2000)
    x = wake()
    if x is None:
        note = "SCIINFER_DATA does not hold koopman/dmd"
        yield Row(name="dmd/absent", ours=float("nan"), peer=None, unit="", note=note, versions=versions())
        return
    yield from wakes(x)
    yield from times(x[2500:2800])
