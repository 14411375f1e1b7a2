"""Linear process, linear decoder, Gaussian noise: everything is exact, nothing is approximated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..labelled.series import Padded, SeriesBatch
from ..likelihoods import Gaussian
from ..nets import LinearDecoder
from ..processes import Bridge, LinearProcess, StationaryLinear, build_bridge
from ..processes.bridge import grid_problem
from ..statespace import compress_rows, log_jacobian, log_likelihood, psd_root, whiten
from .base import Draws, Loss, Model
from .grids import pad_for


class ExactPathModel(Model):
    """``y_c(t) = (W z(t) + b)_c + noise``, ``z`` a linear process; trained on the exact log-likelihood.

    Args:
        process, decoder, likelihood: the parts.
    """

    def __init__(self, process: LinearProcess, decoder: LinearDecoder, likelihood: Gaussian) -> None:
        super().__init__()
        self.process, self.decoder, self.likelihood = process, decoder, likelihood

    def initialise(self, batch: SeriesBatch) -> None:
        """A dense stationary process has many local optima: try several starts."""
        from .linear_start import fit_linear_start

        if isinstance(self.process, StationaryLinear):
            fit_linear_start(self.process, self.decoder, self.likelihood, batch, seed=0)

    def loss(self, batch: SeriesBatch, *, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """``-log p(y)`` per observed entry."""
        loglik = self.log_likelihood(batch).sum()
        count = max(batch.observed, 1)
        return Loss(-loglik / count, {"loglik": loglik.detach() / count})

    def log_likelihood(self, batch: SeriesBatch) -> Tensor:
        """``log p(y)`` of each series, ``[S]``."""
        padded = pad_for(batch)
        H, y, log_jacobian = whitened_rows(self.decoder, self.likelihood, padded)
        return log_likelihood(grid_problem(self.process, padded.time, H, y)) + log_jacobian.sum(1)

    def condition(self, batch: SeriesBatch, times: Tensor) -> Bridge:
        """The exact posterior at the data's times and at ``times [S, K]``."""
        padded = pad_for(batch, times)
        H, y, _ = whitened_rows(self.decoder, self.likelihood, padded)
        return build_bridge(self.process, padded.time, H, y, times)

    def predict(self, batch: SeriesBatch, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Joint draws of the path, and the exact predictive moments."""
        bridge = self.condition(batch, times)
        path = bridge.sample(draws, generator)
        z = path.gather(2, bridge.at_query[None, ..., None].expand(draws, *bridge.at_query.shape, path.shape[-1]))
        eta = self.decoder(z)
        mean, variance = self.decoder.moments(bridge.mean(bridge.at_query), bridge.cov(bridge.at_query))
        return Draws(eta, self.likelihood.sample(eta, generator), z, mean, variance + self.likelihood.noise.square())

    def generate(self, times: Tensor, *, draws: int, generator: torch.Generator) -> Draws:
        """Exact draws from the prior."""
        z = sample_linear(self.process, times, draws, generator)[:, None]
        eta = self.decoder(z)
        return Draws(eta, self.likelihood.sample(eta, generator), z)

    def training_defaults(self, batch: SeriesBatch) -> dict[str, Any]:
        """Few parameters, smooth objective: quasi-Newton on all data, no held-out part."""
        return {"optimiser": "lbfgs", "steps": 80, "learning_rate": 1.0, "validation": 0.0, "batch_size": None}

    def summary(self) -> dict[str, float]:
        """Learned noise."""
        return {f"noise[{c}]": float(sd) for c, sd in enumerate(self.likelihood.noise.detach())}


def whitened_rows(decoder: LinearDecoder, likelihood: Gaussian, padded: Padded) -> tuple[Tensor, Tensor, Tensor]:
    """Observation rows ``H [S, T, m, d]``, ``y [S, T, m]``, and ``[S, T]`` what to add to their log-likelihood.

    One row for each channel; fewer, with the same answer, where there are more channels than latent dimensions.
    """
    precision = likelihood.noise.square().reciprocal()
    centred = padded.values - decoder.bias
    short = compress_rows(
        decoder.weight * precision.sqrt()[:, None],
        torch.where(padded.mask, centred, torch.zeros_like(centred)) * precision.sqrt(),
        padded.mask,
    )
    if short is None:
        H = decoder.weight.expand(*padded.values.shape[:2], *decoder.weight.shape)
        return whiten(H, centred, precision.expand_as(centred), padded.mask)
    return short.H, short.y, short.constant + log_jacobian(precision, padded.mask)


def sample_linear(process: LinearProcess, times: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Exact joint draws of a linear process at ascending ``times [T]``: ``[n, T, d]``."""
    blank = times.new_zeros(1, len(times), 1, process.dim)
    problem = grid_problem(process, times[None], blank, blank[..., 0])
    shape = (draws, len(times), process.dim)
    noise = torch.randn(shape, generator=generator, dtype=times.dtype, device=times.device)
    roots = psd_root(torch.cat([problem.P0[:, None], problem.Q[:, 1:]], dim=1))[0]
    steps = (roots @ noise.unsqueeze(-1)).squeeze(-1)
    path = [problem.m0[0] + steps[:, 0]]
    for k in range(1, len(times)):
        path.append(path[-1] @ problem.A[0, k].mT + steps[:, k])
    return torch.stack(path, dim=1)
