"""A Gaussian filter in a latent space behind an auxiliary that a net reads off each row."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian, Likelihood
from ..nets import MLP, LinearDecoder, MLPDecoder
from ..processes import build_bridge, simulate
from ..processes.bridge import grid_problem, take
from ..statespace import kalman_smoother, log_likelihood, matvec, psd_root, sample_paths, whiten
from .base import Draws, Loss, Model
from .exact import sample_linear
from .grids import pad_for
from .ncdssm_dynamics import FilteredDynamics, FreeLinear, filter_moments

#: spread of the identity auxiliary, in units of a channel's own
TINY = 1e-3


class Read(NamedTuple):
    """The auxiliary of each row: ``mean, sd [S, T, A]`` and which of it there is, ``mask [S, T, A]``."""

    mean: Tensor
    sd: Tensor
    mask: Tensor


class NetAuxiliary(nn.Module):
    """``q(a | y) = N(m(y), s(y)^2)`` by a perceptron, ``y ~ likelihood(decoder(a))``.

    Args:
        channels, dim, hidden: sizes. likelihood: of the data. generator: starting weights.
    """

    def __init__(self, channels: int, dim: int, hidden: int, likelihood: Likelihood, *, generator: torch.Generator):
        super().__init__()
        self.dim, self.likelihood = dim, likelihood
        self.encoder = MLP(2 * channels, 2 * dim, (hidden,), generator=generator)
        self.decoder = MLPDecoder(dim, channels, (hidden,), generator=generator)

    def read(self, padded: Padded) -> Read:
        """Rows to auxiliaries."""
        found = self.encoder(torch.cat([padded.values, padded.mask.to(padded.values.dtype)], dim=-1))
        mean, stretch = found.chunk(2, dim=-1)
        return Read(mean, (3 * torch.tanh(stretch / 3) - 1.5).exp(), padded.rows[..., None].expand_as(mean))

    def fit(self, padded: Padded, read: Read, a: Tensor) -> Tensor:
        """``E log p(y | a)`` of each series from one ``a``, ``[S]``."""
        return self.likelihood.log_prob(padded.values, self.decoder(a), padded.mask).sum(1)

    def signal(self, a: Tensor) -> Tensor:
        """The likelihood's predictor."""
        return self.decoder(a)

    def observe(self, a: Tensor, generator: torch.Generator) -> Tensor:
        """A measurement of ``a``."""
        return self.likelihood.sample(self.decoder(a), generator)


