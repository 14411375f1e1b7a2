"""Latents behind unbinned spikes: the point-process factor analysis of ``sciinfer`` with labels in and out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from sciinfer.errors import ConfigError, DataError, SchemaError
from sciinfer.models.point_process_gpfa import PointProcessGPFA, PointProcessPosterior

from .binned import left_edges
from .ragged import check_ragged
from .rescaling import uniformity


@dataclass(frozen=True)
class PointProcessFit:
    """``log rate_c(t) = sum_k W_ck z_k(t) + b_c`` learned from ragged spikes; made by :func:`fit_point_process`.

    Attributes:
        model: the fitted model on plain arrays. unit: its units, in order.
    """

    model: PointProcessGPFA
    unit: np.ndarray

    def parameters(self) -> xr.Dataset:
        """``loading(unit, latent_dim)`` in log rate per standard deviation of a latent, ``offset(unit)`` in log Hz."""
        loading, offset = (p.detach().cpu().numpy() for p in (self.model.loading, self.model.offset))
        found = xr.Dataset(
            {
                "loading": (("unit", "latent_dim"), loading.copy(), {"units": "1", "long_name": "log rate per latent"}),
                "offset": ("unit", offset.copy(), {"units": "1", "long_name": "log rate in Hz at latent zero"}),
            },
            coords={"unit": self.unit, "latent_dim": np.arange(loading.shape[1])},
        )
        kernels = self.model.process.kernels
        if all(hasattr(kernel, "lengthscale") for kernel in kernels):
            scales = [float(kernel.lengthscale.detach()) for kernel in kernels]  # type: ignore[union-attr, operator]
            found["lengthscale"] = ("latent_dim", scales, {"units": "s", "long_name": "length-scale of the kernel"})
        report = self.model.report
        return found if report is None else found.assign_attrs(converged=int(report.converged))

    def posterior(
        self, spikes: xr.Dataset, time: ArrayLike | None = None, *, draws: int = 0, seed: int = 0
    ) -> xr.Dataset:
        """Latents and rates of trials given their spikes; the trials may be new, the units may not.

        Args:
            spikes: ragged spikes. time: ``[T]`` seconds on the trials' clock; default centres of bins as wide as the
                distance of the model's nodes.
            draws: joint draws of the rates to add. seed: of the draws.

        Returns:
            ``latent``, ``latent_sd`` ``(trial, time, latent_dim)``; ``log_rate``, ``log_rate_sd`` and ``rate`` (Hz, the
            posterior mean) ``(trial, time, unit)``; NaN outside a trial's window. ``bound(trial)``, the evidence lower
            bound in nats. With draws: ``rate_draws(chain, draw, trial, time, unit)``.

        Raises:
            SchemaError: other units than those of the fit. DataError: trials that lie apart on one clock.
        """
        spikes, found = self._given(spikes)
        low, high = spikes["start"].values, spikes["stop"].values
        at = self._times(low, high) if time is None else np.array(time, dtype=np.float64).ravel()
        if not (len(at) and np.isfinite(at).all()):
            raise ConfigError("times must be finite, one or more", variable="time", fix="pass seconds of a trial")
        (z, cov), (eta, variance) = found.latent(at), found.log_rate(at)
        spread = cov.diagonal(dim1=-2, dim2=-1)
        of_latents, of_units = ("trial", "time", "latent_dim"), ("trial", "time", "unit")
        parts: dict[str, tuple[tuple[str, ...], Tensor, str, str]] = {
            "latent": (of_latents, z, "1", "posterior mean of the latent"),
            "latent_sd": (of_latents, spread.clamp(min=0).sqrt(), "1", "posterior sd of the latent"),
            "log_rate": (of_units, eta, "1", "posterior mean of the log rate in Hz"),
            "log_rate_sd": (of_units, variance.clamp(min=0).sqrt(), "1", "posterior sd of the log rate"),
            "rate": (of_units, (eta + 0.5 * variance).exp(), "Hz", "posterior mean of the firing rate"),
        }
        if draws:
            paths = found.sample(at, draws, seed=seed).exp()[None]
            parts["rate_draws"] = (("chain", "draw", *of_units), paths, "Hz", "draw of the firing rate")
        inside = xr.DataArray((at >= low[:, None]) & (at < high[:, None]), dims=("trial", "time"))
        ds = xr.Dataset({name: _labelled(*part, inside) for name, part in parts.items()})
        ds["bound"] = ("trial", found.bound().cpu().numpy(), {"units": "1", "long_name": "evidence lower bound, nats"})
        labels = {"trial": spikes["trial"], "unit": self.unit, "latent_dim": np.arange(z.shape[-1])}
        return ds.assign_coords(**labels, time=("time", at, {"units": "s", "axis": "T"}))

    def time_rescaling(self, spikes: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
        """Do the spikes of each unit fall as the model says? Kolmogorov-Smirnov tests, trials laid end to end.

        Args:
            spikes: ragged spikes. seed: of the one draw of the latents under which the intervals are exponential.

        Returns:
            By unit, as :func:`sciinfer_neuro.rescaling.time_rescaling`.
        """
        _, found = self._given(spikes)
        samples = [-np.expm1(-part.cpu().numpy()) for part in found.rescaled_intervals(seed=seed)]
        return uniformity(samples, "unit", {"unit": self.unit})

    def _times(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return left_edges(low, high, self.model.step) + 0.5 * self.model.step

    def _given(self, spikes: xr.Dataset) -> tuple[xr.Dataset, PointProcessPosterior]:
        spikes = check_ragged(spikes)
        units = spikes["unit"].values
        if not np.array_equal(units, self.unit):
            odd = sorted(set(units.tolist()) ^ set(self.unit.tolist()), key=str)
            told = f"unit {odd[0]!r} is in one of them only" if odd else "the same units in another order"
            raise SchemaError(
                f"these are not the units of the fit: {told}", variable="unit",
                fix="read both with the same unit_labels, in the same order",
            )  # fmt: skip
        return spikes, self.model.posterior(trials_of(spikes))


def fit_point_process(
    spikes: xr.Dataset,
    *,
    latents: int,
    kernel: str = "matern32(lengthscale=0.2)",
    step: float | None = None,
    iterations: int = 40,
) -> PointProcessFit:
    """Smooth latents behind spike times, without bins: :class:`sciinfer.models.point_process_gpfa.PointProcessGPFA`.

    Trials may have any length; each starts the latents anew. A spike-free stretch inside a window counts as such.

    Args:
        spikes: ragged spikes, seconds. latents: number of latents, at most that of the units.
        kernel: starting kernel of every latent; its length-scale in seconds. step: longest distance of the nodes,
            seconds. iterations: of the search, see ``parameters().converged``.

    Raises:
        ConfigError: no latent, or more latents than units. DataError: no spike, a spike outside its trial.

    References:
        Duncker, Sahani (2018), Temporal alignment and latent Gaussian process factor inference in population spike
        trains.

    Example:
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> spikes = ragged_spikes([0.1, 0.4, 0.45, 0.2], ["a", "b", "a", "b"], [0, 0, 0, 1], start=0, stop=[1.0, 0.7])
        >>> fit = fit_point_process(spikes, latents=1, iterations=2)
        >>> fit.posterior(spikes, [0.2, 0.9]).rate.isnull().values[..., 0].tolist()
        [[False, False], [False, True]]
    """
    spikes = check_ragged(spikes)
    if not spikes.sizes["spike"]:
        raise DataError("there is no spike", variable="time", fix="pass trials with spikes")
    model = PointProcessGPFA(spikes.sizes["unit"], latents, kernel, step=step)
    return PointProcessFit(model.fit(trials_of(spikes), iterations=iterations), spikes["unit"].values.copy())


def _labelled(dims: tuple[str, ...], values: Tensor, units: str, text: str, inside: xr.DataArray) -> xr.DataArray:
    """NaN outside the trials' windows."""
    array = xr.DataArray(values.cpu().numpy(), dims=dims).where(inside)
    return array.transpose(*dims).assign_attrs(units=units, long_name=text)


def trials_of(spikes: xr.Dataset) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """``(times, positions along unit, start, stop)`` of each trial.

    Example:
        >>> from sciinfer_neuro.ragged import ragged_spikes
        >>> trials_of(ragged_spikes([0.1, 0.4], ["a", "b"], stop=1.0))[0][1].tolist()
        [0, 1]
    """
    edges = np.cumsum(spikes["row_size"].values)[:-1]
    parts = (np.split(spikes[name].values, edges) for name in ("time", "unit_index"))
    ends = (map(float, spikes[name].values) for name in ("start", "stop"))
    return list(zip(*parts, *ends, strict=True))
