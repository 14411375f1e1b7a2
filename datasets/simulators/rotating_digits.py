"""Films of handwritten digits that turn."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sciinfer.errors import ConfigError

from .common import Recipe, labelled, not_negative, observed, one_of, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "rotating_digits",
        "target": "rotating_digits",
        "summary": "Films of handwritten digits that turn by random angles, with noise and missing pixels",
        "dims": ("series", "time", "row", "column"),
        "units": {"y": "1", "time": "1"},
        "references": ("Fortuin et al. (2020), GP-VAE: deep probabilistic time series imputation",),
        "license": "Apache-2.0",
        "requires": ("sklearn",),
        "extra": "datasets",
        "options": {
            "n_series": "number of films",
            "n_times": "frames of a film",
            "n_pixels": "rows and columns of a frame",
            "motion": "steps (default): the angle is a random walk; smooth: a constant turn that starts anywhere",
            "max_angle": "sd of the turn between two frames, degrees",
            "digit": "0 to 9: films of this digit alone; -1 (default): of all",
            "noise_sd": "sd of the observation noise; grey levels lie in [0, 1]",
            "missing": "share of the pixels missing at random",
            "truth": "add truth_y and truth_angle",
        },
    },
]

RECIPE = Recipe("rotating_digits", "Rotating handwritten digits", "1", "1")
#: half the width of the frame, in half-widths of the source image: room for the corners of a turned digit
_FRAME = 1.15


def rotating_digits(
    *, seed: int = 0, n_series: int = 100, n_times: int = 12, n_pixels: int = 8, motion: str = "steps",
    max_angle: float = 20.0, digit: int = -1, noise_sd: float = 0.1, missing: float = 0.0, truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Frames of a digit turned by :math:`\theta_t`, :math:`\theta_t - \theta_{t-1} \sim N(0, a^2)`, plus noise.

    Returns:
        ``y(series, time, row, column)``, with the digit as coordinate ``digit(series)``; ``row`` counts downwards.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> rotating_digits(n_series=2, n_times=5)["y"].shape
        (2, 5, 8, 8)
    """
    positive(n_series=n_series, n_times=n_times, n_pixels=n_pixels)
    not_negative(max_angle=max_angle)
    one_of(("steps", "smooth"), motion=motion)
    images, labels = _sources(digit)
    rng = RECIPE.stream(seed, "path")
    chosen = rng.integers(len(images), size=n_series)
    angle = _angles(rng, n_series, n_times, motion, max_angle)
    film = turned(images[chosen], np.deg2rad(angle), n_pixels)
    dims = ("series", "time", "row", "column")
    variables = {"y": (dims, observed(film, RECIPE, seed, noise_sd, missing))}
    if truth:
        variables |= {"truth_y": (dims, film), "truth_angle": (dims[:2], angle, {"units": "degree"})}
    axes = {"series": n_series, "row": n_pixels, "column": n_pixels}
    coords = {name: np.arange(size) for name, size in axes.items()}
    coords |= {"time": ("time", np.arange(n_times) * 1.0, {"axis": "T"}), "digit": ("series", labels[chosen])}
    parameters = {"motion": motion, "max_angle": max_angle, "only": digit, "noise_sd": noise_sd, "missing": missing}
    return labelled(xr.Dataset(variables, coords), RECIPE, seed, parameters)


def _sources(digit: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 8, 8]`` in [0, 1] and what they show."""
    from ..digits import digits

    ds = digits()
    images, labels = ds["grey"].values / 16.0, ds["label"].values
    if digit == -1:
        return images, labels
    if digit not in range(10):
        raise ConfigError(f"option digit is {digit!r}", variable="digit", fix="0 to 9, or -1 for all")
    return images[labels == digit], labels[labels == digit]


def _angles(rng: np.random.Generator, films: int, frames: int, motion: str, sd: float) -> np.ndarray:
    """``[S, T]``, degrees."""
    if motion == "smooth":
        return rng.uniform(0.0, 360.0, (films, 1)) + sd * rng.standard_normal((films, 1)) * np.arange(frames)
    steps = sd * rng.standard_normal((films, frames))
    steps[:, 0] = 0.0
    return steps.cumsum(axis=1)


def turned(images: np.ndarray, angle: np.ndarray, pixels: int) -> np.ndarray:
    """Images ``[S, n, n]`` turned counter-clockwise by ``angle [S, T]`` (radian): ``[S, T, pixels, pixels]``.

    Bilinear between the pixels' centres, zero outside.
    """
    n = images.shape[1]
    centres = _FRAME * ((2 * np.arange(pixels) + 1) / pixels - 1)
    row, column = np.meshgrid(centres, centres, indexing="ij")
    cos, sin = (f(angle)[..., None, None] for f in (np.cos, np.sin))
    # the source of each pixel lies the other way round; one ring of zeros makes the outside dark
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    at = [
        ((n * (x + 1) - 1) / 2 + 1).clip(0, n + 1 - 1e-9) for x in (cos * row + sin * column, cos * column - sin * row)
    ]
    low = [np.floor(x).astype(np.int64) for x in at]
    film = np.arange(len(images))[:, None, None, None]
    parts = 0.0
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - (at[0] - low[0])) * np.abs(1 - right - (at[1] - low[1]))
            parts = parts + weight * framed[film, low[0] + down, low[1] + right]
    return np.asarray(parts)