class IdentityAuxiliary(nn.Module):
    """``a = y``, up to a spread of 1e-3 that cancels in the bound: a state-space model of the data themselves.

    Args:
        channels: ``C``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dim = channels

    def read(self, padded: Padded) -> Read:
        """The data."""
        return Read(padded.values, torch.full_like(padded.values, TINY), padded.mask)

    def fit(self, padded: Padded, read: Read, a: Tensor) -> Tensor:
        """``E log N(y; a, s^2)``, a constant per entry."""
        return -(0.5 * math.log(2 * math.pi) + math.log(TINY) + 0.5) * padded.mask.sum((1, 2)).to(a.dtype)

    def signal(self, a: Tensor) -> Tensor:
        """``a``."""
        return a

    def observe(self, a: Tensor, generator: torch.Generator) -> Tensor:
        """``a`` up to its spread."""
        return a + TINY * torch.randn(a.shape, generator=generator, dtype=a.dtype, device=a.device)


class NCDSSM(Model):
    """``dz = f(z) dt + G dW``, ``a_k = W z(t_k) + b + R^{1/2} e``, ``y_k ~ p(y | a_k)``, ``a_k ~ q(a | y_k)``.

    ``ELBO = E_q[sum_k log p(y_k | a_k) + log p(a_1..n) - sum_k log q(a_k | y_k)]`` with ``log p(a)`` by the filter:
    exact where ``f`` is linear, by moments (Runge-Kutta, local Jacobian) otherwise.

    Args:
        process: the dynamics. auxiliary: net or identity. step: longest integration step, model time.
        warmup: fraction of training over which the divergence fades in. generator: starting weights.
    """

    def __init__(
        self,
        process: FreeLinear | FilteredDynamics,
        auxiliary: NetAuxiliary | IdentityAuxiliary,
        *,
        step: float,
        warmup: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.process, self.auxiliary = process, auxiliary
        self.emission = LinearDecoder(process.dim, auxiliary.dim, generator=generator)
        self.noise = Gaussian(auxiliary.dim, noise=0.3)
        self.step, self.warmup = step, warmup

    # -- training ------------------------------------------------------------------------------------------------

    def initialise(self, batch: SeriesBatch) -> None:
        """Noise levels from the data."""
        if isinstance(self.auxiliary, NetAuxiliary):
            self.auxiliary.likelihood.initialise(batch.values, batch.mask)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Negative ELBO per observed entry; the terms sum to it once the warm-up is over."""
        fit, divergence = self.elbo_terms(batch, generator=generator)
        beta = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        count = max(batch.observed, 1)
        terms = {"fit": fit.detach().sum() / count, "divergence": divergence.detach().sum() / count}
        return Loss(-(fit - beta * divergence).sum() / count, terms)

    def elbo_terms(self, batch: SeriesBatch, *, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """``E log p(y | a)`` and ``E[log q(a | y) - log p(a)]`` of each series ``[S]``; without a generator at the mean
        of ``q``."""
        padded = pad_for(batch)
        read = self.auxiliary.read(padded)
        a = read.mean
        if generator is not None:
            a = a + read.sd * torch.randn(a.shape, generator=generator, dtype=a.dtype, device=a.device)
        entropy = torch.where(read.mask, 0.5 + 0.5 * math.log(2 * math.pi) + read.sd.log(), 0.0).sum((1, 2))
        return self.auxiliary.fit(padded, read, a), -entropy - self._filtered(padded.time, a, read.mask)

    def _filtered(self, time: Tensor, a: Tensor, mask: Tensor) -> Tensor:
        """``log p(a)`` of each series."""
        H, y, log_jacobian = self._rows(a, mask)
        if isinstance(self.process, FreeLinear):
            return log_likelihood(grid_problem(self.process, time, H, y)) + log_jacobian.sum(1)
        return filter_moments(self.process, time, H, y, self.step)[1].loglik + log_jacobian.sum(1)

    def _rows(self, a: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        H = self.emission.weight.expand(*a.shape[:2], *self.emission.weight.shape)
        return whiten(H, a - self.emission.bias, self.noise.noise.square().reciprocal().expand_as(a), mask)

    # -- answers -------------------------------------------------------------------------------------------------

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Smoothed paths inside the data, the dynamics after its end; each draw has its own auxiliary."""
        padded = pad_for(batch, times)
        read = self.auxiliary.read(padded)
        noise = torch.randn((draws, *read.mean.shape), generator=generator, dtype=times.dtype, device=times.device)
        a = (read.mean + read.sd * noise).flatten(0, 1)
        time, mask = (part.expand(draws, *part.shape).flatten(0, 1) for part in (padded.time, read.mask))
        ordered, order = torch.sort(times, dim=1, stable=True)
        many = ordered.expand(draws, *ordered.shape).flatten(0, 1)
        z = self._paths(time, *self._rows(a, mask)[:2], many, generator).unflatten(0, (draws, -1))
        back = torch.argsort(order, dim=1)
        answer = self._answer(z, generator)
        return Draws(*(_reorder(part, back) for part in answer))

    def _paths(self, time: Tensor, H: Tensor, y: Tensor, query: Tensor, generator: torch.Generator) -> Tensor:
        """One path for each row of the batch at ascending ``query [B, K]``: ``[B, K, d]``."""
        if isinstance(self.process, FreeLinear):
            bridge = build_bridge(self.process, time, H, y, query)
            return take(bridge.sample(1, generator)[0], bridge.at_query)
        last = time[:, -1:]
        inside = torch.cat([torch.minimum(query, last), last], dim=1)
        z = self._smoothed(self.process, time, H, y, inside, generator)
        z, end = z[:, :-1], z[:, -1]
        later = query > last
        if not bool(later.any()):
            return z
        start, after = last[:, 0], torch.maximum(query, last)
        ahead = simulate(self.process, end[None], start, after, step=self.step / 5, generator=generator)[0]
        return torch.where(later[..., None], ahead, z)

    def _smoothed(
        self, process: FilteredDynamics, time: Tensor, H: Tensor, y: Tensor, query: Tensor, g: torch.Generator
    ) -> Tensor:
        grid, order = torch.sort(torch.cat([time, query], dim=1), dim=1, stable=True)
        blank = query.shape[1]
        H = torch.cat([H, H.new_zeros(H.shape[0], blank, *H.shape[2:])], dim=1)
        y = torch.cat([y, y.new_zeros(y.shape[0], blank, y.shape[2])], dim=1)
        problem, filtered = filter_moments(process, grid, take(H, order), take(y, order), self.step)
        gain = kalman_smoother(problem, filtered, backend="sequential").gain
        noise = torch.randn(filtered.mean.shape, generator=g, dtype=y.dtype, device=y.device)
        path = sample_paths(problem, filtered, gain, draws=1, noise=noise[None])[0]
        return take(path, torch.argsort(order, dim=1)[:, time.shape[1] :])

    def _answer(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        a = self.emission(z)
        return self.auxiliary.signal(a), self.auxiliary.observe(self.noise.sample(a, generator), generator), z

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Draws from the prior: exact where linear, simulated otherwise."""
        if isinstance(self.process, FreeLinear):
            z = sample_linear(self.process, times, draws, generator)[:, None]
        else:
            m0, P0 = self.process.initial()
            noise = torch.randn(
                (draws, 1, self.process.dim), generator=generator, dtype=times.dtype, device=times.device
            )
            z0 = m0 + matvec(psd_root(P0), noise)
            z = simulate(self.process, z0, times[:1], times[None], step=self.step / 5, generator=generator)
        return Draws(*self._answer(z, generator))

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Adam on minibatches of series, early stop on the last tenth of each series."""
        return {"optimiser": "adam", "steps": 600, "learning_rate": 1e-2, "validation": 0.1, "batch_size": 64}

    def summary(self) -> dict[str, float]:
        """Learned noise of the auxiliary and diffusion of the latent state."""
        found = {f"noise[{i}]": float(sd) for i, sd in enumerate(self.noise.noise.detach())}
        return found | {f"diffusion[{i}]": float(g) for i, g in enumerate(self.process.start.diffusion.detach())}


def _reorder(values: Tensor, back: Tensor) -> Tensor:
    """``[n, S, K, ...]`` along ``K`` by ``back [S, K]``."""
    return values.gather(2, back[None, ..., None].expand_as(values))
