"""Forecasts and gap filling by state-space stacks: a query at any time reads the states carried there."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..labelled.series import Padded, SeriesBatch
from ..nets import MLP, linear
from ..nets.s5 import S5Stack
from ..processes.bridge import take
from ..statespace.recurrence import linear_recurrence
from .base import Draws, Loss, Model
from .grids import pad_for
from .s5_anchor import Anchor, Memory, Recalled
from .s5_density import Density
from .s5_masks import around, hide
from .s5_start import fit_anchor

#: share of a series' past from which a held-out row is predicted, for validation
_LOOKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Side(NamedTuple):
    """One direction of time read to its end. ``time [S, T]`` ascends in that direction; ``context [S, T, W]``,
    ``state [S, T, N]`` (last layer), ``memory``; ``last [S, T]``: the row with data at or before each row, -1 none;
    ``states``: every layer's."""

    time: Tensor
    context: Tensor
    state: Tensor
    memory: Memory
    last: Tensor
    states: tuple[Tensor, ...]


class Reader(nn.Module):
    """Rows in one direction of time to contexts and states."""

    def __init__(self, channels: int, width: int, states: int, layers: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.embed = linear(4 * channels + 1, width, generator=generator)
        self.stack = S5Stack(width, states, layers, generator=generator)

    def forward(self, anchor: Anchor, time: Tensor, values: Tensor, seen: Tensor, before: Side | None = None) -> Side:
        """Read rows ``time [S, T]`` ascending, ``values, seen [S, T, C]``; ``before``: what was read up to there."""
        rows = seen.any(dim=-1)
        clock = time[:, :1] if before is None else before.time[:, -1:]
        step = torch.cat([clock, time], dim=1).diff(dim=1)
        start = None if before is None else Memory(*(part[:, -1:] for part in before.memory))
        memory = anchor.remember(time, step, values, seen, start)
        features = self._features(time, values, seen, memory, start, before)
        live = rows[..., None].to(values.dtype)
        states = None if before is None else tuple(x[:, -1] for x in before.states)
        context, found = self.stack(self.embed(features) * live, step, live, states)
        number = torch.arange(time.shape[1], device=time.device).expand(rows.shape)
        last = torch.where(rows, number, -1).cummax(dim=1).values
        return Side(time, context, found[-1], memory, last, found)

    def _features(
        self, time: Tensor, values: Tensor, seen: Tensor, memory: Memory, start: Memory | None, before: Side | None
    ) -> Tensor:
        """Values, mask, and what was known of each channel just before the row: its value and how fresh it was."""
        blank = Memory(*(torch.zeros_like(part[:, :1]) for part in memory)) if start is None else start
        known, when, last = (
            torch.cat([old, new[:, :-1]], dim=1)
            for old, new in ((blank.seen, memory.seen), (blank.when, memory.when), (blank.last, memory.last))
        )
        since = torch.where(known, (time[..., None] - when).clamp(min=0.0), 0.0)
        gap = torch.where(known, since, torch.inf).amin(-1, keepdim=True)
        gap = torch.where(gap.isfinite(), gap, 0.0).log1p()
        return torch.cat([values, seen.to(values.dtype), torch.where(known, last, 0.0), known / (1.0 + since), gap], -1)


class Look(NamedTuple):
    """One direction's view of ``Q`` queries: ``inner [S, Q, ...]`` for the readout, the states carried there ``[S, Q,
    2 N]`` (part of it), and what the anchor recalls."""

    inner: Tensor
    carried: Tensor
    recalled: Recalled


class S5Model(Model):
    """``y_c(t) ~ density(m_c(t) + s_c(t) a_c, s_c(t) e^{b_c})``: an anchor ``m, s`` corrected by a readout ``a, b``.

    The readout sees the stacks' states carried to the query by ``exp(L dt)``, from the past alone or from both sides.

    Args:
        channels, width, states, layers: sizes. both: read the future too. density: of a value given its prediction.
        dropout: share of the readout's hidden units silenced in training. beta: 0: log-density; towards 1: errors
            count alike whatever the predicted spread (better means, worse spreads). jitter: noise added to what is
            read in training, not to what is predicted, in units of a channel's own. generator: starting weights.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        states: int,
        layers: int,
        density: Density,
        *,
        both: bool,
        dropout: float,
        beta: float,
        jitter: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.anchor, self.density = Anchor(channels), density
        sides = 2 if both else 1
        self.readers = nn.ModuleList(Reader(channels, width, states, layers, generator=generator) for _ in range(sides))
        seen = sides * (width + 2 * states + 2 + channels)
        self.look_in = linear(seen + 2 * channels, width, generator=generator)
        self.readout = MLP(width, 2 * channels, (2 * width,), generator=generator, zero=True)
        self.straight = nn.Parameter(torch.zeros(2 * states * sides, channels, dtype=torch.float64))
        self.dropout, self.beta, self.jitter = dropout, beta, jitter

    # -- reading and asking --------------------------------------------------------------------------------------

    def read(self, time: Tensor, values: Tensor, seen: Tensor) -> list[Side]:
        """The stacks over the rows; the second runs on mirrored time."""
        values = torch.where(seen, values, 0.0)
        turned = (-time.flip(1), values.flip(1), seen.flip(1))
        parts = [(time, values, seen), turned][: len(self.readers)]
        return [reader(self.anchor, *part) for reader, part in zip(self.readers, parts, strict=True)]

    def ask(
        self, sides: list[Side], rows: list[Tensor], time: Tensor, drop: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and scale ``[S, Q, C]`` at ``time [S, Q]``, seen from ``rows [S, Q]`` of each side (-1: none).

        Fewer rows than sides: nothing is seen from the other side.
        """
        looks = [self._look(n, sides[n], row, -time if n else time) for n, row in enumerate(rows)]
        mean, variance = self.anchor.join([look.recalled for look in looks])
        scale = variance.sqrt()
        inner = torch.cat([look.inner for look in looks], dim=-1)
        blind = (len(self.readers) - len(rows)) * looks[0].inner.shape[-1]
        inner = nn.functional.pad(inner, (0, blind))
        hidden = nn.functional.silu(self.look_in(torch.cat([inner, mean, scale.log()], dim=-1)))
        if drop is not None and self.dropout > 0:
            keep = torch.rand(hidden.shape, generator=drop, dtype=hidden.dtype, device=hidden.device) >= self.dropout
            hidden = hidden * keep / (1 - self.dropout)
        shift, stretch = self.readout(hidden).chunk(2, dim=-1)
        carried = torch.cat([look.carried for look in looks], dim=-1)
        shift = shift + carried @ self.straight[: carried.shape[-1]]
        return mean + scale * shift, self.density.floor + scale * (2 * torch.tanh(0.5 * stretch)).exp()

    def _look(self, number: int, side: Side, row: Tensor, time: Tensor) -> Look:
        at = torch.where(row >= 0, side.last.gather(1, row.clamp(min=0)), -1)
        has, at = at >= 0, at.clamp(min=0)
        gap = torch.where(has, (time - side.time.gather(1, at)).clamp(min=0.0), 0.0)
        live = has[..., None].to(time.dtype)
        carried = cast(Reader, self.readers[number]).stack.propagate(take(side.state, at), gap)
        recalled = self.anchor.recall(side.memory, at, has, gap, time)
        state = torch.view_as_real(carried).flatten(-2) * live
        inner = [take(side.context, at) * live, state, gap[..., None].log1p(), live, recalled.fresh]
        return Look(torch.cat(inner, dim=-1), state, recalled)

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Fit the anchor alone, which is quick, so that training starts from a strong baseline."""
        fit_anchor(self.anchor, batch)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative predictive log-density per target: every row from an earlier one, and from both of its sides.

        In evaluation mode: every row from fixed shares of its own past (the held-out part is then a forecast).
        """
        padded = pad_for(batch)
        if not self.training:
            total = torch.stack([self._from_past(batch, share) for share in _LOOKS]).mean(0).sum()
            value = -total / max(batch.observed, 1)
            return Loss(value, {"forecast": value.detach()})
        seen = hide(padded.mask, generator)
        sides = self.read(padded.time, self._shaken(padded.values, generator), seen)
        ahead = self._score(padded, sides, [self._earlier(padded, generator)], padded.mask, generator)
        past, future, targets = around(padded, seen, generator)
        around_it = [past, padded.time.shape[1] - 1 - future][: len(sides)]
        within = self._score(padded, sides, around_it, targets, generator)
        n_ahead, n_within = max(batch.observed, 1), int(targets.sum())
        value = -(ahead.sum() + within.sum()) / (n_ahead + n_within)
        terms = {"ahead": -ahead.detach().sum() / n_ahead, "within": -within.detach().sum() / max(n_within, 1)}
        return Loss(value, terms)

    def _shaken(self, values: Tensor, g: torch.Generator) -> Tensor:
        if self.jitter == 0.0:
            return values
        return values + self.jitter * torch.randn(values.shape, generator=g, dtype=values.dtype, device=values.device)

    def _earlier(self, padded: Padded, generator: torch.Generator) -> Tensor:
        """For each row one before it, all equally likely, or none (-1)."""
        number = torch.arange(padded.time.shape[1], device=padded.time.device).expand(padded.rows.shape)
        draw = torch.rand(number.shape, generator=generator, dtype=torch.float64, device=number.device)
        return (draw * (number + 1)).long() - 1

    def _score(
        self, padded: Padded, sides: list[Side], rows: list[Tensor], targets: Tensor, g: torch.Generator
    ) -> Tensor:
        mean, scale = self.ask(sides, rows, padded.time, g)
        found = self.density.log_prob(padded.values, mean, scale, targets)
        if self.beta == 0.0:
            return found
        # each row's weight: the mean scale of what it predicts
        weight = torch.where(targets, scale.detach(), 0.0).sum(-1) / targets.sum(-1).clamp(min=1)
        return found * weight.pow(2 * self.beta)

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``sum_k log p(y_k | rows before k)`` of each series, ``[S]``."""
        return self._from_past(batch, 1.0)

    def _from_past(self, batch: SeriesBatch, share: float) -> Tensor:
        padded = pad_for(batch)
        sides = self.read(padded.time, padded.values, padded.mask)
        number = torch.arange(padded.time.shape[1], device=padded.time.device).expand(padded.rows.shape)
        past = (number * share).floor().long() - 1
        mean, scale = self.ask(sides, [past], padded.time)
        return self.density.log_prob(padded.values, mean, scale, padded.mask).sum(1)

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Moments at each time given all data, and draws around them that are smooth in time."""
        padded = pad_for(batch, times)
        sides = self.read(padded.time, padded.values, padded.mask)
        ordered, order = torch.sort(times, dim=1, stable=True)
        counts = padded.rows.sum(dim=1, keepdim=True)
        reached = torch.searchsorted(padded.time.contiguous(), ordered.contiguous(), right=True)
        reached = torch.minimum(reached, counts)
        length = padded.time.shape[1]
        rows = [reached - 1, length - 1 - reached][: len(sides)]
        mean, scale = self.ask(sides, rows, ordered)
        found = self._draw(ordered, mean, scale, draws, generator)
        back = torch.argsort(order, dim=1)[..., None].expand_as(mean)
        many = back[None].expand(draws, *back.shape)
        return Draws(
            found[0].gather(2, many),
            found[1].gather(2, many),
            None,
            mean.gather(1, back),
            self.density.variance(scale).gather(1, back),
        )

    def _draw(
        self, times: Tensor, mean: Tensor, scale: Tensor, draws: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Signal and observation ``[n, S, Q, C]``: stationary paths times the spread that is not noise."""
        wander, white, heavy = self.density.noise(draws, mean, generator)
        rate = (-self.anchor.log_memory[:, 0].mean()).exp()
        step = torch.cat([torch.zeros_like(times[:, :1]), times.diff(dim=1)], dim=1)
        gate = (-rate * step[..., None]).exp()
        fresh = (1 - gate.square()).clamp(min=0.0).sqrt()
        first = torch.cat([torch.ones_like(fresh[:, :1]), fresh[:, 1:]], dim=1)
        path = linear_recurrence(gate.expand(draws, *gate.shape).flatten(0, 1), (first * wander).flatten(0, 1))
        noise = torch.minimum(self.anchor.noise_variance.expand_as(scale), 0.5 * scale.square())
        signal = mean + (scale.square() - noise).sqrt() * heavy * path.unflatten(0, (draws, -1))
        return signal, signal + noise.sqrt() * heavy * white

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws one time after the other, each read before the next."""
        unique, where = torch.unique(times, return_inverse=True)
        blank = times.new_zeros(draws, 1, self.anchor.mean.shape[0])
        read, here = self.readers[0], torch.zeros(draws, 1, dtype=torch.int64, device=times.device)
        side = read(self.anchor, unique[:1].expand(draws, 1), blank, torch.zeros_like(blank, dtype=torch.bool))
        signals, values = [], []
        for t in unique:
            now = t.expand(draws, 1)
            mean, scale = self.ask([side], [here], now)
            signal, value = (part[0] for part in self._draw(now, mean, scale, 1, generator))
            side = read(self.anchor, now, value, torch.ones_like(value, dtype=torch.bool), side)
            signals.append(signal)
            values.append(value)
        # a time asked for twice is drawn once
        signal, value = (torch.cat(part, dim=1)[:, None, where] for part in (signals, values))
        return Draws(signal, value)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series; early stop on the last tenth of each series."""
        return {"optimiser": "adam", "steps": 600, "learning_rate": 3e-3, "validation": 0.1, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """The noise that no past explains, and how long the slowest memory lasts, per channel."""
        noise, memory = self.anchor.noise_variance.detach().sqrt(), self.anchor.log_memory.detach().amax(-1).exp()
        found = {f"noise[{c}]": float(sd) for c, sd in enumerate(noise)}
        return {**found, **{f"memory[{c}]": float(tau) for c, tau in enumerate(memory)}}
