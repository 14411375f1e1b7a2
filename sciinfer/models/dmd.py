"""``dmd``: modes that oscillate and decay, shared by all series, fitted by least squares."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..random import generator
from .base import Draws, Loss, Model
from .dmd_start import Found, find_modes
from .grids import pad_for

__entries__ = [
    {
        "kind": "models",
        "name": "dmd",
        "target": "dmd",
        "summary": "modes of dynamic mode decomposition in continuous time, by least squares, bagged intervals",
        "references": [
            "Askham, Kutz (2018), Variable projection methods for an optimized dynamic mode decomposition",
            "Sashidhar, Kutz (2022), Bagging, optimized dynamic mode decomposition for robust, stable forecasting",
        ],
        "options": {
            "modes": "most oscillations (or decays); how many are used is chosen from the data",
            "columns": "directions of one mode over the channels; default min(channels, 4)",
            "bags": "refits on random halves of the data, for intervals",
            "stable": "no mode grows (default)",
        },
    },
]

_SERIES = 64


class Posterior(NamedTuple):
    """Amplitudes of each series: ``mean [S, d]`` and the factor ``lower [S, d, d]`` of their precision."""

    mean: Tensor
    lower: Tensor


def dmd(
    schema: Schema, *, seed: int = 0, modes: int = 8, columns: int | None = None, bags: int = 16, stable: bool = True
) -> DMDModel:
    r"""Build a mode decomposition for data of this schema.

    :math:`y_s(t) = \mathrm{Re} \sum_k \Phi_k b_{sk} e^{\omega_k (t - t_s)} + \varepsilon`, amplitudes
    :math:`b_{sk} \sim N(0, 1)` of each series given its data in closed form; ``omega``, ``Phi`` and the noise are
    solved for on all series by variable projection, then again on random halves.

    Args:
        schema: channels and time scale. seed: of the halves. The others are listed in the registry's entry.

    Raises:
        ConfigError: an option out of its range.

    References:
        Askham, Kutz (2018), Variable projection methods for an optimized dynamic mode decomposition.

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> dmd(Schema(axis, None, (Variable("a"),), (Channel("a"),)), modes=3).slots
        3
    """
    C = schema.n_channels
    columns = min(C, 4) if columns is None else columns
    for name, value, least in (("modes", modes, 1), ("columns", columns, 1), ("bags", bags, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(
                f"{name} must be a whole number >= {least}, got {value!r}", variable=name, fix=f"{name}=4"
            )
    if not isinstance(stable, bool):
        raise ConfigError(f"stable must be True or False, got {stable!r}", variable="stable", fix="stable=True")
    return DMDModel(C, modes, min(columns, C), bags, stable, seed)


class DMDModel(Model):
    """See :func:`dmd`. ``t_s`` is the first time with data of a series, of one without the first time asked for.

    Args:
        channels: ``C``. slots: ``K``. columns: ``q``. bags, stable, seed: see :func:`dmd`.
    """

    exponent_shift: Tensor
    mode_shift: Tensor

    def __init__(self, channels: int, slots: int, columns: int, bags: int, stable: bool, seed: int) -> None:
        super().__init__()
        self.channels, self.slots, self.columns, self.stable, self.seed = channels, slots, columns, stable, seed
        self.bags = bags
        g = generator(seed, "weights")
        f64 = torch.float64
        self.decay = nn.Parameter(torch.full((slots,), 0.1, dtype=f64))
        self.turn = nn.Parameter(0.3 * torch.arange(slots, dtype=f64))
        share = 1 / math.sqrt(2 * slots * columns)
        self.mode = nn.Parameter(share * torch.randn(slots, channels, columns, 2, generator=g, dtype=f64))
        self.log_noise = nn.Parameter(torch.full((channels,), math.log(0.3), dtype=f64))
        self.register_buffer("exponent_shift", torch.zeros(max(bags, 1), slots, 2, dtype=f64))
        self.register_buffer("mode_shift", torch.zeros(max(bags, 1), slots, channels, columns, 2, dtype=f64))

    def initialise(self, batch: SeriesBatch) -> None:
        """The whole fit. Series too short for one keep broad starting values."""
        device = self.decay.device
        batch = batch.to(device, torch.float64).drop_empty()
        if not batch.observed:
            return
        g = generator(self.seed, "bags", device=device)
        found = find_modes(batch, self.slots, self.columns, self.bags, stable=self.stable, g=g)
        if found:
            self._set(found)

    @torch.no_grad()
    def _set(self, found: list[Found]) -> None:
        self.exponent_shift.zero_()
        self.mode_shift.zero_()
        used, whole = len(found[0].exponents), found[0]
        for parameter in (self.decay, self.turn, self.mode):
            parameter.zero_()
        self.decay[:used], self.turn[:used] = -whole.exponents.real, whole.exponents.imag
        self.mode[:used] = torch.view_as_real(whole.modes)
        self.log_noise.copy_(whole.noise.log())
        for b, one in enumerate(found[1:]):
            apart = torch.view_as_real(one.exponents - whole.exponents)
            self.exponent_shift[b, :used] = apart * apart.new_tensor([-1.0, 1.0])
            self.mode_shift[b, :used] = torch.view_as_real(one.modes - whole.modes)

    def exponents(self, bag: int | None = None) -> Tensor:
        """``[K]`` complex: growth rate and angular frequency, in model time. ``bag``: those of one half."""
        shift = 0.0 * self.exponent_shift[0] if bag is None else self.exponent_shift[bag]
        decay = self.decay + shift[:, 0]
        return torch.complex(-(decay.abs() if self.stable else decay), self.turn + shift[:, 1]).to(torch.complex128)

    def _basis(self, time: Tensor, bag: int | None = None) -> Tensor:
        """``[S, T, C, 2 K q]``: what unit amplitudes make at ``time [S, T]`` after the series' own zero."""
        mode = self.mode if bag is None else self.mode + self.mode_shift[bag]
        wave = (time.double()[..., None] * self.exponents(bag)).exp()
        whole = torch.einsum("stk,kcq->stckq", wave, torch.view_as_complex(mode.double().contiguous()))
        return torch.cat([whole.real.flatten(3), -whole.imag.flatten(3)], dim=-1)

    def _posterior(self, padded: Padded, bag: int | None = None) -> tuple[Posterior, Tensor]:
        """Amplitudes given the data, and the log-evidence ``[S]``."""
        basis = self._basis(padded.time - padded.time[:, :1], bag) * padded.mask[..., None]
        sd = self.log_noise.double().exp()
        white = (basis / sd[:, None]).flatten(1, 2)
        target = (padded.values.double() * padded.mask / sd).flatten(1, 2)
        eye = torch.eye(white.shape[2], dtype=white.dtype, device=white.device)
        lower = torch.linalg.cholesky(eye + white.mT @ white)
        inner = white.mT @ target[..., None]
        half = torch.linalg.solve_triangular(lower, inner, upper=False)
        mean = torch.linalg.solve_triangular(lower.mT, half, upper=True)[..., 0]
        # residual and prior apart: their sum as a difference of squares would lose digits when the noise is small
        rest = target - (white @ mean[..., None])[..., 0]
        fit = rest.square().sum(1) + mean.square().sum(1)
        width = lower.diagonal(dim1=1, dim2=2).log().sum(1)
        scale = (padded.mask * (sd.log() + 0.5 * math.log(2 * math.pi))).sum((1, 2))
        return Posterior(mean, lower), -0.5 * fit - width - scale

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``log p(y)`` of each series, amplitudes integrated out, ``[S]``."""
        pieces = torch.arange(batch.n_series, device=batch.offsets.device).split(_SERIES)
        found = [self._posterior(pad_for(batch.select(which)))[1] for which in pieces]
        return torch.cat(found).to(batch.values.dtype)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative log-evidence per entry: the least-squares solution is the start, steps may polish it."""
        value = -self.log_likelihood(batch).sum() / max(batch.observed, 1)
        return Loss(value, {"evidence": value.detach()})

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Amplitudes from the data of each series, modes from the halves in turn; moments over all halves."""
        padded = pad_for(batch, times)
        clock = times - padded.time[:, :1]
        S, d = len(times), 2 * self.slots * self.columns
        noise = torch.randn((draws, S, d), generator=generator, dtype=times.dtype, device=times.device).double()
        signal = noise.new_zeros(draws, *times.shape, self.channels)
        means, variances = [], []
        count = len(self.exponent_shift)
        for bag in range(count):
            posterior, _ = self._posterior(padded, bag)
            basis = self._basis(clock, bag)
            mine = noise[bag::count].movedim(0, -1)
            apart = torch.linalg.solve_triangular(posterior.lower.mT, mine, upper=True)
            signal[bag::count] = torch.einsum("stcd,sdn->nstc", basis, posterior.mean[..., None] + apart)
            means.append(torch.einsum("stcd,sd->stc", basis, posterior.mean))
            variances.append(_spread(basis, posterior.lower))
        mean = torch.stack(means)
        variance = torch.stack(variances).mean(0) + mean.var(0, correction=0) + self.log_noise.double().exp().square()
        signal = signal.to(times.dtype)
        return Draws(signal, self._noisy(signal, times, generator), None, mean.mean(0).to(signal), variance.to(signal))

    def _noisy(self, signal: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        """Noise is drawn in the order of time, so that the order of the question does not matter."""
        noise = torch.randn(signal.shape, generator=generator, dtype=signal.dtype, device=signal.device)
        place = torch.argsort(torch.argsort(times, dim=1, stable=True), dim=1)[None, ..., None]
        return signal + noise.gather(2, place.expand(signal.shape)) * self.log_noise.exp()

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Amplitudes from their prior at the first time asked for."""
        d = 2 * self.slots * self.columns
        amplitude = torch.randn((draws, d), generator=generator, dtype=times.dtype, device=times.device).double()
        clock = (times - times[:1])[None]
        count = len(self.exponent_shift)
        signal = amplitude.new_zeros(draws, 1, len(times), self.channels)
        for bag in range(min(count, draws)):
            basis = self._basis(clock, bag)
            signal[bag::count] = torch.einsum("stcd,nd->nstc", basis, amplitude[bag::count])
        signal = signal.to(times.dtype)
        return Draws(signal, self._noisy(signal, times[None], generator))

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """No steps: :meth:`initialise` solves for everything."""
        return {"optimiser": "adam", "steps": 0, "learning_rate": 1e-3, "validation": 0.0}

    def summary(self) -> dict[str, float]:
        """Of every mode in use: angular frequency, growth rate (model time) and their bagged standard deviations."""
        found: dict[str, float] = {}
        spread = self.exponent_shift.detach().square().mean(0).sqrt()
        size = self.mode.detach().square().sum((1, 2, 3)).sqrt()
        exponents = self.exponents().detach()
        for k in torch.nonzero(size > 0)[:, 0].tolist():
            found[f"frequency[{k}]"], found[f"rate[{k}]"] = float(exponents[k].imag), float(exponents[k].real)
            found[f"frequency_sd[{k}]"], found[f"rate_sd[{k}]"] = float(spread[k, 1]), float(spread[k, 0])
        return found | {f"noise[{c}]": float(sd) for c, sd in enumerate(self.log_noise.detach().exp())}


def _spread(basis: Tensor, lower: Tensor) -> Tensor:
    """Variances ``[S, T, C]`` of ``basis b`` for amplitudes with the factor ``lower`` of their precision."""
    flat = basis.flatten(1, 2).mT
    return torch.linalg.solve_triangular(lower, flat, upper=False).square().sum(1).unflatten(1, basis.shape[1:3])
