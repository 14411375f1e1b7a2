"""Gappy noisy waves of random phase, some of whose times are asked back; trivial predictions of them."""

from __future__ import annotations

import numpy as np
import xarray as xr


def waves(seed: int = 0, n_train: int = 60, n_test: int = 30):
    """Training set, test set with a gap and an end, noisy truth ``[S, K]`` at the asked times: inside, then beyond."""
    rng = np.random.default_rng(seed)
    time = np.arange(30) * 1.0
    asked = np.array([11.0, 12.0, 13.0, 14.0, 25.0, 26.0, 27.0, 28.0])

    def draw(n):
        phase, size = rng.uniform(0, 2 * np.pi, (n, 1)), rng.uniform(0.7, 1.3, (n, 1))
        return size * np.sin(2 * np.pi * time / 9 + phase) + 0.1 * rng.standard_normal((n, len(time)))

    train, test = draw(n_train), draw(n_test)
    train[rng.random(train.shape) < 0.3] = np.nan
    truth = test[:, asked.astype(int)]
    test = test.copy()
    test[:, 11:15], test[:, 25:] = np.nan, np.nan
    pack = lambda y: xr.Dataset({"y": (("series", "time"), y)}, coords={"time": time})  # noqa: E731
    return pack(train), pack(test), truth, asked


def baselines(test: xr.Dataset, asked: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean squared errors of the constant, the last value and the line through the neighbours."""
    time, y = test["time"].values, test["y"].values
    found = {"constant": [], "last": [], "line": []}
    for row in y:
        seen = ~np.isnan(row)
        t, v = time[seen], row[seen]
        last = v[np.clip(np.searchsorted(t, asked, side="right") - 1, 0, None)]
        line = np.interp(asked, t, v)
        beyond = asked > t[-1]
        slope = np.polyfit(t[-4:], v[-4:], 1)
        line[beyond] = np.polyval(slope, asked[beyond])
        found["constant"].append(np.full(len(asked), v.mean()))
        found["last"].append(last)
        found["line"].append(line)
    return {name: float(((np.array(rows) - truth) ** 2).mean()) for name, rows in found.items()}
