"""``physics-sde``: a known drift with unknown parameters plus a neural remainder that is kept honest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, NumericalError
from ..labelled.schema import Schema
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets.control import along, build_control
from ..nets.parameters import flatten, unflatten, value_and_slopes
from ..processes.physics import Parameter, Physics, PhysicsSDE, find_physics, register_physics
from ..processes.simulate import check_finite, check_length
from ..random import generator as stream
from ..statespace import (
    LinearGaussian,
    cholesky,
    kalman_filter,
    kalman_smoother,
    log_likelihood,
    matvec,
    sample_paths,
    whiten,
)
from .base import Draws, Loss, Model
from .grids import pad_for
from .simulated import refine
from .stable_sde import positive_numbers, whole_numbers

__all__ = ["Parameter", "Physics", "PhysicsModel", "physics_sde", "register_physics"]

__entries__ = [
    {
        "kind": "models",
        "name": "physics-sde",
        "target": "physics_sde",
        "summary": "known drift with unknown parameters, a posterior over them, and a neural remainder kept honest",
        "references": [
            "Takeishi, Kalousis (2021), Physics-integrated variational autoencoders",
            "Course, Nair (2023), State estimation of a physical system with unknown governing equations",
            "Särkkä, Svensson (2023), Bayesian filtering and smoothing",
        ],
        "options": {
            "physics": "lotka-volterra | damped-pendulum | van-der-pol | a name given to register_physics",
            "observe": "the state that each channel shows, a list; default: by name, or in order if no name fits",
            "remainder": "width of the remainder's net, 0 for none",
            "honesty": "weight of the penalty on the remainder, nats per observation",
            "iterations": "relinearisations of the path",
            "step": "largest step of the solver, in typical gaps",
            "noise": "starting noise standard deviation, in units of each channel's own",
        },
    },
]

#: a remainder below this share of the drift is as good as none
_NEGLIGIBLE = 1e-3
#: iterations of the fit of the physics alone
_FIRST = 60


class PhysicsModel(Model):
    """``dz = (f(t, z; theta) + r(z)) dt + g dW``, ``y_c = z_c + noise`` for the states that are observed.

    The path's posterior is that of the equation linearised about itself (iterated extended smoothing on the exact
    linear-Gaussian engine); ``theta`` has a full-covariance Gaussian posterior in the logarithm (if positive) or in
    itself, trained on ``E_q log p(y | theta) - KL(q || prior)`` with the expectation by cubature, so that nothing is
    random. Diffusion, noise and remainder are point estimates. Exact when the drift is linear.

    The loss adds ``honesty`` times (a) the remainder's root mean square relative to that of the physics on the path
    and (b) how far one-step predictions with and without it differ, ``1/2 log(1 + gap^2 / (Q + noise^2))``.

    Args:
        process, likelihood: the parts. observe: the state of each channel. honesty, iterations, step: see the options.
    """

    def __init__(
        self,
        process: PhysicsSDE,
        likelihood: Gaussian,
        observe: list[int],
        *,
        honesty: float = 0.2,
        iterations: int = 3,
        step: float = 1.0,
    ) -> None:
        super().__init__()
        self.process, self.likelihood = process, likelihood
        self.honesty, self.iterations, self.step = honesty, iterations, step
        self.register_buffer("H", nn.functional.one_hot(torch.tensor(observe), process.dim).to(torch.float64))

    # -- inference -----------------------------------------------------------------------------------------------

    def problem(self, padded: Padded, grid: Tensor, at: Tensor, path: Tensor, u: Tensor) -> LinearGaussian:
        """The engine's problem on the grid ``[S, N]``, linearised about ``path [S, N, d]``; data at places ``at``."""
        A, Q, b = self.process.linearised(grid, path, u)
        m0, P0 = self.process.initial()
        S = grid.shape[0]
        H, y = self._rows(padded, grid, at)
        return LinearGaussian(A, Q, H, y, m0.expand(S, -1), P0.expand(S, -1, -1), b)

    def _whitened(self, padded: Padded) -> tuple[Tensor, Tensor, Tensor]:
        H = self.get_buffer("H").expand(*padded.values.shape[:2], -1, -1)
        precision = self.likelihood.noise.square().reciprocal().expand_as(padded.values)
        return whiten(H, padded.values, precision, padded.mask)

    def _rows(self, padded: Padded, grid: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened rows laid on the grid; rows of one time share a place and are stacked."""
        H, y, _ = self._whitened(padded)
        S, N = grid.shape
        lane = _lanes(at, padded.rows)
        lanes = int(lane.max()) + 1 if lane.numel() else 1
        C, d = H.shape[-2:]
        where = (at * lanes + lane).clamp(min=0)
        where = torch.where(padded.rows, where, torch.full_like(where, N * lanes))
        full_H = H.new_zeros(S, N * lanes + 1, C, d).scatter(1, where[..., None, None].expand_as(H), H)
        full_y = y.new_zeros(S, N * lanes + 1, C).scatter(1, where[..., None].expand_as(y), y)
        return full_H[:, :-1].reshape(S, N, lanes * C, d), full_y[:, :-1].reshape(S, N, lanes * C)

    def nominal(self, padded: Padded, grid: Tensor, at: Tensor) -> Tensor:
        """The path ``[S, N, d]`` about which its own linearisation has its mean, from the data's lines on.

        Only the last relinearisation is differentiated: the iteration converges quadratically, so that its derivative
        is that of its limit.
        """
        with torch.no_grad():
            control = build_control(padded.time, padded.values, padded.mask, "linear")
            seen = self.get_buffer("H")
            shown = seen.sum(0).clamp(min=1.0)
            path = along(control, grid).value @ (seen / shown)
            path = torch.where(seen.any(0), path, self.process.start_mean)
            for _ in range(self.iterations - 1):
                path = self._relinearise(padded, grid, at, path)
        return self._relinearise(padded, grid, at, path)

    def _relinearise(self, padded: Padded, grid: Tensor, at: Tensor, path: Tensor) -> Tensor:
        problem = self.problem(padded, grid, at, path, self.process.mean[None, None])
        return kalman_smoother(problem, kalman_filter(problem)).mean

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``E_q log p(y | theta)`` of each series, ``[S]``, of the linearised model."""
        padded = pad_for(batch)
        grid, at = self._grid(padded.time)
        return self._expected(padded, grid, at, self.nominal(padded, grid, at))

    def _expected(self, padded: Padded, grid: Tensor, at: Tensor, path: Tensor) -> Tensor:
        points = self.process.mean + matvec(self.process.root, self._cubature())
        n, S = len(points), grid.shape[0]
        many = Padded(*(part.repeat(n, *[1] * (part.ndim - 1)) for part in padded))
        grids, places, u = grid.repeat(n, 1), at.repeat(n, 1), points.repeat_interleave(S, dim=0)[:, None]
        # one path serves all: the points lie close together, and each relinearises about it
        problem = self.problem(many, grids, places, path.repeat(n, 1, 1), u)
        whitening = self._whitened(padded)[2].sum(1)
        return log_likelihood(problem).view(n, S).mean(0) + whitening

    def _cubature(self) -> Tensor:
        P = self.process.mean.shape[0]
        eye = torch.eye(P, dtype=self.process.mean.dtype, device=self.process.mean.device) * math.sqrt(P)
        return torch.cat([eye, -eye])

    def _grid(self, time: Tensor) -> tuple[Tensor, Tensor]:
        return refine(time, self.step, least=1)

    # -- training ------------------------------------------------------------------------------------------------

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry plus the penalty on the remainder."""
        padded = pad_for(batch)
        grid, at = self._grid(padded.time)
        count = max(batch.observed, 1)
        path = self.nominal(padded, grid, at)
        fit = self._expected(padded, grid, at, path).sum() / count
        cost = self.process.divergence() / count
        share, gap = self.contribution(grid, path)
        value = -fit + cost + self.honesty * (share + gap)
        return Loss(value, {"fit": fit.detach(), "theta": cost.detach(), "share": share.detach(), "gap": gap.detach()})

    def contribution(self, grid: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
        """The remainder's relative size along a path ``[S, N, d]``, and the mean one-step gap it makes, in nats."""
        u, path = self.process.mean.detach()[None, None], path[:, :-1]
        h, t = grid.diff(dim=1), grid[:, :-1]
        moving = (h > 0)[..., None]
        if self.process.net is None or not bool(moving.any()):
            nothing = path.new_zeros(())
            return nothing, nothing
        weight = h[..., None] / h.sum()
        r, f = self.process.remainder(path), self.process.known(t, path, u).detach()
        known = (weight * f.square()).sum().clamp(min=1e-12)
        share = ((weight * r.square()).sum() / known + _NEGLIGIBLE**2).sqrt() - _NEGLIGIBLE
        gap = self.process.flow(t, path, h, u) - self.process.flow(t, path, h, u, full=False)
        H = self.get_buffer("H")
        noise = (H * self.likelihood.noise.detach()[:, None]).square().sum(0)
        floor = (h[..., None] * self.process.spread.detach() + noise).clamp(min=1e-12)
        nats = 0.5 * (gap.square() / floor).log1p() * moving
        return share, nats.sum() / moving.sum()

    def initialise(self, batch: SeriesBatch) -> None:
        """Noise from the data, then a fit of the physics alone: a remainder must not learn what parameters can do."""
        self.likelihood.initialise(batch.values, batch.mask)
        if batch.observed:
            self._fit_physics(batch, _FIRST)

    def _fit_physics(self, batch: SeriesBatch, iterations: int) -> None:
        """L-BFGS on everything but the net, whose output is zero at the start."""
        from scipy.optimize import minimize

        own = [p for name, p in self.named_parameters() if not name.startswith("process.net.")]
        unused = stream(0, "unused")

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            unflatten(x, own)
            number, slopes = value_and_slopes(self.loss(batch, generator=unused).value, own)
            return number, flatten(slopes)

        before = flatten(own)
        try:
            with torch.enable_grad():
                found = minimize(objective, before, jac=True, method="L-BFGS-B", options={"maxiter": iterations})
            unflatten(found.x, own)
        except NumericalError:
            unflatten(before, own)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Few parameters, a smooth objective without randomness: quasi-Newton on all data, no held-out part."""
        return {"optimiser": "lbfgs", "steps": 120, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}

    # -- answers -------------------------------------------------------------------------------------------------

    def parameter_draws(self, draws: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws ``[n]`` of each parameter, the caller's units."""
        return self.process.physics.named(self._draw(draws, generator))

    def _draw(self, draws: int, generator: torch.Generator) -> Tensor:
        mean = self.process.mean
        noise = torch.randn((draws, len(mean)), generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + matvec(self.process.root, noise)

    def parameters_table(self) -> dict[str, tuple[float, float, float]]:
        """Median and 90 % interval of each parameter, in the units of the physics."""
        with torch.no_grad():
            sd = self.process.root.square().sum(-1).sqrt()
            shifts = torch.tensor([0.0, -1.6448536269514722, 1.6448536269514722], dtype=sd.dtype, device=sd.device)
            values = self.process.physics.named(self.process.mean + shifts[:, None] * sd)
        return {name: (float(v[0]), float(v[1]), float(v[2])) for name, v in values.items()}

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Posterior paths inside the data; beyond, and backwards before, the equation with drawn parameters."""
        padded = pad_for(batch, times)
        first, last = padded.time[:, :1], padded.time[:, -1:]
        inside = torch.minimum(torch.maximum(times, first), last)
        merged, order = torch.sort(torch.cat([padded.time, inside], dim=1), dim=1, stable=True)
        rank = torch.argsort(order, dim=1)
        grid, places = self._grid(merged)
        place = places.gather(1, rank)
        T = padded.time.shape[1]
        u = self.process.mean[None, None]
        at = place[:, :T]
        problem = self.problem(padded, grid, at, self.nominal(padded, grid, at), u)
        filtered = kalman_filter(problem)
        gain = kalman_smoother(problem, filtered).gain
        shape = (draws, *filtered.mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=grid.dtype, device=grid.device)
        x = sample_paths(problem, filtered, gain, draws=draws, noise=noise)
        asked = torch.cat([place[:, T:], place[:, :1], place[:, T - 1 : T]], dim=1)
        x = x.gather(2, asked[None, ..., None].expand(draws, *asked.shape, x.shape[-1]))
        theta = self._draw(draws, generator)
        later = self._roll_out(x[:, :, -1], last, times, theta, generator)
        # the learned start holds at the first datum, not at whatever earlier time is asked for
        earlier = self._roll_out(x[:, :, -2], first, times, theta, generator, back=True)
        z = torch.where((times > last)[None, ..., None], later, x[:, :, :-2])
        return self._answer(torch.where((times < first)[None, ..., None], earlier, z), generator)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Paths from the learned start with drawn parameters."""
        m0, P0 = self.process.initial()
        noise = torch.randn((draws, 1, len(m0)), generator=generator, dtype=times.dtype, device=times.device)
        x0 = m0 + matvec(cholesky(P0), noise)
        theta = self._draw(draws, generator)
        return self._answer(self._roll_out(x0, times[None, :1], times[None], theta, generator), generator)

    def _roll_out(
        self, x: Tensor, start: Tensor, times: Tensor, theta: Tensor, generator: torch.Generator, *, back: bool = False
    ) -> Tensor:
        """From ``x [n, S, d]`` at ``start [S, 1]`` through the later (``back``: earlier) ``times [S, K]``, any order,
        with parameters ``theta [n, P]``: ``[n, S, K, d]``."""
        sign = -1.0 if back else 1.0
        check_length(sign * (times - start), self.step)
        ordered, order = torch.sort(torch.maximum(sign * times, sign * start), dim=1, stable=True)
        grid, at = self._grid(torch.cat([sign * start, ordered], dim=1))
        u, root, path = theta[:, None], self.process.spread.sqrt(), [x]
        for k in range(grid.shape[1] - 1):
            h = grid[:, k + 1] - grid[:, k]
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            t = (sign * grid[:, k]).expand(x.shape[:-1])
            x = self.process.flow(t, x, sign * h, u) + root * h.sqrt()[:, None] * noise
            path.append(x)
        check_finite(x, sign * grid[:, -1])
        where = at[:, 1:].gather(1, torch.argsort(order, dim=1))
        whole = torch.stack(path, dim=2)
        return whole.gather(2, where[None, ..., None].expand(len(x), *where.shape, x.shape[-1]))

    def _answer(self, x: Tensor, generator: torch.Generator) -> Draws:
        signal = x @ self.get_buffer("H").mT
        z = self.process.get_buffer("centre") + self.process.get_buffer("scale") * x
        return Draws(signal, self.likelihood.sample(signal, generator), z)

    def summary(self) -> dict[str, float]:
        """Parameters with 90 % intervals, diffusion (per root of the caller's time), noise."""
        found: dict[str, float] = {}
        for name, (median, low, high) in self.parameters_table().items():
            found |= {name: median, f"{name}[5%]": low, f"{name}[95%]": high}
        scale, tau = self.process.get_buffer("scale"), self.process.tau
        spread = self.process.spread.detach().sqrt() * scale / math.sqrt(tau)
        found |= {f"diffusion[{n}]": float(g) for n, g in zip(self.process.physics.states, spread, strict=True)}
        return found | {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}


def _lanes(at: Tensor, rows: Tensor) -> Tensor:
    """How many earlier rows of the same series share a row's place, ``[S, T]``."""
    first = torch.searchsorted(at.contiguous(), at.contiguous())
    number = torch.arange(at.shape[1], device=at.device) - first
    return torch.where(rows, number, torch.zeros_like(number))


def physics_sde(
    schema: Schema,
    *,
    seed: int = 0,
    physics: str | Physics = "lotka-volterra",
    observe: list[str] | None = None,
    remainder: int = 16,
    honesty: float = 0.2,
    iterations: int = 3,
    step: float = 1.0,
    noise: float = 0.3,
) -> PhysicsModel:
    """Build a physics-informed SDE. See :class:`PhysicsModel`; options in the registry's entry.

    A :class:`Physics` object can be passed to this function; a fit that is saved needs a name (``register_physics``),
    because code is never saved.

    Raises:
        ConfigError: unknown physics, or channels that match no state.
    """
    whole_numbers(iterations=iterations)
    positive_numbers(step=step, noise=noise)
    if not isinstance(remainder, int) or isinstance(remainder, bool) or remainder < 0:
        raise ConfigError(f"remainder must be a whole number >= 0, got {remainder!r}", variable="remainder", fix="16")
    if isinstance(honesty, bool) or not isinstance(honesty, int | float) or not 0 <= honesty < math.inf:
        raise ConfigError(f"honesty must be a number >= 0, got {honesty!r}", variable="honesty", fix="honesty=0.2")
    found = find_physics(physics)
    index = _observed(found, schema, observe)
    centre, scale = (
        torch.zeros(len(found.states), dtype=torch.float64),
        torch.ones(len(found.states), dtype=torch.float64),
    )
    for channel, state in zip(schema.channels, index, strict=True):
        centre[state], scale[state] = channel.shift, channel.scale
    dates = schema.time.kind == "datetime"
    process = PhysicsSDE(
        found,
        centre,
        scale,
        tau=schema.time.scale * (1e-9 if dates else 1.0),
        origin=0.0 if dates else schema.time.origin,
        hidden=remainder,
        generator=stream(seed, "weights"),
    )
    likelihood = Gaussian(schema.n_channels, noise=noise)
    return PhysicsModel(process, likelihood, index, honesty=honesty, iterations=iterations, step=step)


def _observed(physics: Physics, schema: Schema, observe: list[str] | None) -> list[int]:
    """The state of each channel."""
    names = list(physics.states)
    if observe is None:
        labels = [channel.label or channel.variable for channel in schema.channels]
        observe = [next((n for n in names if label == n or label.endswith(f"={n}]")), label) for label in labels]
        if not set(observe) & set(names) and len(observe) == len(names):
            observe = names
    wrong = [name for name in observe if name not in names]
    if wrong or len(observe) != schema.n_channels or len(set(observe)) != len(observe):
        raise ConfigError(
            f"{schema.n_channels} channels cannot be read as the states {list(observe)}",
            variable="observe",
            fix=f"observe=[...] with one of {', '.join(names)} for each channel",
        )
    return [names.index(name) for name in observe]
