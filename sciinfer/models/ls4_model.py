"""A variational autoencoder in time whose autoregressive prior and two-sided posterior are state-space stacks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import MLP, MLPDecoder, linear
from ..nets.s4 import regular_step
from ..nets.s5 import S5Stack
from .base import Draws, Loss, Model
from .grids import pad_for
from .ls4_rows import Merged, gaps_around, merge

#: convolution, recurrence, or whichever the times allow
MODES = ("auto", "conv", "scan")
#: least prior spread of a step: rows at one time would else have none
_LEAST = 0.05
#: shortest regular series for which the convolution is worth its transforms
_LONG = 64


class Past(NamedTuple):
    """What the prior carries from row to row: ``time [B]``, ``z [B, d]``, ``out [B, W]``, each layer's states
    ``[B, N]``, and whether there was a row ``begun [B]``."""

    time: Tensor
    z: Tensor
    out: Tensor
    states: tuple[Tensor, ...]
    begun: Tensor


class LatentPrior(nn.Module):
    """``z_k | z_<k ~ N(a z_{k-1} + s m(h_k), (s e^{v(h_k)})^2)``, ``a = exp(-r dt)``, ``s^2 = 1 - a^2``.

    ``h_k``: a stack that has read ``z_<k``, its states carried to ``t_k``. ``m`` is bounded, so no rollout explodes.

    Args:
        dim: ``d``. width, states, layers: of the stack. generator: starting weights.
    """

    def __init__(self, dim: int, width: int, states: int, layers: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.embed = linear(dim, width, generator=generator)
        self.stack = S5Stack(width, states, layers, generator=generator)
        self.width, self.states = width, states
        self.context = width + 2 * states + 2
        self.net = MLP(self.context, 2 * dim, (width,), generator=generator, zero=True)
        self.log_rate = nn.Parameter(torch.linspace(math.log(0.02), math.log(0.5), dim, dtype=torch.float64))

    def contexts(
        self, time: Tensor, z: Tensor, rows: Tensor, regular: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Past]:
        """``h [B, T, ...]``, the latent before each row and the step to it, and what is carried past the end."""
        live = rows[..., None].to(z.dtype)
        step = torch.cat([time[:, :1], time], dim=1).diff(dim=1)
        out, states = self.stack(self.embed(z) * live, step, live, None, regular)
        zero = torch.zeros_like
        out_before, x, z_before, begun = (
            torch.cat([zero(part[:, :1]), part[:, :-1]], dim=1) for part in (out, states[-1], z, rows)
        )
        # one step for all needs one exponential, not one for each row
        h = self._context(out_before, x, step, begun, step if regular is None else regular)
        end = Past(time[:, -1], z[:, -1], out[:, -1], tuple(x[:, -1] for x in states), rows[:, -1])
        return h, z_before * begun[..., None], torch.where(begun, step, -1.0), end

    def begin(self, time: Tensor, dim: int) -> Past:
        """Before any row; ``time [B]``."""
        x = torch.complex(time, torch.zeros_like(time))[:, None].expand(-1, self.states) * 0
        blank = time.new_zeros(len(time), self.width)
        none = torch.zeros_like(time, dtype=torch.bool)
        return Past(time, time.new_zeros(len(time), dim), blank, (x,) * len(self.stack.layers), none)

    def look(self, past: Past, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One row of :meth:`contexts` at ``time [B]``."""
        step = torch.where(past.begun, time - past.time, 0.0)
        h = self._context(past.out, past.states[-1], step, past.begun, step)
        return h, past.z, torch.where(past.begun, step, -1.0)

    def push(self, past: Past, time: Tensor, z: Tensor, live: Tensor) -> Past:
        """After row ``z [B, d]`` at ``time [B]``, where ``live``."""
        step = torch.where(past.begun, time - past.time, 0.0) * live
        one = live[:, None, None].to(z.dtype)
        out, states = self.stack(self.embed(z)[:, None] * one, step[:, None], one, past.states)
        on = live[:, None]
        return Past(
            torch.where(live, time, past.time),
            torch.where(on, z, past.z),
            torch.where(on, out[:, 0], past.out),
            tuple(x[:, 0] for x in states),
            past.begun | live,
        )

    def _context(self, out: Tensor, x: Tensor, step: Tensor, begun: Tensor, gap: Tensor) -> Tensor:
        carried = torch.view_as_real(self.stack.propagate(x, gap)).flatten(-2)
        flag = begun[..., None].to(out.dtype)
        return torch.cat([out * flag, carried * flag, step[..., None].log1p() * flag, flag], dim=-1)

    def moments(self, h: Tensor, z: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[..., d]`` given ``h``, the latent before and the step (negative: none)."""
        push, stretch = self.net(h).chunk(2, dim=-1)
        gap = step[..., None]
        keep = torch.where(gap >= 0, (-self.log_rate.exp() * gap.clamp(min=0.0)).exp(), 0.0)
        spread = (1 - keep.square()).clamp(min=_LEAST**2).sqrt()
        return keep * z + spread * 3 * torch.tanh(push / 3), spread * (2 * torch.tanh(stretch / 2)).exp()


class LatentPosterior(nn.Module):
    """``q(z_k | y) = N(m, s^2)`` of each row, from stacks in both directions; rows without data read what is carried.

    Args:
        channels, dim: sizes. width, states, layers: of each stack. generator: starting weights.
    """

    def __init__(
        self, channels: int, dim: int, width: int, states: int, layers: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.embed = linear(2 * channels, width, generator=generator)
        self.ahead = S5Stack(width, states, layers, generator=generator)
        self.back = S5Stack(width, states, layers, generator=generator)
        self.out = MLP(2 * width + 4 * states + 2, 2 * dim, (width,), generator=generator)

    def forward(self, time: Tensor, values: Tensor, seen: Tensor, regular: Tensor | None) -> tuple[Tensor, Tensor]:
        """``m, s [S, T, d]``."""
        some = seen.any(dim=-1)
        live = some[..., None].to(values.dtype)
        h = self.embed(torch.cat([torch.where(seen, values, 0.0), seen.to(values.dtype)], dim=-1)) * live
        step = torch.cat([time[:, :1], time], dim=1).diff(dim=1)
        ahead, x = self.ahead(h, step, live, None, regular)
        after = torch.cat([time, time[:, -1:]], dim=1).diff(dim=1)
        back, w = self.back(h.flip(1), after.flip(1), live.flip(1), None, regular)
        states = [torch.view_as_real(part).flatten(-2) for part in (x[-1], w[-1].flip(1))]
        found = self.out(torch.cat([ahead, back.flip(1), *states, gaps_around(time, some)], dim=-1))
        mean, stretch = found.chunk(2, dim=-1)
        return mean, (2 * torch.tanh(stretch / 2) - 1).exp()


class LS4Model(Model):
    """``z`` autoregressive in time, ``eta_k = decoder(z_k, h_k)``, ``y_k ~ likelihood(eta_k)``, factorised posterior.

    ``ELBO = sum_k E log p(y_k | z_<=k) - E KL(q(z_k | y) || p(z_k | z_<k))``, each KL in closed form.

    Args:
        prior, posterior, likelihood: the parts. channels, dim: sizes. mode: convolution or recurrence.
        warmup: fraction of training over which the divergence fades in. hide: largest share of a series' rows that a
            training step hides from posterior and likelihood (the latent runs through them: a bound on the rest).
        generator: starting weights of the decoder.
    """

    def __init__(
        self,
        prior: LatentPrior,
        posterior: LatentPosterior,
        likelihood: Likelihood,
        channels: int,
        dim: int,
        *,
        mode: str,
        warmup: float,
        hide: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.decoder = MLPDecoder(dim + prior.context, channels, (2 * prior.width,), generator=generator)
        self.dim, self.mode, self.warmup, self.hide = dim, mode, warmup, hide

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Noise levels from the data."""
        self.likelihood.initialise(batch.values, batch.mask)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        padded = pad_for(batch)
        if self.training and self.hide > 0:
            share = self.hide * torch.rand(batch.n_series, 1, generator=generator, device=padded.time.device)
            kept = torch.rand(padded.rows.shape, generator=generator, device=padded.time.device) >= share
            padded = padded._replace(mask=padded.mask & kept[..., None])
        fit, divergence = self._elbo(padded, generator)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        count = max(int(padded.mask.sum()), 1)
        terms = {"fit": fit.detach().sum() / count, "divergence": divergence.detach().sum() / count}
        return Loss(-(fit - beta * divergence).sum() / count, terms)

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Expected log-likelihood and divergence of each series, ``[S]`` each, from one draw of ``z``; without a
        generator at the posterior means."""
        return self._elbo(pad_for(batch), generator)

    def _elbo(self, padded: Padded, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        regular = self._regular(padded)
        mean, sd = self.posterior(padded.time, padded.values, padded.mask, regular)
        z = mean
        if generator is not None:
            z = mean + sd * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        h, before, step, _ = self.prior.contexts(padded.time, z, padded.rows, regular)
        m, s = self.prior.moments(h, before, step)
        divergence = (s / sd).log() + 0.5 * (sd.square() + (mean - m).square()) / s.square() - 0.5
        eta = self.decoder(torch.cat([z, h], dim=-1))
        fit = self.likelihood.log_prob(padded.values, eta, padded.mask).sum(1)
        return fit, torch.where(padded.rows, divergence.sum(-1), 0.0).sum(1)

    def _regular(self, padded: Padded) -> Tensor | None:
        if self.mode == "scan" or (self.mode == "auto" and padded.time.shape[1] < _LONG):
            return None
        step = regular_step(padded.time, padded.rows)
        if step is None and self.mode == "conv":
            raise DataError("the convolution mode needs one step for all series", dim="time", fix='mode="auto"')
        return step

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Posterior rows up to the last datum, the prior's rollout after it."""
        padded = pad_for(batch, times)
        merged = merge(padded, times)
        mean, sd = self.posterior(merged.time, merged.values, merged.mask, None)
        shape = (draws, *mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
        z, h = self._paths((mean + sd * noise).flatten(0, 1), noise.flatten(0, 1), merged, draws)
        eta = self.decoder(torch.cat([z, h], dim=-1)).unflatten(0, (draws, -1))
        where = merged.query[None, ..., None]
        eta = eta.gather(2, where.expand(draws, -1, -1, eta.shape[-1]))
        latent = z.unflatten(0, (draws, -1)).gather(2, where.expand(draws, -1, -1, self.dim))
        # drawn in the order of time, so that the order of the question does not matter
        return self._observed(eta, latent, times, generator)

    def _observed(self, eta: Tensor, latent: Tensor, times: Tensor, generator: torch.Generator) -> Draws:
        order = torch.argsort(times, dim=1, stable=True)[None, ..., None].expand_as(eta)
        drawn = self.likelihood.sample(eta.gather(2, order), generator)
        return Draws(eta, torch.empty_like(drawn).scatter(2, order, drawn), latent)

    def _paths(self, z: Tensor, noise: Tensor, merged: Merged, draws: int) -> tuple[Tensor, Tensor]:
        """Latents and contexts of all rows: known ones at once, then those past the data one by one."""
        time, rows, ahead = (
            part.expand(draws, *part.shape).flatten(0, 1) for part in (merged.time, merged.rows, merged.ahead)
        )
        known = int((~ahead).long().cumprod(dim=1).sum(1).min())
        if known:
            h, _, _, past = self.prior.contexts(time[:, :known], z[:, :known], rows[:, :known], None)
        else:
            h, past = z.new_zeros(len(z), 0, self.prior.context), self.prior.begin(time[:, 0], self.dim)
        latents, contexts = [z[:, :known]], [h]
        for k in range(known, time.shape[1]):
            h, before, step = self.prior.look(past, time[:, k])
            m, s = self.prior.moments(h, before, step)
            now = torch.where(ahead[:, k, None], m + s * noise[:, k], z[:, k])
            past = self.prior.push(past, time[:, k], now, rows[:, k])
            latents.append(now[:, None])
            contexts.append(h[:, None])
        return torch.cat(latents, dim=1), torch.cat(contexts, dim=1)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Rollouts of the prior, to any length."""
        unique, where = torch.unique(times, return_inverse=True)
        noise = torch.randn((draws, len(unique), self.dim), generator=generator, dtype=times.dtype, device=times.device)
        every = torch.ones(1, len(unique), dtype=torch.bool, device=times.device)
        merged = Merged(unique[None], noise[:1], every[..., None], every, every, where[None])
        z, h = self._paths(noise, noise, merged, draws)
        eta = self.decoder(torch.cat([z, h], dim=-1))[:, None, where]
        return Draws(eta, self.likelihood.sample(eta, generator), z[:, None, where])

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series, early stop on the last tenth of each series."""
        return {"optimiser": "adam", "steps": 600, "learning_rate": 3e-3, "validation": 0.1, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Learned noise, where there is one, and the prior's relaxation times."""
        rates = self.prior.log_rate.detach().exp()
        found = {f"relaxation[{i}]": float(1 / rate) for i, rate in enumerate(rates)}
        if isinstance(self.likelihood, Gaussian):
            found |= {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}
        return found
