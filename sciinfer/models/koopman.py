"""A linear latent process in modal form behind a linear readout: one exact model that imputes, forecasts, generates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..processes import Bridge, build_bridge
from ..processes.bridge import grid_problem
from ..processes.koopman import KoopmanProcess, Noise, Spectrum
from ..random import generator
from ..statespace import log_likelihood
from .base import Draws
from .exact import ExactPathModel, sample_linear, whitened_rows
from .grids import pad_for
from .koopman_fit import start_koopman
from .koopman_spectrum import LEVEL, ModeTable, TimeUnit, mode_table, time_unit

__entries__ = [
    {
        "kind": "models",
        "name": "koopman",
        "target": "koopman",
        "summary": "Koopman prior: a linear latent process whose eigenvalues are parameters, linear readout; exact",
        "references": [
            "Mezic (2005), Spectral properties of dynamical systems, model reduction and decompositions",
            "Lusch, Kutz, Brunton (2018), Deep learning for universal linear embeddings of nonlinear dynamics",
        ],
        "options": {
            "latent": "latent dimensions, two for each oscillating mode; default 2 * min(channels, 4)",
            "spectrum": "stable (default), unit-circle, mixed or free: what the eigenvalues may be",
            "noise": "stationary (default): every mode on its own | dense: any covariance between the modes",
            "transform": "none (default) | log: model log(y + offset), for positive values of many sizes",
            "offset": "of transform=log, in the caller's units",
            "cycle": "a known period in the caller's time units (or text, '1D'): each channel's mean follows it",
            "inputs": "number of control inputs (the batch's covariates), constant between rows",
            "start": "auto (default): of the next three the likeliest | lines | modes | em | none",
        },
    },
]

#: modes in a summary
_SHOWN = 8


def koopman(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    spectrum: Spectrum = "stable",
    noise: Noise = "stationary",
    transform: str = "none",
    offset: float = 1.0,
    cycle: float | str | None = None,
    inputs: int = 0,
    start: str = "auto",
) -> Koopman:
    """Build the model for data of this schema; the options are listed in the registry's entry.

    Raises:
        ConfigError: an option is unknown or out of range.

    Example:
        >>> import numpy as np, sciinfer as si, xarray as xr
        >>> ds = xr.Dataset({"y": ("t", np.cos(0.7 * np.arange(40.0)))}, coords={"t": np.arange(40.0)})
        >>> fitted = si.fit(ds, model="koopman", options={"latent": 2}, training={"steps": 3}, progress="silent")
        >>> round(fitted.model.spectrum()[0]["frequency"], 3)
        0.7
    """
    dim = 2 * min(schema.n_channels, 4) if latent is None else latent
    for name, value, least in (("latent", dim, 1), ("inputs", inputs, 0)):
        if value < least:
            raise ConfigError(f"{name} is {value}", variable=name, fix=f"at least {least}")
    choices = {"spectrum": get_args(Spectrum), "noise": get_args(Noise), "transform": ("none", "log")}
    choices["start"] = ("auto", "lines", "modes", "em", "none")
    given = {"spectrum": spectrum, "noise": noise, "transform": transform, "start": start}
    for name, value in given.items():
        if value not in choices[name]:
            raise ConfigError(f"{name} is {value!r}", variable=name, fix=f"choose {', '.join(choices[name])}")
    g = generator(seed, "weights")
    process = KoopmanProcess(dim, spectrum=spectrum, noise=noise, inputs=inputs, generator=g)
    decoder = LinearDecoder(dim, schema.n_channels, generator=g)
    model = Koopman(process, decoder, Gaussian(schema.n_channels), start=start, unit=time_unit(schema.time))
    period = None if cycle is None else schema.time.duration(cycle)
    shift, scale = (torch.tensor(part, dtype=torch.float64) for part in (schema.shift, schema.scale))
    return model.with_view(transform, offset, period, shift, scale)


class Koopman(ExactPathModel):
    """``y = W z + b(t) + noise``, ``z`` a :class:`~sciinfer.processes.koopman.KoopmanProcess`; everything is exact.

    Args:
        process, decoder, likelihood: the parts. start: where a fit starts. unit: of the reported spectrum.

    Attributes:
        cyclic: ``[C, 2 K]``, weights of a known cycle's cosines and sines (no columns without one).
    """

    process: KoopmanProcess

    def __init__(
        self,
        process: KoopmanProcess,
        decoder: LinearDecoder,
        likelihood: Gaussian,
        *,
        start: str = "auto",
        unit: TimeUnit | None = None,
    ) -> None:
        super().__init__(process, decoder, likelihood)
        self.start, self.unit = start, unit or TimeUnit(1.0, "")
        self.transform, self.offset, self.period = "none", 0.0, None
        zero = torch.zeros_like(decoder.bias.detach())
        for name, value in (("shift", 0.0), ("scale", 1.0), ("centre", 0.0), ("spread", 1.0)):
            self.register_buffer(name, zero + value)
        self.register_parameter("cyclic", None)
        self._seen: SeriesBatch | None = None
        self._table: tuple[list[Tensor], ModeTable] | None = None

    def with_view(
        self, transform: str, offset: float, period: float | None, shift: Tensor, scale: Tensor, harmonics: int = 4
    ) -> Koopman:
        """How data are looked at: transformed or not, with a cycle of this period (model time) or without."""
        self.transform, self.offset, self.period = transform, offset, period
        self.get_buffer("shift").copy_(shift)
        self.get_buffer("scale").copy_(scale)
        if period is not None:
            if period <= 0:
                raise ConfigError(f"the cycle's period is {period}", variable="cycle", fix="a positive duration")
            weights = torch.zeros(len(shift), 2 * harmonics, dtype=torch.float64)
            self.cyclic = torch.nn.Parameter(weights)
        return self

    # -- fitting ---------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """From the likeliest of several starts (:mod:`~sciinfer.models.koopman_fit`)."""
        if self.transform == "log" and batch.observed:
            values = self._log(batch.values, batch.mask)
            count = batch.mask.sum(0).clamp(min=1)
            centre = values.sum(0) / count
            spread = ((values - centre).square() * batch.mask).sum(0).div(count).sqrt()
            self.get_buffer("centre").copy_(centre)
            self.get_buffer("spread").copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        self._seen = batch
        start_koopman(self, batch)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Quasi-Newton on all data; fewer steps where one is expensive, since the start is nearly there."""
        work = len(batch.time) * (self.process.dim + 4) ** 2
        steps = int(min(80, max(1, 4e7 / work)))
        return {"optimiser": "lbfgs", "steps": steps, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``log p(y)`` of each series, ``[S]``; with a transform, of the transformed values."""
        padded = self.prepare(pad_for(batch), batch)
        H, y, log_jacobian = whitened_rows(self.decoder, self.likelihood, padded)
        return log_likelihood(grid_problem(self.process, padded.time, H, y)) + log_jacobian.sum(1)

    # -- answers ---------------------------------------------------------------------------------------------------

    def condition(self, batch: SeriesBatch, times: Tensor) -> Bridge:
        """The exact posterior of what the noise does to ``z``, at the data's times and at ``times [S, K]``."""
        padded = self.prepare(pad_for(batch, times), batch)
        H, y, _ = whitened_rows(self.decoder, self.likelihood, padded)
        return build_bridge(self.process, padded.time, H, y, times)

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of the path, and the exact predictive moments."""
        bridge = self.condition(batch, times)
        path = bridge.sample(draws, generator)
        z = path.gather(2, bridge.at_query[None, ..., None].expand(draws, *bridge.at_query.shape, path.shape[-1]))
        known = self.known(batch, times)
        eta = self.decoder(z) + known
        mean, variance = self.decoder.moments(bridge.mean(bridge.at_query), bridge.cov(bridge.at_query))
        forced = self._forced(batch, times)
        found = self._draws(z if forced is None else z + forced, eta, generator)
        return found._replace(**self._moments(mean + known, variance + self.likelihood.noise.square()))

    def quantiles(self, batch: SeriesBatch, times: Tensor, levels: Sequence[float]) -> Tensor:
        """Exact quantiles of an observation at each of ``times [S, K]``: ``[levels, S, K, C]``, model units."""
        bridge = self.condition(batch, times)
        mean, variance = self.decoder.moments(bridge.mean(bridge.at_query), bridge.cov(bridge.at_query))
        deviation = (variance + self.likelihood.noise.square()).sqrt()
        at = torch.tensor(levels, dtype=mean.dtype, device=mean.device)
        normal = math.sqrt(2) * torch.erfinv(2 * at - 1)
        eta = mean + self.known(batch, times) + normal[:, None, None, None] * deviation
        return eta if self.transform == "none" else self._back(eta)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Exact draws from the prior, without inputs."""
        z = sample_linear(self.process, times, draws, generator)[:, None]
        return self._draws(z, self.decoder(z) + self._cycle_at(times), generator)

    def spectrum(self, batch: SeriesBatch | None = None, *, level: float = LEVEL) -> ModeTable:
        """Every mode: frequency, period, damping, half-life, with intervals, in the caller's units of time.

        Where the fit is no maximum along a mode, and for more than 700 parameters, intervals are NaN. The posterior is
        Laplace's: a normal one of the unconstrained parameters by the observed information, readout
        and noise integrated out.

        Args:
            batch: the data; default those of the fit. Without any (a loaded model) intervals are NaN. level: of the
                intervals.

        Returns:
            a list of plain mappings, the slowest mode first.
        """
        if batch is not None or level != LEVEL:
            return mode_table(self, self._seen if batch is None else batch, self.unit, level)
        now = [p.detach().clone() for p in self.parameters()]
        if self._table is None or any(not torch.equal(a, b) for a, b in zip(now, self._table[0], strict=True)):
            self._table = now, mode_table(self, self._seen, self.unit, level)
        return [dict(row) for row in self._table[1]]

    def summary(self) -> dict[str, float]:
        """The slowest modes with their intervals, and the noise."""
        found: dict[str, float] = {}
        for row in self.spectrum()[:_SHOWN]:
            name = f"mode[{row['mode']}]"
            for key in ("frequency", "half_life"):
                for suffix in ("", "_low", "_high"):
                    if math.isfinite(float(row[key + suffix])) and (key == "half_life" or row["frequency"]):
                        found[f"{name}.{key}{suffix}"] = float(row[key + suffix])
        return {**found, **super().summary()}

    # -- internals -------------------------------------------------------------------------------------------------

    def prepare(self, padded: Padded, batch: SeriesBatch) -> Padded:
        """Transformed data, less what is known: the cycle, and the response to inputs."""
        values = padded.values
        if self.transform == "log":
            values = (self._log(values, padded.mask) - self.get_buffer("centre")) / self.get_buffer("spread")
        return padded._replace(values=torch.where(padded.mask, values - self.known(batch, padded.time), values * 0))

    def known(self, batch: SeriesBatch, times: Tensor) -> Tensor:
        """``[S, K, C]``: the cycle and the response to inputs at ``times [S, K]``."""
        found, forced = self._cycle_at(times), self._forced(batch, times)
        return found if forced is None else found + forced @ self.decoder.weight.mT

    def _cycle_at(self, times: Tensor) -> Tensor:
        if self.cyclic is None or self.period is None:
            return times.new_zeros(*times.shape, len(self.decoder.bias))
        orders = torch.arange(1, self.cyclic.shape[1] // 2 + 1, dtype=times.dtype, device=times.device)
        angle = times[..., None] * (2 * math.pi / self.period) * orders
        return torch.cat([angle.cos(), angle.sin()], dim=-1) @ self.cyclic.mT

    def _forced(self, batch: SeriesBatch, times: Tensor) -> Tensor | None:
        inputs = self.process.control.shape[1]
        if inputs == 0:
            return None
        known = batch.covariates
        if known is None or known.shape[1] != inputs:
            have = 0 if known is None else known.shape[1]
            raise DataError(
                f"the model has {inputs} inputs, the data have {have}", fix="give the inputs as the batch's covariates"
            )
        rows = batch._replace(values=known, mask=torch.ones_like(known, dtype=torch.bool)).padded()
        return self.process.response(rows.time, rows.values, times)

    def _log(self, values: Tensor, mask: Tensor) -> Tensor:
        raw = values * self.get_buffer("scale") + self.get_buffer("shift") + self.offset
        if bool((mask & ~(raw > 0)).any()):
            raise DataError("the logarithm of a value that is not positive", fix="a larger offset, or transform='none'")
        return torch.where(mask, raw, torch.ones_like(raw)).log()

    def _back(self, eta: Tensor) -> Tensor:
        raw = (eta * self.get_buffer("spread") + self.get_buffer("centre")).exp() - self.offset
        return (raw - self.get_buffer("shift")) / self.get_buffer("scale")

    def _draws(self, z: Tensor, eta: Tensor, generator: torch.Generator) -> Draws:
        seen = self.likelihood.sample(eta, generator)
        if self.transform == "none":
            return Draws(eta, seen, z)
        half = 0.5 * (self.likelihood.noise * self.get_buffer("spread")).square()
        mean = self._back(eta + half / self.get_buffer("spread"))
        return Draws(mean, self._back(seen), z)

    def _moments(self, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
        if self.transform == "none":
            return {"mean": mean, "variance": variance}
        power = variance * self.get_buffer("spread").square()
        centre = self._back(mean + 0.5 * power / self.get_buffer("spread"))
        raw = (centre * self.get_buffer("scale") + self.get_buffer("shift") + self.offset) / self.get_buffer("scale")
        return {"mean": centre, "variance": raw.square() * torch.expm1(power)}
