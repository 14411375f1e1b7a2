"""Poisson counts of many neurons on a few smooth latents: full Gaussian variational inference by sites.

The size of elephant's published Gaussian-process factor analysis case: 1000 bins, 8 latents, 2 trials; elephant's
``GPFA.transform`` takes 109 s there, with square-rooted counts and Gaussian noise. Ours is the whole inference, from
counts to converged posterior means and variances, with Poisson noise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from sciinfer.gp.kernels import Kernel, Matern32, Sum
from sciinfer.likelihoods import Poisson
from sciinfer.random import generator
from sciinfer.statespace.site_inference import SiteFit, infer_sites
from sciinfer.statespace.site_rules import Data, make_data
from sciinfer.statespace.sites import SitePrior

from .harness import Row, versions

ELEPHANT_SECONDS = 109.0


def case(trials: int, bins: int, latents: int, neurons: int) -> tuple[SitePrior, Data]:
    """Counts drawn from the model itself, about 0.3 per bin and neuron."""
    g = generator(0, "counts")
    kernel = Sum(*(Matern32(lengthscale=20.0 + 5.0 * k) for k in range(latents)))
    prior = _prior(kernel, trials, bins, torch.randn(neurons, latents, generator=g, dtype=torch.float64) / latents**0.5)
    paths = _paths(kernel, trials, bins, g) @ _loading(prior).mT
    offset = torch.full((neurons,), -1.5, dtype=torch.float64)
    y = torch.poisson((paths + offset).exp(), generator=g)
    return prior, make_data(Poisson(neurons), y, torch.ones_like(y, dtype=torch.bool), offset)


def _prior(kernel: Kernel, trials: int, bins: int, loading: Tensor) -> SitePrior:
    with torch.no_grad():
        A, Q = kernel.transition(torch.ones((), dtype=torch.float64))
        d = kernel.state_dim
        readout = torch.zeros(loading.shape[1], d, dtype=torch.float64)
        readout[torch.arange(loading.shape[1]), torch.arange(0, d, d // loading.shape[1])] = 1.0
        spread = (trials, bins, d, d)
        return SitePrior(A.expand(spread), Q.expand(spread), kernel.initial().expand(trials, d, d), readout, loading)


def _loading(prior: SitePrior) -> Tensor:
    return prior.loading if prior.loading is not None else torch.eye(len(prior.readout), dtype=torch.float64)


def _paths(kernel: Sum, trials: int, bins: int, g: torch.Generator) -> Tensor:
    lag = torch.arange(bins, dtype=torch.float64)
    lift = 1e-9 * torch.eye(bins, dtype=torch.float64)
    with torch.no_grad():
        roots = [torch.linalg.cholesky(part.covariance(lag[:, None] - lag) + lift) for part in kernel.parts]
    noise = torch.randn(len(roots), bins, trials, generator=g, dtype=torch.float64)
    return torch.stack([root @ z for root, z in zip(roots, noise, strict=True)], -1).permute(1, 0, 2)


def seconds(call: Callable[[], SiteFit], repeats: int) -> tuple[float, SiteFit]:
    fit = call()
    spent: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent), fit


def single(bins: int) -> tuple[SitePrior, Data]:
    """One channel of counts around a slow wave."""
    time_ = torch.arange(bins, dtype=torch.float64)
    y = torch.poisson((0.5 + torch.sin(time_ / 40)).exp(), generator=generator(0, "wave")).reshape(1, -1, 1)
    prior = _prior(Sum(Matern32(lengthscale=30.0)), 1, bins, torch.ones(1, 1, dtype=torch.float64))
    return prior, make_data(Poisson(1), y, torch.ones_like(y, dtype=torch.bool), 0.5)


def exponent(sizes: Sequence[int]) -> float:
    """Slope of log seconds against log number of bins, least squares."""
    spent = []
    for size in sizes:
        prior, data = single(size)
        spent.append(seconds(lambda p=prior, d=data: infer_sites(p, d, max_passes=8), 1)[0])
    return float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])


def rows(*, tiny: bool = False) -> Iterable[Row]:
    """Goal: 100 times less than the published 109 s."""
    bins, latents, neurons = (40, 2, 5) if tiny else (1000, 8, 100)
    prior, data = case(2, bins, latents, neurons)
    spent, fit = seconds(lambda: infer_sites(prior, data), 1 if tiny else 3)
    yield Row(
        name=f"sites/poisson-cvi-{bins}x{latents}",
        ours=spent,
        peer=None if tiny else ELEPHANT_SECONDS,
        unit="s",
        goal=100.0,
        note=f"peer: elephant GPFA.transform, published figure, not run here; {fit.passes} smoothers, "
        f"converged: {bool(fit.converged.all())}",
        versions=versions(),
    )
    sizes = (20, 40) if tiny else (1_000, 10_000, 100_000)
    yield Row(
        name="sites/scaling-exponent",
        ours=exponent(sizes),
        peer=None if tiny else 1.1,
        unit="",
        goal=1.0,
        note=f"seconds against bins, {sizes[0]} to {sizes[-1]}; peer is the largest exponent allowed",
        versions=versions(),
    )
