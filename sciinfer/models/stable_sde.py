"""``langevin-sde``, ``linear-noise-sde``, ``geometric-sde``: stable neural SDEs driven by a control of the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..nets.control import CONTROLS, Control, along, build_control
from ..processes.bridge import take
from ..processes.stable import GeometricSDE, LangevinSDE, LinearNoiseSDE, StableSDE
from ..random import generator as stream
from .base import Draws
from .grids import pad_for
from .hidden_rows import HiddenRowModel
from .simulated import refine

__entries__ = [
    {
        "kind": "models",
        "name": "langevin-sde",
        "target": "langevin_sde",
        "summary": "stable neural SDE with state-independent noise, driven by a spline control of the data",
        "references": ["Oh, Lim, Kim (2024), Stable neural SDEs in analyzing irregular time series data"],
        "options": {
            "latent": "latent dimension; default 4 + channels, at most 16",
            "control": "linear (default) | rectilinear (online: earlier data only) | hermite",
            "hidden": "width of the drift net",
            "paths": "simulated paths per series and step",
            "step": "largest step of the solver, in typical gaps",
            "noise": "starting noise standard deviation, in units of each channel's own",
        },
    },
    {
        "kind": "models",
        "name": "linear-noise-sde",
        "target": "linear_noise_sde",
        "summary": "stable neural SDE whose noise is proportional to the state, driven by a spline control of the data",
        "references": ["Oh, Lim, Kim (2024), Stable neural SDEs in analyzing irregular time series data"],
        "options": {
            "latent": "latent dimension; default 4 + channels, at most 16",
            "control": "linear (default) | rectilinear (online: earlier data only) | hermite",
            "hidden": "width of the drift net",
            "paths": "simulated paths per series and step",
            "step": "largest step of the solver, in typical gaps",
            "noise": "starting noise standard deviation, in units of each channel's own",
        },
    },
    {
        "kind": "models",
        "name": "geometric-sde",
        "target": "geometric_sde",
        "summary": "stable neural SDE with a positive state, driven by a spline control of the data",
        "references": ["Oh, Lim, Kim (2024), Stable neural SDEs in analyzing irregular time series data"],
        "options": {
            "latent": "latent dimension; default 4 + channels, at most 16",
            "control": "linear (default) | rectilinear (online: earlier data only) | hermite",
            "hidden": "width of the drift net",
            "paths": "simulated paths per series and step",
            "step": "largest step of the solver, in typical gaps",
            "noise": "starting noise standard deviation, in units of each channel's own",
        },
    },
]

#: a gap is never cut into more steps than this: the return to rest is solved exactly, however long the step
MOST_STEPS = 64
#: spread of the paths at the data beside the observation noise, start of a series without any data included
_ANCHOR = 0.1


class ControlledSDE(HiddenRowModel):
    """``y_c(t) = X_c(t) + (W z(t) + b)_c + noise``, ``X`` the control, ``z`` a stable SDE driven by it.

    The score of a row is ``log mean_k p(y | z_k)`` over simulated paths; the control is built from the kept entries.
    Marginals are trained; how a path's times hang together is the SDE's own doing.

    Args:
        process, decoder, likelihood: the parts. control: kind of control. paths: per series in training.
        step: largest step of the solver, model time.
    """

    def __init__(
        self,
        process: StableSDE,
        decoder: LinearDecoder,
        likelihood: Gaussian,
        *,
        control: str = "linear",
        paths: int = 8,
        step: float = 0.5,
    ) -> None:
        super().__init__()
        self.process, self.decoder, self.likelihood = process, decoder, likelihood
        self.control, self.paths, self.step = control, paths, step

    def predictive_score(
        self, padded: Padded, kept: Tensor, hidden: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See :class:`HiddenRowModel`."""
        control = build_control(padded.time, padded.values, kept, self.control)
        eta, _ = self.paths_at(control, padded.time, self.paths, generator)
        rows = self.likelihood.log_prob(padded.values.expand_as(eta), eta, hidden)
        return (rows.logsumexp(0) - math.log(self.paths)).sum(-1)

    def paths_at(
        self, control: Control, query: Tensor, draws: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Predictor ``[n, S, K, C]`` and state ``[n, S, K, d]`` at ``query [S, K]``, any order.

        Without a generator the noise is fixed and the same for every series.
        """
        merged, order = torch.sort(torch.cat([control.time, query], dim=1), dim=1, stable=True)
        places = torch.argsort(order, dim=1)[:, control.time.shape[1] :]
        grid, at = refine(merged, (merged.diff(dim=1) / MOST_STEPS).clamp(min=self.step), least=1)
        path = self._simulate(control, grid, draws, generator)
        where = at.gather(1, places)
        z = take(path.transpose(0, 1).flatten(0, 1), where.repeat_interleave(draws, dim=0))
        z = z.unflatten(0, (len(query), draws)).transpose(0, 1)
        return along(control, query).value + self.decoder(z), z

    def _simulate(self, control: Control, grid: Tensor, draws: int, generator: torch.Generator | None) -> Tensor:
        """States ``[n, S, N, d]`` on the grid."""
        u = control_features(control, grid)
        noise = _Noise(draws, len(grid), self.process.dim, grid, generator)
        state = self.process.start(u[:, 0], noise())
        path, h = [state], grid.diff(dim=1)
        for k in range(grid.shape[1] - 1):
            state = self.process.advance(state, h[:, k], u[:, k], noise())
            path.append(state)
        return self.process.state(torch.stack(path, dim=2))

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Paths driven by the control of all data; beyond the last datum it is held and the spread grows."""
        padded = pad_for(batch, times)
        control = build_control(padded.time, padded.values, padded.mask, self.control)
        eta, z = self.paths_at(control, times, draws, generator)
        return Draws(eta, self.likelihood.sample(eta, generator), z)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Paths without any data."""
        blank = times.new_zeros(1, 1, self.decoder.weight.shape[0])
        control = build_control(times[None, :1], blank, torch.zeros_like(blank, dtype=torch.bool), self.control)
        eta, z = self.paths_at(control, times[None], draws, generator)
        return Draws(eta, self.likelihood.sample(eta, generator), z)


class _Noise:
    """Standard normal ``[n, S, d]`` at each call; without a generator always the same, shared by all series."""

    def __init__(self, draws: int, series: int, dim: int, like: Tensor, generator: torch.Generator | None) -> None:
        self.like, self.given = like, generator
        self.own = stream(0, "fixed paths") if generator is None else generator
        self.shape = (draws, 1 if generator is None else series, dim)

    def __call__(self) -> Tensor:
        if self.given is None:
            # made in double precision on the CPU, so that every precision and device sees the same paths
            return torch.randn(self.shape, generator=self.own, dtype=torch.float64).to(self.like)
        return torch.randn(self.shape, generator=self.own, dtype=self.like.dtype, device=self.like.device)


def control_features(control: Control, t: Tensor) -> Tensor:
    """``[S, K, 3 C]``: the control and how near the data before and after are, by channel."""
    at = along(control, t)
    return torch.cat([at.value, at.past, at.future], dim=-1)


def langevin_sde(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    control: str = "linear",
    hidden: int = 32,
    paths: int = 8,
    step: float = 0.5,
    noise: float = 0.3,
) -> ControlledSDE:
    """``dz = (-a z + b(z, X)) dt + s dW``. See :class:`ControlledSDE`; options in the registry's entry."""
    return _build(LangevinSDE, schema, seed, latent, control, hidden, paths, step, noise)


def linear_noise_sde(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    control: str = "linear",
    hidden: int = 32,
    paths: int = 8,
    step: float = 0.5,
    noise: float = 0.3,
) -> ControlledSDE:
    """``dz = (-a z + b(z, X)) dt + s z dW``. See :class:`ControlledSDE`; options in the registry's entry."""
    return _build(LinearNoiseSDE, schema, seed, latent, control, hidden, paths, step, noise)


def geometric_sde(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int | None = None,
    control: str = "linear",
    hidden: int = 32,
    paths: int = 8,
    step: float = 0.5,
    noise: float = 0.3,
) -> ControlledSDE:
    """``dz / z = (-a log z + b(z, X)) dt + s dW``. See :class:`ControlledSDE`; options in the registry's entry."""
    return _build(GeometricSDE, schema, seed, latent, control, hidden, paths, step, noise)


def _build(
    kind: type[StableSDE],
    schema: Schema,
    seed: int,
    latent: int | None,
    control: str,
    hidden: int,
    paths: int,
    step: float,
    noise: float,
) -> ControlledSDE:
    whole_numbers(latent=latent, hidden=hidden, paths=paths)
    positive_numbers(step=step, noise=noise)
    if control not in CONTROLS:
        raise ConfigError(f"unknown control {control!r}", variable="control", fix=f"one of: {', '.join(CONTROLS)}")
    C = schema.n_channels
    d = latent if latent is not None else min(4 + C, 16)
    g = stream(seed, "weights")
    process = kind(d, 3 * C, 2 * C, (hidden,), generator=g)
    decoder = LinearDecoder(d, C, generator=g)
    with torch.no_grad():
        decoder.weight.mul_(_ANCHOR)
    return ControlledSDE(process, decoder, Gaussian(C, noise=noise), control=control, paths=paths, step=step)


def whole_numbers(**options: int | None) -> None:
    """Refuse anything but whole numbers from one on, or None."""
    for name, value in options.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}", variable=name, fix=f"{name}=8")


def positive_numbers(**options: float) -> None:
    """Refuse anything but positive finite numbers."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"{name} must be a positive number, got {value!r}", variable=name, fix=f"{name}=0.1")


def shares(**options: float) -> None:
    """Refuse anything but numbers from zero to one."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"{name} must lie in [0, 1], got {value!r}", variable=name, fix=f"{name}=0.2")
