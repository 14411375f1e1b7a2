"""Features of a trial that held-in units and the trial's clock give: what held-out units are regressed on.

A feature has ``fit(counts)``, which learns from training trials and returns what turns ``counts(trial, time, unit)`` of
held-in units into ``[trial, time, feature]``. None of them ever sees a held-out unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import xarray as xr

from .arrays import bin_width, exposure_along, rows
from .smoothing import smooth

Transform = Callable[[xr.DataArray], np.ndarray]


class Feature(Protocol):
    """Something that learns from training trials how to describe a trial."""

    def fit(self, counts: xr.DataArray) -> Transform:
        """Learn from the held-in counts of training trials."""
        ...


@dataclass(frozen=True)
class SmoothedRates:
    """Counts of each held-in unit smoothed by Gaussians of several widths, both sides of a bin.

    Args:
        widths: standard deviations, seconds. log: ``log(rate + floor)`` instead of the rate. floor: counts per bin.
    """

    widths: Sequence[float] = (0.05, 0.15, 0.4)
    log: bool = False
    floor: float = 1e-4

    def fit(self, counts: xr.DataArray) -> Transform:
        """Nothing to learn."""
        del counts
        return self._describe

    def _describe(self, counts: xr.DataArray) -> np.ndarray:
        width, share = bin_width(counts), exposure_along(counts)
        parts = [smooth(counts.values, w / width, exposure=share) for w in self.widths]
        stacked = np.concatenate(parts, -1)
        return np.log(stacked + self.floor) if self.log else stacked


@dataclass(frozen=True)
class TimeBasis:
    """Gaussian bumps along the trial, as wide as they are apart.

    Args:
        bumps: how many.
    """

    bumps: int = 15

    def fit(self, counts: xr.DataArray) -> Transform:
        """Nothing to learn."""
        del counts
        return lambda c: np.broadcast_to(bumps(c.sizes["time"], self.bumps), (*c.shape[:2], self.bumps))


@dataclass(frozen=True)
class TimeByTrial:
    """Bumps along the trial times the strongest patterns by which held-in trials differ from their mean.

    Such a product lets the course of a held-out unit stretch or grow from trial to trial.

    Args:
        patterns: principal components of whole trials. bumps: along the trial. width: of the smoothing, seconds.
    """

    patterns: int = 3
    bumps: int = 8
    width: float = 0.2

    def fit(self, counts: xr.DataArray) -> Transform:
        """The mean course, the spread and the patterns of training trials."""
        course = self._course(counts)
        mean = course.mean(0)
        spread = (course - mean).std((0, 1)) + 1e-9
        whole = ((course - mean) / spread).reshape(len(course), -1)
        axes = np.linalg.svd(whole, full_matrices=False)[2][: self.patterns]
        size = (whole @ axes.T).std(0) + 1e-9

        def describe(new: xr.DataArray) -> np.ndarray:
            z = ((self._course(new) - mean) / spread).reshape(new.sizes["trial"], -1) @ axes.T / size
            both = np.einsum("sk,tb->stkb", z, bumps(new.sizes["time"], self.bumps))
            return both.reshape(*both.shape[:2], -1)

        return describe

    def _course(self, counts: xr.DataArray) -> np.ndarray:
        width = self.width / bin_width(counts)
        smoothed = smooth(counts.values, width, exposure=exposure_along(counts))
        return smoothed[:, :: max(int(width), 1)]


@dataclass(frozen=True)
class PrincipalRates:
    """The strongest principal components over units and widths of smoothed rates: a low-rank description.

    Args:
        components: how many. widths: standard deviations, seconds.
    """

    components: int = 20
    widths: Sequence[float] = (0.05, 0.15, 0.4)

    def fit(self, counts: xr.DataArray) -> Transform:
        """Centre, spread and axes of the training trials' bins."""
        describe = SmoothedRates(self.widths).fit(counts)
        flat = rows(describe(counts))
        centre, spread = flat.mean(0), flat.std(0) + 1e-9
        scaled = (flat - centre) / spread
        axes = np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1][:, : self.components]
        return lambda new: (describe(new) - centre) / spread @ axes


@dataclass(frozen=True)
class LatentMoments:
    """Posterior means (and standard deviations) of a model's latents given held-in units alone.

    Args:
        model: a registered model with latents: ``poisson-gpfa``, ``gpfa``, ``latent-sde`` (``{"process": "linear"}`` is
            a linear dynamical system). options, training: of :func:`sciinfer.fit`.
        root: fit the square roots of the counts, for models with Gaussian noise.
        deviations: also the posterior standard deviations. draws, seed: of the posterior.
    """

    model: str = "poisson-gpfa"
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    root: bool = False
    deviations: bool = False
    draws: int = 100
    seed: int = 0

    def fit(self, counts: xr.DataArray) -> Transform:
        """Fit the model to the held-in counts of training trials."""
        import sciinfer as si

        fitted = si.fit(
            self._data(counts),
            self.model,
            seed=self.seed,
            options=self.options,
            training=self.training,
            series="trial",
            time="time",
            progress="silent",
        )

        def describe(new: xr.DataArray) -> np.ndarray:
            given = self._data(new)
            tree = fitted.predict(given, time=given["time"].values, draws=self.draws, seed=self.seed)
            latent = tree["posterior"]["latent"]
            dims = [d for d in latent.dims if d in ("chain", "draw")]
            parts = [latent.mean(dims), *([latent.std(dims)] if self.deviations else [])]
            last = next(str(d) for d in parts[0].dims if d not in ("trial", "time"))
            return np.concatenate([p.transpose("trial", "time", last).values for p in parts], -1)

        return describe

    def _data(self, counts: xr.DataArray) -> xr.Dataset:
        plain = counts.reset_coords(drop=True)
        return (plain**0.5 if self.root else plain).to_dataset(name="counts")


def bumps(bins: int, number: int) -> np.ndarray:
    """``[bins, number]`` Gaussian bumps with equal distances, as wide as they are apart.

    Example:
        >>> bumps(3, 2).round(3).tolist()
        [[1.0, 0.607], [0.882, 0.882], [0.607, 1.0]]
    """
    centres = np.linspace(0, bins - 1, number)
    apart = centres[1] - centres[0] if number > 1 else float(bins)
    return np.exp(-0.5 * ((np.arange(bins)[:, None] - centres) / max(apart, 1e-9)) ** 2)


def describe(transforms: Sequence[Transform], counts: xr.DataArray) -> np.ndarray:
    """All features side by side, ``[trial, time, feature]``.

    Raises:
        DataError: a feature that is not finite.
    """
    from sciinfer.errors import DataError

    found = np.concatenate([np.asarray(t(counts), np.float64) for t in transforms], -1)
    if not np.isfinite(found).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(found))[0])
        raise DataError("a feature is not finite", variable="features", index=index, fix="leave the trial out")
    return found
