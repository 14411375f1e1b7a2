"""Structural time series: each channel is a sum of kernels plus noise, with parameters of its own; all exact."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..gp.kernels import Kernel
from ..gp.kernels.sum import Sum
from ..labelled.series import Padded, SeriesBatch, offsets_of
from ..likelihoods import Gaussian
from ..processes.bridge import take
from ..statespace import LinearGaussian, kalman_filter, kalman_smoother, log_likelihood, sample_paths, whiten
from .base import Draws, Loss, Model
from .grids import pad_for

#: observations up to which all data fit into every step
SMALL = 50_000


class _Bucket(NamedTuple):
    """Univariate series of similar length: their numbers, channels and padded data."""

    which: Tensor
    channel: Tensor
    padded: Padded


class _Tables(NamedTuple):
    """Transitions of every channel over the distinct steps: ``A, Q [C, U, d, d]``; ``P0 [C, d, d]``, ``h [C, d]``."""

    A: Tensor
    Q: Tensor
    P0: Tensor
    h: Tensor


class StructuralModel(Model):
    """``y_c(t) = f_c(t) + noise_c``, ``f_c ~ GP(0, k_c)``, ``k_c`` a sum of Markov kernels; channels are independent.

    Series of a channel share its kernel. Linear in the number of observations.

    Args:
        kernel: starting kernel, copied to every channel. channels: ``C``. noise: starting standard deviation.

    References:
        Harvey (1989), Forecasting, structural time series models and the Kalman filter.
    """

    def __init__(self, kernel: Kernel, channels: int, noise: float = 0.3) -> None:
        super().__init__()
        self._kernels = nn.ModuleList(copy.deepcopy(kernel) for _ in range(channels))
        self.likelihood = Gaussian(channels, noise=noise)

    @property
    def kernels(self) -> list[Kernel]:
        """One kernel for each channel."""
        return [kernel for kernel in self._kernels if isinstance(kernel, Kernel)]

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Quasi-Newton on small data, Adam on minibatches of large data."""
        if batch.observed <= SMALL:
            return {"optimiser": "lbfgs", "steps": 60, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}
        return {"optimiser": "adam", "steps": 120, "learning_rate": 5e-2, "validation": 0.0, "batch_size": 256}

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """``-log p(y)`` per observed entry."""
        total = self.log_likelihood(batch).sum() / max(batch.observed, 1)
        return Loss(-total, {"loglik": total.detach()})

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """Exact ``log p(y)`` of each series and channel, ``[S, C]``."""
        parts, places = [], []
        for bucket in self._buckets(batch):
            problem, log_jacobian = self._problem(bucket, bucket.padded.time)
            parts.append(log_likelihood(problem) + log_jacobian)
            places.append(bucket.which)
        flat = torch.zeros(batch.n_series * batch.n_channels, dtype=batch.values.dtype, device=batch.values.device)
        flat = flat.index_put((torch.cat(places),), torch.cat(parts)) if parts else flat
        return flat.reshape(batch.n_channels, batch.n_series).mT

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of each function, exact moments; ``latent``: the kernels' parts, if there is one channel."""
        S, K, C = batch.n_series, times.shape[1], batch.n_channels
        signal = times.new_zeros(draws, C * S, K)
        mean, variance = times.new_zeros(C * S, K), times.new_zeros(C * S, K)
        width = len(_parts(self.kernels[0]))
        latent = times.new_zeros(draws, S, K, width) if C == 1 else None
        for bucket in self._buckets(batch, times):
            query = times[bucket.which % S]
            state, m, v = self._posterior(bucket, query, draws, generator)
            h = torch.stack([kernel.readout() for kernel in self.kernels])[bucket.channel]
            signal[:, bucket.which] = torch.einsum("nskd,sd->nsk", state, h)
            mean[bucket.which], variance[bucket.which] = m, v
            if latent is not None:
                latent[:, bucket.which] = _components(self.kernels[0], state)
        signal = signal.reshape(draws, C, S, K).permute(0, 2, 3, 1)
        fold = lambda x: x.reshape(C, S, K).permute(1, 2, 0)  # noqa: E731
        noise = self.likelihood.noise.square()
        return Draws(signal, self.likelihood.sample(signal, generator), latent, fold(mean), fold(variance) + noise)

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Exact draws from the prior."""
        empty = SeriesBatch(
            times.new_zeros(0),
            times.new_zeros(0, len(self.kernels)),
            torch.zeros(0, len(self.kernels), dtype=torch.bool, device=times.device),
            torch.zeros(2, dtype=torch.int64, device=times.device),
        )
        return self.predict(empty, times[None], draws=draws, generator=generator)._replace(mean=None, variance=None)

    def summary(self) -> dict[str, float]:
        """Parameters of the first channel's kernel, and the noise."""
        found = {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach()[:4])}
        for part in _parts(self.kernels[0]):
            for name, parameter in part.named_parameters():
                for i, value in enumerate(parameter.detach().exp().reshape(-1)):
                    found[f"{type(part).__name__}.{name.removeprefix('log_')}[{i}]"] = float(value)
        return found

    # -- internals -----------------------------------------------------------------------------------------------

    def _buckets(self, batch: SeriesBatch, query: Tensor | None = None) -> Iterator[_Bucket]:
        """Series x channel pairs, grouped by length so that little is padded."""
        flat, channel = melt(batch)
        lengths = flat.lengths
        size = torch.ceil(torch.log2(lengths.clamp(min=1).double())).long()
        size = torch.where(lengths > 0, size, torch.full_like(size, -1))
        for level in torch.unique(size).tolist():
            if level < 0 and query is None:
                continue
            which = torch.nonzero(size == level)[:, 0]
            asked = None if query is None else query[which % batch.n_series]
            yield _Bucket(which, channel[which], pad_for(flat.select(which), asked))

    def _tables(self, steps: Tensor) -> _Tables:
        pairs = [kernel.transition(steps) for kernel in self.kernels]
        return _Tables(
            torch.stack([A for A, _ in pairs]),
            torch.stack([Q for _, Q in pairs]),
            torch.stack([kernel.initial() for kernel in self.kernels]),
            torch.stack([kernel.readout() for kernel in self.kernels]),
        )

    def _problem(self, bucket: _Bucket, grid: Tensor, order: Tensor | None = None) -> tuple[LinearGaussian, Tensor]:
        """The engine's input on an ascending ``grid [B, T]``; ``order`` sorts data followed by query places."""
        step = torch.cat([torch.zeros_like(grid[:, :1]), grid.diff(dim=1)], dim=1)
        steps, where = torch.unique(step, return_inverse=True)
        tables = self._tables(steps)
        channel, padded = bucket.channel, bucket.padded
        H = tables.h[channel][:, None, None, :].expand(*padded.values.shape[:2], 1, -1)
        precision = self.likelihood.noise[channel].square().reciprocal()[:, None, None].expand_as(padded.values)
        H, y, log_jacobian = whiten(H, padded.values, precision, padded.mask)
        if order is not None:
            blank = grid.shape[1] - padded.time.shape[1]
            H = take(torch.cat([H, H.new_zeros(H.shape[0], blank, *H.shape[2:])], 1), order)
            y = take(torch.cat([y, y.new_zeros(y.shape[0], blank, 1)], 1), order)
        at = channel[:, None].expand_as(where)
        P0 = tables.P0[channel]
        problem = LinearGaussian(tables.A[at, where], tables.Q[at, where], H, y, P0[..., 0] * 0, P0)
        return problem, log_jacobian.sum(1)

    def _posterior(
        self, bucket: _Bucket, query: Tensor, draws: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """State draws ``[n, B, K, d]``, mean and variance ``[B, K]`` of the function at ``query [B, K]``."""
        grid, order = torch.sort(torch.cat([bucket.padded.time, query], dim=1), dim=1, stable=True)
        problem, _ = self._problem(bucket, grid, order)
        filtered = kalman_filter(problem)
        smoothed = kalman_smoother(problem, filtered)
        noise = torch.randn((draws, *smoothed.mean.shape), generator=generator, dtype=grid.dtype, device=grid.device)
        path = sample_paths(problem, filtered, smoothed.gain, draws=draws, noise=noise)
        where = torch.argsort(order, dim=1)[:, bucket.padded.time.shape[1] :]
        states = path.gather(2, where[None, ..., None].expand(draws, *where.shape, path.shape[-1]))
        h = torch.stack([kernel.readout() for kernel in self.kernels])[bucket.channel][:, None]
        mean = (take(smoothed.mean, where) * h).sum(-1)
        variance = torch.einsum(
            "bkd,bkde,bke->bk", h.expand(*where.shape, -1), take(smoothed.cov, where), h.expand(*where.shape, -1)
        )
        return states, mean, variance


def melt(batch: SeriesBatch) -> tuple[SeriesBatch, Tensor]:
    """Every channel of every series as a series of its own, unobserved entries dropped.

    Returns:
        a batch of ``C * S`` univariate series (channel-major) and the channel of each, ``[C * S]``.
    """
    S, C = batch.n_series, batch.n_channels
    owner = batch.series_of_row
    times, values, lengths = [], [], []
    for c in range(C):
        rows = batch.mask[:, c]
        times.append(batch.time[rows])
        values.append(batch.values[rows, c])
        lengths.append(torch.bincount(owner[rows], minlength=S))
    flat = torch.cat(values)[:, None]
    melted = SeriesBatch(
        torch.cat(times), flat, torch.ones_like(flat, dtype=torch.bool), offsets_of(torch.cat(lengths))
    )
    return melted, torch.arange(C, device=owner.device).repeat_interleave(S)


def _parts(kernel: Kernel) -> list[Kernel]:
    return kernel.parts if isinstance(kernel, Sum) else [kernel]


def _components(kernel: Kernel, state: Tensor) -> Tensor:
    """The signal of each summed kernel, ``[..., parts]``."""
    found, start = [], 0
    for part in _parts(kernel):
        found.append(state[..., start : start + part.state_dim] @ part.readout())
        start += part.state_dim
    return torch.stack(found, dim=-1)
