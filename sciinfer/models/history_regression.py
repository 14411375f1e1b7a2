"""``history-regression``: later rows by penalised regression on what was known at an earlier one, in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import SeriesBatch
from ..random import generator
from ..statespace.recurrence import linear_recurrence
from .base import Draws, Loss, Model
from .grids import pad_for
from .history_features import LEADS, WIDTH, History, features_of, lead_features
from .history_fit import fit_histories, log_variance, origin_table

__entries__ = [
    {
        "kind": "models",
        "name": "history-regression",
        "target": "history_regression",
        "summary": "direct forecasts by ridge regression on every channel's history, in closed form",
        "references": [
            "Hoerl, Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems",
            "Rahimi, Recht (2007), Random features for large-scale kernel machines",
        ],
        "options": {
            "random": "number of random (nonlinear) features; 0: linear",
            "lengthscale": "of the random features, in typical distances between two histories",
        },
    },
]

#: least scale, largest standardised feature, series per pass, memory of the drawn paths in typical gaps
_FLOOR, _CLIP, _SERIES, _MEMORY = 1e-3, 6.0, 128, 8.0


def history_regression(
    schema: Schema, *, seed: int = 0, random: int = 128, lengthscale: float = 1.0
) -> HistoryRegression:
    r"""Build a regression of the future on histories for data of this schema.

    :math:`y_c(t) = a_c l_c + \sum_j \psi_j(t - t_k)\, b(h_k)^\top w_{cj} + s_c(h_k, t - t_k)\, e`: ``h_k`` are nine
    numbers per channel after row k (last value ``l_c``, slope, forgetting means, staleness), ``b`` a constant, these,
    and random cosines of them, ``psi`` a constant and decays. Penalties are chosen on held-out blocks of series.

    Args:
        schema: channels and time scale. seed: of the random features and of the pairs of rows.
        random: number of random features. lengthscale: theirs.

    Raises:
        ConfigError: an option out of its range.

    References:
        Hoerl, Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems

    Example:
        >>> from sciinfer.labelled.schema import Channel, Schema, TimeAxis, Variable
        >>> axis = TimeAxis("t", "number", 0.0, 1.0)
        >>> history_regression(Schema(axis, None, (Variable("a"),), (Channel("a"),)), random=4).parts
        14
    """
    if not isinstance(random, int) or isinstance(random, bool) or random < 0:
        raise ConfigError(f"random must be a whole number >= 0, got {random!r}", variable="random", fix="random=128")
    if not isinstance(lengthscale, int | float) or not 0 < lengthscale < math.inf:
        raise ConfigError(
            f"lengthscale must be positive, got {lengthscale!r}", variable="lengthscale", fix="lengthscale=1.0"
        )
    return HistoryRegression(schema.n_channels, random, float(lengthscale), seed)


class HistoryRegression(Model):
    """See :func:`history_regression`. An answer at t uses the rows up to t, not those after it.

    Args:
        channels: ``C``. random: ``M``. lengthscale: of the random features. seed: of features and pairs.
    """

    wave: Tensor
    shift: Tensor
    weight: Tensor
    spread: Tensor
    centre: Tensor
    scale: Tensor
    anchor: Tensor
    level: Tensor
    noise: Tensor

    def __init__(self, channels: int, random: int, lengthscale: float, seed: int) -> None:
        super().__init__()
        self.channels, self.seed, self.parts = channels, seed, 1 + WIDTH * channels + random
        g = generator(seed, "weights")
        width = WIDTH * channels
        wave = torch.randn(width, random, generator=g, dtype=torch.float64) / (lengthscale * math.sqrt(width))
        shift = 2 * math.pi * torch.rand(random, generator=g, dtype=torch.float64)
        zeros = torch.zeros(channels, self.parts, 1 + len(LEADS), dtype=torch.float64)
        known = {
            "wave": wave, "shift": shift, "weight": zeros, "spread": zeros.clone(),
            "centre": torch.zeros(width, dtype=torch.float64), "scale": torch.ones(width, dtype=torch.float64),
            "anchor": torch.zeros(channels, dtype=torch.float64),
            "level": torch.zeros(channels, dtype=torch.float64), "noise": torch.ones(channels, dtype=torch.float64),
        }  # fmt: skip
        for name, value in known.items():
            self.register_buffer(name, value)
        self.log_scale = nn.Parameter(torch.zeros(channels, dtype=torch.float64))

    def initialise(self, batch: SeriesBatch) -> None:
        """The whole fit, but for the last factor of the spreads."""
        device = self.log_scale.device
        batch = batch.to(device, torch.float64).drop_empty()
        if batch.observed == 0:
            return
        g = generator(self.seed, "pairs", device=device)
        table, row, times = origin_table(batch, g)
        self._set({"centre": table.mean(0), "scale": table.std(0, correction=0).clamp(min=1e-3)})
        fit = fit_histories(batch, self.base, table, row, times, self.parts, g)
        self._set(fit._asdict())

    def _set(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.get_buffer(name).copy_(value)

    def base(self, table: Tensor) -> Tensor:
        """Features ``[..., 9 C]`` to the columns ``[..., P]``: a constant, standardised features, random cosines."""
        centre, scale, wave, shift = (x.to(table.dtype) for x in (self.centre, self.scale, self.wave, self.shift))
        white = ((table - centre) / scale).clamp(-_CLIP, _CLIP)
        waves = math.sqrt(2.0) * torch.cos(white @ wave + shift)
        return torch.cat([torch.ones_like(white[..., :1]), white, waves], dim=-1)

    def moments(self, table: Tensor, lead: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[..., C]`` at ``lead [...]`` after histories ``[..., 9 C]``."""
        columns, psi = self.base(table), lead_features(lead)
        mean, spread = (torch.einsum("...p,cpj,...j->...c", columns, part, psi) for part in (self.weight, self.spread))
        last = table[..., 1::WIDTH]
        mean = mean + self.anchor * last
        sd = (0.5 * log_variance(self.level, spread) + self.log_scale).exp()
        return mean, _FLOOR + sd

    def _asked(self, batch: SeriesBatch, times: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and sd at ``times [S, Q]`` from the last row up to each; None: every row from the row before it."""
        found = []
        for which in torch.arange(batch.n_series, device=batch.offsets.device).split(_SERIES):
            query = None if times is None else times[which]
            padded = pad_for(batch.select(which), query)
            table = features_of(padded.time, padded.values, padded.mask)
            counts = padded.rows.sum(dim=1, keepdim=True)
            if query is None:
                query = padded.time
                row = torch.arange(query.shape[1], device=query.device).expand(query.shape)
            else:
                row = torch.searchsorted(padded.time.contiguous(), query.contiguous(), right=True)
            row = torch.minimum(row, counts)
            last = padded.time.gather(1, (row - 1).clamp(min=0))
            lead = torch.where(row > 0, (query - last).clamp(min=0.0), 0.0)
            picked = table.gather(1, row[..., None].expand(-1, -1, table.shape[2]))
            found.append(self.moments(picked, lead))
        width = max(mean.shape[1] for mean, _ in found)
        pad = lambda x: nn.functional.pad(x, (0, 0, 0, width - x.shape[1]))  # noqa: E731
        mean, sd = (torch.cat([pad(part) for part in parts]) for parts in zip(*found, strict=True))
        return mean, sd

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``sum_k log p(y_k | rows before k)`` of each series, ``[S]``, channels independent given the past."""
        padded = pad_for(batch)
        mean, sd = self._asked(batch, None)
        sd = torch.where(padded.mask, sd, 1.0)
        z = torch.where(padded.mask, (padded.values - mean) / sd, 0.0)
        entries = -0.5 * z.square() - sd.log() - 0.5 * math.log(2 * math.pi) * padded.mask
        return entries.sum(dim=(1, 2))

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative one-step predictive log-density per entry; only the factor of the spreads is left to train."""
        value = -self.log_likelihood(batch).sum() / max(batch.observed, 1)
        return Loss(value, {"ahead": value.detach()})

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Moments at each time given the rows up to it, and draws around them that are smooth in time."""
        mean, sd = self._asked(batch, times)
        ordered, order = torch.sort(times, dim=1, stable=True)
        back = torch.argsort(order, dim=1)[None, ..., None].expand(draws, -1, -1, self.channels)
        step = torch.cat([torch.zeros_like(ordered[:, :1]), ordered.diff(dim=1)], dim=1)
        wander, white = self._paths(step, draws, generator)
        signal_sd, noise_sd = self._parts(sd)
        signal = mean + signal_sd * wander.gather(2, back)
        return Draws(signal, signal + noise_sd * white.gather(2, back), None, mean, sd.square())

    def _parts(self, sd: Tensor) -> tuple[Tensor, Tensor]:
        """Spread of the signal, and of what even the row just before does not tell: at most nine tenths are noise."""
        noise = torch.minimum(self.noise * (2 * self.log_scale).exp(), 0.9 * sd.square())
        return (sd.square() - noise).sqrt(), noise.sqrt()

    def _paths(self, step: Tensor, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Stationary unit paths and white noise ``[n, S, Q, C]`` at ascending times ``step [S, Q]`` apart."""
        shape = (draws, *step.shape, self.channels)
        wander, white = (
            torch.randn(shape, generator=generator, dtype=step.dtype, device=step.device) for _ in range(2)
        )
        gate = (-step / _MEMORY).exp()[..., None].expand(shape[1:])
        fresh = (1 - gate.square()).clamp(min=0.0).sqrt()
        fresh = torch.cat([torch.ones_like(fresh[:, :1]), fresh[:, 1:]], dim=1)
        many = gate.expand(shape).flatten(0, 1)
        path = linear_recurrence(many, (fresh * wander).flatten(0, 1))
        return path.unflatten(0, shape[:2]), white

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws one time after the other, each read before the next."""
        unique, where = torch.unique(times, return_inverse=True)
        history = History.blank(draws, self.channels, self.log_scale.detach())
        seen = torch.ones(draws, self.channels, dtype=torch.bool, device=times.device)
        signals, values, last = [], [], unique[:1]
        for t in unique:
            lead = (t - last).expand(draws)
            mean, sd = self.moments(history.features().flatten(1), lead)
            wander, white = self._paths(torch.zeros_like(lead)[:, None], 1, generator)
            signal_sd, noise_sd = self._parts(sd)
            signal = mean + signal_sd * wander[0, :, 0]
            value = signal + noise_sd * white[0, :, 0]
            history, last = history.read(t.expand(draws), value, seen), t
            signals.append(signal)
            values.append(value)
        signal, value = (torch.stack(part, dim=1)[:, None, where] for part in (signals, values))
        return Draws(signal, value)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """No steps: :meth:`initialise` knows everything; steps would move the factors of the spreads."""
        return {"optimiser": "adam", "steps": 0, "learning_rate": 0.01, "validation": 0.0, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """What the row just before does not tell, per channel, in units of its own."""
        return {f"noise[{c}]": float(v) for c, v in enumerate(self.noise.sqrt() * self.log_scale.detach().exp())}
