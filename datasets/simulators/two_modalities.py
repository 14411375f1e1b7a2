"""Spikes of a population and an image that turns and zooms: one hidden process is common to both."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .common import Recipe, labelled, observed, one_of, positive

__entries__ = [
    {
        "kind": "simulators",
        "name": "two_modalities",
        "target": "two_modalities",
        "summary": "Spikes and images of a turning, zooming digit, driven by one shared and two private processes",
        "dims": ("trial", "time", "unit", "y", "x"),
        "units": {"spikes": "1", "image": "1", "time": "1"},
        "references": (
            "Gondur et al. (2024), Multi-modal Gaussian process variational autoencoders for neural and behavioral "
            "data",
        ),
        "license": "Apache-2.0",
        "requires": ("sklearn",),
        "extra": "datasets",
        "options": {
            "n_series": "number of trials (the published set has 300)",
            "n_times": "times of a trial",
            "n_units": "neurons",
            "n_pixels": "rows and columns of an image (the published set has 36)",
            "lengthscale": "of the hidden processes, in steps",
            "style": "single (default): one handwritten 3; trial, frame: another in each (frame: as published)",
            "noise_sd": "sd of the noise of a pixel; grey levels lie in [0, 1]",
            "missing": "share of the entries missing at random",
            "truth": "add truth_latent and truth_image",
        },
    },
]

RECIPE = Recipe("two_modalities", "Spikes and a turning digit", "1", "1")
LATENTS = ("shared", "spikes", "image")
VARIANCES = (0.3, 0.5, 0.8)
#: turn of the image for a unit of the shared process, degrees
TURN = 120.0
#: half the width of an image, in half-widths of the digit (36 pixels around 28)
_FRAME = 36 / 28
_SMALLEST = 1e-3


def two_modalities(
    *, seed: int = 0, n_series: int = 300, n_times: int = 60, n_units: int = 100, n_pixels: int = 12,
    lengthscale: float = 10.0, style: str = "single", noise_sd: float = 0.05, missing: float = 0.0,
    truth: bool = False,
) -> xr.Dataset:  # fmt: skip
    r"""Three squared-exponential processes :math:`z_1, z_2, z_3` with variances 0.3, 0.5, 0.8 make two views.

    Spikes are Poisson with rates :math:`\exp(w_1 z_1 + w_2 z_2 + b)` per bin, :math:`w \sim 1.5\,U(-1, 1)`,
    :math:`b \sim 0.5\,U(-1, 1)`; the image is a handwritten 3 turned by :math:`120° z_1` and zoomed by
    :math:`|1 + z_3|`.

    Returns:
        ``spikes(trial, time, unit)``, counts, and ``image(trial, time, y, x)``; ``y`` counts downwards.

    Raises:
        ConfigError: an option out of its range.

    Example:
        >>> two_modalities(n_series=2, n_times=5)["image"].shape
        (2, 5, 12, 12)
    """
    positive(n_series=n_series, n_times=n_times, n_units=n_units, n_pixels=n_pixels, lengthscale=lengthscale)
    one_of(("frame", "trial", "single"), style=style)
    z = _processes(RECIPE.stream(seed, "path"), n_series, n_times, lengthscale)
    spikes = _counts(seed, z, n_units)
    spikes[RECIPE.stream(seed, "missing-spikes").random(spikes.shape) < missing] = np.nan
    sources = _threes()
    which = _styles(RECIPE.stream(seed, "style"), style, n_series, n_times, len(sources))
    film = drawn(sources[which], np.deg2rad(TURN * z[..., 0]), np.abs(1 + z[..., 2]), n_pixels)
    dims = ("trial", "time", "y", "x")
    variables = {
        "spikes": (("trial", "time", "unit"), spikes),
        "image": (dims, observed(film, RECIPE, seed, noise_sd, missing)),
    }
    if truth:
        variables |= {"truth_latent": (("trial", "time", "latent"), z), "truth_image": (dims, film)}
    sizes = {"trial": n_series, "unit": n_units, "y": n_pixels, "x": n_pixels}
    coords: dict[str, object] = {name: np.arange(size) for name, size in sizes.items()}
    coords["time"] = ("time", np.arange(n_times) * 1.0, {"axis": "T"})
    if truth:
        coords["latent"] = list(LATENTS)
    parameters = {"lengthscale": lengthscale, "style": style, "noise_sd": noise_sd, "missing": missing}
    return labelled(xr.Dataset(variables, coords), RECIPE, seed, parameters)


def _processes(rng: np.random.Generator, n_series: int, n_times: int, lengthscale: float) -> np.ndarray:
    """``[S, T, 3]``."""
    t = np.arange(n_times) / lengthscale
    covariance = np.exp(-0.5 * (t[:, None] - t) ** 2) + 1e-9 * np.eye(n_times)
    paths = rng.standard_normal((n_series, 3, n_times)) @ np.linalg.cholesky(covariance).T
    return np.sqrt(VARIANCES) * paths.transpose(0, 2, 1)


def _counts(seed: int, z: np.ndarray, n_units: int) -> np.ndarray:
    """``[S, T, N]``."""
    rng = RECIPE.stream(seed, "readout")
    loading, offset = 1.5 * rng.uniform(-1, 1, (2, n_units)), 0.5 * rng.uniform(-1, 1, n_units)
    return RECIPE.stream(seed, "spikes").poisson(np.exp(z[..., :2] @ loading + offset)).astype(np.float64)


def _threes() -> np.ndarray:
    """All handwritten threes, ``[N, 8, 8]`` in [0, 1]."""
    from ..digits import digits

    ds = digits()
    return ds["grey"].values[ds["label"].values == 3] / 16.0


def _styles(rng: np.random.Generator, style: str, n_series: int, n_times: int, count: int) -> np.ndarray:
    """``[S, T]``: which handwriting."""
    if style == "single":
        return np.zeros((n_series, n_times), dtype=np.int64)
    shape = (n_series, n_times) if style == "frame" else (n_series, 1)
    return np.broadcast_to(rng.integers(count, size=shape), (n_series, n_times))


def drawn(images: np.ndarray, angle: np.ndarray, zoom: np.ndarray, n_pixels: int) -> np.ndarray:
    """Images turned and zoomed about their middle, between pixels by bilinear interpolation, black outside.

    Args:
        images: ``[S, T, n, n]``. angle: ``[S, T]``, radians, anticlockwise. zoom: ``[S, T]``, above 1 is larger.

    Returns:
        ``[S, T, n_pixels, n_pixels]``.
    """
    side = images.shape[-1]
    at = (2 * np.arange(n_pixels) + 1 - n_pixels) / n_pixels * _FRAME
    down, right = np.meshgrid(at, at, indexing="ij")
    cos, sin = (f(angle)[..., None, None] / np.maximum(zoom, _SMALLEST)[..., None, None] for f in (np.cos, np.sin))
    row = ((cos * down + sin * right) * side + side - 1) / 2
    column = ((cos * right - sin * down) * side + side - 1) / 2
    # a black margin takes in all that lies outside
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    row, column = (np.clip(where + 1, 0, side + 1) for where in (row, column))
    r, c = (np.minimum(where.astype(np.int64), side) for where in (row, column))
    down, right = row - r, column - c
    s, t = np.ogrid[: images.shape[0], : images.shape[1]]
    s, t = s[..., None, None], t[..., None, None]
    upper = padded[s, t, r, c] * (1 - right) + padded[s, t, r, c + 1] * right
    lower = padded[s, t, r + 1, c] * (1 - right) + padded[s, t, r + 1, c + 1] * right
    return upper * (1 - down) + lower * down
