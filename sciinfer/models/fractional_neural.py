"""A neural drift with fractional noise, seen through a linear readout and Gaussian noise; a controlled posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets import MLP, LinearDecoder, ScanEncoder
from ..processes.bridge import take
from ..processes.fractional import FractionalSDE, Step
from ..processes.simulate import check_length
from ..random import generator as stream
from ..statespace import matvec
from .base import Draws, Loss, Model
from .exact import whitened_rows
from .fractional_control import Feedback, LinearGuide, riccati, start_root, surprise
from .fractional_start import gap_and_span, start_at_mode
from .grids import pad_for
from .simulated import refine

#: fixed paths behind the deterministic ELBO: antithetic pairs
_PAIRS = 4


class _Grid(NamedTuple):
    """Fine times ``[S, N + 1]``, places of the asked times in it, and where the data end ``[S, 1]``."""

    fine: Tensor
    at: Tensor
    last: Tensor


class _Paths(NamedTuple):
    """``z [n, S, N + 1, d]``; divergences of its start and its noise, ``[n, S]``, at the draws."""

    z: Tensor
    start: Tensor
    cost: Tensor


class FractionalNeuralModel(Model):
    """``dX = f(X) dt + sigma dB^H``, ``y = W X + b + noise``; simulated ELBO, feedback on the shared noise.

    ``ELBO = E log p(y | X) - KL(start) - sum_k E KL(noise of step k)``. The discretised process is itself the model, so
    the bound holds at any step; with a linear drift it is tight.

    Args:
        process, encoder, decoder, likelihood: the parts. width: of the encoder. step: longest Euler step, model time.
        warmup: fraction of training over which the divergences fade in. seed: of the correction net.
    """

    def __init__(
        self,
        process: FractionalSDE,
        encoder: ScanEncoder,
        decoder: LinearDecoder,
        likelihood: Gaussian,
        *,
        step: float,
        warmup: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.process, self.encoder, self.decoder, self.likelihood = process, encoder, decoder, likelihood
        self.step, self.warmup = step, warmup
        self.guide = LinearGuide(process)
        self.correction = MLP(encoder.width + process.dim + 1, process.dim, (32,), generator=generator, zero=True)

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Rates for the data; where latents are channels, the best fractional Ornstein-Uhlenbeck process."""
        gap, span = gap_and_span(batch)
        self.process.resolve(span, gap)
        C = batch.n_channels
        if self.process.dim == C and batch.observed > 10:
            raw, scale = start_at_mode(batch, terms=self.process.terms + 1)
            with torch.no_grad():
                self.process.logit_hurst.copy_(raw[:, 0].mean())
                self.process.log_rate.copy_(raw[:, 1])
                self.process.log_scale.copy_(scale)
                self.process.log_start.copy_(raw[:, 2])
                self.likelihood.log_noise.copy_(raw[:, 3])
                self.decoder.weight.copy_(torch.eye(C))
        else:
            self.likelihood.initialise(batch.values, batch.mask)
        self.guide.follow(self.process)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        fit, start, path = self.elbo_terms(batch, generator=generator)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        count = max(batch.observed, 1)
        value = -(fit - beta * (start + path)).sum() / count
        terms = {"fit": fit, "start": start, "path": path}
        return Loss(value, {name: term.detach().sum() / count for name, term in terms.items()})

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Expected log-likelihood, divergences of the start and of the path's noise of each series, ``[S]`` each.

        Without a generator the paths are a fixed set, the same for every series.
        """
        padded = pad_for(batch)
        fine, at = refine(padded.time, self.step, 1)
        grid = _Grid(fine, at, padded.time[:, -1:])
        weights, steps = self.process.weights(), self._steps(fine)
        feedback = self._feedback(padded, grid, steps, weights)
        n = 2 if generator is not None else 2 * _PAIRS
        paths = self._simulate(padded, grid, steps, feedback, weights, n, generator, antithetic=True)
        latent = paths.z.gather(2, at[None, ..., None].expand(n, *at.shape, self.process.dim))
        eta = self.decoder(latent)
        fit = self.likelihood.log_prob(padded.values.expand_as(eta), eta, padded.mask).sum(2).mean(0)
        return fit, paths.start.mean(0), paths.cost.mean(0)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _steps(self, fine: Tensor) -> list[Step]:
        step = self.process.step(fine.diff(dim=1))
        return [Step(*parts) for parts in zip(*(part.unbind(1) for part in step), strict=True)]

    def _feedback(self, padded: Padded, grid: _Grid, steps: list[Step], weights: Tensor) -> Feedback:
        """The control, from the data's information gathered at the fine times (several rows at one time add up)."""
        H, y, _ = whitened_rows(self.decoder, self.likelihood, padded)
        d, at = self.process.dim, grid.at[:, : padded.time.shape[1]]
        J = H.new_zeros(*grid.fine.shape, d, d).scatter_add(1, at[..., None, None].expand(*at.shape, d, d), H.mT @ H)
        h = H.new_zeros(*grid.fine.shape, d).scatter_add(1, at[..., None].expand(*at.shape, d), matvec(H.mT, y))
        return riccati(self.process, self.guide, steps, J, h, weights)

    def _simulate(
        self,
        padded: Padded,
        grid: _Grid,
        steps: list[Step],
        feedback: Feedback,
        weights: Tensor,
        n: int,
        generator: torch.Generator | None,
        *,
        antithetic: bool = False,
    ) -> _Paths:
        """Controlled paths; without a generator the noise is the same for all series, whatever the batch."""
        p, S = self.process, len(padded.time)
        fixed = stream(0, "fractional paths") if generator is None else generator
        shared = generator is None

        def noise(*shape: int) -> Tensor:
            half = n // 2 if antithetic else n
            kind = torch.float64 if shared else grid.fine.dtype
            drawn = torch.randn(
                (half, 1 if shared else S, *shape), generator=fixed, dtype=kind, device=fixed.device
            ).to(grid.fine)
            return torch.cat([drawn, -drawn]) if antithetic else drawn

        D = p.dim * (1 + p.terms)
        start, begun = surprise(feedback.start, feedback.start_root, noise(D))
        state = matvec(start_root(p), start)
        z, y = state[..., : p.dim] + p.start_mean, state[..., p.dim :].unflatten(-1, (p.dim, p.terms))
        context = self.encoder(padded)
        path, cost = [z], -feedback.log_root.sum(1).expand(z.shape[:2])
        for k, step in enumerate(steps):
            shift = self._shift(padded, context, grid, feedback, k, z, y)
            shaken, paid = surprise(shift, feedback.root[k], noise(D))
            cost = cost + paid
            t = grid.fine[:, k].expand(z.shape[:-1])
            z, y = p.advance(z, y, step, shaken.unflatten(-1, (p.dim, 1 + p.terms)), t=t, weights=weights)
            path.append(z)
        return _Paths(torch.stack(path, dim=2), begun - feedback.start_log_root, cost)

    def _shift(
        self, padded: Padded, context: Tensor, grid: _Grid, feedback: Feedback, k: int, z: Tensor, y: Tensor
    ) -> Tensor:
        """Mean of the step's noise ``[n, S, D]``: the feedback, and until the last datum the net's push on ``dW``."""
        shift = feedback.offset[k] - matvec(feedback.gain[k], torch.cat([z, y.flatten(-2)], dim=-1))
        t = grid.fine[:, k, None].contiguous()
        following = torch.searchsorted(padded.time.contiguous(), t, right=True)
        live = (t < grid.last) & padded.rows.any(dim=1, keepdim=True)
        following = following.clamp(max=padded.time.shape[1] - 1)
        ahead = (padded.time.gather(1, following) - t).clamp(min=0.0)
        seen = torch.cat([take(context, following)[:, 0], ahead], dim=-1).expand(*z.shape[:-1], -1)
        size = (grid.fine[:, k + 1] - grid.fine[:, k]).sqrt()[:, None]
        push = self.correction(torch.cat([seen, z], dim=-1)) * live * size
        # the first noise of a component is its Brownian increment, which moves X and all of the memory
        return shift + torch.nn.functional.pad(push[..., None], (0, self.process.terms)).flatten(-2)

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Controlled paths inside the data, the prior's dynamics, memory included, after its end."""
        padded = pad_for(batch, times)
        check_length(torch.maximum(times - padded.time[:, -1:], padded.time[:, :1] - times), self.step)
        merged, order = torch.sort(torch.cat([padded.time, times], dim=1), dim=1, stable=True)
        fine, place = refine(merged, self.step, 1)
        at = place.gather(1, torch.argsort(order, dim=1))
        grid = _Grid(fine, at, padded.time[:, -1:])
        weights, steps = self.process.weights(), self._steps(fine)
        feedback = self._feedback(padded, grid, steps, weights)
        paths = self._simulate(padded, grid, steps, feedback, weights, draws, generator)
        asked = at[:, padded.time.shape[1] :]
        z = paths.z.gather(2, asked[None, ..., None].expand(draws, *asked.shape, self.process.dim))
        eta = self.decoder(z)
        return Draws(eta, self.likelihood.sample(eta, generator), z)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Simulated draws from the prior."""
        C = self.decoder.weight.shape[0]
        empty = SeriesBatch(
            times.new_zeros(0),
            times.new_zeros(0, C),
            torch.zeros(0, C, dtype=torch.bool, device=times.device),
            torch.zeros(2, dtype=torch.int64, device=times.device),
        )
        return self.predict(empty, times[None], draws=draws, generator=generator)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series: a step walks through all times, so few steps."""
        return {"optimiser": "adam", "steps": 150, "learning_rate": 5e-3, "validation": 0.0, "batch_size": 16}

    def summary(self) -> dict[str, float]:
        """Learned Hurst index, strength of the noise and observation noise."""
        found = {"hurst": float(self.process.hurst.detach())}
        for i, value in enumerate(self.process.log_scale.detach().exp()[:4]):
            found[f"scale[{i}]"] = float(value)
        for c, value in enumerate(self.likelihood.noise.detach()[:4]):
            found[f"noise[{c}]"] = float(value)
        return found


def build_neural(
    channels: int,
    dim: int,
    terms: int,
    *,
    seed: int,
    kind: str,
    noise: float,
    hurst: float,
    hidden: int,
    width: int,
    step: float,
    warmup: float,
) -> FractionalNeuralModel:
    """The model from its sizes; see :func:`sciinfer.models.fractional_sde.fractional_sde`."""
    g = stream(seed, "weights")
    process = FractionalSDE(dim, terms, kind=kind, hurst=hurst, hidden=(hidden, hidden), generator=g)
    encoder = ScanEncoder(channels, width, generator=g)
    decoder = LinearDecoder(dim, channels, generator=g)
    return FractionalNeuralModel(
        process, encoder, decoder, Gaussian(channels, noise=noise), step=step, warmup=warmup, generator=g
    )
