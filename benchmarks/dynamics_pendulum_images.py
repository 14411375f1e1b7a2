"""A swinging pendulum filmed: 24 x 24 images at 50 irregular times of 100, hidden now and then behind drifting noise.

The published task is a regression of the angle on the images; here nothing is told about the angle. The images become
ten principal components (of the training images); the model forecasts these from the first half of the film, and a
ridge readout fitted to the training frames turns a forecast into (sin, cos) of the angle, whose mean squared error is
the row "angle". Each split is a data set of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from sciinfer.random import numpy_generator

from .harness import Row, versions
from .protocol import Contender, Seen, Split, measure, rows_of, single_thread

SIDE, STEPS, FRAMES, DT, COMPONENTS = 24, 100, 50, 0.05, 10
#: g l m over the moment of inertia m l^2 / 3
RATE = 9.81 * 3


class Film(NamedTuple):
    """``images [S, F, 576]``, ``angle [S, F]``, ``time [S, F]``."""

    images: np.ndarray
    angle: np.ndarray
    time: np.ndarray


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Components against every baseline, and the angle read out of the forecasts."""
    single_thread()
    training = {"steps": 2 if tiny else 800, "validation": 0.0}
    contenders = [
        Contender(model="s5", options={"sides": "past"}, training=training),
        Contender(model="history-regression", options={"random": 0 if tiny else 256}),
    ]
    films = [film(20 if tiny else 400, seed) for seed in range(3)]
    splits, readouts = zip(*(_split(one) for one in films), strict=True)
    angles: list[dict[str, float]] = []

    def inspect(seen: Seen) -> None:
        angles.append(_angle_errors(seen, films[len(angles)], *readouts[len(angles)]))

    found = measure(splits, contenders, after=STEPS * DT / 2, step=2 * DT, inspect=inspect)
    yield from rows_of("dynamics_pendulum_images", found)
    models = [contender.name for contender in contenders]
    for model in models:
        for peer in (name for name in angles[0] if name not in models):
            ours, theirs = ([split[name] for split in angles] for name in (model, peer))
            yield Row(
                name=f"dynamics_pendulum_images/{model}/angle-{peer}",
                ours=float(np.mean(ours)), peer=float(np.mean(theirs)), unit="squared", goal=1.0,
                note=f"sd {np.std(ours, ddof=1):.2g} and {np.std(theirs, ddof=1):.2g}", versions=versions(),
            )  # fmt: skip


def film(size: int, seed: int) -> Film:
    """Frictionless pendulums from rest at any angle, filmed at random times, behind noise that comes and goes."""
    rng = numpy_generator(seed, "pendulum-images")
    angle = _swing(rng.uniform(-np.pi, np.pi, size))
    pick = np.sort(rng.random((size, STEPS)).argsort(axis=1)[:, :FRAMES], axis=1)
    angle = np.take_along_axis(angle, pick, axis=1)
    images = _draw(angle)
    visible = _visibility(rng, size)[..., None]
    images = visible * images + (1 - visible) * rng.random(images.shape)
    return Film(images, angle, pick * DT)


def _swing(angle: np.ndarray, substeps: int = 10) -> np.ndarray:
    """``[S, STEPS]`` by leapfrog, which keeps the energy."""
    velocity, path, h = np.zeros_like(angle), [], DT / substeps
    for _ in range(STEPS):
        path.append(angle)
        for _ in range(substeps):
            velocity = velocity - h / 2 * RATE * np.sin(angle)
            angle = angle + h * velocity
            velocity = velocity - h / 2 * RATE * np.sin(angle)
    return np.stack(path, axis=1)


def _draw(angle: np.ndarray) -> np.ndarray:
    """``[..., 576]``: a rod of length 0.8 and width 0.15 in the square from -1 to 1."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    tip = 0.8 * np.stack([np.sin(angle), -np.cos(angle)], axis=-1)[..., None, :]
    points = np.stack([x.ravel(), y.ravel()], axis=-1)
    along = np.clip((points * tip).sum(-1) / 0.64, 0, 1)[..., None]
    distance = np.sqrt(((points - along * tip) ** 2).sum(-1))
    return np.clip((0.15 - distance) / 0.08, 0, 1)


def _visibility(rng: np.random.Generator, size: int, step: float = 0.2) -> np.ndarray:
    """``[S, F]`` in [0, 1]: a reflected walk between two thresholds of each series."""
    level, path = rng.random(size), []
    for _ in range(FRAMES):
        path.append(level)
        level = np.clip(level + rng.uniform(-step, step, size), 0, 1)
    low, high = rng.uniform(0, 0.25, (size, 1)), rng.uniform(0.75, 1, (size, 1))
    return np.clip((np.stack(path, axis=1) - low) / (high - low), 0, 1)


def _split(one: Film) -> tuple[Split, tuple[np.ndarray, np.ndarray]]:
    """Sixty, twenty, twenty per cent, and the readout ``[1 + 10, 2]`` with the numbers of the test series."""
    ends = (np.array([0.6, 0.8]) * len(one.images)).astype(int)
    train = one.images[: ends[0]].reshape(-1, SIDE * SIDE)
    basis = np.linalg.eigh(np.cov(train.T))[1][:, ::-1][:, :COMPONENTS]
    scores = (one.images - train.mean(0)) @ basis
    design = _with_one(scores[: ends[0]].reshape(-1, COMPONENTS))
    target = np.stack([np.sin(one.angle), np.cos(one.angle)], -1)[: ends[0]].reshape(-1, 2)
    readout = np.linalg.solve(design.T @ design + np.eye(COMPONENTS + 1), design.T @ target)
    parts = np.split(np.arange(len(scores)), ends)
    return Split(*(_dataset(scores[part], one.time[part], part) for part in parts)), (readout, parts[2])


def _dataset(scores: np.ndarray, time: np.ndarray, labels: np.ndarray) -> xr.Dataset:
    return xr.Dataset(
        {"y": (("series", "obs", "component"), scores)}, coords={"time": (("series", "obs"), time), "series": labels}
    )


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((*x.shape[:-1], 1)), x], axis=-1)


def _angle_errors(seen: Seen, one: Film, readout: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Mean squared error of (sin, cos) in the frames to be forecast, for every forecaster."""
    errors, schema = {}, seen.fitted.schema
    truth, rows = np.zeros((*seen.truth.rows.shape, 2)), seen.truth.rows.numpy()
    late = one.angle[test][one.time[test] > STEPS * DT / 2]
    truth[rows] = np.stack([np.sin(late), np.cos(late)], axis=-1)
    for name, forecast in seen.forecasts.items():
        mean = _mean(forecast) * schema.scale + schema.shift
        errors[name] = float(((_with_one(mean) @ readout - truth)[rows] ** 2).mean())
    return errors


def _mean(forecast: Any) -> np.ndarray:
    mean = forecast.draws.mean(0) if getattr(forecast, "mean", None) is None else forecast.mean
    return mean.detach().numpy()
