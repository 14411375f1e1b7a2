"""``neural-cde``: a neural controlled differential equation by the log-ODE method, in both directions of time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets import MLP, linear
from ..nets.control import CONTROLS, Control, along, build_control
from ..nets.signature import ControlPath, Signature, control_path, inverse, log_signature, prefix_at, window
from ..processes.controlled import ControlledField, Push, push_of
from ..random import generator as stream
from .base import Draws
from .grids import pad_for
from .hidden_rows import HiddenRowModel
from .stable_sde import control_features, positive_numbers, whole_numbers

__entries__ = [
    {
        "kind": "models",
        "name": "neural-cde",
        "target": "neural_cde",
        "summary": "neural controlled differential equation by log-ODE steps, as many for long series as for short",
        "references": [
            "Kidger, Morrill, Foster, Lyons (2020), Neural controlled differential equations for irregular time series",
            "Morrill, Salvi, Kidger, Foster (2021), Neural rough differential equations for long time series",
            "Walker, McLeod, Qin, Cheng, Li, Lyons (2024), Log neural controlled differential equations",
        ],
        "options": {
            "latent": "dimension of the state, in each direction",
            "control": "linear (default) | rectilinear (online: earlier data only) | hermite",
            "windows": "log-ODE steps over a series",
            "depth": "depth of the log-signature, 1 or 2 (default)",
            "hidden": "width of the nets",
            "intensity": "let the number of observations drive the state (default true)",
            "noise": "starting noise standard deviation, in units of each channel's own",
        },
    },
]

#: Heun steps from the end of a window, or of the data, to an asked time
_LAST_STEPS = 2


class Windows(NamedTuple):
    """Window edges ``[S, N + 1]`` in time, the signature up to each, and what one unit of the path is, ``[S, c]``."""

    edges: Tensor
    prefix: Signature
    scale: Tensor


class _Way(nn.Module):
    """One direction of time: a start and a field."""

    def __init__(
        self, inputs: int, path: int, latent: int, hidden: int, *, sign: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.start = linear(inputs, latent, generator=generator)
        self.field = ControlledField(path, latent, hidden, sign=sign, generator=generator)

    def forward(self, features: Tensor, steps: Push) -> Tensor:
        """States at the window edges ``[S, N + 1, d]``, in the order of the steps."""
        states = [self.start(features[:, 0])]
        for k in range(steps.step.shape[1]):
            states.append(self.field.advance(states[-1], Push(steps.step[:, k], steps.area[:, k])))
        return torch.stack(states, dim=1)


class NeuralCDE(HiddenRowModel):
    """``dz = F(z) dX`` forwards and ``dw = G(w) dX`` backwards; a perceptron reads mean and variance off both.

    ``y_c(t) ~ N(X_c(t) + m_c(z, w, X), s_c(z, w, X)^2 + noise_c^2)``. The path ``X`` holds time, the control's values
    and the number of observations. Its windows hold equally many rows each. Beyond the data the state moves on in the
    logarithm of the time since. With the rectilinear control there is no backward state, and an answer at a time does
    not depend on later values (the edges and units of the windows still do on how many rows there are, and when).

    The marginals are trained (see :class:`HiddenRowModel`); draws of the signal follow them, correlated as ``exp(-|t -
    t'|)`` over typical gaps, which is assumed and not learned.
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int,
        *,
        control: str,
        windows: int,
        depth: int,
        intensity: bool,
        noise: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.control, self.windows, self.depth, self.intensity = control, windows, depth, intensity
        inputs, path = 3 * channels, channels + (2 if intensity else 1)
        self.ahead = _Way(inputs, path, latent, hidden, sign=1.0, generator=generator)
        # what is asked online must not know what comes later
        online = control == "rectilinear"
        self.back = None if online else _Way(inputs, path, latent, hidden, sign=-1.0, generator=generator)
        ways = 1 if self.back is None else 2
        self.head = MLP(ways * latent + inputs, 2 * channels, (hidden,), generator=generator)
        self.likelihood = Gaussian(channels, noise=noise)

    def moments(self, padded: Padded, kept: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation of the signal ``[S, K, C]`` and states ``[S, K, d]`` at ``query [S, K]``."""
        control = build_control(padded.time, padded.values, kept, self.control)
        path = control_path(control, kept)
        cut = self._cut(path, padded.rows)
        first, last = padded.time[:, :1], padded.time[:, -1:]
        inside = torch.minimum(torch.maximum(query, first), last)
        here = prefix_at(path, inside)
        states = [self._forward(control, cut, query, inside, here)]
        if self.back is not None:
            states.append(self._backward(self.back, control, cut, query, inside, here))
        at = along(control, query)
        seen = torch.cat([at.value, at.past, at.future], dim=-1)
        read = torch.cat([*(_sized(s) for s in states), seen], dim=-1)
        shift, spread = self.head(read).chunk(2, dim=-1)
        return at.value + shift, nn.functional.softplus(spread - 1.0), torch.cat(states, dim=-1)

    def predictive_score(
        self, padded: Padded, kept: Tensor, hidden: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See :class:`HiddenRowModel`."""
        mean, sd, _ = self.moments(padded, kept, padded.time)
        variance = sd.square() + self.likelihood.noise.square()
        entries = -0.5 * ((padded.values - mean).square() / variance + variance.log() + math.log(2 * math.pi))
        return torch.where(hidden, entries, torch.zeros_like(entries)).sum((-2, -1))

    # -- the two passes ------------------------------------------------------------------------------------------

    def _cut(self, path: ControlPath, rows: Tensor) -> Windows:
        """Edges at equal counts of rows; a window of many rows counts as one unit of time and of observations."""
        time, N = path.control.time, self.windows
        last = (rows.sum(1, keepdim=True) - 1).clamp(min=0)
        edges = time.gather(1, (torch.arange(N + 1, device=time.device) * last) // N)
        length = ((edges[:, -1:] - edges[:, :1]) / N).clamp(min=1.0)
        crowd = (path.counted[:, -1:] / N).clamp(min=1.0)
        ones = torch.ones_like(path.rows[:, 0, 1:-1])
        scale = torch.cat([1 / length, ones, 1 / crowd], dim=-1)[:, None]
        return Windows(edges, prefix_at(path, edges), scale)

    def _push(self, piece: Signature, scale: Tensor) -> Push:
        log = log_signature(piece)
        if not self.intensity:
            log, scale = Signature(log.one[..., :-1], log.two[..., :-1, :-1]), scale[..., :-1]
        return push_of(log, scale, depth=self.depth)

    def _forward(self, control: Control, cut: Windows, query: Tensor, inside: Tensor, here: Signature) -> Tensor:
        steps = self._push(window(_part(cut.prefix, 0, -1), _part(cut.prefix, 1, None)), cut.scale)
        states = self.ahead(control_features(control, cut.edges[:, :1]), steps)
        place = (torch.searchsorted(cut.edges.contiguous(), inside.contiguous(), right=True) - 1).clamp(min=0)
        z = self._to_query(self.ahead, states, cut, place, here, query - cut.edges[:, -1:])
        if control.causal:  # ahead of the first datum nothing is known
            nothing = self.ahead.start.bias
            z = torch.where((query < cut.edges[:, :1])[..., None], nothing, z)
        return z

    def _backward(
        self, way: _Way, control: Control, cut: Windows, query: Tensor, inside: Tensor, here: Signature
    ) -> Tensor:
        pieces = inverse(window(_part(cut.prefix, 0, -1), _part(cut.prefix, 1, None)))
        steps = self._push(Signature(pieces.one.flip(1), pieces.two.flip(1)), cut.scale)
        states = way(control_features(control, cut.edges[:, -1:]), steps).flip(1)
        place = torch.searchsorted(cut.edges.contiguous(), inside.contiguous()).clamp(max=self.windows)
        return self._to_query(way, states, cut, place, here, cut.edges[:, :1] - query)

    def _to_query(
        self, way: _Way, states: Tensor, cut: Windows, place: Tensor, here: Signature, beyond: Tensor
    ) -> Tensor:
        """From the edge number ``place`` to the asked time, and further in time alone where no data are left."""
        rest = self._push(window(_take(cut.prefix, place), here), cut.scale)
        z = way.field.advance(_gather(states, place), rest, _LAST_STEPS)
        step = torch.zeros(*beyond.shape, way.field.channels, dtype=z.dtype, device=z.device)
        step[..., 0] = way.field.sign * beyond.clamp(min=0.0).log1p()
        return way.field.advance(
            z, Push(step, torch.zeros_like(step)[..., None].expand(*step.shape, step.shape[-1])), 4
        )

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Mean and spread given all data; the moments are in closed form."""
        padded = pad_for(batch, times)
        mean, sd, states = self.moments(padded, padded.mask, times)
        signal = mean + sd * correlated(times, draws, mean.shape[-1], generator)
        observation = self.likelihood.sample(signal, generator)
        variance = sd.square() + self.likelihood.noise.square()
        return Draws(signal, observation, states.expand(draws, *states.shape), mean, variance)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """The answer without any data."""
        C = self.likelihood.noise.shape[0]
        blank = times.new_zeros(1, C)
        empty = SeriesBatch(times[:1], blank, torch.zeros_like(blank, dtype=torch.bool), torch.tensor([0, 1]))
        return self.predict(empty.to(times.device), times[None], draws=draws, generator=generator)


def correlated(times: Tensor, draws: int, channels: int, generator: torch.Generator) -> Tensor:
    """Standard normal paths ``[n, S, K, C]`` with correlation ``exp(-|t - t'|)`` at ``times [S, K]``, any order."""
    ordered, order = torch.sort(times, dim=1, stable=True)
    keep = (-ordered.diff(dim=1)).exp()
    shape = (draws, *times.shape, channels)
    noise = torch.randn(shape, generator=generator, dtype=times.dtype, device=times.device)
    path = [noise[:, :, 0]]
    for k in range(times.shape[1] - 1):
        rho = keep[:, k, None]
        path.append(rho * path[-1] + (1 - rho.square()).clamp(min=0.0).sqrt() * noise[:, :, k + 1])
    back = torch.argsort(order, dim=1)[None, ..., None].expand(shape)
    return torch.stack(path, dim=2).gather(2, back)


def _sized(state: Tensor) -> Tensor:
    """A state of any size brought to at most that of a standard normal one, without saturating."""
    return state / (1 + state.square().mean(-1, keepdim=True)).sqrt()


def _part(of: Signature, start: int, stop: int | None) -> Signature:
    return Signature(of.one[:, start:stop], of.two[:, start:stop])


def _take(of: Signature, place: Tensor) -> Signature:
    return Signature(_gather(of.one, place), _gather(of.two.flatten(2), place).view(*place.shape, *of.two.shape[2:]))


def _gather(values: Tensor, place: Tensor) -> Tensor:
    return values.gather(1, place[..., None].expand(*place.shape, values.shape[-1]))


def neural_cde(
    schema: Schema,
    *,
    seed: int = 0,
    latent: int = 12,
    control: str = "linear",
    windows: int = 16,
    depth: int = 2,
    hidden: int = 16,
    intensity: bool = True,
    noise: float = 0.3,
) -> NeuralCDE:
    """Build a neural controlled differential equation. See :class:`NeuralCDE`; options in the registry's entry.

    Raises:
        ConfigError: an option is out of range.
    """
    whole_numbers(latent=latent, windows=windows, hidden=hidden)
    positive_numbers(noise=noise)
    if control not in CONTROLS:
        raise ConfigError(f"unknown control {control!r}", variable="control", fix=f"one of: {', '.join(CONTROLS)}")
    if depth not in (1, 2):
        raise ConfigError(f"depth must be 1 or 2, got {depth!r}", variable="depth", fix="depth=2")
    if not isinstance(intensity, bool):
        raise ConfigError(f"intensity must be True or False, got {intensity!r}", variable="intensity", fix="True")
    return NeuralCDE(
        schema.n_channels,
        latent,
        hidden,
        control=control,
        windows=windows,
        depth=depth,
        intensity=intensity,
        noise=noise,
        generator=stream(seed, "weights"),
    )
